"""A TCP forwarder that makes loopback look like a network: added round trip, shared bandwidth.

    with Shaper(origin_port, round_trip_s=0.02, bits_per_s=1e9) as shaper:
        ...  # talk to shaper.url

It runs as a process of its own (`python -m bench.shaper`), so it takes no time from the caller's interpreter,
and it ends when its standard input does, so it cannot outlive the caller. Each direction is late by half a
round trip; a new connection costs one more round trip before its first byte, as a TCP handshake would. Loss
and slow start are not modelled.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

PIECE_BYTES = 64 * 1024
WINDOW_BYTES = 8 * 1024 * 1024
"""Bytes on the way in one direction of one connection: more than 1 Gbit/s x 50 ms."""


class Link:
    """One direction of the shared line: bytes of all connections queue for its bandwidth."""

    def __init__(self, delay_s: float, bits_per_s: float) -> None:
        self._delay_s = delay_s
        self._seconds_per_byte = 8 / bits_per_s if bits_per_s else 0.0
        self._free_at_s = 0.0

    def arrival_s(self, now_s: float, length: int) -> float:
        """When these bytes, sent now, have arrived at the other end."""
        self._free_at_s = max(now_s, self._free_at_s) + length * self._seconds_per_byte
        return self._free_at_s + self._delay_s


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, extra_s: float = 0.0
) -> None:
    loop = asyncio.get_running_loop()
    on_the_way: deque[tuple[float, bytes]] = deque()
    held_bytes = 0
    moved = asyncio.Event()
    ended = False

    async def deliver() -> None:
        nonlocal held_bytes
        while on_the_way or not ended:
            if not on_the_way:
                moved.clear()
                await moved.wait()
                continue
            due_s, data = on_the_way[0]
            if (wait_s := due_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            writer.write(data)
            await writer.drain()
            on_the_way.popleft()
            held_bytes -= len(data)
            moved.set()
        if writer.can_write_eof():
            writer.write_eof()

    delivery = asyncio.create_task(deliver())
    first_s = loop.time() + extra_s
    try:
        while data := await reader.read(PIECE_BYTES):
            while held_bytes > WINDOW_BYTES and not delivery.done():
                moved.clear()
                await moved.wait()
            due_s = max(link.arrival_s(loop.time(), len(data)), first_s)
            on_the_way.append((due_s, data))
            held_bytes += len(data)
            moved.set()
            if delivery.done():
                break
        ended = True
        moved.set()
        await delivery
    finally:
        delivery.cancel()


async def _serve(listener: socket.socket, port: int, round_trip_s: float, bits_per_s: float) -> None:
    up, down = (Link(round_trip_s / 2, bits_per_s) for _ in range(2))

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_writer: asyncio.StreamWriter | None = None
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            forwards = [
                asyncio.create_task(_forward(reader, far_writer, up, 1.5 * round_trip_s)),
                asyncio.create_task(_forward(far_reader, writer, down)),
            ]
            _, pending = await asyncio.wait(forwards, return_when=asyncio.FIRST_EXCEPTION)
            for task in pending:
                task.cancel()
            await asyncio.gather(*forwards, return_exceptions=True)
        except OSError:
            pass  # the origin is gone: the client sees a closed connection
        finally:
            for side in (writer, far_writer):
                if side is not None:
                    side.close()

    async with await asyncio.start_server(converse, sock=listener) as server:
        await server.serve_forever()


def _end_with_standard_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)  # with its connections: they belong to the caller that has gone


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
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    asyncio.run(_serve(listener, options.port, options.round_trip_ms / 1000, options.mbit_per_s * 1e6))


if __name__ == "__main__":
    main()
