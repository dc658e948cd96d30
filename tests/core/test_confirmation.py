"""core.confirmation: how long a confirmation lasts, whatever was done to the clocks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.confirmation import Confirmation, Moment, left_of
from lazysif.model import InodeNumber

THEN = Moment(1_800_000_000.0, 5000.0, "boot")


def left(now: Moment, believed_s: float = 60.0, asked_of: str = "here") -> float:
    return left_of(Confirmation(InodeNumber(1), THEN, "here"), asked_of, now, believed_s)


def later(wall_s: float, boot_s: float, boot: str = "boot") -> Moment:
    return Moment(THEN.wall_s + wall_s, THEN.boot_s + boot_s, boot)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (later(0, 0), 60),
        (later(45, 45), 15),
        (later(60, 60), 0),
        (later(10, 45), 15),
        (later(45, 10), 15),
        (later(-1, 45), 0),
        (later(45, -1), 0),
        (later(45, -4000, "another"), 15),
        (later(-1, 3, "another"), 0),
        (later(math.inf, 1), 0),
        (later(math.nan, 1), 0),
    ],
)
def test_the_older_clock_counts_and_one_in_the_future_none(now: Moment, expected: float) -> None:
    assert left(now) == expected


def test_two_boots_that_are_not_known_are_not_one() -> None:
    then = Confirmation(InodeNumber(1), Moment(1000.0, 5000.0, ""), "here")
    assert left_of(then, "here", Moment(1010.0, 20.0, ""), 60.0) == 50.0


def test_another_configuration_believes_nothing() -> None:
    assert left(later(1, 1), asked_of="elsewhere") == 0


def test_nothing_is_believed_where_each_look_up_asks() -> None:
    assert left(later(0, 0), believed_s=0.0) == 0


@given(
    passed_s=st.floats(0, 1e6),
    set_by_s=st.floats(-1e9, 1e9),
    believed_s=st.floats(0, 31_536_000),
)
def test_however_the_wall_clock_is_set_no_belief_outlives_its_time(
    passed_s: float, set_by_s: float, believed_s: float
) -> None:
    remaining_s = left(later(passed_s + set_by_s, passed_s), believed_s)
    assert 0 <= remaining_s <= max(believed_s - passed_s, 0) + 1e-3
