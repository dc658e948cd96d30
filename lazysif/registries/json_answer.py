"""JSON from registries: read whole, within bounds, and every way in which it is none told with its origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from lazysif.core.content_range import refusal
from lazysif.core.names import origin_of
from lazysif.errors import SourceProtocolError
from lazysif.model import Answer, Request, Transport

LONGEST = 1 << 20
"""Bytes; a manifest has hundreds, a list of all tags of a busy repository some 10,000."""


async def get_json(
    transport: Transport, url: str, headers: Mapping[str, str] | None = None, *, longest: int = LONGEST
) -> Any:
    """The JSON behind `url`, whatever Content-Type it comes with.

    Raises:
        NoSuchEntry, AccessDenied, SourceUnavailable, SourceProtocolError: as the status says
            (`core.content_range.refusal`), for what is no JSON or too long, and what the transport raises.
    """
    async with transport.send(Request(url, headers or {})) as answer:
        return await read_json(answer, url, longest=longest)


async def read_json(answer: Answer, url: str, *, longest: int = LONGEST) -> Any:
    """The JSON of an answer to a request for `url`. Raises: as `get_json`."""
    origin = origin_of(url)
    if answer.head.status not in (200, 201, 203):
        error = refusal(answer.head)
        error.about(origin=origin)
        raise error
    body = await read_whole(answer, origin, longest)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        # "from None": the error itself quotes the body, which may hold a signed URL
        raise SourceProtocolError("the registry's answer is not JSON", origin=origin) from None


async def read_whole(answer: Answer, origin: str, longest: int = LONGEST) -> bytes:
    """The whole body. Raises: SourceProtocolError: coded or too long; and what the transport raises."""
    if answer.head.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise SourceProtocolError(
            "the registry's answer is compressed, which was not asked for", origin=origin
        )
    body = bytearray()
    async with aclosing(answer.chunks()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > longest:
                raise SourceProtocolError(
                    f"the registry's answer is longer than {longest} bytes", origin=origin
                )
    return bytes(body)
