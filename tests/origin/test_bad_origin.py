"""What a reader gets from an origin that misbehaves: one table of scenarios, each through a real mount.

Each scenario has a remote of its own in one mount, so that they run side by side without waiting for one
another. Whatever an origin does, wrong bytes are never served; docs/origin-behaviour.md has the table for people.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest

from lazysif.control.client import fetch_status
from tests.support import faults
from tests.support.mount import REPOSITORY, Mount
from tests.support.raw_origin import Answer, Fault, RawOrigin, Request, Wire

BLOCK = 64 << 10
DATA = random.Random(7).randbytes(8 * BLOCK)
NEW = random.Random(8).randbytes(8 * BLOCK)
MIDDLE = 5 * BLOCK
SECRET = "5ecret-s1gnature"
LOOKUP_S = READ_S = 3.0
STALL_S = 1.0
SOON = 2.0
"""Bound in seconds of what is decided without waiting; the machine may be busy."""
BUDGET = LOOKUP_S + SOON
"""Bound of what is tried as long as the configured timeouts allow."""


@dataclass(frozen=True, slots=True)
class DripHead:
    """The right answer, its head one byte at a time."""

    every_s: float = 0.2

    def play(self, wire: Wire) -> None:
        for byte in b"HTTP/1.1 206 Partial Content\r\nX-Padding: " + b"x" * 1000:
            wire.send_raw(bytes([byte]))
            wire.wait(self.every_s)


@dataclass(frozen=True, slots=True)
class EndlessInterim:
    """100 Continue, again and again, never an answer."""

    def play(self, wire: Wire) -> None:
        while not wire.origin.closing.is_set():
            wire.send_raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 50)
            wire.wait(0.01)


@dataclass(frozen=True, slots=True)
class ChunkedFromStart:
    """A 206 that promises the asked range and sends the file from its first byte, of unsaid length."""

    def play(self, wire: Wire) -> None:
        answer = wire.right()
        assert wire.content is not None
        wire.send_head(answer.with_headers(transfer_encoding="chunked"))
        body = wire.content.data
        wire.send_raw(b"%x\r\n" % len(body) + body[:BLOCK])
        wire.wait(0.1)  # a block is complete: nobody may be given it yet
        wire.send_raw(body[BLOCK:] + b"\r\n0\r\n\r\n")


@dataclass(frozen=True, slots=True)
class ChunkedShort:
    """A 206 that promises the asked range and sends less, of unsaid length, ended in order."""

    keep: int

    def play(self, wire: Wire) -> None:
        answer = wire.right()
        wire.send_head(answer.with_headers(transfer_encoding="chunked"))
        wire.send_raw(b"%x\r\n" % self.keep + bytes(answer.body[: self.keep]) + b"\r\n0\r\n\r\n")


@dataclass(frozen=True, slots=True)
class LoginPage:
    """A page for people, as a success."""

    def play(self, wire: Wire) -> None:
        wire.send(Answer(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Who are you?</html>"))


@dataclass(frozen=True, slots=True)
class OddEtag:
    """The right answer with bytes above ASCII in its ETag, as RFC 9110 allows; conditions on it are honoured."""

    def play(self, wire: Wire) -> None:
        wanted = wire.request.headers.get("if-match")
        if wanted is not None and wanted != '"caf\xe9"':
            wire.send(Answer(412))
            return
        wire.send(wire.right(conditions=False).with_headers(etag='"caf\xe9"'))


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the origin does to a file, and what its reader gets.

    Args:
        faults: of the requests in order.
        then: of all requests after those; None is right behaviour.
        middle: the probe is answered rightly, the faults hit what is read later.
        outcome: "bytes", or the name of an errno.
        within_s: bound of the whole `open` (or of one read in the middle).
        says: a part of the cause as the log has it.
        requests: most requests to the file; 0 is not looked at.
        url: another origin than the misbehaving one: a key of `elsewhere`.
        remote: more keys of the remote, as TOML.
    """

    name: str
    outcome: str
    faults: tuple[Fault, ...] = ()
    then: Fault | None = None
    middle: bool = False
    within_s: float = BUDGET
    says: str = ""
    requests: int = 0
    url: str = ""
    data: bytes = field(default=DATA, repr=False)
    remote: str = ""

    @property
    def image(self) -> str:
        return f"{self.name}/x.sif"


def always(name: str, fault: Fault, outcome: str, says: str = "", **more: object) -> Scenario:
    return Scenario(name, outcome, then=fault, says=says, **more)  # type: ignore[arg-type]


