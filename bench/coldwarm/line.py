"""The paths between a node and its origin that are measured, and the proof that they are what they are called."""

from __future__ import annotations

import http.client
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.shaper import Shaper

EXCHANGES = 30
BULK_S = 1.0
"""Of the line's bandwidth is what the measurement of it moves."""


@dataclass(frozen=True, slots=True)
class Profile:
    name: str
    round_trip_s: float
    bits_per_s: float


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("lan", 0.001, 10e9),
        Profile("campus", 0.010, 1e9),
        Profile("wan", 0.050, 200e6),
    )
}


def measured(line: Shaper, path: str, profile: Profile, size_bytes: int) -> dict[str, float]:
    """Round trip, time to the first byte of a new connection, and bandwidth of one and of four connections."""
    _fetch(line.port, path, 1)  # the processes have started
    began_s = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", line.port)
    taken_s = []
    for _ in range(EXCHANGES + 1):
        connection.request("GET", path, headers={"Range": "bytes=0-0"})
        connection.getresponse().read()
        taken_s.append(time.monotonic() - began_s)
        began_s = time.monotonic()
    connection.close()
    count = min(int(profile.bits_per_s / 8 * BULK_S), size_bytes)
    return {
        "round_trip_ms": round(statistics.median(taken_s[1:]) * 1000, 2),
        "new_connection_ms": round(taken_s[0] * 1000, 2),
        "mbit_per_s": _mbit_per_s(line.port, path, count, readers=1),
        "mbit_per_s_of_four": _mbit_per_s(line.port, path, count // 4, readers=4),
    }


def _mbit_per_s(port: int, path: str, count: int, readers: int) -> float:
    """From the first byte of the first reader to the last of the last."""
    with ThreadPoolExecutor(readers) as threads:
        spans = list(threads.map(lambda _: _fetch(port, path, count), range(readers)))
    seconds = max(end for _, end in spans) - min(first for first, _ in spans)
    return round(count * readers * 8 / 1e6 / seconds)


def _fetch(port: int, path: str, count: int) -> tuple[float, float]:
    """Read so many bytes; returns when the first had come, and the last."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path, headers={"Range": f"bytes=0-{count - 1}"})
    answer, buffer = connection.getresponse(), bytearray(1 << 20)
    first_s = time.monotonic()
    while answer.readinto(buffer):
        pass
    connection.close()
    return first_s, time.monotonic()
