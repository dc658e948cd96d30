"""What `RawOrigin` can do instead of answering rightly. A fault is a value; scripts are lists of them.

    with RawOrigin({"/a.sif": data}, script=[faults.Ok(), faults.ResetMidBody(4096)]) as origin:

Faults that alter a 206 start from the right answer *without* looking at If-Match, as a broken or careless
origin does, and leave answers that are not 206 alone. A stall lasts until `seconds` have passed, `until` is
set, the client leaves, or the origin closes; where it ends in time, the right answer goes on.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from tests.support.raw_origin import Answer, Wire


@dataclass(frozen=True, slots=True)
class Ok:
    """The right answer: a place holder in scripts."""

    def play(self, wire: Wire) -> None:
        wire.send(wire.right())


@dataclass(frozen=True, slots=True)
class Status:
    """Another status: 401, 403, 404, 410, 500, 503, ... with a small text body."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"scripted\n"

    def play(self, wire: Wire) -> None:
        wire.send(Answer(self.code, {"Content-Type": "text/plain", **self.headers}, self.body))


def unauthorized(challenge: str = 'Basic realm="images"') -> Status:
    return Status(401, {"WWW-Authenticate": challenge})


def too_many(retry_after: str = "1") -> Status:
    """429; `retry_after` is seconds or an HTTP date."""
    return Status(429, {"Retry-After": retry_after})


def unavailable(retry_after: str | None = None) -> Status:
    return Status(503, {} if retry_after is None else {"Retry-After": retry_after})


@dataclass(frozen=True, slots=True)
class NotSatisfiable:
    """416 for a range that is there; `total` of None names the true one."""

    total: int | None = None

    def play(self, wire: Wire) -> None:
        content = wire.content
        total = self.total if self.total is not None else len(content.data) if content else 0
        wire.send(Answer(416, {"Content-Range": f"bytes */{total}"}))


@dataclass(frozen=True, slots=True)
class Full200:
    """The whole file in answer to a ranged request; `chunked` leaves its length unsaid."""

    chunked: bool = False

    def play(self, wire: Wire) -> None:
        content = wire.content
        if content is None:
            wire.send(wire.right())
            return
        headers = {"ETag": content.etag, "Last-Modified": content.last_modified}
        answer = Answer(200, headers, memoryview(content.data))
        if self.chunked:
            _send_chunked(wire, answer)
        else:
            wire.send(answer)


@dataclass(frozen=True, slots=True)
class Chunked206:
    """A right 206 without Content-Length."""

    def play(self, wire: Wire) -> None:
        _send_chunked(wire, wire.right())


@dataclass(frozen=True, slots=True)
class WrongContentRange:
    """A 206 whose Content-Range starts elsewhere, names another total, is missing or is `text`."""

    shift: int = 0
    total: int | None = None
    missing: bool = False
    text: str | None = None

    def play(self, wire: Wire) -> None:
        answer = wire.right(conditions=False)
        if answer.status != 206 or self.missing:
            wire.send(answer.with_headers(content_range=None))
            return
        first, last, total = _content_range(answer)
        if self.total is not None:
            total = self.total
        text = f"bytes {first + self.shift}-{last + self.shift}/{total}"
        wire.send(answer.with_headers(content_range=self.text or text))


@dataclass(frozen=True, slots=True)
class ShortBody:
    """The right head, then only `keep` bytes and an orderly close.

    With `matching_length` Content-Length says `keep` while Content-Range promises all that was asked.
    """

    keep: int
    matching_length: bool = False

    def play(self, wire: Wire) -> None:
        answer = wire.right(conditions=False)
        if self.matching_length:
            wire.send(replace(answer, body=answer.body[: self.keep]))
            return
        wire.send_head(answer)
        wire.send_body(answer.body[: self.keep])
        wire.close()


