"""Answers as `fetch.routes` hands them on: in the origin's words, and telling how their way is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import trio

from lazysif.errors import SourceTimeout, SourceUnavailable
from lazysif.fetch.way import Way
from lazysif.model import Answer, AnswerHead


class Reworded:
    """An answer with another head."""

    def __init__(self, answer: Answer, head: AnswerHead) -> None:
        self._answer = answer
        self.head = head

    def chunks(self) -> AsyncGenerator[bytes, None]:
        return self._answer.chunks()


class RoutedAnswer:
    """An answer whose body tells how its way is.

    Args:
        began: what `Way.begin` returned for it.
        others_serve: whether another way takes requests.
    """

    def __init__(self, answer: Answer, way: Way, began: float, others_serve: Callable[[], bool]) -> None:
        self._answer = answer
        self._way = way
        self._began = began
        self._others_serve = others_serve
        self.head = answer.head
        self.broke = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """See `model.Answer.chunks`."""
        heard_at = trio.current_time()
        try:
            async with aclosing(self._answer.chunks()) as pieces:
                async for chunk in pieces:
                    heard_at = trio.current_time()
                    self._way.received_bytes += len(chunk)
                    yield chunk
        except SourceUnavailable as error:
            self.broke = True
            self._way.failed(self._began, error, heard_at)
            if isinstance(error, SourceTimeout) and self._others_serve():
                # silence of one way is not silence of the origin (`fetch.contact`)
                raise SourceUnavailable(f"{self._way.name}: {error.why}", origin=error.origin) from error
            raise
