"""Questions to an origin: each is asked once at a time, whoever needs the answer meanwhile waits for the same.

They run in the daemon's nursery, so that a kernel request that gives up neither ends one nor hands its cancellation
to the others who wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from lazysif.errors import LazysifError, SourceError
from lazysif.fetch.remote import Remote
from lazysif.tree.meaning import Key

T = TypeVar("T")
log = logging.getLogger(__name__)


class Question(Generic[T]):
    """One question under way; `done` is set when `answer` gives what came of it."""

    def __init__(self, what: str) -> None:
        self.done = trio.Event()
        self.outcome: T | LazysifError = SourceError(f"the {what} was broken off")

    async def answer(self) -> T:
        """Wait for the answer. Raises: LazysifError: what the question ended with."""
        await self.done.wait()
        if isinstance(self.outcome, LazysifError):
            raise self.outcome.with_traceback(None)
        return self.outcome


class AskedOnce(Generic[T]):
    """Args:
    what: is asked, as errors and the log call it.
    ask: what it raises is the answer of all who wait: a LazysifError as it is, others only in the log.
    """

    def __init__(self, nursery: trio.Nursery, what: str, ask: Callable[[Remote, str], Awaitable[T]]) -> None:
        self._nursery = nursery
        self._what = what
        self._ask = ask
        self._under_way: dict[Key, Question[T]] = {}

    def under_way(self, remote: Remote, path: str) -> bool:
        """Whether this is being asked."""
        return (remote.name, path) in self._under_way

    def start(self, remote: Remote, path: str) -> Question[T]:
        """The question that is under way, or a new one."""
        key = (remote.name, path)
        question = self._under_way.get(key)
        if question is None:
            question = self._under_way[key] = Question(self._what)
            name = f"{self._what} of {remote.name}/{path}"
            self._nursery.start_soon(self._run, question, remote, path, name=name)
        return question

    async def _run(self, question: Question[T], remote: Remote, path: str) -> None:
        try:
            question.outcome = await self._ask(remote, path)
        except LazysifError as error:
            question.outcome = error
        except Exception:
            log.exception(
                "%s of %s in %s failed in an unexpected way", self._what, path, remote.name or "the remote"
            )
        finally:
            del self._under_way[remote.name, path]
            question.done.set()