@dataclass(frozen=True, slots=True)
class ShortRange:
    """A 206 that is right in itself (Content-Range and length agree), of fewer bytes than were asked."""

    keep: int

    def play(self, wire: Wire) -> None:
        answer = wire.right(conditions=False)
        if answer.status == 206:
            first, _, total = _content_range(answer)
            answer = answer.with_headers(content_range=f"bytes {first}-{first + self.keep - 1}/{total}")
            answer = replace(answer, body=answer.body[: self.keep])
        wire.send(answer)


@dataclass(frozen=True, slots=True)
class LongBody:
    """`extra` bytes more than were asked: within Content-Length, or with `after` behind its end."""

    extra: int = 1
    after: bool = False

    def play(self, wire: Wire) -> None:
        answer = wire.right(conditions=False)
        if not self.after:
            wire.send(replace(answer, body=bytes(answer.body) + b"X" * self.extra))
            return
        wire.send(answer)
        wire.send_body(b"X" * self.extra)


@dataclass(frozen=True, slots=True)
class StallBeforeHead:
    """Silence before the first byte."""

    seconds: float | None = None
    until: threading.Event | None = None

    def play(self, wire: Wire) -> None:
        wire.wait(self.seconds, self.until)
        wire.send(wire.right())


@dataclass(frozen=True, slots=True)
class StallAfterHead:
    """Silence between head and body."""

    seconds: float | None = None
    until: threading.Event | None = None

    def play(self, wire: Wire) -> None:
        answer = wire.right()
        wire.send_head(answer)
        wire.wait(self.seconds, self.until)
        wire.send_body(answer.body)


@dataclass(frozen=True, slots=True)
class StallMidBody:
    """Silence after `after` bytes of the body."""

    after: int
    seconds: float | None = None
    until: threading.Event | None = None

    def play(self, wire: Wire) -> None:
        answer = wire.right()
        wire.send_head(answer)
        wire.send_body(answer.body[: self.after])
        wire.wait(self.seconds, self.until)
        wire.send_body(answer.body[self.after :])


@dataclass(frozen=True, slots=True)
class Drip:
    """The right answer, `piece` bytes every `every_s` seconds."""

    piece: int = 1
    every_s: float = 0.05

    def play(self, wire: Wire) -> None:
        answer = wire.right()
        wire.send_head(answer)
        for start in range(0, len(answer.body), self.piece):
            wire.send_body(answer.body[start : start + self.piece])
            wire.wait(self.every_s)


@dataclass(frozen=True, slots=True)
class ResetMidBody:
    """RST after `after` bytes of the body."""

    after: int

    def play(self, wire: Wire) -> None:
        answer = wire.right()
        wire.send_head(answer)
        wire.send_body(answer.body[: self.after])
        time.sleep(0.02)  # RST discards what the peer has not read: let it read these bytes first
        wire.reset()


@dataclass(frozen=True, slots=True)
class CloseBeforeAnswer:
    """Close without a byte: orderly, or with `reset` by RST."""

    reset: bool = False

    def play(self, wire: Wire) -> None:
        if self.reset:
            wire.reset()
        wire.close()


@dataclass(frozen=True, slots=True)
class GzipOnRange:
    """A 206 whose body is compressed although identity was asked for."""

    def play(self, wire: Wire) -> None:
        answer = wire.right(conditions=False)
        packed = gzip.compress(bytes(answer.body), mtime=0)
        wire.send(replace(answer.with_headers(content_encoding="gzip"), body=packed))


@dataclass(frozen=True, slots=True)
class WeakEtag:
    """The right answer with its ETag made weak."""

    def play(self, wire: Wire) -> None:
        answer = wire.right(conditions=False)
        wire.send(
            answer.with_headers(etag="W/" + answer.headers["ETag"]) if "ETag" in answer.headers else answer
        )


@dataclass(frozen=True, slots=True)
class NoEtag:
    """Last-Modified is the only validator; conditions on it are honoured."""

    def play(self, wire: Wire) -> None:
        wire.send(wire.right().with_headers(etag=None))


