"""Threads of our own for blocking work, so that a sick disk blocks them and nobody else.

Why not `trio.to_thread`: SQLite connections belong to a thread, so the threads must stay the same ones; a
job must outlive the task that asked for it; and a hop takes 40 µs here instead of 110 µs. The threads are
daemons: one that hangs in the kernel does not keep the process from ending.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Barrier, Thread
from typing import Any, Generic, TypeVar

import trio

T = TypeVar("T")


class Job(Generic[T]):
    """A call under way in a lane. Several tasks may wait for it; leaving the wait does not stop it."""

    def __init__(self, call: Callable[[], T], done: Callable[[Job[T]], None] | None) -> None:
        self._call = call
        self._done = done
        self._finished = trio.Event()
        self._value: T | None = None
        self.error: Exception | None = None

    @property
    def finished(self) -> bool:
        return self._finished.is_set()

    async def wait(self) -> None:
        await self._finished.wait()

    def result(self) -> T:
        """What the call returned, once it has finished.

        Raises:
            Exception: what the call raised.
        """
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value]  # None is what a T may be

    def run(self) -> None:
        """In the lane's thread."""
        try:
            self._value = self._call()
        except Exception as error:  # noqa: BLE001 - handed over to whoever waits
            self.error = error

    def finish(self) -> None:
        """On the trio thread."""
        self._finished.set()
        if self._done is not None:
            self._done(self)


class ThreadLane:
    """A queue of jobs and the threads that work it off.

    Args:
        name: of the threads, as a debugger shows them.
        threads: how many.
        at_end: called in each thread before it ends, to close what belongs to the thread.
    """

    def __init__(self, name: str, threads: int, at_end: Callable[[], None]) -> None:
        self._name = name
        self._at_end = at_end
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, name=f"{name}-{i}", daemon=True) for i in range(threads)]
        self._token: trio.lowlevel.TrioToken | None = None
        self._running = threads
        self._ended = trio.Event()

    def start(self) -> None:
        """Start the threads; to be called in the trio thread that jobs report back to."""
        self._token = trio.lowlevel.current_trio_token()
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], T], done: Callable[[Job[T]], None] | None = None) -> Job[T]:
        """Queue a call; `done` runs on the trio thread after it, whoever still waits."""
        job = Job(call, done)
        self._queue.put(job)
        return job

    async def run(self, call: Callable[[], T]) -> T:
        """Queue a call and wait for it; a cancelled wait abandons it.

        Raises:
            Exception: what the call raised.
        """
        job = self.submit(call)
        await job.wait()
        return job.result()

    async def everywhere(self, call: Callable[[], None], timeout_s: float) -> None:
        """Run a call in each thread; all have left their other jobs before it and have done it afterwards.

        Raises:
            threading.BrokenBarrierError: a thread did not come within `timeout_s`.
        """
        barrier = Barrier(len(self._threads), timeout=timeout_s)

        def meet() -> None:
            barrier.wait()
            call()
            barrier.wait()

        for job in [self.submit(meet) for _ in self._threads]:
            await job.wait()
            job.result()

    def close(self) -> None:
        """Let the threads end after the jobs that are queued already; does not wait."""
        for _ in self._threads:
            self._queue.put(None)

    async def join(self) -> None:
        """Wait until the threads have ended; to be bounded by the caller."""
        await self._ended.wait()

    def _work(self) -> None:
        assert self._token is not None
        while (job := self._queue.get()) is not None:
            job.run()
            if not self._report(job.finish):
                break
            # Otherwise the last block that was read would stay in memory until the next job.
            del job
        self._at_end()
        self._report(self._count_down)

    def _report(self, call: Callable[[], None]) -> bool:
        """Have `call` made on the trio thread; False where the run has ended and nobody waits any more.

        trio promises RunFinishedError for that; but a run that ended by an internal error or was collected as
        garbage never marks its queue as done, and then its closed wakeup socket answers (EBADF).
        """
        assert self._token is not None
        try:
            self._token.run_sync_soon(call)
        except (trio.RunFinishedError, OSError):
            return False
        return True

    def _count_down(self) -> None:
        self._running -= 1
        if not self._running:
            self._ended.set()
