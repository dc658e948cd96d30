"""A transfer that nobody waits for: its bytes are handed on a block at a time, hashed, a little late.

libcurl gives 16 KiB at a time. Python that runs at each of these and a reader that is woken for each cost more of two
cores than the bytes themselves: so `list.append` takes them in, and after each turn the thread makes blocks of what
has gathered. It hashes them, too, while they lie in the processor's cache: the event loop has readers to answer.
"""

from __future__ import annotations

import time
from itertools import islice

import pycurl
import trio
from blake3 import blake3

from lazysif.model import Digest, Hashed
from lazysif.transport.curl_order import CurlFailure, Order
from lazysif.transport.curl_transfer import Engine, Transfer

_WOKEN_BYTES = 1 << 20
"""What a reader is woken for: with 256 KiB a GiB took a tenth longer."""
_LATE_S = 0.01
"""So long a block waits for others at most: somebody may have come to need it."""
_BUFFER_BYTES = 256 << 10
"""What libcurl reads at once: it does so up to eleven times before others have their turn."""


class BulkTransfer(Transfer):
    """See `Transfer`; `gather` is to be called after each turn of libcurl. `order.bulk` is the size of a block."""

    most_waiting = 4 * _WOKEN_BYTES

    def __init__(self, engine: Engine, order: Order, token: trio.lowlevel.TrioToken) -> None:
        super().__init__(engine, order, token)
        self._counted = 0
        """Of `_pieces`, which libcurl appends to."""
        self._whole: list[Hashed] = []
        self._since = 0.0
        """When the first of `_whole` was."""

    @property
    def due(self) -> float | None:
        """When what has gathered is to be handed on, however little it is."""
        return self._since + _LATE_S if self._whole else None

    def begin(self) -> pycurl.Curl:
        handle = super().begin()
        handle.setopt(pycurl.BUFFERSIZE, _BUFFER_BYTES)
        handle.setopt(pycurl.WRITEFUNCTION, self._pieces.append)
        return handle

    def gather(self) -> None:
        """Take in what has come, hand on what is enough, and stop libcurl where the reader does not take it."""
        if len(self._pieces) > self._counted:
            self._take_in()
        if self._whole and (
            len(self._whole) * self.order.bulk >= _WOKEN_BYTES or time.monotonic() >= self._since + _LATE_S
        ):
            self._hand_over_whole()
        if self._waiting > self.most_waiting and not self._paused and self._handle is not None:
            self._paused = True
            if self._waiting > self.most_waiting:
                self._handle.setopt(pycurl.WRITEFUNCTION, _refuse)
            else:
                self._paused = False

    def _take_in(self) -> None:
        came = sum(map(len, islice(self._pieces, self._counted, None)))
        self._counted = len(self._pieces)
        self._pieces_bytes += came
        self._received += came
        self.heard_at = time.monotonic()
        if self._pieces_bytes >= self.order.bulk:
            self._cut()

    def _cut(self) -> None:
        """Make blocks of the pieces; what is left of them begins the next one."""
        size, pieces = self.order.bulk, self._pieces
        start = gathered = 0
        for number, piece in enumerate(pieces):
            gathered += len(piece)
            while gathered >= size:
                over = gathered - size
                pieces[number] = piece[: len(piece) - over]
                self._add(b"".join(pieces[start : number + 1]))
                pieces[number] = piece = piece[len(piece) - over :]
                start, gathered = number, over
        del pieces[: start if gathered else len(pieces)]  # the list stays: libcurl goes on to append to it
        self._counted, self._pieces_bytes = len(pieces), gathered

    def _add(self, block: bytes) -> None:
        if not self._whole:
            self._since = time.monotonic()
        self._whole.append(Hashed.of(block, Digest(blake3(block).digest())))

    def _hand_over_whole(self) -> None:
        self._chunks.extend(self._whole)
        self._whole.clear()
        self._notify()

    def _resume(self) -> None:
        if self._handle is not None:
            self._handle.setopt(pycurl.WRITEFUNCTION, self._pieces.append)
        super()._resume()

    def end(self, failure: CurlFailure | None) -> None:
        if not self._left:
            self._take_in()
            if self._pieces_bytes:
                self._add(b"".join(self._pieces))
            self._hand_over_whole()
        self._pieces.clear()
        super().end(failure)


def _refuse(_: bytes) -> int:
    """Stops a transfer whose reader lags: libcurl keeps the piece, and reads nothing more."""
    return int(pycurl.WRITEFUNC_PAUSE)
