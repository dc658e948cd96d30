"""One thread in which libcurl moves the bytes of all remotes, and the bridge from it to trio. pycurl's only home.

Why a thread: an event loop that answers the kernel cannot also take in 0.5 GB/s; libcurl reads, decrypts and parses
without the GIL. The thread waits in epoll and calls libcurl where something is to do (`curl_multi_socket_action`).

Who owns what: a `Transfer` is made and left by a task of trio, its handle belongs to the thread. Both sides only
append, take and count under the GIL, and each looks again after it has said that it goes to sleep, so that no lock
is needed and no wake-up is lost.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import pycurl
import trio

from lazysif.transport.authorities import Authorities

log = logging.getLogger(__name__)

_MOST_WAITING = 1 << 20
"""Bytes of one transfer that its reader has not taken: then libcurl stops reading, and TCP the origin."""
_RESUME_BELOW = _MOST_WAITING // 2
_CHUNK_BYTES = 128 << 10
"""What a reader is given at a time, as a block of the usual size: libcurl brings 16 KiB at a time, and each turn of
the event loop costs more than to copy that."""
_BUFFER_BYTES = 512 << 10
_KEPT_CONNECTIONS = 128
_KEEPALIVE_S = 60
_BRAKE_S = 0.5
_LAST_S = 2.0
_WAKE_FD = -1


class Failure(StrEnum):
    """What ails a transfer, as far as its callers tell apart."""

    NO_NAME = "no name"
    NO_CONNECTION = "no connection"
    LATE = "late"
    UNTRUSTED = "untrusted"
    BAD_ADDRESS = "bad address"
    NO_AUTHORITIES = "no authorities"
    BROKEN = "broken"


_FAILURES = {
    pycurl.E_COULDNT_RESOLVE_HOST: Failure.NO_NAME,
    pycurl.E_COULDNT_CONNECT: Failure.NO_CONNECTION,
    pycurl.E_SSL_CONNECT_ERROR: Failure.NO_CONNECTION,
    pycurl.E_OPERATION_TIMEDOUT: Failure.LATE,
    pycurl.E_PEER_FAILED_VERIFICATION: Failure.UNTRUSTED,
    pycurl.E_URL_MALFORMAT: Failure.BAD_ADDRESS,
    pycurl.E_SSL_CACERT_BADFILE: Failure.NO_AUTHORITIES,
}


class CurlFailure(Exception):
    """A transfer that broke off.

    Args:
        text: libcurl's words; they may name the host, never more of the URL.
        code: of libcurl (`CURLE_*`), 0 where it is not libcurl's.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.text = text
        self.kind = _FAILURES.get(code, Failure.BROKEN)


@dataclass(frozen=True, slots=True)
class Order:
    """One GET, as it goes onto the wire.

    Args:
        url: without userinfo; says where to connect.
        target: path and query, byte for byte.
        headers: lines without their end, `Host` excepted.
        connect_s: the most that name, TCP and TLS may take together.
        trust: the authorities.
        refuses: whether an address must not be connected to, None where any may.
    """

    url: str
    target: bytes
    headers: Sequence[bytes]
    connect_s: float
    trust: Authorities
    refuses: Callable[[str], bool] | None = None


class Transfer:
    """One GET under way: its head, then its body, bounded in memory.

    `aclose` must be called, whatever happened; it never raises.
    """

    def __init__(self, engine: CurlEngine, order: Order, token: trio.lowlevel.TrioToken) -> None:
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
        if not self._chunks:
            return None
        data = self._chunks.popleft()
        self._taken += len(data)
        if self._paused and self._waiting < _RESUME_BELOW:
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
            with trio.move_on_after(self._patience_s(asked_at, stall_s)):
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
        order, handle = self.order, pycurl.Curl()
        self._handle = handle
        handle.setopt(pycurl.URL, order.url)
        handle.setopt(pycurl.REQUEST_TARGET, order.target)
        handle.setopt(pycurl.PATH_AS_IS, 1)
        handle.setopt(pycurl.HTTPHEADER, list(order.headers))
        handle.setopt(pycurl.FOLLOWLOCATION, 0)
        # one connection a request in flight: over one HTTP/2 connection a large answer would keep small ones waiting
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        handle.setopt(pycurl.HTTP09_ALLOWED, 0)
        handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        # neither proxies nor netrc of whoever started the daemon
        handle.setopt(pycurl.PROXY, "")
        handle.setopt(pycurl.NOPROXY, "*")
        handle.setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)
        _set_trust(handle, order.trust)
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.BUFFERSIZE, _BUFFER_BYTES)
        handle.setopt(pycurl.MAXAGE_CONN, _KEEPALIVE_S)
        handle.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(order.connect_s * 1000)))
        handle.setopt(pycurl.PREREQFUNCTION, self._on_connected)
        handle.setopt(pycurl.HEADERFUNCTION, self._on_header)
        handle.setopt(pycurl.WRITEFUNCTION, self._on_body)
        return handle

    def _on_connected(self, address: str, *_: object) -> int:
        """The request is about to be sent: the last moment to look at whom it goes to."""
        self.heard_at = self.connected_at = time.monotonic()
        if self.order.refuses is not None and self.order.refuses(address):
            self.refused_address = True
            return int(pycurl.PREREQFUNC_ABORT)
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
        elif self.status < 200:
            self.status = 0  # 100 Continue and the like: the answer is still to come
            self.headers.clear()
        else:
            self._head_done = True
            self._notify()

    def _on_body(self, data: bytes) -> int | None:
        self.heard_at = time.monotonic()
        if self._left:
            return 0
        if self._waiting >= _MOST_WAITING:
            self._paused = True
            if self._waiting >= _MOST_WAITING:
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


