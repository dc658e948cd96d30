"""A TCP forwarder that makes loopback look like a network: added round trip, shared bandwidth.

    with Shaper(origin_port, round_trip_s=0.02, bits_per_s=1e9) as shaper:
        ...  # talk to shaper.url

It runs as a process of its own (`python -m bench.shaper`), so it takes no time from the caller's interpreter,
and it ends when its standard input does, so it cannot outlive the caller. Each direction is late by half a
round trip; a new connection costs one more round trip before its first byte, as a TCP handshake would. The
line is shared in turns by the connections that have something to send, as TCP shares it in the long run. Loss
and slow start are not modelled: `lan` and `campus` paths have next to none of the first, and long connections
little of the second.

Bytes wait in the kernel and are spliced on, not copied: 1 Gbit/s costs a tenth of a core, 10 Gbit/s under half
of one, so that what is measured on the same machine is disturbed little.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.shaper_line import WINDOW_BYTES, Flow, Line

FORCED_RECEIVE_BUFFER = getattr(socket, "SO_RCVBUFFORCE", 33)
IDLE_S = 60.0
PRIORITY = -15
"""A network takes no time from the jobs of a node, nor waits for them."""
EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Forwarder:
    """The event loop: `epoll` says where bytes have come, the two lines say when they are due."""

    def __init__(self, listener: socket.socket, port: int, round_trip_s: float, bits_per_s: float) -> None:
        self._listener = listener
        self._port = port
        self._round_trip_s = round_trip_s
        self._up, self._down = (Line(round_trip_s / 2, bits_per_s) for _ in range(2))
        self._epoll = select.epoll()
        self._opening: deque[tuple[float, Flow, Flow]] = deque()
        self._reads: dict[int, Flow] = {}
        self._writes: dict[int, Flow] = {}

    def run(self) -> None:
        """Until standard input ends; each line there is answered with the bytes delivered, up and down."""
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
        listening, asked = self._listener.fileno(), sys.stdin.fileno()
        _widen(self._listener)  # connections inherit it
        self._listener.setblocking(False)
        for descriptor in (listening, asked):
            self._epoll.register(descriptor, select.EPOLLIN)
        while True:
            # epoll itself would wait for whole milliseconds
            select.select([self._epoll], [], [], max(self._next_s() - time.monotonic(), 0))
            for descriptor, events in self._epoll.poll(0):
                if descriptor == asked:
                    if not self._answer():
                        return  # with all connections: they belong to the caller that has gone
                elif descriptor == listening:
                    self._accept()
                else:
                    self._look(descriptor, events)
            now_s = time.monotonic()
            while self._opening and self._opening[0][0] <= now_s:
                self._open(*self._opening.popleft()[1:])
            for line in (self._up, self._down):
                for flow, count in line.advance(now_s):
                    with self._closing_at_errors(flow):
                        flow.due(count)

    def _next_s(self) -> float:
        opening_s = self._opening[0][0] if self._opening else math.inf
        return min(opening_s, self._up.next_s(), self._down.next_s(), time.monotonic() + IDLE_S)

    def _answer(self) -> bool:
        asked = os.read(sys.stdin.fileno(), 4096)
        for _ in range(asked.count(b"\n")):
            print(self._up.delivered_bytes, self._down.delivered_bytes, flush=True)
        return bool(asked)

    def _accept(self) -> None:
        """Take connections; nothing is read from one before its handshake would be over."""
        with contextlib.suppress(BlockingIOError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket()
                _widen(far)
                try:
                    far.connect(("127.0.0.1", self._port))
                except OSError:  # the origin is gone: the client sees a closed connection
                    near.close()
                    far.close()
                    continue
                for side in (near, far):
                    side.setblocking(False)
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                up, down = Flow(self._up, near, far), Flow(self._down, far, near)
                self._opening.append((time.monotonic() + self._round_trip_s, up, down))

    def _open(self, up: Flow, down: Flow) -> None:
        for reads, writes in ((up, down), (down, up)):
            descriptor = reads.source.fileno()
            self._reads[descriptor], self._writes[descriptor] = reads, writes
            self._epoll.register(descriptor, EVENTS)

    def _look(self, descriptor: int, events: int) -> None:
        flow = self._reads.get(descriptor)
        if flow is None:
            return  # closed by an event just before this one
        with self._closing_at_errors(flow):
            if events & select.EPOLLERR:
                raise OSError(flow.source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "connection lost")
            flow.arrived(time.monotonic(), ended=bool(events & (select.EPOLLRDHUP | select.EPOLLHUP)))
            self._writes[descriptor].deliver()

    @contextlib.contextmanager
    def _closing_at_errors(self, flow: Flow) -> Iterator[None]:
        """Close the connection of a flow if one side is gone, or both directions have ended."""
        back = self._writes[flow.source.fileno()]
        try:
            yield
            if not (flow.finished and back.finished):
                return
        except OSError:
            pass
        for one in (flow, back):
            one.close()
            del self._reads[one.source.fileno()], self._writes[one.source.fileno()]
            one.source.close()


def _widen(one: socket.socket) -> None:
    """Let bytes that are on their way wait in the receive buffer; before connecting, for TCP's window scale."""
    try:
        one.setsockopt(socket.SOL_SOCKET, FORCED_RECEIVE_BUFFER, WINDOW_BYTES)
    except PermissionError:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)  # cut to net.core.rmem_max


class Shaper:
    """The forwarder, as a context manager.

    Args:
        port: of the origin, on loopback.
        round_trip_s: added to each exchange.
        bits_per_s: shared by all connections, each direction; 0 is without limit.
    """

    def __init__(self, port: int, *, round_trip_s: float = 0.0, bits_per_s: float = 0) -> None:
        self._target = port
        self._round_trip_s = round_trip_s
        self._bits_per_s = bits_per_s
        self.port = 0

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def delivered_bytes(self) -> int:
        """What has come to clients so far, headers included; what they no longer wanted is not in it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline().split()[1])

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            self.port = listener.getsockname()[1]
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "bench.shaper", str(self._target),
                    "--listen-fd", str(listener.fileno()),
                    "--round-trip-ms", str(self._round_trip_s * 1000),
                    "--mbit-per-s", str(self._bits_per_s / 1e6),
                ],
                cwd=Path(__file__).parent.parent,
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the caller
            )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()  # it holds nothing worth an orderly end
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.shaper", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("port", type=int, help="of the origin, on loopback")
    parser.add_argument("--listen", type=int, default=0, help="port to listen on")
    parser.add_argument("--listen-fd", type=int, help="listening socket that was handed over")
    parser.add_argument("--round-trip-ms", type=float, default=0.0)
    parser.add_argument("--mbit-per-s", type=float, default=0.0, help="0: no limit")
    options = parser.parse_args()
    if options.listen_fd is not None:
        listener = socket.socket(fileno=options.listen_fd)
    else:
        listener = socket.create_server(("127.0.0.1", options.listen), backlog=128)
        print(
            f"http://127.0.0.1:{listener.getsockname()[1]} -> {options.port}, until standard input ends",
            flush=True,
        )
    Forwarder(listener, options.port, options.round_trip_ms / 1000, options.mbit_per_s * 1e6).run()


if __name__ == "__main__":
    main()
