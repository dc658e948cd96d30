"""Connections that stand before the requests that need them are known.

A request over a new connection costs two round trips, its handshake (RFC 9293 section 3.5) and itself. Where a
name is asked about that nothing is known of, several requests follow the answer at once: their connections are made
beside the question, and each of them costs one round trip. Only TCP is spoken ahead: over TLS what is left is the
TLS handshake and the request.

Used on one thread alone, that of libcurl.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable

Address = tuple[str, int]
"""IP address and port, as libcurl writes them."""

MOST = 32
"""At once, all addresses together."""
KEPT_S = 5.0
"""Unused. Servers give a client that says nothing 5 s (a strict HAProxy) to 60 s (nginx)."""


class SpareSockets:
    """Args: clock: of `time.monotonic`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spare: deque[tuple[float, Address, socket.socket]] = deque()
        """With when each was begun, oldest first."""

    def __len__(self) -> int:
        return len(self._spare)

    def open(self, address: Address, count: int) -> None:
        """Begin connections until there are `count` spare ones to this address. Never waits, never raises."""
        self.expire()
        there = sum(known == address for _, known, _ in self._spare)
        for _ in range(min(count - there, MOST - len(self._spare))):
            begun = _begin(address)
            if begun is None:
                return
            self._spare.append((self._clock(), address, begun))

    def take(self, address: Address) -> socket.socket | None:
        """One that stands; whoever takes it closes it."""
        self.expire()
        for entry in list(self._spare):
            if entry[1] != address:
                continue
            state = _stands(entry[2])
            if state is None:
                continue  # its handshake is not through
            self._spare.remove(entry)
            if state:
                return entry[2]
            entry[2].close()
        return None

    def expire(self) -> float | None:
        """Close those that nobody came for; when to do so again, on the clock, None if none is left."""
        while self._spare and self._spare[0][0] + KEPT_S <= self._clock():
            self._spare.popleft()[2].close()
        return self._spare[0][0] + KEPT_S if self._spare else None

    def close(self) -> None:
        """Close all."""
        while self._spare:
            self._spare.popleft()[2].close()


def _begin(address: Address) -> socket.socket | None:
    """A connection under way; None where that fails at once: the request itself will find out why."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    made = None
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setblocking(False)
        made.connect(address)
    except BlockingIOError:
        pass  # as it should
    except OSError:
        if made is not None:
            made.close()
        return None
    return made


def _stands(one: socket.socket) -> bool | None:
    """Whether its handshake is through and its peer is silent and there; None before that."""
    try:
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return False
        one.getpeername()
    except OSError:
        return None
    try:
        one.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False  # the peer has closed it, or speaks unasked


def fresh(family: int, kind: int, protocol: int) -> socket.socket | None:
    """A socket as libcurl would make one; None where the system gives none."""
    try:
        return socket.socket(family, kind, protocol)
    except OSError:
        return None


def keep_from_children(descriptor: int) -> None:
    """libcurl works on a copy of the socket, and a copy is inherited (dup(2))."""
    os.set_inheritable(descriptor, False)
