"""A transfer that nobody waits for: its bytes are handed on in large pieces, a little late.

libcurl gives 16 KiB at a time. Python that runs at each of these, a chunk for each block and a reader that is woken
for each cost more of two cores than the bytes themselves: so `list.append` takes them in, and after each turn the
thread looks at what has gathered.
"""

from __future__ import annotations

import time
from itertools import islice

import pycurl
import trio

from lazysif.transport.curl_order import CurlFailure, Order
from lazysif.transport.curl_transfer import Engine, Transfer

_CHUNK_BYTES = 1 << 20
"""What a reader is woken for: with 256 KiB a GiB took a tenth longer."""
_LATE_S = 0.01
"""So long a byte waits for others at most: somebody may have come to need its block."""
_BUFFER_BYTES = 64 << 10
"""What libcurl reads at once: it does so up to eleven times before others have their turn."""


class BulkTransfer(Transfer):
    """See `Transfer`; `gather` is to be called after each turn of libcurl."""

    most_waiting = 4 * _CHUNK_BYTES

    def __init__(self, engine: Engine, order: Order, token: trio.lowlevel.TrioToken) -> None:
        super().__init__(engine, order, token)
        self._counted = 0
        self._handed = 0
        self._since = 0.0

    @property
    def due(self) -> float | None:
        """When what has gathered is to be handed on, however little it is."""
        return self._since + _LATE_S if self._pieces else None

    def begin(self) -> pycurl.Curl:
        handle = super().begin()
        handle.setopt(pycurl.BUFFERSIZE, _BUFFER_BYTES)
        handle.setopt(pycurl.WRITEFUNCTION, self._pieces.append)
        return handle

    def gather(self) -> None:
        """Count what has come, hand it on where it is enough, and stop libcurl where the reader does not take it."""
        if not self._pieces:
            return
        now = time.monotonic()
        self._count(now)
        if self._pieces_bytes >= _CHUNK_BYTES or now - self._since >= _LATE_S:
            self._hand_over_all()
        if self._waiting >= self.most_waiting and not self._paused and self._handle is not None:
            self._paused = True
            if self._waiting >= self.most_waiting:
                self._handle.setopt(pycurl.WRITEFUNCTION, _refuse)
            else:
                self._paused = False

    def _count(self, now: float) -> None:
        if len(self._pieces) == self._counted:
            return
        if not self._counted:
            self._since = now
        came = sum(map(len, islice(self._pieces, self._counted, None)))
        self._counted = len(self._pieces)
        self._pieces_bytes += came
        self._received += came
        self.heard_at = now

    def _hand_over_all(self) -> None:
        """In chunks that end where whole ones would: a block that lies in one chunk is not copied once more."""
        start = gathered = 0
        room = _CHUNK_BYTES - self._handed % _CHUNK_BYTES
        pieces = self._pieces
        for number, piece in enumerate(pieces):
            gathered += len(piece)
            if gathered >= room:
                over = gathered - room
                pieces[number] = piece[: len(piece) - over]
                self._chunks.append(b"".join(pieces[start : number + 1]))
                pieces[number] = piece[len(piece) - over :]
                start, gathered, room = number, over, _CHUNK_BYTES
        if gathered:
            self._chunks.append(b"".join(pieces[start:]))
        pieces.clear()  # libcurl goes on to append to this list
        self._handed = self._received
        self._counted = self._pieces_bytes = 0
        self._notify()

    def _resume(self) -> None:
        if self._handle is not None:
            self._handle.setopt(pycurl.WRITEFUNCTION, self._pieces.append)
        super()._resume()

    def end(self, failure: CurlFailure | None) -> None:
        if self._pieces and not self._left:
            self._count(time.monotonic())
            self._hand_over_all()
        super().end(failure)


def _refuse(_: bytes) -> int:
    """Stops a transfer whose reader lags: libcurl keeps the piece, and reads nothing more."""
    return int(pycurl.WRITEFUNC_PAUSE)
