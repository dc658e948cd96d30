"""cache.hands: results in order, errors in order, and nothing under way afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from lazysif.cache.hands import Hands


@pytest.fixture
def hands() -> Iterator[Hands[int]]:
    hands: Hands[int] = Hands("test", 3)
    yield hands
    hands.close()


def test_results_come_in_the_order_of_the_calls(hands: Hands[int]) -> None:
    def call(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    assert list(hands.each([lambda n=n: call(n) for n in range(50)])) == list(range(50))  # type: ignore[misc]
    assert list(hands.each([])) == []


def test_the_first_error_in_order_is_raised_and_the_rest_is_left(hands: Hands[int]) -> None:
    begun: list[int] = []
    gate = threading.Event()

    def call(number: int) -> int:
        begun.append(number)
        if number == 1:
            gate.wait(5)
            raise OSError(28, "full")
        if number == 2:
            gate.set()
            raise ValueError("the second error")
        return number

    got: list[int] = []

    def take_all() -> None:
        with closing(hands.each([lambda n=n: call(n) for n in range(200)])) as results:  # type: ignore[misc,type-var]
            got.extend(results)

    with pytest.raises(OSError, match="full"):
        take_all()
    assert got == [0]
    count = len(begun)
    time.sleep(0.05)
    assert len(begun) == count, "none is begun afterwards"
    assert list(hands.each([lambda: 7])) == [7], "and the threads go on"


def test_who_leaves_early_waits_for_what_is_under_way(hands: Hands[int]) -> None:
    under_way = 0

    def call() -> int:
        nonlocal under_way
        under_way += 1
        time.sleep(0.02)
        under_way -= 1
        return 1

    results = hands.each([call] * 30)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert under_way == 0