def once(name: str, fault: Fault, **more: object) -> Scenario:
    """One fault, then right behaviour: the reader notices nothing."""
    return Scenario(name, "bytes", (fault,), **more)  # type: ignore[arg-type]


AT_PROBE = [
    Scenario("good", "bytes", within_s=SOON, requests=6),
    always("401", faults.unauthorized(), "EACCES", "(401)", within_s=SOON, requests=1),
    always("403", faults.Status(403), "EACCES", "(403)", within_s=SOON, requests=1),
    always("404", faults.Status(404), "ENOENT", within_s=SOON, requests=1),
    always("410", faults.Status(410), "ENOENT", within_s=SOON, requests=1),
    always("416", faults.NotSatisfiable(), "EIO", "416", within_s=SOON, requests=1),
    always("400", faults.Status(400), "EIO", "answered 400", within_s=SOON, requests=1),
    always("304 unasked", faults.Status(304, body=b""), "EIO", "304", within_s=SOON, requests=1),
    always("429 for an hour", faults.too_many("3600"), "EIO", "answered 429", within_s=SOON, requests=1),
    once("429 with Retry-After 1", faults.too_many("1")),
    always("500 for ever", faults.Status(500), "EIO", "answered 500"),
    Scenario("500 twice then good", "bytes", (faults.Status(500), faults.unavailable())),
    always("whole file for a range", faults.Full200(), "bytes", requests=2, within_s=SOON),
    always(
        "whole file refused",
        faults.Full200(),
        "EIO",
        "cannot serve parts",
        remote='whole_file = "refuse"',
        within_s=SOON,
        requests=1,
    ),
    always(
        "whole file of unsaid length", faults.Full200(chunked=True), "EIO", "Content-Length", within_s=SOON
    ),
    always("wrong Content-Range", faults.WrongContentRange(shift=1), "EIO", "bytes 1-", within_s=SOON),
    always("no Content-Range", faults.WrongContentRange(missing=True), "EIO", "Content-Range", within_s=SOON),
    always(
        "garbled Content-Range",
        faults.WrongContentRange(text="bytes 0-x/*"),
        "EIO",
        "Content-Range",
        within_s=SOON,
    ),
    always(
        "impossible size",
        faults.WrongContentRange(text=f"bytes 0-{BLOCK - 1}/{10**18}"),
        "EIO",
        "larger than",
        within_s=SOON,
    ),
    always("short body", faults.ShortBody(1000), "EIO"),
    once("short body once", faults.ShortBody(1000)),
    always(
        "body shorter than its range", faults.ShortBody(1000, matching_length=True), "EIO", "Content-Length"
    ),
    always("range shorter than asked", faults.ShortRange(1000), "EIO", "bytes 0-999", within_s=SOON),
    always("body too long", faults.LongBody(), "EIO", "Content-Length", within_s=SOON),
    once("bytes behind the body", faults.LongBody(after=True)),
    always("stall before the head", faults.StallBeforeHead(), "ETIMEDOUT", "in time"),
    always("stall after the head", faults.StallAfterHead(), "ETIMEDOUT", "in time"),
    always("stall in the body", faults.StallMidBody(1000), "ETIMEDOUT", "in time"),
    once("stall once", faults.StallMidBody(1000)),
    always("head in drops", DripHead(), "ETIMEDOUT", "in time"),
    always("body in drops", faults.Drip(piece=16, every_s=0.1), "ETIMEDOUT"),
    always("endless headers", faults.EndlessHeaders(), "EIO"),
    always("endless interim answers", EndlessInterim(), "ETIMEDOUT", "in time"),
    always("reset in the body", faults.ResetMidBody(1000), "EIO"),
    once("reset in the body once", faults.ResetMidBody(1000)),
    always("closed without an answer", faults.CloseBeforeAnswer(), "EIO"),
    always("reset without an answer", faults.CloseBeforeAnswer(reset=True), "EIO"),
    always("not HTTP", faults.Garbage(), "EIO"),
    always("gzip on a range", faults.GzipOnRange(), "EIO", "'gzip'", within_s=SOON, requests=1),
    always("multipart answer", faults.Multipart(), "EIO", "several parts", within_s=SOON, requests=1),
    always("login page for an image", LoginPage(), "EIO", "web page", within_s=SOON, requests=1),
    always("chunked range", faults.Chunked206(), "bytes", within_s=SOON),
    always("weak ETag", faults.WeakEtag(), "bytes", within_s=SOON),
    always("no ETag", faults.NoEtag(), "bytes", within_s=SOON),
    always("no validator at all", faults.NoValidators(), "bytes", requests=2, within_s=SOON),
    always("ETag beyond ASCII", OddEtag(), "bytes", within_s=SOON),
    always("redirect loop", faults.RedirectLoop(), "EIO", "redirects", within_s=SOON, requests=6),
    always("growing redirect loop", faults.RedirectLoop(growing=True), "EIO", "redirects", within_s=SOON),
    always("redirect to nowhere", faults.Redirect("http://[x"), "EIO", "address", within_s=SOON, requests=1),
    always(
        "redirect to a host that cannot be",
        faults.Redirect(f"http://{'x' * 70}.invalid/"),
        "EIO",
        "address",
        within_s=SOON,
    ),
    always("redirect to a file", faults.Redirect("file:///etc/passwd"), "EIO", "not HTTP", within_s=SOON),
    Scenario("untrusted certificate", "EIO", url="tls", says="not trusted", within_s=SOON),
    Scenario("TLS spoken by nobody", "EIO", url="https to plain", says="no connection"),
    Scenario("TLS handshake stalls", "ETIMEDOUT", url="silent tls", says="in time"),
    Scenario("connection stalls", "ETIMEDOUT", url="full", says="in time"),
    Scenario("refused connection", "EIO", url="refused", says="no connection"),
    Scenario("no such host", "EIO", url="no host", says="no address", within_s=BUDGET + 5),
    Scenario("empty file", "bytes", data=b"", within_s=SOON),
    always("empty file with 200", faults.Full200(), "bytes", data=b"", within_s=SOON),
    Scenario("one byte", "bytes", data=DATA[:1], within_s=SOON, requests=1),
    Scenario("one block", "bytes", data=DATA[:BLOCK], within_s=SOON, requests=1),
    Scenario("one block and a byte", "bytes", data=DATA[: BLOCK + 1], within_s=SOON, requests=2),
]

