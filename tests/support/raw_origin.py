"""An HTTP origin on a bare socket that can misbehave in every way a test needs.

It serves given bytes correctly (RFC 9110: ranges, validators, conditions) until its script says otherwise. A
fault is data from `tests.support.faults`; each request consumes the next one of the script, then the default
holds. All requests are logged when they arrive, so a test can wait for one that is stalled. Loopback only.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    import trustme

EPOCH_S = 1_700_000_000
"""Last-Modified of a path's first content; each replacement is an hour later, whatever the clock says."""

MAX_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """One parsed request; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]


@dataclass(frozen=True, slots=True)
class Content:
    """One version of what a path holds."""

    data: bytes
    etag: str
    last_modified: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes onto the wire: faults are made from the right answer by `dataclasses.replace`."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""

    def with_headers(self, **changes: str | None) -> Answer:
        """Set or, with None, drop headers; `content_range=...` names Content-Range."""
        headers = {name.lower(): (name, value) for name, value in self.headers.items()}
        for key, value in changes.items():
            name = key.replace("_", "-")
            headers.pop(name.lower(), None)
            if value is not None:
                headers[name.lower()] = (name.title(), value)
        return Answer(self.status, dict(headers.values()), self.body)


@dataclass(slots=True)
class Entry:
    """One line of the log; `status` is 0 and `finished` False while (or if never) answered."""

    method: str
    path: str
    target: str
    headers: Mapping[str, str]
    range: tuple[int, int] | None
    fault: str
    connection: int
    started_s: float
    status: int = 0
    body_bytes: int = 0
    finished: bool = False
    client: str = ""
    """What the client's certificate says of it."""


class Fault(Protocol):
    """How one request is answered; see `tests.support.faults`."""

    def play(self, wire: Wire) -> None: ...


class Hangup(Exception):
    """The connection is not to be used again."""


