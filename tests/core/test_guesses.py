"""Guesses reach further the more of them come true, and no further than their share where they do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.guesses import Guesses, GuessLimits, gap_before

BLOCK = 128 << 10
LIMITS = GuessLimits()


def guesses() -> Guesses:
    return Guesses(lambda block: BLOCK)


def miss(made: Guesses, block: int) -> int:
    """A miss, and the guesses that its request takes along; how many."""
    reach = made.reach_bytes // BLOCK
    made.missed([block])
    made.add(range(block + 1, block + 1 + reach))
    return reach


def test_random_reads_soon_guess_the_least() -> None:
    made = guesses()
    reaches = [miss(made, 1000 * number) for number in range(100)]
    assert reaches[0] > 4
    assert set(reaches[50:]) == {1}


def test_reads_that_use_their_guesses_get_the_most() -> None:
    made = guesses()
    block = 0
    for _ in range(40):
        reach = miss(made, block)
        made.read(range(block, block + 1 + reach))
        block += 1 + reach
    assert made.open == set()
    assert made.reach_bytes == LIMITS.most_bytes


def test_a_guess_comes_true_once() -> None:
    made = guesses()
    made.add([1, 2])
    made.add([2])
    made.read([2, 3])
    before = made.reach_bytes
    made.read([2])
    assert (made.open, made.reach_bytes) == ({1}, before)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 20)), max_size=200))
def test_what_is_guessed_in_vain_is_bounded(steps: list[tuple[int, int]]) -> None:
    """Beyond the share, the slack and one reach, only the least is guessed with each miss."""
    made, seen = guesses(), set[int]()
    misses = 0
    for start, count in steps:
        for block in range(start, start + count):
            if block not in made.open and block not in seen:
                miss(made, block)
                misses += 1
            made.read([block])
            seen.add(block)
        assert LIMITS.least_bytes <= made.reach_bytes <= LIMITS.most_bytes
        allowed = LIMITS.share * len(seen) * BLOCK + LIMITS.slack_bytes + LIMITS.most_bytes
        assert len(made.open) * BLOCK <= allowed + misses * LIMITS.least_bytes


def gap(block: int, there: set[int], most_blocks: int) -> range:
    return gap_before(block, lambda index: index not in there, lambda index: BLOCK, most_blocks * BLOCK)


def test_a_gap_is_closed_up_to_what_is_there() -> None:
    assert gap(9, {2, 5}, 3) == range(6, 9)
    assert gap(9, {8}, 3) == range(9, 9)


def test_a_longer_gap_is_left_open() -> None:
    assert not gap(10, {5}, 3)


def test_with_nothing_before_a_miss_there_is_no_gap() -> None:
    assert not gap(3, set(), 100)
    assert not gap(0, {5}, 100)


def test_a_job_that_has_read_little_has_no_gaps_closed() -> None:
    made = guesses()
    for block in range(LIMITS.gap_after_bytes // BLOCK):
        assert made.gap_bytes == 0
        made.missed([block])
    assert BLOCK < made.gap_bytes <= LIMITS.gap_bytes


@given(st.integers(0, 60), st.sets(st.integers(0, 60)), st.integers(0, 20))
def test_a_gap_lies_between_what_is_there_and_the_miss(block: int, there: set[int], most: int) -> None:
    found = gap(block, there, most)
    assert len(found) <= most
    assert there.isdisjoint(found)
    if found:
        assert found.stop == block
        assert found.start - 1 in there
