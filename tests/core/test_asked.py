"""core.asked: a deadline counts from when the kernel asked, as far as anybody can know."""

from __future__ import annotations

import json

import pytest

from lazysif.core.asked import Asked, GivenUp, left_s, words_of

READ = ("read", (7, 4096, 512))
OTHER = ("read", (7, 0, 512))


def taken_over(at_s: float, heard_s: float | None, *in_hand: tuple[tuple[object, ...], float]) -> Asked:
    asked = Asked(json.loads(json.dumps(words_of(in_hand))), heard_s)
    asked.began(at_s)
    return asked


def test_the_first_daemon_of_a_mount_is_asked_now() -> None:
    asked = Asked()
    asked.began(100.0)
    assert asked.since(READ, 100.1) == 100.1


def test_what_a_predecessor_had_in_hand_waits_since_then() -> None:
    asked = taken_over(100.0, 99.0, (READ, 60.0), (OTHER, 98.5))
    assert asked.since(READ, 100.1) == 60.0
    assert asked.since(OTHER, 100.1) == 98.5


def test_what_it_did_not_tell_of_was_read_by_nobody_when_it_spoke_last() -> None:
    asked = taken_over(100.0, 89.0, (OTHER, 60.0))
    assert asked.since(READ, 100.1) == 90.0, "when words were missing for the first time"


def test_after_the_first_moments_everything_is_new() -> None:
    """Regression: it was two seconds; a new reader lost 2.7 of its 8 s, and the origin came back too late for it."""
    asked = taken_over(100.0, 89.0, (READ, 60.0))
    assert asked.since(OTHER, 100.4) == 90.0
    assert asked.since(OTHER, 100.6) == 100.6
    for second in range(101, 107):
        asked.awake(float(second))
        now = second + 0.1
        assert asked.since(READ, now) == (60.0 if now < 105.5 else now), "what is known is known for longer"


def test_a_daemon_that_is_replaced_at_once_costs_new_requests_nothing() -> None:
    asked = taken_over(100.0, 99.5)
    assert asked.since(READ, 100.2) == 100.2


def test_a_daemon_that_was_stopped_knows_what_waited_for_it() -> None:
    asked = Asked()
    asked.began(100.0)
    asked.awake(101.0)
    assert asked.since(READ, 105.0) == 102.0, "it has not been awake since"
    assert asked.since(OTHER, 105.1) == 102.0
    for second in (105.9, 106.9, 107.9):
        asked.awake(second)
    assert asked.since(READ, 108.0) == 108.0


def test_one_that_speaks_every_second_was_not_stopped() -> None:
    asked = Asked()
    asked.began(100.0)
    for second in range(101, 110):
        asked.awake(float(second))
        assert asked.since(READ, second + 0.9) == second + 0.9


def test_of_two_that_ask_for_the_same_the_older_counts() -> None:
    assert list(words_of([(READ, 5.0), (READ, 3.0), (READ, 4.0)]).values()) == [3.0]


def test_words_fit_into_a_message() -> None:
    words = words_of([(("lookup", (number, "ä" * 255)), float(number)) for number in range(5000)])
    assert len(json.dumps(words)) < 60_000
    assert min(words.values()) == 0.0, "the oldest are told"


@pytest.mark.parametrize(
    ("timeout_s", "waited_s", "left"),
    [
        (60, 0, 60),
        (60, 10, 50),
        (60, 57, 5),
        (60, 300, 5),
        (8, 3, 5),
        (8, 10, 4),
        (20, 15.5, 5),
        (0.1, 9, 0.05),
    ],
)
def test_what_is_left_of_a_request(timeout_s: float, waited_s: float, left: float) -> None:
    assert left_s(timeout_s, waited_s) == left


def test_what_was_given_up_is_known_for_a_moment() -> None:
    given_up = GivenUp()
    given_up.add(7, 32768, 32768, 10.0)
    given_up.add(8, 0, 10, 10.5)
    assert given_up.covers(7, 36864, 4096, 10.9)
    assert not given_up.covers(7, 61440, 8192, 10.9), "part of it was not"
    assert not given_up.covers(9, 36864, 4096, 10.9)
    assert not given_up.covers(7, 36864, 4096, 11.0)
    given_up.add(9, 0, 10, 12.0)
    assert given_up.covers(9, 0, 10, 12.0)
    assert len(given_up._ranges) == 1, "nothing is kept for longer"
