"""Where nodes share traces: a folder, a web server, or beside the image. Hints from strangers, checked as such.

A shared folder can hang with its file server, so it is only touched in threads that nobody waits for longer than
`_PATIENCE_S`; a thread that hangs keeps one of `_THREADS` places, so that they cannot pile up.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar, TypeVarTuple
from urllib.parse import urlsplit, urlunsplit

import trio

from lazysif.core.names import origin_of
from lazysif.core.trace import Trace, merge_all, says_more
from lazysif.errors import AccessDenied, FormatError, SourceError, SourceTimeout, SourceUnavailable
from lazysif.model import AnswerHead, Request, Transport
from lazysif.traces.trace_file import MAX_FILE_BYTES, SUFFIX, decode, encode, read_trace, write_trace

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")
_PATIENCE_S = 10.0
_THREADS = 2


class Share(Protocol):
    """A place that traces come from and, where it takes them, go to."""

    @property
    def name(self) -> str:
        """For the log; without secrets."""
        ...

    async def get(self, key: str) -> Trace | None:
        """The trace of an image, checked as far as it can be without the image; None where there is none.

        Raises: FormatError: what is there is no trace. SourceError, AccessDenied: it could not be asked in time.
        """
        ...

    async def offer(self, trace: Trace) -> bool:
        """Merge a trace into what is there; False where it takes none, or says all of it already.

        Raises: SourceError, AccessDenied: it could not be written in time.
        """
        ...


class Uploader(Protocol):
    """A transport that can also write."""

    async def put(self, url: str, content: bytes, total_s: float) -> AnswerHead:
        """PUT; redirects are not followed. Raises: SourceError."""
        ...


def merged(known: Trace | None, new: Trace) -> Trace | None:
    """What a share should hold after `new` was offered; None where it needs no change."""
    if known is None or (known.key, known.size_bytes, known.block_size) != (
        new.key,
        new.size_bytes,
        new.block_size,
    ):
        return new
    return merge_all(known, new) if says_more(new, known) else None


class FolderShare:
    """Files in a folder that nodes share, read and written by each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = trio.CapacityLimiter(_THREADS)

    @property
    def name(self) -> str:
        return str(self._folder)

    async def get(self, key: str) -> Trace | None:
        """See `Share`."""
        return await self._in_thread(read_trace, self._path(key))

    async def offer(self, trace: Trace) -> bool:
        """See `Share`. Two nodes that offer at once: the later one wins, and the other's start is learned again."""
        return await self._in_thread(self._write, trace)

    def _write(self, trace: Trace) -> bool:
        path = self._path(trace.key)
        try:
            known = read_trace(path)
        except FormatError:
            known = None
        changed = merged(known, trace)
        if changed is None:
            return False
        write_trace(path, replace(changed, name=""), mode=0o644)
        return True

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{SUFFIX}"

    async def _in_thread(self, call: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> _T:
        try:
            with trio.fail_after(_PATIENCE_S):
                return await trio.to_thread.run_sync(
                    call, *arguments, abandon_on_cancel=True, limiter=self._threads
                )
        except trio.TooSlowError:
            raise SourceTimeout(f"{self._folder} did not answer within {_PATIENCE_S:g} s") from None
        except OSError as error:
            raise SourceUnavailable(
                f"{error.filename or self._folder}: {error.strerror or error}",
                hint="the folder of [traces] must be there, and writable for the daemon",
            ) from error


class UrlShare:
    """Files on a web server: GET, and PUT where it is allowed.

    Args:
        url: base address; a query is kept behind each name.
        uploader: None for a server that is only read.
    """

    def __init__(self, url: str, transport: Transport, uploader: Uploader | None = None) -> None:
        self._url = url
        self._transport = transport
        self._uploader = uploader

    @property
    def name(self) -> str:
        return origin_of(self._url)

    async def get(self, key: str) -> Trace | None:
        """See `Share`."""
        return await fetch_trace(self._transport, self._address(key))

    async def offer(self, trace: Trace) -> bool:
        """See `Share`."""
        if self._uploader is None:
            return False
        try:
            known = await self.get(trace.key)
        except FormatError:
            known = None
        changed = merged(known, trace)
        if changed is None:
            return False
        content = encode(replace(changed, name=""))
        head = await self._uploader.put(self._address(trace.key), content, _PATIENCE_S)
        if head.status in (401, 403):
            raise AccessDenied(f"PUT was refused ({head.status})", origin=self.name)
        if not 200 <= head.status < 300:
            raise SourceError(f"PUT was answered by {head.status}", origin=self.name)
        return True

    def _address(self, key: str) -> str:
        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{key}{SUFFIX}"))


class BesideImage:
    """The file that a publisher put beside an image: IMAGE-URL.lazysif-trace."""

    def __init__(self, image_url: str, transport: Transport) -> None:
        self._image_url = image_url
        self._transport = transport

    @property
    def name(self) -> str:
        return f"beside {origin_of(self._image_url)}"

    async def get(self, key: str) -> Trace | None:
        """See `Share`; the key is compared by who asks."""
        parts = urlsplit(self._image_url)
        try:
            return await fetch_trace(self._transport, urlunsplit(parts._replace(path=parts.path + SUFFIX)))
        except AccessDenied:
            return None  # object stores say 403 of what is not there to those who may not list

    async def offer(self, trace: Trace) -> bool:
        """It takes none: images are the publisher's."""
        return False


async def fetch_trace(transport: Transport, url: str) -> Trace | None:
    """GET one trace; None where there is none.

    Raises: FormatError, SourceError, AccessDenied.
    """
    content = bytearray()
    async with transport.send(Request(url, stall_s=_PATIENCE_S, total_s=_PATIENCE_S)) as answer:
        status = answer.head.status
        if status in (404, 410):
            return None
        if status in (401, 403):
            raise AccessDenied(f"GET was refused ({status})", origin=origin_of(url))
        if status != 200:
            raise SourceError(f"GET was answered by {status}", origin=origin_of(url))
        async with aclosing(answer.chunks()) as chunks:
            async for chunk in chunks:
                content += chunk
                if len(content) > MAX_FILE_BYTES:
                    raise FormatError(f"a trace of more than {MAX_FILE_BYTES} bytes")
    return await trio.to_thread.run_sync(decode, bytes(content))  # the largest takes 14 ms
