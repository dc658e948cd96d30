"""The proofs over nginx's log hold, and the shaper adds the delay that it promises."""

from __future__ import annotations

import http.client
import os
import shutil
import time
from pathlib import Path

import pytest

from bench.shaper import Shaper
from tests.support.nginx import Nginx, covered_bytes, overlaps
from tests.support.raw_origin import RawOrigin

DATA = os.urandom(300_000)


def fetch(port: int, path: str, ranged: str | None = None, *, times: int = 1) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        for _ in range(times):
            connection.request("GET", path, headers={"Range": f"bytes={ranged}"} if ranged else {})
            answer = connection.getresponse()
            body = answer.read()
        return answer.status, body
    finally:
        connection.close()


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_log_tells_what_was_sent_twice(tmp_path: Path) -> None:
    (tmp_path / "a.sif").write_bytes(DATA)
    with Nginx(tmp_path, autoindex="json") as nginx:
        assert fetch(nginx.port, "/a.sif", "0-99") == (206, DATA[:100])
        fetch(nginx.port, "/a.sif", "100-199")
        log = nginx.requests("/a.sif")
        assert [request.sent for request in log] == [(0, 100), (100, 200)]
        assert (overlaps(log, "/a.sif"), covered_bytes(log, "/a.sif")) == ([], 200)
        fetch(nginx.port, "/a.sif", "199-299")
        log = nginx.requests()
        assert [(one.range, two.range) for one, two in overlaps(log, "/a.sif")] == [
            ("bytes=100-199", "bytes=199-299")
        ]
        assert covered_bytes(log, "/a.sif") == 300
        assert b'"name":"a.sif"' in fetch(nginx.port, "/")[1]
        nginx.clear_log()
        assert nginx.requests() == []


def test_shaper_delays_and_limits() -> None:
    with RawOrigin({"/a": DATA}) as origin, Shaper(origin.port, round_trip_s=0.05, bits_per_s=20e6) as shaper:
        fetch(shaper.port, "/a", "0-9")  # the process has started
        started_s = time.monotonic()
        assert fetch(shaper.port, "/a", "0-9", times=3)[1] == DATA[:10]
        assert 0.2 <= time.monotonic() - started_s < 0.35  # handshake and three exchanges
        started_s = time.monotonic()
        assert fetch(shaper.port, "/a")[1] == DATA
        assert 0.2 <= time.monotonic() - started_s < 0.4  # 300 kB at 20 Mbit/s is 0.12 s, and two round trips
