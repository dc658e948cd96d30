"""A plan brings each wanted missing block once, nothing that is there, and stays within its bounds."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.block_map import extent_range
from lazysif.core.plan import plan_extents
from tests.support.block_maps import block_maps


@given(block_maps(min_size_bytes=1), st.data())
def test_a_plan(block_map, data):
    indices = st.integers(0, block_map.count - 1)
    wanted = data.draw(st.lists(indices, max_size=40))
    missing = data.draw(st.sets(indices)) | data.draw(st.sampled_from([set(), set(range(block_map.count))]))
    max_bytes = data.draw(st.integers(1, 1500))
    gap_bytes = data.draw(st.integers(0, 700))

    runs = plan_extents(block_map, wanted, missing.__contains__, max_bytes=max_bytes, gap_bytes=gap_bytes)

    planned = [i for run in runs for i in run]
    assert planned == sorted(set(planned)), "each block once, in rising order"
    assert set(wanted) & missing <= set(planned) <= missing
    for run in runs:
        assert run.start in wanted, "a run neither begins nor ends with what nobody wants"
        assert run.stop - 1 in wanted
        assert len(run) == 1 or extent_range(block_map, run).length <= max_bytes
        ends = sorted(set(wanted) & set(run))
        for a, b in pairwise(ends):
            assert block_map.start(b) - block_map.start(a + 1) <= gap_bytes


@given(block_maps(min_size_bytes=1), st.data())
def test_neighbours_are_never_split_without_need(block_map, data):
    wanted = data.draw(st.sets(st.integers(0, block_map.count - 1)))
    max_bytes = data.draw(st.integers(1, 1500))
    runs = plan_extents(block_map, wanted, lambda i: True, max_bytes=max_bytes)
    for a, b in pairwise(runs):
        if a.stop == b.start:
            assert extent_range(block_map, range(a.start, b.start + 1)).length > max_bytes