IN_THE_MIDDLE = [
    always("later 401", faults.unauthorized(), "EACCES", "(401)", within_s=SOON, requests=2),
    always("later 403", faults.Status(403), "EACCES", "(403)", within_s=SOON, requests=2),
    always("later 404", faults.Status(404), "ESTALE", "(404)", within_s=SOON, requests=2),
    always("later 410", faults.Status(410), "ESTALE", "(410)", within_s=SOON, requests=2),
    always("later 412", faults.Status(412), "ESTALE", "(412)", within_s=SOON, requests=2),
    always("later 416", faults.NotSatisfiable(), "ESTALE", "(416)", within_s=SOON, requests=2),
    always(
        "later 429 for an hour", faults.too_many("3600"), "EIO", "answered 429", within_s=SOON, requests=2
    ),
    once("later 429 with Retry-After 1", faults.too_many("1")),
    always("later 503 for ever", faults.unavailable(), "EIO", "answered 503"),
    Scenario("later 500 four times then good", "bytes", (faults.Status(500),) * 4),
    always("later whole file for a range", faults.Full200(), "EIO", "whole file", within_s=SOON, requests=2),
    always(
        "later wrong Content-Range",
        faults.WrongContentRange(shift=-BLOCK),
        "EIO",
        "to a request for",
        within_s=SOON,
    ),
    always(
        "later no Content-Range",
        faults.WrongContentRange(missing=True),
        "EIO",
        "Content-Range",
        within_s=SOON,
    ),
    always(
        "later another total",
        faults.WrongContentRange(total=len(DATA) + 1),
        "ESTALE",
        "bytes, not",
        within_s=SOON,
    ),
    always("later short body", faults.ShortBody(1000), "EIO"),
    once("later short body once", faults.ShortBody(1000)),
    always(
        "later range shorter than asked", faults.ShortRange(1000), "EIO", "to a request for", within_s=SOON
    ),
    always("later body too long", faults.LongBody(), "EIO", "Content-Length", within_s=SOON),
    once("later bytes behind the body", faults.LongBody(after=True)),
    always("later stall before the head", faults.StallBeforeHead(), "ETIMEDOUT", "3 s"),
    always("later stall after the head", faults.StallAfterHead(), "ETIMEDOUT", "3 s"),
    always("later stall in the body", faults.StallMidBody(1000), "ETIMEDOUT", "3 s"),
    once("later stall once", faults.StallMidBody(1000)),
    always("later body in drops", faults.Drip(piece=16, every_s=0.1), "ETIMEDOUT", "3 s"),
    always("later reset in the body", faults.ResetMidBody(1000), "EIO"),
    once("later reset in the body once", faults.ResetMidBody(1000)),
    always("later closed without an answer", faults.CloseBeforeAnswer(), "EIO"),
    always("later not HTTP", faults.Garbage(), "EIO"),
    always("later gzip on a range", faults.GzipOnRange(), "EIO", "'gzip'", within_s=SOON, requests=2),
    always("later multipart answer", faults.Multipart(), "EIO", "several parts", within_s=SOON, requests=2),
    always("later chunked range", faults.Chunked206(), "bytes", within_s=SOON),
    always("later chunked from the first byte", ChunkedFromStart(), "EIO", "more bytes", within_s=SOON),
    always("later chunked and short", ChunkedShort(1000), "EIO", "ended early"),
    always(
        "later changed ETag", faults.ChangedEtag(), "ESTALE", "another-version", within_s=SOON, requests=2
    ),
    always("later weak ETag", faults.WeakEtag(), "ESTALE", "W/", within_s=SOON, requests=2),
    always("later no ETag", faults.NoEtag(), "ESTALE", "nothing", within_s=SOON, requests=2),
    always("later redirect loop", faults.RedirectLoop(), "EIO", "redirects", within_s=SOON, requests=7),
]

