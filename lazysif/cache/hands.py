"""Threads that write files for the writer thread, so that it need not wait for each: the order stays its own.

A frame's encoding and its file take 70 µs, its row 40, and most of that without the GIL. One such thread beside the
writer's balances the two; two of them stood in each other's way in the kernel (0.85 s of system time for 1 GiB, and
0.45 with one). The threads are daemons: one that a sick disk holds in the kernel does not keep the process from
ending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class _Round(Generic[T]):
    """One call of `Hands.each`."""

    def __init__(self) -> None:
        self.results: SimpleQueue[tuple[int, T | None, Exception | None]] = SimpleQueue()
        self.left = False


class Hands(Generic[T]):
    """Args: threads: how many; they start with the first work."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._name = name
        self._count = threads
        self._threads: list[Thread] = []
        self._work: SimpleQueue[tuple[int, Callable[[], T], _Round[T]] | None] = SimpleQueue()

    def each(self, calls: Sequence[Callable[[], T]]) -> Iterator[T]:
        """What the calls return, in their order; to be closed where it is left early.

        When it ends, however it ends, no call is under way; those not begun are left out.

        Raises:
            Exception: the first in order that a call raised.
        """
        self._start()
        this: _Round[T] = _Round()
        for number, call in enumerate(calls):
            self._work.put((number, call, this))
        outstanding = len(calls)
        ready: dict[int, tuple[T | None, Exception | None]] = {}
        try:
            for number in range(len(calls)):
                while number not in ready:
                    done, value, error = this.results.get()
                    outstanding -= 1
                    ready[done] = value, error
                value, error = ready.pop(number)
                if error is not None:
                    raise error
                yield value  # type: ignore[misc]  # None is what a T may be
        finally:
            this.left = True
            for _ in range(outstanding):
                this.results.get()

    def close(self) -> None:
        """Let the threads end; does not wait."""
        for _ in self._threads:
            self._work.put(None)
        self._threads = []

    def _start(self) -> None:
        while len(self._threads) < self._count:
            thread = Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            number, call, this = work
            value, error = None, None
            if not this.left:
                try:
                    value = call()
                except Exception as caught:  # noqa: BLE001 - raised again in the writer thread
                    error = caught
            this.results.put((number, value, error))
            del work, call, value, error
