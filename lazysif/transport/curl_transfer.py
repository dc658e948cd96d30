"""One GET by libcurl: how it is set up, and how its bytes get from libcurl's thread to a task of trio.

A `Transfer` is made and left by a task of trio, its handle belongs to the thread. Both sides only append, take and
count under the GIL, and each looks again after it has said that it goes to sleep, so that no lock is needed and no
wake-up is lost.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import pycurl
import trio

from lazysif.transport.curl_order import CurlFailure, Order, new_handle
from lazysif.transport.spare_sockets import SpareSockets, fresh, keep_from_children

_CHUNK_BYTES = 128 << 10
"""What a reader is given at a time, as a block of the usual size: libcurl brings 16 KiB at a time, and each turn of
the event loop costs more than to copy that."""
_BUFFER_BYTES = 512 << 10


class Engine(Protocol):
    """The thread of libcurl, as a transfer sees it."""

    @property
    def spare(self) -> SpareSockets: ...

    def call(self, what: Callable[[], None]) -> None: ...

    def drop(self, transfer: Transfer) -> None: ...


class Transfer:
    """One GET under way: its head, then its body, bounded in memory.

    `aclose` must be called, whatever happened; it never raises.
    """

    most_waiting = 1 << 20
    """Bytes that the reader has not taken: then libcurl stops reading, and TCP the origin, until half are left."""

    def __init__(self, engine: Engine, order: Order, token: trio.lowlevel.TrioToken) -> None:
        self.order = order
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.connected_at: float | None = None
        """When the request could be sent, on the clock of `time.monotonic`; None before."""
        self.heard_at = 0.0
        """When a line of the head or a piece of the body came last."""
        self.refused_address = False
        self._engine = engine
        self._token = token
        self._chunks: deque[bytes] = deque()
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._received = 0
        self._taken = 0
        self._paused = False
        self._asked_to_resume = False
        self._original: socket.socket | None = None
        self._stands = False
        """The socket that libcurl was given last, and whether it is connected."""
        self._head_done = False
        self._over = False
        self._failure: CurlFailure | None = None
        self._left = False
        self._handle: pycurl.Curl | None = None
        self._sleeping = False
        self._wake = trio.Event()

    # --- on the trio thread -----------------------------------------------------------------------

    async def head(self, stall_s: float) -> None:
        """Wait for `status` and `headers`.

        Raises:
            CurlFailure: no connection or no answer.
            trio.TooSlowError: connected, and then nothing for `stall_s`.
        """
        await self._until(lambda: self._head_done, stall_s)

    async def take(self, stall_s: float) -> bytes | None:
        """The next piece of the body, at least a byte; None at its end.

        Raises:
            CurlFailure: it broke off.
            trio.TooSlowError: nothing came for `stall_s`.
        """
        await self._until(lambda: bool(self._chunks), stall_s)
        return self.take_now()

    def take_now(self) -> bytes | None:
        """As `take`, of what has come already; None where nothing has."""
        if not self._chunks:
            return None
        data = self._chunks.popleft()
        self._taken += len(data)
        if self._paused and not self._asked_to_resume and self._waiting < self.most_waiting // 2:
            self._asked_to_resume = True
            self._engine.call(self._resume)
        return data

    async def _until(self, ready: Callable[[], bool], stall_s: float) -> None:
        """Wait until `ready` or the end."""
        asked_at = time.monotonic()
        while not ready() and not self._over:
            self._wake = trio.Event()
            self._sleeping = True
            if ready() or self._over:
                break
            with trio.move_on_after(max(0.0, self._patience_s(asked_at, stall_s))):
                await self._wake.wait()
                continue
            if not ready() and not self._over and self._patience_s(asked_at, stall_s) <= 0:
                raise trio.TooSlowError
        self._sleeping = False
        if self._failure is not None and not ready():
            raise self._failure

    def _patience_s(self, asked_at: float, stall_s: float) -> float:
        """Before the connection stands, libcurl's own deadline counts; a second more lets it speak."""
        if self.connected_at is None:
            return self.order.connect_s + 1.0 + asked_at - time.monotonic()
        return max(asked_at, self.connected_at, self.heard_at) + stall_s - time.monotonic()

    async def aclose(self) -> None:
        """Leave: break off what is under way. Waits until the connection is let go of, a second at most."""
        if self._left:
            return
        self._left = True
        self._chunks.clear()
        if self._over:
            return
        self._engine.call(lambda: self._engine.drop(self))
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            while not self._over:
                self._wake = trio.Event()
                self._sleeping = True
                if not self._over:
                    await self._wake.wait()

    def _rouse(self) -> None:
        self._wake.set()

    # --- on the thread of libcurl -----------------------------------------------------------------

    @property
    def _waiting(self) -> int:
        return self._received - self._taken

    def begin(self) -> pycurl.Curl:
        """Make the handle."""
        self._handle = handle = new_handle(self.order)
        handle.setopt(pycurl.BUFFERSIZE, _BUFFER_BYTES)
        if self._engine.spare:
            handle.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
            handle.setopt(pycurl.SOCKOPTFUNCTION, self._on_socket)
        handle.setopt(pycurl.PREREQFUNCTION, self._on_connected)
        handle.setopt(pycurl.HEADERFUNCTION, self._on_header)
        handle.setopt(pycurl.WRITEFUNCTION, self._on_body)
        return handle

    def _open_socket(self, _: int, wanted: tuple[int, int, int, tuple[str, int]]) -> object:
        """A connection is needed: one that stands already, where there is one. pycurl takes a copy of it."""
        family, kind, protocol, address = wanted
        spare = self._engine.spare.take(address[:2])
        self._stands = spare is not None
        self._original = spare or fresh(family, kind, protocol)
        return self._original or pycurl.SOCKET_BAD

    def _on_socket(self, copy: int, _: int) -> int:
        """Right behind `_open_socket`, for the copy of what that gave."""
        if self._original is not None:
            self._original.close()
        keep_from_children(copy)
        return int(pycurl.SOCKOPT_ALREADY_CONNECTED if self._stands else pycurl.SOCKOPT_OK)

    def _on_connected(self, address: str, _: str, port: int, *__: object) -> int:
        """The request is about to be sent: the last moment to look at whom it goes to."""
        self.heard_at = self.connected_at = time.monotonic()
        if self.order.refuses is not None and self.order.refuses(address):
            self.refused_address = True
            return int(pycurl.PREREQFUNC_ABORT)
        if self.order.followed_by:
            self._engine.spare.open((address, port), self.order.followed_by)
        self._notify()  # the reader's patience counts from now on
        return int(pycurl.PREREQFUNC_OK)

    def _on_header(self, line: bytes) -> None:
        self.heard_at = time.monotonic()
        if self._head_done:
            return  # a trailer
        line = line.rstrip(b"\r\n")
        if line.startswith(b"HTTP/") and not self.status:
            fields = line.split(b" ", 2)
            self.status = int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0
        elif line:
            name, _, value = line.partition(b":")
            self.headers.append((name.strip().lower(), value.strip()))
        elif self.status < 200 or self.connected_at is None:
            # 100 Continue and the like, or a proxy's answer to CONNECT: the answer is still to come
            self.status = 0
            self.headers.clear()
        else:
            self._head_done = True
            self._notify()

    def _on_body(self, data: bytes) -> int | None:
        self.heard_at = time.monotonic()
        if self._left:
            return 0
        if self._waiting >= self.most_waiting:
            self._paused = True
            if self._waiting >= self.most_waiting:
                return int(pycurl.WRITEFUNC_PAUSE)
            self._paused = False
        self._received += len(data)
        self._pieces.append(data)
        self._pieces_bytes += len(data)
        while self._pieces_bytes >= _CHUNK_BYTES:
            self._hand_over(_CHUNK_BYTES)
        return None

    def _hand_over(self, size_bytes: int) -> None:
        """Make one chunk of the first bytes that have come; the last piece may be cut."""
        over = self._pieces_bytes - size_bytes
        last = self._pieces[-1]
        self._pieces[-1] = last[: len(last) - over] if over else last
        self._chunks.append(b"".join(self._pieces))
        self._pieces = [last[len(last) - over :]] if over else []
        self._pieces_bytes = over
        self._notify()

    def _resume(self) -> None:
        self._asked_to_resume = False
        if self._paused and not self._over and self._handle is not None:
            self._paused = False
            self.heard_at = time.monotonic()
            self._handle.pause(pycurl.PAUSE_CONT)

    def end(self, failure: CurlFailure | None) -> None:
        """It is through, or over; its handle is no longer used."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None
        if self._pieces and not self._left:
            self._hand_over(self._pieces_bytes)
        self._failure = failure
        self._over = True
        self._notify()

    def _notify(self) -> None:
        if not self._sleeping:
            return
        self._sleeping = False
        try:
            self._token.run_sync_soon(self._rouse)
        except (trio.RunFinishedError, OSError):
            pass  # nobody waits any more
