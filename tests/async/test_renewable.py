"""Secrets that hold for a while: one load for all, failures that are not repeated, loads that hang."""

from __future__ import annotations

import threading
import time

import pytest
import trio

from lazysif.errors import AccessDenied, SourceTimeout, SourceUnavailable
from lazysif.transport import renewable
from lazysif.transport.renewable import Held, Renewable


class Loads:
    """What each load gives: a value, or an error to raise; and how often it was asked."""

    def __init__(self, *given: Held[str] | Exception) -> None:
        self.given = list(given)
        self.asked: list[bool] = []

    def __call__(self, anew: bool) -> Held[str]:
        self.asked.append(anew)
        found = self.given.pop(0) if len(self.given) > 1 else self.given[0]
        if isinstance(found, Exception):
            raise found
        return found


def held(value: str, renew_in_s: float = 60.0, ends_in_s: float = 60.0) -> Held[str]:
    return Held(value, time.time() + renew_in_s, time.time() + ends_in_s)


async def test_a_hundred_askers_are_one_load():
    loads = Loads(held("a"))
    secret = Renewable(loads, "a secret")
    got: list[str] = []

    async def ask() -> None:
        got.append(await secret.current())

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask)
    assert got == ["a"] * 100
    assert loads.asked == [False]


async def test_it_is_renewed_when_its_time_has_come():
    loads = Loads(held("a", renew_in_s=-1), held("b"))
    secret = Renewable(loads, "a secret")
    assert [await secret.current() for _ in range(3)] == ["a", "b", "b"]


async def test_while_it_holds_a_renewal_may_fail():
    loads = Loads(held("a", renew_in_s=-1), SourceUnavailable("no service"))
    secret = Renewable(loads, "a secret")
    assert [await secret.current() for _ in range(3)] == ["a", "a", "a"]
    assert len(loads.asked) == 2


@pytest.mark.parametrize(
    ("error", "pause_s"), [(SourceUnavailable("no service"), 5), (AccessDenied("refused"), 30)]
)
async def test_a_failure_is_remembered_for_a_while(mock_clock, error, pause_s):
    loads = Loads(error)
    secret = Renewable(loads, "a secret")
    for _ in range(3):
        with pytest.raises(type(error)):
            await secret.current()
        mock_clock.jump(pause_s / 4)
    assert len(loads.asked) == 1
    mock_clock.jump(pause_s / 2)
    with pytest.raises(type(error)):
        await secret.current()
    assert len(loads.asked) == 2


async def test_what_is_refused_is_replaced_once_for_all_who_met_it():
    loads = Loads(held("a"), held("b"))
    secret = Renewable(loads, "a secret")
    assert await secret.current() == "a"
    assert [await secret.other_than("a") for _ in range(3)] == ["b", "b", "b"]
    assert loads.asked == [False, True]
    assert await secret.other_than("b") is None


async def test_a_service_that_has_nothing_else_is_not_asked_by_every_request(mock_clock):
    loads = Loads(held("a"))
    secret = Renewable(loads, "a secret")
    await secret.current()
    assert [await secret.other_than("a") for _ in range(3)] == [None, None, None]
    assert len(loads.asked) == 2
    mock_clock.jump(11)
    assert await secret.other_than("a") is None
    assert len(loads.asked) == 3


async def test_a_load_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(renewable, "_LOAD_S", 0.05)
    released = threading.Event()

    def hang(anew: bool) -> Held[str]:
        released.wait(30)
        return held("late")

    secret = Renewable(hang, "a secret")
    with pytest.raises(SourceTimeout, match="a secret could not be had in time"):
        await secret.current()
    released.set()


async def test_who_gives_up_waiting_leaves_the_others_alone():
    go = threading.Event()

    def load(anew: bool) -> Held[str]:
        assert go.wait(30)
        return held("a")

    secret = Renewable(load, "a secret")
    got: list[str] = []

    async def ask() -> None:
        got.append(await secret.current())

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.05):
            await secret.current()
        nursery.start_soon(ask)
        go.set()
    assert got == ["a"]


async def test_what_comes_too_late_for_one_is_there_for_the_next():
    go = threading.Event()
    asked = []

    def load(anew: bool) -> Held[str]:
        asked.append(anew)
        assert go.wait(30)
        return held("a")

    secret = Renewable(load, "a secret")
    with trio.move_on_after(0.05):
        await secret.current()
    go.set()
    while secret._held is None:  # noqa: ASYNC110
        await trio.sleep(0.01)
    assert await secret.current() == "a"
    assert len(asked) == 1
