"""Asks one origin step by step: name, connection, TLS, and the first bytes of an image, as the daemon asks."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import trio

from lazysif.config.remote import RemoteConfig
from lazysif.core.content_range import IsFile, http_date_s, judge_probe
from lazysif.core.diagnosis import origins as diagnosis
from lazysif.core.diagnosis.finding import Finding, note, problem
from lazysif.core.names import has_image_suffix, host_and_port, origin_of
from lazysif.doctor.ways import goes_straight
from lazysif.errors import AccessDenied, LazysifError, NoSuchEntry
from lazysif.model import AnswerHead, ByteRange, EntryKind, Registry, Request, Transport, ValidatorKind
from lazysif.remotes.sources import source_of
from lazysif.remotes.transports import make_transport, routes_of
from lazysif.telemetry import Counters

_STEP_S = 3.0
_ANSWERS_S = 5.0
_FIRST_BYTES = ByteRange(0, 4096)
_DIRECTORIES_TRIED = 3


def origin(remote: RemoteConfig, image: str | None) -> Iterator[Finding]:
    """Args: image: a path below the remote to ask for; None looks for one in its listing."""
    name = f"origin {remote.name or origin_of(remote.url)}"
    try:
        base_url = source_of(remote).base_url
    except LazysifError as error:
        yield problem(name, error.why, error.hint or "see the remote's table")
        return
    if not base_url:  # of many hosts
        yield from trio.run(_answers, remote, name, "the origin", image)
        return
    host, port = host_and_port(base_url)
    if not goes_straight(remote):
        yield from trio.run(_answers, remote, name, host, image)
        return
    step = f"the name {host} is not resolved"
    began_s = time.monotonic()
    tls_s = None
    try:
        addresses: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        resolved_s = time.monotonic()
        step = f"no connection to port {port} of {host}"
        with _connected(addresses) as plain:
            connected_s = time.monotonic()
            if urlsplit(base_url).scheme == "https":
                step = f"no TLS with {host}"
                with _tls_context(remote).wrap_socket(plain, server_hostname=host):
                    tls_s = time.monotonic() - connected_s
    except OSError as error:
        yield problem(name, f"{step}: {_said(error)}", _advice(error))
        return
    yield diagnosis.connection(name, resolved_s - began_s, connected_s - resolved_s, tls_s)
    yield from trio.run(_answers, remote, name, host, image)


def _connected(addresses: list[tuple[Any, ...]]) -> socket.socket:
    """The first address that takes a connection, within one step's time. Raises: OSError."""
    deadline_s = time.monotonic() + _STEP_S
    failed: OSError = TimeoutError("timed out")
    for family, kind, protocol, _, address in addresses:
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            break
        opened = socket.socket(family, kind, protocol)
        opened.settimeout(remaining_s)
        try:
            opened.connect(address)
        except OSError as error:
            opened.close()
            failed = error
            continue
        opened.settimeout(_STEP_S)
        return opened
    raise failed


def _tls_context(remote: RemoteConfig) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if remote.ca_file is not None:
        context.load_verify_locations(cafile=str(remote.ca_file))
    return context


def _said(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return f"nothing within {_STEP_S:g} s"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "refused").lower().replace("_", " ")
    return error.strerror or type(error).__name__


def _advice(error: OSError) -> str:
    match error:
        case socket.gaierror():
            return "see /etc/resolv.conf, and the name in the remote's url"
        case ssl.SSLCertVerificationError():
            return "for a private authority set ca_file to its PEM file; see the clock of this node, too"
        case ssl.SSLError():
            return "see the scheme and the port of the remote's url"
        case ConnectionRefusedError():
            return "is the server up, and the port in the remote's url right?"
        case _:
            return "see routes and firewalls on the way"


