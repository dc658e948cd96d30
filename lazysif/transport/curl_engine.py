"""One thread in which libcurl moves the bytes of all remotes.

Why a thread: an event loop that answers the kernel cannot also take in 0.5 GB/s; libcurl reads, decrypts and parses
without the GIL. The thread waits in epoll and calls libcurl where something is to do (`curl_multi_socket_action`).
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

import pycurl
import trio

from lazysif.transport.curl_bulk import BulkTransfer
from lazysif.transport.curl_order import CurlFailure, Order, failure_of
from lazysif.transport.curl_transfer import Transfer
from lazysif.transport.spare_sockets import SpareSockets

log = logging.getLogger(__name__)

_KEPT_CONNECTIONS = 128
_BRAKE_S = 0.5
_LAST_S = 2.0
_CLOSED = -1


def libcurl_version() -> str:
    """As "8.23.0 with OpenSSL/3.6.5"."""
    facts = pycurl.version_info()
    return f"{facts[1]} with {facts[5]}"


class CurlEngine:
    """The thread. `start` it on the trio thread; `aclose` breaks off what is under way."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._transfers: dict[pycurl.Curl, Transfer] = {}
        self._bulk: list[BulkTransfer] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="curl", daemon=True)
        self._token: trio.lowlevel.TrioToken | None = None
        self._due: float | None = None
        self.spare = SpareSockets()
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
        transfer = (BulkTransfer if order.bulk else Transfer)(self, order, self._token)
        if self._closing:
            transfer.end(CurlFailure("the daemon is shutting down"))
        else:
            self.call(lambda: self._add(transfer))
        return transfer

    async def expect(self, host: str, port: int) -> None:
        """Begin a connection for a request that may come within `spare_sockets.KEPT_S`. Never raises."""
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            log.debug("no connection is begun to %s: %s", host, error)
            return
        address = str(found[0][4][0])
        self.call(lambda: self.spare.open((address, port), 1))

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
            self._wake = _CLOSED

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
        self.spare.close()
        self._multi.close()

    def _turn(self) -> None:
        """Wait for sockets, the timer or a call, and do what is to be done."""
        gathered = [transfer.due for transfer in self._bulk]
        dues = [due for due in (self._due, self.spare.expire(), *gathered) if due is not None]
        wait_s = max(0.0, min(dues) - time.monotonic()) if dues else -1.0
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
        for transfer in self._bulk:
            transfer.gather()
        self._reap()

    def _add(self, transfer: Transfer) -> None:
        try:
            handle = transfer.begin()
            self._transfers[handle] = transfer
            if isinstance(transfer, BulkTransfer):
                self._bulk.append(transfer)
            self._multi.add_handle(handle)
        except (pycurl.error, ValueError, UnicodeError) as error:
            self._remove(transfer, failure_of(error))
        except Exception:
            self._remove(transfer, CurlFailure("internal error, see the log"))
            raise

    def _remove(self, transfer: Transfer, failure: CurlFailure | None) -> None:
        handle = transfer._handle
        if handle is not None and self._transfers.pop(handle, None) is not None:
            try:
                self._multi.remove_handle(handle)
            except pycurl.error as error:
                log.debug("a handle was gone already: %s", error)
        if isinstance(transfer, BulkTransfer) and transfer in self._bulk:
            self._bulk.remove(transfer)
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
        self._bulk.clear()
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


def _events(mask: int) -> int:
    events = pycurl.CSELECT_IN if mask & (select.EPOLLIN | select.EPOLLHUP) else 0
    events |= pycurl.CSELECT_OUT if mask & select.EPOLLOUT else 0
    events |= pycurl.CSELECT_ERR if mask & select.EPOLLERR else 0
    return int(events)
