"""The raw origin is right when it should be and wrong in the ways it promises."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from tests.support import faults
from tests.support.mount import wait_until
from tests.support.raw_origin import Fault, RawOrigin, parse_range

DATA = bytes(range(256)) * 1024


@pytest.fixture
def origin() -> Iterator[RawOrigin]:
    with RawOrigin({"/d/a.sif": DATA}) as server:
        yield server


def ask(origin: RawOrigin, path: str = "/d/a.sif", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=5)
    try:
        connection.request(
            "GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_range_is_answered_with_206_and_validators(origin: RawOrigin) -> None:
    status, headers, body = ask(origin, range="bytes=10-19")
    assert (status, body, headers["content-range"]) == (206, DATA[10:20], f"bytes 10-19/{len(DATA)}")
    assert headers["etag"].startswith('"')
    # its thread writes down what it has sent after sending it
    wait_until(lambda: origin.body_bytes() == 10, "the log lacks the body")
    assert [(entry.range, entry.body_bytes, entry.status) for entry in origin.log] == [((10, 20), 10, 206)]


def test_conditions(origin: RawOrigin) -> None:
    content = origin.content("/d/a.sif")
    assert content is not None
    assert ask(origin, if_match=content.etag)[0] == 200
    assert ask(origin, if_match='"x"', range="bytes=0-1")[0] == 412
    assert ask(origin, if_none_match=content.etag)[0] == 304
    assert ask(origin, if_modified_since=content.last_modified)[0] == 304
    assert ask(origin, if_unmodified_since=content.last_modified)[0] == 200
    assert ask(origin, if_range='"x"', range="bytes=0-1")[0] == 200
    assert ask(origin, if_range=content.etag, range="bytes=0-1")[0] == 206
    origin.put("/d/a.sif", DATA[::-1])
    assert ask(origin, if_match=content.etag)[0] == 412
    assert ask(origin, if_unmodified_since=content.last_modified)[0] == 412


def test_missing_past_the_end_and_directories(origin: RawOrigin) -> None:
    assert ask(origin, "/none")[0] == 404
    status, headers, _ = ask(origin, range=f"bytes={len(DATA)}-")
    assert (status, headers["content-range"]) == (416, f"bytes */{len(DATA)}")
    status, headers, _ = ask(origin, "/d")
    assert (status, headers["location"]) == (301, "/d/")
    assert b'<a href="a.sif">' in ask(origin, "/d/")[2]
    assert b'<a href="d/">' in ask(origin, "/")[2]


def test_script_is_consumed_then_the_default_holds(origin: RawOrigin) -> None:
    origin.script(faults.Status(503), faults.too_many("7"))
    assert ask(origin)[0] == 503
    status, headers, _ = ask(origin)
    assert (status, headers["retry-after"]) == (429, "7")
    assert ask(origin)[0] == 200
    origin.decide = lambda request: faults.Status(403) if request.path == "/d/a.sif" else None
    assert ask(origin)[0] == 403


@pytest.mark.parametrize(
    ("fault", "status", "header", "text", "length"),
    [
        (faults.Full200(), 200, "content-range", None, len(DATA)),
        (faults.Full200(chunked=True), 200, "content-length", None, len(DATA)),
        (faults.Chunked206(), 206, "content-length", None, 100),
        (faults.WrongContentRange(shift=5), 206, "content-range", f"bytes 105-204/{len(DATA)}", 100),
        (faults.WrongContentRange(total=7), 206, "content-range", "bytes 100-199/7", 100),
        (faults.WrongContentRange(missing=True), 206, "content-range", None, 100),
        (faults.ShortBody(40, matching_length=True), 206, "content-length", "40", 40),
        (faults.ShortRange(40), 206, "content-range", f"bytes 100-139/{len(DATA)}", 40),
        (faults.LongBody(3), 206, "content-length", "103", 103),
        (faults.GzipOnRange(), 206, "content-encoding", "gzip", None),
        (faults.NoEtag(), 206, "etag", None, 100),
        (faults.NoValidators(), 206, "last-modified", None, 100),
        (faults.ChangedEtag(), 206, "etag", '"another-version"', 100),
        (faults.NotSatisfiable(), 416, "content-range", f"bytes */{len(DATA)}", 0),
        (faults.Redirect("/d/b"), 302, "location", "/d/b", 0),
        (faults.RedirectLoop(), 302, "location", "/d/a.sif", 0),
        (faults.RedirectLoop(growing=True), 302, "location", "/d/a.sif?step=0", 0),
        (faults.Multipart(), 206, "content-type", "multipart/byteranges; boundary=cut", None),
        (faults.Drip(50, 0.001), 206, "content-length", "100", 100),
        (faults.StallMidBody(10, seconds=0.01), 206, "content-length", "100", 100),
    ],
)
def test_faulty_answers(
    origin: RawOrigin, fault: Fault, status: int, header: str, text: str | None, length: int | None
) -> None:
    origin.script(fault)
    got, headers, body = ask(origin, range="bytes=100-199")
    assert (got, headers.get(header)) == (status, text)
    assert length is None or len(body) == length
    assert origin.wait_for(finished=True)[0].fault == type(fault).__name__


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.ShortBody(40), http.client.IncompleteRead),
        (faults.ResetMidBody(40), ConnectionResetError),
        (faults.CloseBeforeAnswer(), http.client.RemoteDisconnected),
        (faults.CloseBeforeAnswer(reset=True), ConnectionResetError),
        (faults.Garbage(), http.client.BadStatusLine),
        (faults.EndlessHeaders(), http.client.HTTPException),
    ],
)
def test_broken_answers(origin: RawOrigin, fault: Fault, error: type[Exception]) -> None:
    origin.script(fault)
    with pytest.raises(error):
        ask(origin, range="bytes=100-199")


def test_stall_ends_by_event_and_is_logged_while_it_lasts(origin: RawOrigin) -> None:
    gate = threading.Event()
    origin.script(faults.StallBeforeHead(until=gate))
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(ask(origin)[0]))
    thread.start()
    (entry,) = origin.wait_for(1)
    assert not entry.finished
    gate.set()
    thread.join()
    assert answers == [200]


def test_closing_ends_stalls() -> None:
    with RawOrigin({"/a": b"x"}, default=faults.StallAfterHead()) as origin:
        peer = socket.create_connection(("127.0.0.1", origin.port))
        peer.sendall(b"GET /a HTTP/1.1\r\n\r\n")
        origin.wait_for(1)
    with peer:
        while peer.recv(1024):
            pass


def test_bytes_after_the_end_stay_on_the_connection(origin: RawOrigin) -> None:
    origin.script(faults.LongBody(3, after=True))
    with socket.create_connection(("127.0.0.1", origin.port)) as peer:
        peer.sendall(b"GET /d/a.sif HTTP/1.1\r\nRange: bytes=0-1\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: peer.recv(4096), b""))
    assert answer.endswith(b"\r\n\r\n\x00\x01XXX")


def test_tls() -> None:
    with RawOrigin({"/a": b"secret"}, tls=True) as origin:
        assert origin.ca is not None
        context = ssl.create_default_context()
        origin.ca.configure_trust(context)
        connection = http.client.HTTPSConnection("127.0.0.1", origin.port, context=context, timeout=5)
        connection.request("GET", "/a")
        assert connection.getresponse().read() == b"secret"
        connection.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=5-", (5, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=5-4", None),
        ("bytes=0-1,4-5", None),
        ("items=0-1", None),
    ],
)
def test_parse_range(text: str, expected: tuple[int, int] | None) -> None:
    assert parse_range(text, 100) == expected
