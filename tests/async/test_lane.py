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


async def test_nothing_is_done_everywhere_before_all_threads_have_left_their_jobs():
    lane, held, closed = ThreadLane("test", 2, lambda: None), threading.Event(), []
    lane.start()
    try:
        busy = lane.submit(lambda: held.wait(10))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lane.everywhere, lambda: closed.append(threading.get_ident()), 10)
            await trio.sleep(0.1)
            before = list(closed)
            held.set()
        assert before == []
        await busy.wait()
        assert len(set(closed)) == 2
    finally:
        held.set()
        lane.close()
        await lane.join()