async def _answers(remote: RemoteConfig, name: str, host: str, image: str | None) -> list[Finding]:
    """What the origin says over HTTP, through what the daemon uses."""
    heads: list[AnswerHead] = []
    began_s = time.time()
    findings = []
    try:
        source = source_of(remote)
        routes = routes_of(remote, source, 2, Counters())
        transport = make_transport(remote, source, 2, routes)
        with trio.fail_after(_ANSWERS_S):
            try:
                findings.append(await _answer(source.make_registry(transport), transport, name, image, heads))
            finally:
                await transport.aclose()
    except trio.TooSlowError:
        findings.append(
            problem(
                f"{name}: answer",
                f"connects, and says nothing within {_ANSWERS_S:g} s",
                "the server or a proxy before it is stuck or overloaded",
            )
        )
    except LazysifError as error:
        findings.append(problem(f"{name}: answer", error.why, error.hint or "see its log"))
    return [*findings, *_clock(heads, began_s, host)]


async def _answer(
    registry: Registry, transport: Transport, name: str, given: str | None, heads: list[AnswerHead]
) -> Finding:
    check = f"{name}: answer"
    path = given if given is not None else await _listed_image(registry)
    location = await registry.locate(path or "")
    if location is None and path is None:
        return note(check, "no listing that shows an image", "give --image NAME to try one")
    if location is None:
        return note(check, f"{path} is a directory there", "give --image the name of an image")
    if location.once:
        found = f"the registry has {path}"
        return note(check, found, "the file is not asked for: it counts each GET")
    began_s = trio.current_time()
    request = Request(location.url, byte_range=_FIRST_BYTES, stall_s=_ANSWERS_S, total_s=_ANSWERS_S)
    async with transport.send(request) as answer:
        head = answer.head
        heads.append(head)
        elapsed_s = trio.current_time() - began_s
        if path is None:
            return _without_image(check, head, elapsed_s)
        try:
            verdict = judge_probe(
                head, _FIRST_BYTES, location.origin, content_addressed=location.content_addressed
            )
        except NoSuchEntry as error:
            return problem(check, f"{path}: {error.why}", "see the name, and the remote's url")
    if not isinstance(verdict, IsFile):
        return note(check, f"{path} is a directory there", "give --image the name of an image")
    ranges = verdict.ranges or (verdict.validator.kind is ValidatorKind.NONE and head.status == 206)
    validator = (location.validator or verdict.validator).kind.value
    return diagnosis.image_answer(check, path, elapsed_s, ranges=ranges, validator=validator)


def _without_image(check: str, head: AnswerHead, elapsed_s: float) -> Finding:
    """No listing led to an image: only whether the server speaks to us at all can be told."""
    if head.status in (401, 407) or head.status >= 500:
        advice = "check the remote's credentials" if head.status < 500 else "see the server's log"
        return problem(check, f"the origin answers {head.status} for its directory", advice)
    return note(
        check,
        f"status {head.status} for its directory in {elapsed_s * 1000:.0f} ms, and no listing that shows an image",
        "give --image NAME to try ranges and validators",
    )


async def _listed_image(registry: Registry) -> str | None:
    """The first image in the listing, or in that of one of its first directories."""
    todo = [""]
    asked = 0
    while todo and asked <= _DIRECTORIES_TRIED:
        directory = todo.pop(0)
        asked += 1
        try:
            entries = await registry.list(directory) or ()
        except (AccessDenied, NoSuchEntry) as error:
            if isinstance(error, AccessDenied) and error.asks_credentials:
                raise  # no name will do better
            continue
        paths = [(f"{directory}/{entry.name}" if directory else entry.name, entry.kind) for entry in entries]
        images = [path for path, kind in paths if kind is EntryKind.FILE and has_image_suffix(path)]
        if images:
            return images[0]
        todo += [path for path, kind in paths if kind is EntryKind.DIRECTORY]
    return None


def _clock(heads: list[AnswerHead], began_s: float, host: str) -> Iterator[Finding]:
    """From the Date of a fresh answer: one out of a cache (it has an Age) tells the time of its making."""
    for head in heads:
        date_s = http_date_s(head.headers.get("date", ""))
        if date_s and "age" not in head.headers:
            middle_s = (began_s + time.time()) / 2
            yield diagnosis.clock(date_s + 0.5 - middle_s, host)
            return
