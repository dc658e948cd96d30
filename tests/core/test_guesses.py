"""Guesses reach further the more of them come true, and no further than their share where they do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.guesses import Guesses, GuessLimits

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