class CurlEngine:
    """The thread. `start` it on the trio thread; `aclose` breaks off what is under way."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._transfers: dict[pycurl.Curl, Transfer] = {}
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="curl", daemon=True)
        self._token: trio.lowlevel.TrioToken | None = None
        self._due: float | None = None
        self._epoll = select.epoll()
        self._multi = self._new_multi()

    def start(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def send(self, order: Order) -> Transfer:
        """Begin a GET. Never waits, never raises what the network does."""
        assert self._token is not None, "not started"
        transfer = Transfer(self, order, self._token)
        if self._closing:
            transfer.end(CurlFailure("the daemon is shutting down"))
        else:
            self.call(lambda: self._add(transfer))
        return transfer

    def call(self, what: Callable[[], None]) -> None:
        """Have something done on the engine's thread, in the order of the calls."""
        self._calls.append(what)
        try:
            os.eventfd_write(self._wake, 1)
        except OSError:
            pass  # closed

    async def aclose(self) -> None:
        """End the thread and all transfers."""
        self._closing = True
        self.call(lambda: None)
        if self._thread.is_alive():
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._thread.join, _LAST_S)
        if not self._thread.is_alive():
            self._epoll.close()
            os.close(self._wake)
            self._wake = _WAKE_FD

    # --- on its own thread ------------------------------------------------------------------------

    def drop(self, transfer: Transfer) -> None:
        """Break a transfer off."""
        self._remove(transfer, CurlFailure("left"))

    def _run(self) -> None:
        while not self._closing:
            try:
                self._turn()
            except Exception:
                log.exception("the thread of libcurl begins anew")
                self._begin_anew()
                time.sleep(_BRAKE_S)
        self._end_all("the daemon is shutting down")
        self._multi.close()

    def _turn(self) -> None:
        """Wait for sockets, the timer or a call, and do what is to be done."""
        wait_s = -1.0 if self._due is None else max(0.0, self._due - time.monotonic())
        for fd, mask in self._epoll.poll(wait_s):
            if fd == self._wake:
                os.eventfd_read(self._wake)
                continue
            self._multi.socket_action(fd, _events(mask))
        while self._calls:
            self._calls.popleft()()
        if self._due is not None and time.monotonic() >= self._due:
            self._due = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._reap()

    def _add(self, transfer: Transfer) -> None:
        try:
            handle = transfer.begin()
            self._transfers[handle] = transfer
            self._multi.add_handle(handle)
        except (pycurl.error, ValueError, UnicodeError) as error:
            self._remove(transfer, _failure_of(error))

    def _remove(self, transfer: Transfer, failure: CurlFailure | None) -> None:
        handle = transfer._handle
        if handle is not None and self._transfers.pop(handle, None) is not None:
            try:
                self._multi.remove_handle(handle)
            except pycurl.error as error:
                log.debug("a handle was gone already: %s", error)
        transfer.end(failure)

    def _reap(self) -> None:
        more = 1
        while more:
            more, done, failed = self._multi.info_read()
            for handle in done:
                self._remove(self._transfers[handle], None)
            for handle, code, text in failed:
                self._remove(self._transfers[handle], CurlFailure(text, code))

    def _end_all(self, why: str) -> None:
        while self._calls:
            self._calls.popleft()()
        for transfer in list(self._transfers.values()):
            self._remove(transfer, CurlFailure(why))

    def _begin_anew(self) -> None:
        transfers, self._transfers = list(self._transfers.values()), {}
        for transfer in transfers:
            transfer.end(CurlFailure("internal error, see the log"))
        self._epoll.close()
        self._epoll = select.epoll()
        self._due = None
        self._multi = self._new_multi()

    def _new_multi(self) -> pycurl.CurlMulti:
        self._epoll.register(self._wake, select.EPOLLIN)
        multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        multi.setopt(pycurl.M_MAXCONNECTS, _KEPT_CONNECTIONS)
        return multi

    def _on_socket(self, what: int, fd: int, *_: object) -> None:
        if what == pycurl.POLL_REMOVE:
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # closed already
            return
        mask = select.EPOLLIN if what in (pycurl.POLL_IN, pycurl.POLL_INOUT) else 0
        mask |= select.EPOLLOUT if what in (pycurl.POLL_OUT, pycurl.POLL_INOUT) else 0
        try:
            self._epoll.register(fd, mask)
        except FileExistsError:
            self._epoll.modify(fd, mask)

    def _on_timer(self, milliseconds: int) -> None:
        self._due = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000


def _set_trust(handle: pycurl.Curl, trust: Authorities) -> None:
    """Exactly these: the places that libcurl was built for do not count."""
    handle.setopt(pycurl.SSL_VERIFYPEER, 1)
    handle.setopt(pycurl.SSL_VERIFYHOST, 2)
    handle.unsetopt(pycurl.CAINFO)
    handle.unsetopt(pycurl.CAPATH)
    if trust.file:
        handle.setopt(pycurl.CAINFO, trust.file)
    if trust.merged:
        handle.setopt(pycurl.CAINFO_BLOB, trust.merged)
    if trust.directory:
        handle.setopt(pycurl.CAPATH, trust.directory)


def _events(mask: int) -> int:
    events = pycurl.CSELECT_IN if mask & (select.EPOLLIN | select.EPOLLHUP) else 0
    events |= pycurl.CSELECT_OUT if mask & select.EPOLLOUT else 0
    events |= pycurl.CSELECT_ERR if mask & select.EPOLLERR else 0
    return int(events)


def _failure_of(error: Exception) -> CurlFailure:
    if isinstance(error, pycurl.error) and error.args and isinstance(error.args[0], int):
        return CurlFailure(str(error.args[-1]), error.args[0])
    return CurlFailure("an address or header that cannot be sent", pycurl.E_URL_MALFORMAT)