class Wire:
    """One request on one connection, as a fault sees it."""

    def __init__(self, origin: RawOrigin, connection: socket.socket, request: Request, entry: Entry) -> None:
        self.origin = origin
        self.request = request
        self.entry = entry
        self._connection = connection

    @property
    def content(self) -> Content | None:
        return self.origin.content(self.request.path)

    def right(self, *, conditions: bool = True) -> Answer:
        """The answer of a well-behaved origin; without `conditions` it ignores If-* headers."""
        return self.origin.right_answer(self.request, conditions=conditions)

    def send(self, answer: Answer) -> None:
        """Send head and body; Content-Length is added where the answer says nothing of its length."""
        self.send_head(answer)
        self.send_body(answer.body)

    def send_head(self, answer: Answer) -> None:
        headers = dict(answer.headers)
        lengths = {"content-length", "transfer-encoding"}
        if answer.status not in (204, 304) and not any(name.lower() in lengths for name in headers):
            headers["Content-Length"] = str(len(answer.body))
        try:
            reason = HTTPStatus(answer.status).phrase
        except ValueError:
            reason = "Odd"
        lines = [
            f"HTTP/1.1 {answer.status} {reason}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.entry.status = answer.status
        self.send_raw("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def send_body(self, data: bytes | memoryview) -> None:
        """Send body bytes and count them; nothing is sent to a HEAD."""
        if self.request.method == "HEAD":
            return
        view = memoryview(data)
        for start in range(0, len(view), 64 * 1024):
            piece = view[start : start + 64 * 1024]
            self.send_raw(piece)
            self.entry.body_bytes += len(piece)

    def send_raw(self, data: bytes | memoryview) -> None:
        self._connection.sendall(data)

    def wait(self, seconds: float | None = None, until: threading.Event | None = None) -> None:
        """Say nothing until the time is over, the event is set, the peer leaves or the origin closes.

        Raises:
            Hangup: the peer left or the origin is closing.
        """
        deadline_s = None if seconds is None else time.monotonic() + seconds
        while not self.origin.closing.is_set():
            if until is not None and until.is_set():
                return
            if deadline_s is not None and time.monotonic() >= deadline_s:
                return
            remaining_s = 0.02 if deadline_s is None else max(0.0, min(0.02, deadline_s - time.monotonic()))
            readable, _, _ = select.select([self._connection], [], [], remaining_s)
            if readable and not isinstance(self._connection, ssl.SSLSocket):
                if not self._connection.recv(1, socket.MSG_PEEK):
                    raise Hangup
                time.sleep(0.005)  # a pipelined request: not a departure, and not to be spun on
            elif readable:
                raise Hangup  # with TLS anything that arrives while we stall is a goodbye
        raise Hangup

    def reset(self) -> None:
        """Close with RST, as a crashed or overloaded host does."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Hangup

    def close(self) -> None:
        """Close in an orderly way (FIN), whatever was promised."""
        raise Hangup


class RawOrigin:
    """The origin; use it as a context manager.

    Args:
        files: what it serves, path (with its leading slash) to bytes.
        script: faults consumed in order, one a request.
        default: the fault of every request after the script; None is right behaviour.
        decide: asked first for each request; None as an answer leaves the request to the script.
        delay_s: added before each answer.
        tls: speak TLS with a certificate of `ca` for `hosts`.
        listing: answer directories with an HTML index, else with 403.
        port: of an origin that comes back; by default any that is free.
    """

    def __init__(
        self,
        files: Mapping[str, bytes] | None = None,
        *,
        script: Iterable[Fault] = (),
        default: Fault | None = None,
        decide: Callable[[Request], Fault | None] | None = None,
        delay_s: float = 0.0,
        tls: bool = False,
        listing: bool = True,
        port: int = 0,
        hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
    ) -> None:
        self.default = default
        self.decide = decide
        self.delay_s = delay_s
        self.listing = listing
        self.closing = threading.Event()
        self.ca: trustme.CA | None = None
        self._script = deque(script)
        self._contents: dict[str, Content] = {}
        self._generation = 0
        self._log: list[Entry] = []
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._connection_count = 0
        self._threads: list[threading.Thread] = []
        self._tls: ssl.SSLContext | None = None
        if tls:
            import trustme  # only tests have it; the demonstration uses this origin without TLS

            self.ca = trustme.CA()
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.ca.issue_cert(*hosts).configure_cert(self._tls)
        for path, data in (files or {}).items():
            self.put(path, data)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Without a slash at the end: `origin.url + "/image.sif"`."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def url_of(self, path: str) -> str:
        return self.url + quote(path)

    def close(self) -> None:
        """Stop listening, drop all connections, wait for the threads."""
        self.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join(timeout=10)

    def drop_connections(self) -> None:
        """Break every open connection, as a restarted origin does."""
        with self._changed:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # --- what it holds

    def put(
        self, path: str, data: bytes, *, etag: str | None = None, last_modified: str | None = None
    ) -> Content:
        """Add or replace a file at once; requests see the old or the new one, with its own ETag."""
        with self._changed:
            self._generation += 1
            mark = hashlib.sha256(data).hexdigest()[:16]
            content = Content(
                bytes(data),
                etag or f'"{self._generation}-{mark}"',
                last_modified or formatdate(EPOCH_S + 3600 * self._generation, usegmt=True),
            )
            self._contents = {**self._contents, path: content}
        return content

    def remove(self, path: str) -> None:
        with self._changed:
            self._contents = {name: content for name, content in self._contents.items() if name != path}

    def content(self, path: str) -> Content | None:
        return self._contents.get(path)

    # --- what it does wrong

    def script(self, *faults: Fault) -> None:
        """Put faults behind those not consumed yet."""
        with self._changed:
            self._script.extend(faults)

    def pending_faults(self) -> int:
        with self._changed:
            return len(self._script)

    # --- what it saw

    @property
    def log(self) -> list[Entry]:
        with self._changed:
            return list(self._log)

    def requests(self, path: str | None = None) -> list[Entry]:
        return [entry for entry in self.log if path is None or entry.path == path]

    def clear_log(self) -> None:
        with self._changed:
            self._log.clear()

    def body_bytes(self, path: str | None = None) -> int:
        return sum(entry.body_bytes for entry in self.requests(path))

    @property
    def connection_count(self) -> int:
        """Connections accepted so far."""
        return self._connection_count

    def wait_for(
        self, count: int = 1, path: str | None = None, *, finished: bool = False, timeout_s: float = 10
    ) -> list[Entry]:
        """Wait until that many requests have arrived (or, `finished`, were answered) and return them.

        Raises:
            TimeoutError: fewer came in time.
        """

        def seen() -> list[Entry]:
            return [
                entry
                for entry in self._log
                if (path is None or entry.path == path) and (entry.finished or not finished)
            ]

        with self._changed:
            if not self._changed.wait_for(lambda: len(seen()) >= count, timeout_s):
                raise TimeoutError(f"{len(seen())} of {count} requests came within {timeout_s} s")
            return seen()

    # --- right behaviour

    def right_answer(self, request: Request, *, conditions: bool = True) -> Answer:
        """What RFC 9110 wants for this request."""
        if request.method not in ("GET", "HEAD"):
            return Answer(405, {"Allow": "GET, HEAD"})
        content = self.content(request.path)
        if content is None:
            return self._directory_answer(request)
        headers = {
            "ETag": content.etag,
            "Last-Modified": content.last_modified,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if conditions and (refusal := _condition_refused(request.headers, content)):
            return Answer(refusal, headers)
        ranged = request.headers.get("range")
        if ranged is None or (conditions and not _if_range_holds(request.headers.get("if-range"), content)):
            return Answer(200, headers, memoryview(content.data))
        total = len(content.data)
        wanted = parse_range(ranged, total)
        if wanted is None:
            return Answer(200, headers, memoryview(content.data))
        start, stop = wanted
        if start >= min(stop, total):
            return Answer(416, {**headers, "Content-Range": f"bytes */{total}"})
        stop = min(stop, total)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
        return Answer(206, headers, memoryview(content.data)[start:stop])

    def _directory_answer(self, request: Request) -> Answer:
        path = request.path
        folder = path if path.endswith("/") else path + "/"
        below = {name[len(folder) :] for name in self._contents if name.startswith(folder)}
        if not below and folder != "/":
            return Answer(404, {"Content-Type": "text/plain"}, b"no such file\n")
        if folder != path:
            query = f"?{request.query}" if request.query else ""
            return Answer(301, {"Location": quote(folder) + query})
        if not self.listing:
            return Answer(403, {"Content-Type": "text/plain"}, b"no listing\n")
        names = sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name in below})
        lines = "".join(f'<a href="{quote(name)}">{name}</a>\r\n' for name in names)
        page = f"<html><head><title>Index of {path}</title></head><body><pre>\r\n{lines}</pre></body></html>"
        return Answer(200, {"Content-Type": "text/html"}, page.encode())

    # --- threads

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connection_count += 1
            self._start(self._converse, connection, self._connection_count)

    def _converse(self, connection: socket.socket, number: int) -> None:
        with self._changed:
            self._connections.add(connection)
        spoken = connection
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                spoken = self._tls.wrap_socket(connection, server_side=True)
                with self._changed:
                    self._connections.discard(connection)
                    self._connections.add(spoken)
            buffered = b""
            while not self.closing.is_set():
                head, buffered = _read_head(spoken, buffered)
                if head is None:
                    break
                self._answer(spoken, number, _parse_head(head))
        except (OSError, Hangup, ValueError):
            pass  # the peer went away, a fault hung up, or what came was not HTTP: all end the connection
        finally:
            with self._changed:
                self._connections.discard(connection)
                self._connections.discard(spoken)
            _hang_up(spoken)

    def _answer(self, connection: socket.socket, number: int, request: Request) -> None:
        total = len(content.data) if (content := self.content(request.path)) else None
        with self._changed:
            fault = self.decide(request) if self.decide else None
            if fault is None:
                fault = self._script.popleft() if self._script else self.default
            entry = Entry(
                method=request.method,
                path=request.path,
                target=request.target,
                headers=request.headers,
                range=parse_range(request.headers.get("range", ""), total),
                fault=type(fault).__name__ if fault else "ok",
                connection=number,
                started_s=time.monotonic(),
                client=_certificate_of(connection),
            )
            self._log.append(entry)
            self._changed.notify_all()
        wire = Wire(self, connection, request, entry)
        if self.delay_s:
            wire.wait(self.delay_s)
        try:
            if fault is None:
                wire.send(wire.right())
            else:
                fault.play(wire)
        finally:
            with self._changed:
                entry.finished = True
                self._changed.notify_all()
        if request.headers.get("connection", "").lower() == "close":
            raise Hangup


def parse_range(text: str, total: int | None = None) -> tuple[int, int] | None:
    """Half-open range of a `Range` header with one range; None for anything else.

    `bytes=5-` and `bytes=-5` need the total and are None without it.
    """
    unit, _, spec = text.partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit.strip() != "bytes" or not dash or "," in spec:
        return None
    if first.isdigit() and last.isdigit():
        return (int(first), int(last) + 1) if int(first) <= int(last) else None
    if total is None:
        return None
    if first.isdigit() and not last:
        return int(first), max(total, int(first))
    if not first and last.isdigit():
        return max(0, total - int(last)), total
    return None


def _condition_refused(headers: Mapping[str, str], content: Content) -> int:
    """412, 304 or 0, in the order of RFC 9110 section 13.2.2."""
    modified = parsedate_to_datetime(content.last_modified)
    if (wanted := headers.get("if-match")) is not None:
        if not _listed(content.etag, wanted, weak_counts=False):
            return 412
    elif (since := headers.get("if-unmodified-since")) is not None and modified > parsedate_to_datetime(
        since
    ):
        return 412
    if (known := headers.get("if-none-match")) is not None:
        return 304 if _listed(content.etag, known, weak_counts=True) else 0
    since = headers.get("if-modified-since")
    return 304 if since is not None and modified <= parsedate_to_datetime(since) else 0


def _if_range_holds(wanted: str | None, content: Content) -> bool:
    if wanted is None or wanted == content.last_modified:
        return True
    return wanted == content.etag and not wanted.startswith("W/")


def _listed(etag: str, field_value: str, *, weak_counts: bool) -> bool:
    if field_value.strip() == "*":
        return True
    tags = [tag.strip() for tag in field_value.split(",")]
    if weak_counts:
        return etag.removeprefix("W/") in [tag.removeprefix("W/") for tag in tags]
    return not etag.startswith("W/") and etag in tags


def _read_head(connection: socket.socket, buffered: bytes) -> tuple[bytes | None, bytes]:
    while b"\r\n\r\n" not in buffered:
        if len(buffered) > MAX_HEAD_BYTES:
            raise ValueError("head too long")
        piece = connection.recv(64 * 1024)
        if not piece:
            return None, b""
        buffered += piece
    head, _, rest = buffered.partition(b"\r\n\r\n")
    return head, rest


def _parse_head(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _version = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        key = name.strip().lower()
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return Request(method, target, headers)


def _certificate_of(connection: socket.socket) -> str:
    if not isinstance(connection, ssl.SSLSocket):
        return ""
    try:
        return str(connection.getpeercert() or "")
    except (AttributeError, ValueError):
        return ""  # it was closed by another thread in this moment: `ssl` looks at an object that is None


def _hang_up(connection: socket.socket) -> None:
    """Close; without a pending RST, first let the peer read what was sent.

    Closing a socket that holds unread input makes the kernel send RST, which may destroy the last answer.
    """
    try:
        _on, linger_s = struct.unpack("ii", connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
        if not (_on and linger_s == 0):
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(0.2)
            while connection.recv(64 * 1024):
                pass
    except OSError:
        pass  # already gone
    finally:
        connection.close()
