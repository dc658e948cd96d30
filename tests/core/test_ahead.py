"""core.ahead: which blocks the kernel is given, and which reads the watched places show."""

from dataclasses import dataclass

import pytest

from lazysif.core.ahead import GivenAhead, every, is_watched, next_watched


@dataclass
class Path:
    blocks: list[int]

    @property
    def place(self):
        return {block: position for position, block in enumerate(self.blocks)}


LONG = Path([1000 - n for n in range(600)])


def given(path, it=None):
    it = it or GivenAhead()
    return [block for block in path.blocks if it.give(block, [path], ())]


def test_three_of_four_near_the_beginning_and_fifteen_of_sixteen_far_along():
    places = [LONG.place[block] for block in given(LONG)]
    assert [n for n in range(12) if n not in places] == [0, 4, 8]
    assert [n for n in range(64, 90) if n not in places] == [64, 72, 80, 88]
    assert [n for n in range(256, 300) if n not in places] == [256, 272, 288]


def test_what_no_watched_place_would_show_is_not_given():
    assert given(Path([7, 8, 9])) == []
    assert given(Path([7, 8, 9, 10, 11, 12])) == [8, 9, 10]
    assert max(LONG.place[block] for block in given(LONG)) == 591


@pytest.mark.parametrize("place", [0, 1, 4, 5, 63, 64, 65, 255, 256, 257, 1000])
def test_no_place_is_watched_before_the_next_that_is(place):
    shows = next_watched(place)
    assert is_watched(shows)
    assert not any(map(is_watched, range(place + 1, shows)))


def test_what_a_touch_showed_too_early_is_not_given():
    """Regression: a read that went over into a watched block told of those before it, which were given afterwards;
    they were missing from the recording."""
    assert not GivenAhead().give(LONG.blocks[6], [LONG], {LONG.blocks[8]})
    assert GivenAhead().give(LONG.blocks[6], [LONG], {LONG.blocks[4]})


def test_a_touch_of_a_watched_place_shows_what_was_given_since_the_one_before_once():
    it = GivenAhead()
    given(LONG, it)
    at = LONG.blocks
    assert it.shown_by(at[8], [LONG]) == at[5:8]
    assert it.shown_by(at[8], [LONG]) == []
    assert it.shown_by(at[6], [LONG]) == []
    assert it.shown_by(at[272], [LONG]) == at[257:272]
    assert it.shown_by(at[0], [LONG]) == []
    assert every(272) == 16


def test_only_what_all_paths_hold_and_none_watches():
    one, two = Path([1, 2, 3, 4, 5, 6, 7, 8, 9]), Path([1, 3, 4, 6, 2, 7, 8, 11, 12])
    it = GivenAhead()
    assert [block for block in range(1, 13) if it.give(block, [one, two], ())] == [3, 4, 6, 7, 8]
    assert not it.give(2, [two], ()), "it is watched there"
    assert not it.give(7, [], ()), "nothing is followed"


def test_a_block_is_given_once_and_one_that_was_read_by_us_is_not_shown():
    it = GivenAhead()
    assert it.give(LONG.blocks[1], [LONG], ())
    assert not it.give(LONG.blocks[1], [LONG], ())
    it.shown_by(LONG.blocks[1], [LONG])
    assert it.shown_by(LONG.blocks[4], [LONG]) == []
