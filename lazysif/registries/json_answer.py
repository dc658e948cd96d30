"""Small answers of registries: read whole, within bounds, and every way in which they fail told with the address."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from lazysif.core.content_range import refusal
from lazysif.core.names import origin_of
from lazysif.errors import LazysifError, SourceProtocolError
from lazysif.model import Answer, AnswerHead, Request, Transport

_MIB = 1 << 20
LONGEST = _MIB
"""Bytes; a manifest has hundreds, a list of all tags of a busy repository some 10,000."""

_STALL_S = 10.0
_TOTAL_S = 15.0
"""Below the time of a look-up as it comes (18 s for all its questions): the request itself ends when a server is
silent, where the look-up's end would have to cancel it."""


@dataclass(frozen=True, slots=True)
class Said:
    """An answer that was read whole."""

    head: AnswerHead
    body: bytes

    def json(self, shown: str = "") -> Any:
        """The body as JSON, whatever Content-Type it comes with. Raises: SourceProtocolError."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            # "from None": the error itself quotes the body, which may hold a signed URL
            raise SourceProtocolError("the answer is not JSON", origin=shown or self.head.url) from None


async def get(
    transport: Transport,
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    also: Collection[int] = (),
    shown: str = "",
    hint: str = "",
    longest: int = LONGEST,
) -> Said:
    """GET a small answer.

    Args:
        also: statuses beside 2xx that are answers, too.
        shown: the address that errors name, where the URL's own path holds a secret.
        hint: goes with a refusal instead of the general one.

    Raises:
        NoSuchEntry, AccessDenied, SourceUnavailable, SourceProtocolError: as the status says
            (`core.content_range.refusal`), a coded or too long body, and what the transport raises.
    """
    origin = shown or origin_of(url)
    try:
        async with transport.send(Request(url, headers or {}, stall_s=_STALL_S, total_s=_TOTAL_S)) as answer:
            status = answer.head.status
            if not 200 <= status < 300 and status not in also:
                error = refusal(answer.head)
                error.hint = hint or error.hint
                raise error
            return Said(answer.head, await _whole(answer, longest))
    except LazysifError as error:
        error.about(origin=origin)
        if shown:
            error.origin = shown  # the transport names the URL
        raise


async def get_json(
    transport: Transport,
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    shown: str = "",
    hint: str = "",
    longest: int = LONGEST,
) -> Any:
    """The JSON behind `url`. Raises: as `get`, and SourceProtocolError for what is no JSON."""
    said = await get(transport, url, headers, shown=shown, hint=hint, longest=longest)
    return said.json(shown or origin_of(url))


async def _whole(answer: Answer, longest: int) -> bytes:
    if answer.head.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise SourceProtocolError("the answer is compressed, which was not asked for")
    body = bytearray()
    async with aclosing(answer.chunks()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > longest:
                raise SourceProtocolError(f"the answer is longer than {longest // _MIB} MiB")
    return bytes(body)
