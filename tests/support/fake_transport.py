"""An origin in memory behind `model.Transport`: right answers from bytes, and faults as data.

    origin = FakeTransport({"/a.sif": File(data)}, script=[ResetAfter(4096), Status(503), Ok()])

The script is used up one request at a time; afterwards all answers are right. Ranges, conditions and validators
follow RFC 9110 as nginx does. Nothing here sleeps: time is trio's clock.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import trio

from lazysif.core.content_range import range_header
from lazysif.core.names import origin_of
from lazysif.errors import SourceUnavailable
from lazysif.model import AnswerHead, ByteRange, Request

DATE = "Thu, 01 Jan 2026 12:00:00 GMT"
MODIFIED = "Wed, 31 Dec 2025 12:00:00 GMT"


@dataclass(frozen=True, slots=True)
class File:
    """What lies at a path. `etag` None and `modified` None: no validator; `ranges` False: always 200."""

    data: bytes
    etag: str | None = '"v1"'
    modified: str | None = MODIFIED
    ranges: bool = True


@dataclass(frozen=True, slots=True)
class Directory:
    """Redirects to the name with a slash, where it lists itself as JSON."""

    files: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ok:
    """The right answer."""


@dataclass(frozen=True, slots=True)
class Status:
    code: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """No connection."""


@dataclass(frozen=True, slots=True)
class ResetAfter:
    """The connection breaks after this many bytes of the body."""

    body_bytes: int


@dataclass(frozen=True, slots=True)
class Short:
    """The body just ends after this many bytes, as a transport that does not count would let it."""

    body_bytes: int


@dataclass(frozen=True, slots=True)
class Stall:
    """Silence after this many bytes, until the request's patience ends."""

    body_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Longer:
    """More bytes than the head says."""

    more: bytes = b"more"


@dataclass(frozen=True, slots=True)
class Hold:
    """The right answer, its body held back behind `body_bytes` until `until` is set."""

    until: trio.Event
    body_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HoldHead:
    """The right answer, all of it held back until `until` is set."""

    until: trio.Event


@dataclass(frozen=True, slots=True)
class Headers:
    """The right answer with some headers set otherwise; None takes one away."""

    changes: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Bug:
    """An exception that no transport may raise."""


Fault = Ok | Status | Refused | ResetAfter | Short | Stall | Longer | Hold | HoldHead | Headers | Bug


@dataclass(frozen=True, slots=True)
class FakeAnswer:
    head: AnswerHead
    body: bytes
    fault: Fault
    stall_s: float
    chunk_bytes: int

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        body = self.body + self.fault.more if isinstance(self.fault, Longer) else self.body
        stop = min(getattr(self.fault, "body_bytes", len(body)), len(body))
        for start in range(0, stop, self.chunk_bytes):
            await trio.lowlevel.checkpoint()
            yield body[start : min(start + self.chunk_bytes, stop)]
        match self.fault:
            case ResetAfter():
                raise SourceUnavailable("the connection broke: reset by the test")
            case Stall():
                await trio.sleep(self.stall_s)
                raise SourceUnavailable("no data from the origin in time")
            case Hold():
                await self.fault.until.wait()
                for start in range(stop, len(body), self.chunk_bytes):
                    yield body[start : start + self.chunk_bytes]


class FakeTransport:
    """One origin. `files` may be changed at any time.

    Args:
        careless: conditions (If-Match and the like) are not looked at.
        everything: the fault of every request while the script is empty.
    """

    def __init__(
        self,
        files: Mapping[str, File | Directory] | None = None,
        script: Iterable[Fault] = (),
        *,
        careless: bool = False,
        chunk_bytes: int = 1000,
    ) -> None:
        self.files = dict(files or {})
        self.script = deque(script)
        self.everything: Fault = Ok()
        self.careless = careless
        self.chunk_bytes = chunk_bytes
        self.requests: list[Request] = []
        self.under_way = 0
        self.most_under_way = 0

    @property
    def asked(self) -> list[tuple[str, int, int]]:
        """(path, start, stop) of every ranged request so far."""
        return [
            (urlsplit(r.url).path, r.byte_range.start, r.byte_range.stop)
            for r in self.requests
            if r.byte_range is not None
        ]

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[FakeAnswer]:
        self.requests.append(request)
        fault = self.script.popleft() if self.script else self.everything
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await trio.lowlevel.checkpoint()
            match fault:
                case Refused():
                    raise SourceUnavailable("no connection to the origin: refused by the test")
                case Bug():
                    raise RuntimeError("a fault of the program")
                case HoldHead():
                    await fault.until.wait()
            head, body = self._answer(request, fault)
            yield FakeAnswer(head, body, fault, request.stall_s, self.chunk_bytes)
        finally:
            self.under_way -= 1

    async def aclose(self) -> None: ...

    def _answer(self, request: Request, fault: Fault) -> tuple[AnswerHead, bytes]:
        path = unquote(urlsplit(request.url).path)
        status, headers, body = (
            (fault.code, {"date": DATE, **fault.headers}, b"")
            if isinstance(fault, Status)
            else self._right(path, request)
        )
        if isinstance(fault, Headers):
            changed = {**headers, **fault.changes}
            headers = {name: value for name, value in changed.items() if value is not None}
        url = request.url
        if status == 301:
            status, url = 200, request.url + "/"
        return AnswerHead(status, headers, origin_of(url)), body

    def _right(self, path: str, request: Request) -> tuple[int, dict[str, str], bytes]:
        headers = {"date": DATE}
        found = self.files.get(path.rstrip("/"))
        if isinstance(found, Directory):
            if not path.endswith("/"):
                return 301, headers, b""
            lines = [{"name": name, "type": "file"} for name in found.files]
            lines += [{"name": name, "type": "directory"} for name in found.directories]
            return 200, {**headers, "content-type": "application/json"}, json.dumps(lines).encode()
        if found is None or path.endswith("/"):
            return 404, headers, b""
        headers |= {"etag": found.etag} if found.etag else {}
        headers |= {"last-modified": found.modified} if found.modified else {}
        if not self.careless:
            refused = _conditions(found, request.headers)
            if refused:
                return refused, headers, b""
        asked, size = request.byte_range, len(found.data)
        if asked is None or not found.ranges or not size:
            return 200, {**headers, "content-length": str(size)}, found.data
        if asked.start >= size:
            return 416, {**headers, "content-range": f"bytes */{size}"}, b""
        return 206, {**headers, **partial_headers(asked, size)}, found.data[asked.start : asked.stop]


def partial_headers(asked: ByteRange, size: int) -> dict[str, str]:
    """The headers of a right 206."""
    got = ByteRange(asked.start, min(asked.stop, size))
    return {
        "content-range": f"bytes {range_header(got).removeprefix('bytes=')}/{size}",
        "content-length": str(got.length),
    }


def _conditions(found: File, given: Mapping[str, str]) -> int:
    """412 or 304 where a condition says so, else 0. Dates are compared as text: the tests use two."""
    if given.get("If-Match", found.etag) != found.etag:
        return 412
    if given.get("If-Unmodified-Since", found.modified) != found.modified:
        return 412
    if found.etag and given.get("If-None-Match") == found.etag:
        return 304
    if found.modified and given.get("If-Modified-Since") == found.modified:
        return 304
    return 0