SCENARIOS = [
    *AT_PROBE,
    *(Scenario(**{name: getattr(s, name) for name in s.__slots__} | {"middle": True}) for s in IN_THE_MIDDLE),
]


class PlainSpeaker:
    """Answers in plain HTTP at once, whatever is said: what an https URL of a plain server meets."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # a client may be gone before it is answered
            with connection, contextlib.suppress(ConnectionError):
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                connection.recv(4096)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@dataclass
class Outcome:
    """What happened in one scenario."""

    got: str = ""
    seconds: float = 0.0
    requests: int = 0
    cached_still_served: bool = True
    status_answered: bool = False
    recovered: str = ""
    problems: list[str] = field(default_factory=list)


def attempt(read: Callable[[], bytes], right: bytes) -> tuple[str, float]:
    """ "bytes", the errno's name, or "WRONG BYTES"; and the seconds it took."""
    began = time.monotonic()
    try:
        got = "bytes" if read() == right else "WRONG BYTES"
    except OSError as error:
        got = errno.errorcode[error.errno or 0]
    return got, time.monotonic() - began


def read_whole(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        pieces = []
        while piece := os.pread(descriptor, 1 << 20, sum(map(len, pieces))):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


class Runner:
    """Plays all scenarios at once against one mount."""

    def __init__(self, root: Path, stack: list[Callable[[], None]]) -> None:
        self.cleared: set[str] = set()
        self._lock = threading.Lock()
        self._scripts = {s.image: list(s.faults) for s in SCENARIOS}
        self._by_image = {s.image: s for s in SCENARIOS}
        files = {f"/{s.image}": s.data for s in SCENARIOS}
        self.origin = RawOrigin(files, decide=self._decide)
        self.tls = RawOrigin(files, tls=True)
        for server in (self.origin, self.tls):
            server.__enter__()
            stack.append(server.close)
        self._refused = socket.create_server(("127.0.0.1", 0))
        refused_port = self._refused.getsockname()[1]
        self._refused.close()
        plain = PlainSpeaker()
        stack.append(plain.close)
        silent = socket.create_server(("127.0.0.1", 0), backlog=100)
        full = socket.create_server(("127.0.0.1", 0), backlog=0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        stack += [opened.close for opened in (silent, full, *fillers)]
        self.elsewhere = {
            "": self.origin.url,
            "tls": self.tls.url,
            "https to plain": f"https://127.0.0.1:{plain.port}",
            "silent tls": f"https://127.0.0.1:{silent.getsockname()[1]}",
            "full": f"http://127.0.0.1:{full.getsockname()[1]}",
            "refused": f"http://127.0.0.1:{refused_port}",
            "no host": "http://no-such-host.invalid",
        }
        root.mkdir(exist_ok=True)
        config = root / "config.toml"
        config.write_text(
            "[traces]\nenabled = false\n"  # each request is counted here, and these images have one content
            f'[cache]\nblock_size = "{BLOCK // 1024}KiB"\nsize = "100MiB"\n'
            f"[limits]\nlookup_timeout = {LOOKUP_S}\nread_timeout = {READ_S}\n"
            + "".join(self._remote(s) for s in SCENARIOS)
        )
        self.mount = Mount(root / "lazysif", config=config).start()
        stack.append(self.mount.finish)

    def directory(self, scenario: Scenario) -> str:
        """A remote's name: no spaces."""
        return scenario.name.replace(" ", "_")

    def _remote(self, s: Scenario) -> str:
        url = f"{self.elsewhere[s.url]}/{s.name.replace(' ', '%20')}?signature={SECRET}"
        return (
            f'[remote.{self.directory(s)}]\nkind = "http"\nurl = "{url}"\nstall_timeout = {STALL_S}\n'
            f"negative = 0.5\nwhole_file_timeout = 6\n{s.remote}\n"
        )

    def _decide(self, request: Request) -> Fault | None:
        image = request.path.removeprefix("/")
        scenario = self._by_image.get(image)
        if scenario is None or scenario.name in self.cleared:
            return None
        if scenario.middle and request.headers.get("range", "").startswith("bytes=0-"):
            return None
        with self._lock:
            script = self._scripts[image]
            return script.pop(0) if script else scenario.then

    def play(self, scenario: Scenario) -> Outcome:
        outcome = Outcome()
        path = self.mount.path / self.directory(scenario) / "x.sif"
        descriptor = -1
        if scenario.middle:
            descriptor = os.open(path, os.O_RDONLY)
            wanted = scenario.data[MIDDLE : MIDDLE + BLOCK]

            def read() -> bytes:
                return os.pread(descriptor, BLOCK, MIDDLE)
        else:
            wanted = scenario.data

            def read() -> bytes:
                return read_whole(path)

        outcome.got, outcome.seconds = attempt(read, wanted)
        outcome.requests = len(self.origin.requests(f"/{scenario.image}"))
        outcome.status_answered = self.status_answers()
        if scenario.middle:
            got, seconds = attempt(lambda: os.pread(descriptor, 4096, 0), scenario.data[:4096])
            outcome.cached_still_served = got == "bytes" and seconds < SOON
        if outcome.got != "bytes" and not scenario.url and not scenario.remote:
            self.cleared.add(scenario.name)
            outcome.recovered = self._recover(path)
        if descriptor >= 0:
            os.close(descriptor)
        return outcome

    def _recover(self, path: Path) -> str:
        """The outcome once the origin is good again, which may be remembered as bad for a moment."""
        deadline_s = time.monotonic() + BUDGET
        while True:
            got, _ = attempt(lambda: read_whole(path), DATA)
            if got in ("bytes", "WRONG BYTES") or time.monotonic() > deadline_s:
                return got
            time.sleep(0.2)

    @cached_property
    def log(self) -> list[str]:
        return self.mount.log().splitlines()

    def status_answers(self) -> bool:
        (path,) = self.mount.runtime_dir.glob("*.sock")
        return bool(fetch_status(path)["pid"])


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, fuse: None) -> Iterator[Runner]:
    stack: list[Callable[[], None]] = []
    try:
        yield Runner(tmp_path_factory.mktemp("bad"), stack)
    finally:
        for close in reversed(stack):
            close()


@pytest.fixture(scope="module")
def outcomes(runner: Runner) -> dict[str, Outcome]:
    """All scenarios played, eight at a time: some wait seconds for a deadline."""
    with ThreadPoolExecutor(8) as pool:
        return dict(zip((s.name for s in SCENARIOS), pool.map(runner.play, SCENARIOS), strict=True))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_outcome(scenario: Scenario, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[scenario.name]
    assert outcome.got == scenario.outcome
    assert outcome.seconds < scenario.within_s
    assert not scenario.requests or outcome.requests <= scenario.requests
    assert outcome.cached_still_served
    assert outcome.status_answered
    assert outcome.recovered in ("", "bytes")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_log_names_image_origin_and_cause_in_one_line(
    scenario: Scenario, outcomes: dict[str, Outcome], runner: Runner
) -> None:
    """An error that a job saw is one ERROR line for each refused call; the others leave none."""
    image = f"{runner.directory(scenario)}/x.sif"
    lines = [line for line in runner.log if f": {image}: " in line and " ERROR " in line]
    assert bool(lines) == (scenario.outcome not in ("bytes", "ENOENT"))
    if lines:
        assert f"{scenario.outcome}: {image}: " in lines[0]
        assert (
            f"(origin {runner.elsewhere[scenario.url]}/{scenario.name.replace(' ', '%20')}/x.sif)" in lines[0]
        )
        assert scenario.says in lines[0]


def test_page_for_people_names_the_same_scenarios_and_outcomes() -> None:
    text = (REPOSITORY / "docs/origin-behaviour.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| (bytes|E[A-Z]+) \| (at once|its timeout) \|", text, re.MULTILINE)
    spans = {SOON: "at once"}
    assert rows == [(s.name, s.outcome, spans.get(s.within_s, "its timeout")) for s in SCENARIOS]


def test_log_has_no_secret_and_no_traceback(outcomes: dict[str, Outcome], runner: Runner) -> None:
    text = "\n".join(runner.log)
    assert SECRET not in text
    assert "Traceback" not in text
    assert runner.mount.counters()["unexpected_errors"] == 0
