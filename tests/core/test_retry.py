"""core.retry: when to ask again, and that it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.retry import retry_delay_s
from lazysif.errors import AccessDenied, ImageChanged, NoSuchEntry, SourceProtocolError, SourceUnavailable

DOWN = SourceUnavailable("down")


def delay(error=DOWN, attempt=1, *, elapsed_s=0.0, budget_s=60.0, max_attempts=20, jitter=0.0):
    return retry_delay_s(
        error, attempt, elapsed_s=elapsed_s, budget_s=budget_s, max_attempts=max_attempts, jitter=jitter
    )


@pytest.mark.parametrize(
    ("attempt", "jitter", "expected"),
    [(1, 0.0, 0.05), (1, 0.999, 0.09995), (2, 0.0, 0.1), (3, 0.5, 0.3), (7, 0.0, 2.5), (19, 0.0, 2.5)],
)
def test_doubles_from_a_tenth_of_a_second_to_five(attempt, jitter, expected):
    assert delay(attempt=attempt, jitter=jitter) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [AccessDenied, ImageChanged, NoSuchEntry, SourceProtocolError])
def test_what_time_does_not_heal_is_not_tried_again(kind):
    assert delay(kind("no")) is None


def test_retry_after_is_the_least_wait_and_is_spread_out():
    asked = SourceUnavailable("busy", retry_after_s=7.0)
    assert delay(asked) == 7.0
    assert delay(asked, jitter=0.5) == pytest.approx(7.35)
    assert delay(SourceUnavailable("busy", retry_after_s=0.0)) == 0.05


def test_a_retry_after_beyond_the_budget_gives_up_at_once():
    assert delay(SourceUnavailable("busy", retry_after_s=60.0)) is None


@pytest.mark.parametrize(
    "limits", [{"attempt": 20}, {"attempt": 21}, {"elapsed_s": 59.95}, {"elapsed_s": 1e9}, {"budget_s": 0.0}]
)
def test_gives_up(limits):
    assert delay(**limits) is None


@given(
    budget_s=st.floats(0, 1000),
    max_attempts=st.integers(1, 200),
    request_s=st.floats(0, 30),
    jitters=st.lists(st.floats(0, 1, exclude_max=True), min_size=1),
    retry_after_s=st.none() | st.floats(0, 100),
)
def test_it_ends_within_budget_and_attempts(budget_s, max_attempts, request_s, jitters, retry_after_s):
    """An origin that always fails: the last attempt begins before the budget is spent."""
    error = SourceUnavailable("down", retry_after_s=retry_after_s)
    elapsed_s = 0.0
    for attempt in range(1, max_attempts + 1):
        elapsed_s += request_s
        wait_s = delay(
            error,
            attempt,
            elapsed_s=elapsed_s,
            budget_s=budget_s,
            max_attempts=max_attempts,
            jitter=jitters[attempt % len(jitters)],
        )
        if wait_s is None:
            return
        assert wait_s >= 0.05
        elapsed_s += wait_s
        assert elapsed_s < budget_s
    pytest.fail("more attempts than allowed")
