"""Rendezvous hashing: stable, balanced, and nothing moves but what must; stripes cut extents and lose no block."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.plan import in_stripes
from lazysif.core.rendezvous import ranked
from tests.support.block_maps import block_maps

places = st.lists(st.text(max_size=20), min_size=1, max_size=6, unique=True)
KNOWN = [[1, 2, 0], [0, 1, 2], [0, 2, 1]]
KEYS = [f"https://origin/{image}.sif\0{stripe}" for image in range(20) for stripe in range(100)]


@given(st.text(max_size=30), places, st.randoms())
def test_the_order_in_which_places_are_written_does_not_matter(key, names, chance):
    shuffled = chance.sample(names, len(names))
    assert [names[i] for i in ranked(key, names)] == [shuffled[i] for i in ranked(key, shuffled)]


@given(st.text(max_size=30), places)
def test_a_place_that_goes_hands_its_keys_to_the_next_and_moves_no_others(key, names):
    order = [names[i] for i in ranked(key, names)]
    assert sorted(order) == sorted(names)
    for gone in names:
        left = [name for name in names if name != gone]
        assert [left[i] for i in ranked(key, left)] == [name for name in order if name != gone]


def test_shares_are_even_also_where_one_is_gone():
    names = [f"http://cache{n}.site:3128" for n in range(4)]
    shares = Counter(ranked(key, names)[0] for key in KEYS)
    assert all(0.8 * 500 < share < 1.2 * 500 for share in shares.values()), shares
    heirs = Counter(ranked(key, names)[1] for key in KEYS if ranked(key, names)[0] == 0)
    assert len(heirs) == 3, "the share of one goes to all others"
    assert all(0.7 * shares[0] / 3 < heir < 1.3 * shares[0] / 3 for heir in heirs.values()), heirs


def test_the_order_is_the_same_in_every_version_of_the_software():
    """Two nodes of a site need not run the same version, and must ask the same cache."""
    names = ["http://cache1:3128", "http://cache2:3128", "http://cache3:3128"]
    assert [ranked(f"https://origin/a.sif\0{n}", names) for n in range(3)] == KNOWN


@given(block_maps(min_size_bytes=1), st.data())
def test_stripes_cut_a_run_and_lose_nothing(block_map, data):
    first = data.draw(st.integers(0, block_map.count - 1))
    run = range(first, data.draw(st.integers(first, block_map.count)))
    stripe = data.draw(st.integers(1, 2000))
    parts = in_stripes(block_map, run, stripe)
    assert [i for part in parts for i in part] == list(run)
    stripes = [{block_map.start(i) // stripe for i in part} for part in parts]
    assert all(len(numbers) == 1 for numbers in stripes)
    assert len(set(map(min, stripes))) == len(parts), "no more cuts than stripes end"
    assert in_stripes(block_map, run, 0) == ([run] if run else [])
