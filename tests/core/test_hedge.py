"""core.hedge: the time after which a request is late, and the price of sending it again."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.hedge import Tail

MIB = 1 << 20


def test_nothing_is_late_before_enough_is_known() -> None:
    tail = Tail()
    for _ in range(99):
        tail.note(MIB, 0.1)
        assert tail.patience_s(MIB) is None
    tail.note(MIB, 0.1)
    assert tail.patience_s(MIB) == 0.1
    assert tail.patience_s(100) is None, "small ones are another class"
    assert tail.patience_s(100 * MIB) is None


@given(st.lists(st.floats(0.01, 10.0), min_size=100, max_size=600))
def test_one_in_a_hundred_of_the_recent_is_later(times: list[float]) -> None:
    tail = Tail()
    for seconds in times:
        tail.note(MIB, seconds)
    patience_s = tail.patience_s(MIB)
    assert patience_s is not None
    recent = times[-200:]
    assert sum(seconds > patience_s for seconds in recent) <= len(recent) / 100
    assert patience_s in recent


def test_what_was_long_ago_is_forgotten() -> None:
    tail = Tail()
    for _ in range(300):
        tail.note(MIB, 5.0)
    for _ in range(200):
        tail.note(MIB, 0.1)
    assert tail.patience_s(MIB) == 0.1


@given(st.lists(st.tuples(st.integers(1, 10 * MIB), st.booleans()), max_size=300))
def test_no_more_than_a_fiftieth_is_spent(steps: list[tuple[int, bool]]) -> None:
    tail, asked, extra = Tail(), 0, 0
    for size_bytes, late in steps:
        tail.note(size_bytes, 0.1)
        asked += size_bytes
        if late and tail.spend(size_bytes):
            extra += size_bytes
        assert extra <= 0.02 * asked


def test_a_loopback_is_not_hedged_for_microseconds() -> None:
    tail = Tail()
    for _ in range(200):
        tail.note(MIB, random.random() / 10_000)
    assert tail.patience_s(MIB) == 0.005
