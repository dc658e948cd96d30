"""What the keeper makes of a daemon's silence."""

import select
import socket
import time
from types import SimpleNamespace

import pytest

from lazysif import keeper


@pytest.fixture
def clock(monkeypatch):
    """A clock that only tests move, and nothing ever to be heard; `clock.now` is its time."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)

    def wait_a_second(*_):
        clock.now += 1.0
        return [], [], []

    monkeypatch.setattr(select, "select", wait_a_second)
    return clock


@pytest.fixture
def silent(clock, monkeypatch):
    """A keeper whose daemon serves and says nothing; `replaced` has the reasons for which it was replaced."""
    replaced = []
    monkeypatch.setattr(keeper.Keeper, "replace", lambda self, why: replaced.append(why) or True)
    made = keeper.Keeper({"command": []}, -1)
    near, far = socket.socketpair()
    made.child = SimpleNamespace(socket=near, heard_s=clock.now, serves_since_s=clock.now)
    yield SimpleNamespace(keeper=made, replaced=replaced)
    for one in (near, far, made.signals, made.signalled):
        one.close()


def test_a_daemon_that_says_nothing_is_replaced(silent):
    for _ in range(10):
        silent.keeper.turn()
    assert not silent.replaced
    silent.keeper.turn()
    assert silent.replaced == ["it said nothing for 11 s"]


def test_a_keeper_that_was_stopped_between_two_turns_judges_nobody(silent, clock):
    """Regression: only a stop in the middle of its wait was noticed; after any other the daemon was killed."""
    silent.keeper.turn()
    clock.now += 20.0
    silent.keeper.turn()
    assert not silent.replaced
    for _ in range(10):
        silent.keeper.turn()
    assert not silent.replaced
    silent.keeper.turn()
    assert silent.replaced, "from then on it counts"
