"""The modelled line of `bench.shaper`: who sends when, and when that arrives. Bytes stay in the kernel.

Linux only. Bytes wait in the receive buffer of the socket they came by until they are due at the far end, and
are then spliced on through a pipe.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import socket
import struct
import termios
from collections import deque
from collections.abc import Iterator

WINDOW_BYTES = 4 * 1024 * 1024
"""Bytes on the way in one direction of one connection: more than 200 Mbit/s x 50 ms, or 1 Gbit/s x 30 ms."""
TURN_S = 0.0005
"""For how long a connection has the line to itself while others wait, ..."""
TURN_BYTES = 16 * 1024
"""... and what it sends at least."""
PIPE_BYTES = 1 << 20
SPLICE_MOVE, SPLICE_NONBLOCK = 1, 2
"""<fcntl.h>; the module `os` has no names for them."""


class Flow:
    """One direction of one connection: arrived → on the line → on the way → due → delivered."""

    def __init__(self, line: Line, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.waiting_bytes = 0
        self.finished = False
        self._line = line
        self._held_bytes = 0  # in the receive buffer, as far as the line knows
        self._due_bytes = 0
        self._piped_bytes = 0
        self._ended = self._all_due = False
        self._pipe = os.pipe()
        with contextlib.suppress(OSError):  # an ordinary user may have no large pipes left
            fcntl.fcntl(self._pipe[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def arrived(self, now_s: float, *, ended: bool) -> None:
        """Put what has come since the last look on the line; its end is a piece of no bytes."""
        (unread,) = struct.unpack("i", fcntl.ioctl(self.source, termios.FIONREAD, bytes(4)))
        fresh = unread - self._held_bytes
        ends_now = ended and not self._ended
        self._ended |= ended
        if fresh > 0 or ends_now:
            self._held_bytes = unread
            self._line.queue(self, fresh, now_s)

    def due(self, count: int) -> None:
        """So many bytes are at the far end now."""
        self._due_bytes += count
        self._all_due = self._ended and self._due_bytes == self._held_bytes
        self.deliver()

    def deliver(self) -> None:
        """Raises: OSError: one of the two sides is gone."""
        while self._due_bytes or self._piped_bytes:
            try:
                if not self._piped_bytes:
                    self._piped_bytes = _splice(self.source.fileno(), self._pipe[1], self._due_bytes)
                    self._due_bytes -= self._piped_bytes
                    self._held_bytes -= self._piped_bytes
                sent = _splice(self._pipe[0], self.target.fileno(), self._piped_bytes)
            except BlockingIOError:
                return  # an event comes when the target has room again
            self._piped_bytes -= sent
            self._line.delivered_bytes += sent
        if self._all_due and not self.finished:
            self.finished = True
            self.target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._line.forget(self)
        for end in self._pipe:
            os.close(end)


def _splice(source: int, target: int, count: int) -> int:
    moved = os.splice(source, target, count, flags=SPLICE_MOVE | SPLICE_NONBLOCK)
    if moved == 0:
        raise OSError(errno.EPIPE, "the stream ended early")
    return moved


class Line:
    """One direction of the shared line: flows take turns at its bandwidth, then comes the delay."""

    def __init__(self, delay_s: float, bits_per_s: float) -> None:
        self.delivered_bytes = 0
        self._delay_s = delay_s
        self._seconds_per_byte = 8 / bits_per_s if bits_per_s else 0.0
        self._turn_bytes = max(TURN_BYTES, int(bits_per_s / 8 * TURN_S)) if bits_per_s else WINDOW_BYTES
        self._free_s = 0.0
        self._turns: deque[Flow] = deque()
        self._on_the_way: deque[tuple[float, Flow, int]] = deque()

    def queue(self, flow: Flow, count: int, now_s: float) -> None:
        if not self._turns:
            self._free_s = max(self._free_s, now_s)
        if not flow.waiting_bytes:
            self._turns.append(flow)
        flow.waiting_bytes += count

    def advance(self, now_s: float) -> Iterator[tuple[Flow, int]]:
        """Let flows send until now; yields what is due at the far end."""
        while self._turns and self._free_s <= now_s:
            flow = self._turns.popleft()
            count = min(flow.waiting_bytes, self._turn_bytes)
            flow.waiting_bytes -= count
            if flow.waiting_bytes:
                self._turns.append(flow)
            self._free_s += count * self._seconds_per_byte
            self._on_the_way.append((self._free_s + self._delay_s, flow, count))
        while self._on_the_way and self._on_the_way[0][0] <= now_s:
            _, flow, count = self._on_the_way.popleft()
            yield flow, count

    def next_s(self) -> float:
        """When to look again."""
        turn_s = self._free_s if self._turns else math.inf
        return min(turn_s, self._on_the_way[0][0] if self._on_the_way else math.inf)

    def forget(self, flow: Flow) -> None:
        self._turns = deque(one for one in self._turns if one is not flow)
        self._on_the_way = deque(entry for entry in self._on_the_way if entry[1] is not flow)
