"""Threads of the cache end quietly, whatever became of the trio run that they report to."""

import errno
import threading

import pytest
import trio

from lazysif.cache.lane import ThreadLane


class DeadToken:
    """Of a run that is over: trio's queue is marked as done, or only its wakeup socket is closed."""

    def __init__(self, error):
        self.error = error

    def run_sync_soon(self, call):
        raise self.error


@pytest.mark.parametrize("error", [trio.RunFinishedError(), OSError(errno.EBADF, "Bad file descriptor")])
async def test_threads_end_with_a_run_that_did_not_wait_for_them(error, monkeypatch):
    faults = []
    monkeypatch.setattr(threading, "excepthook", lambda fault: faults.append(fault.exc_value))
    ended = threading.Event()
    lane = ThreadLane("test", 1, ended.set)
    lane.start()
    lane._token = DeadToken(error)
    lane.submit(int)
    lane._threads[0].join(10)
    assert ended.is_set()
    assert faults == []