@dataclass(frozen=True, slots=True)
class NoValidators:
    """Neither ETag nor Last-Modified."""

    def play(self, wire: Wire) -> None:
        wire.send(wire.right(conditions=False).with_headers(etag=None, last_modified=None))


@dataclass(frozen=True, slots=True)
class ChangedEtag:
    """A 206 with the ETag of another version, If-Match ignored; `last_modified` changes that one too."""

    etag: str = '"another-version"'
    last_modified: str | None = None

    def play(self, wire: Wire) -> None:
        answer = wire.right(conditions=False).with_headers(etag=self.etag)
        wire.send(answer.with_headers(last_modified=self.last_modified) if self.last_modified else answer)


@dataclass(frozen=True, slots=True)
class FlippedByte:
    """The right head, and a body with one wrong byte at `position`."""

    position: int = 0

    def play(self, wire: Wire) -> None:
        answer = wire.right()
        body = bytearray(answer.body)
        if body:
            body[self.position % len(body)] ^= 0xFF
        wire.send(replace(answer, body=bytes(body)))


@dataclass(frozen=True, slots=True)
class Redirect:
    """To another URL or path."""

    to: str
    code: int = 302

    def play(self, wire: Wire) -> None:
        wire.send(Answer(self.code, {"Location": self.to}))


@dataclass(frozen=True, slots=True)
class RedirectLoop:
    """To itself, for ever; with `growing` each time to another query of the same path. Use as the default."""

    growing: bool = False
    _steps: count[int] = field(default_factory=count, compare=False, repr=False)

    def play(self, wire: Wire) -> None:
        target = wire.request.target
        if self.growing:
            target = f"{target.partition('?')[0]}?step={next(self._steps)}"
        wire.send(Answer(302, {"Location": target}))


@dataclass(frozen=True, slots=True)
class Garbage:
    """Bytes that are not HTTP, then a close."""

    data: bytes = b"\x16\x03\x01 this is not HTTP\r\n\r\n"

    def play(self, wire: Wire) -> None:
        wire.send_raw(self.data)
        wire.close()


@dataclass(frozen=True, slots=True)
class EndlessHeaders:
    """Header lines until the client leaves, or `limit` bytes."""

    limit: int = 64 * 1024 * 1024

    def play(self, wire: Wire) -> None:
        wire.send_raw(b"HTTP/1.1 206 Partial Content\r\n")
        line = b"X-More: " + b"y" * 1014 + b"\r\n"
        for _ in range(self.limit // len(line)):
            wire.send_raw(line)
        wire.close()


@dataclass(frozen=True, slots=True)
class Multipart:
    """The asked range as multipart/byteranges, which only several ranges may be answered with."""

    def play(self, wire: Wire) -> None:
        answer = wire.right(conditions=False)
        where = answer.headers.get("Content-Range", "")
        part = f"--cut\r\nContent-Type: application/octet-stream\r\nContent-Range: {where}\r\n\r\n".encode()
        body = part + bytes(answer.body) + b"\r\n--cut--\r\n"
        kind = "multipart/byteranges; boundary=cut"
        wire.send(replace(answer.with_headers(content_range=None, content_type=kind), body=body))


def _content_range(answer: Answer) -> tuple[int, int, int]:
    """First, last (inclusive, as on the wire) and total of a 206."""
    bounds, _, total = answer.headers["Content-Range"].removeprefix("bytes ").partition("/")
    first, _, last = bounds.partition("-")
    return int(first), int(last), int(total)


def _send_chunked(wire: Wire, answer: Answer) -> None:
    wire.send_head(answer.with_headers(transfer_encoding="chunked"))
    if wire.request.method == "HEAD":
        return
    for start in range(0, len(answer.body), 16 * 1024):
        piece = answer.body[start : start + 16 * 1024]
        wire.send_raw(b"%x\r\n" % len(piece))
        wire.send_body(piece)
        wire.send_raw(b"\r\n")
    wire.send_raw(b"0\r\n\r\n")
