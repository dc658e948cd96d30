"""Answers whose body was read to see what it says, for transports that wrap another."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from lazysif.core.names import origin_of
from lazysif.errors import LazysifError
from lazysif.model import Answer, AnswerHead, Request, Transport

_LONGEST_ERROR = 64 << 10
SAID_BY_STATUS = (304, 412, 416)
"""Answers to conditions and ranges: there is nothing to read."""


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """An answer whose body was read already; see `model.Answer`."""

    head: AnswerHead
    body: bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """See `model.Answer.chunks`."""
        if self.body:
            yield self.body


async def start_of(answer: Answer) -> bytes:
    """As much of the body as an error has. Raises: as `model.Answer.chunks`."""
    body = b""
    async with aclosing(answer.chunks()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) >= _LONGEST_ERROR:
                break
    return body


class ExplainedTransport:
    """A transport whose refusals are told in the words of their bodies.

    Args: explain: the error that an answer stands for; None where its status says it all.
    """

    def __init__(
        self, transport: Transport, explain: Callable[[AnswerHead, bytes], LazysifError | None]
    ) -> None:
        self._transport = transport
        self._explain = explain

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Answer]:
        """See `model.Transport.send`. Raises: what `explain` gives, too."""
        async with self._transport.send(request) as answer:
            if answer.head.status < 400 or answer.head.status in SAID_BY_STATUS:
                yield answer
                return
            body = await start_of(answer)
            error = self._explain(answer.head, body)
            if error is not None:
                error.about(origin=origin_of(request.url))
                raise error
            yield ReadAnswer(answer.head, body)

    async def aclose(self) -> None:
        await self._transport.aclose()
