"""The mirrors and proxies of one remote: can each be reached, and does a mirror have what the origin has?"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import trio

from lazysif.config.remote import RemoteConfig
from lazysif.config.routes import DIRECT, OWN, Groups
from lazysif.core.content_range import IsFile, judge_probe
from lazysif.core.diagnosis.finding import Finding, note, ok, problem
from lazysif.core.diagnosis.origins import connection
from lazysif.core.mirrors import on_mirror, same_version
from lazysif.core.names import has_image_suffix, host_and_port, origin_of
from lazysif.errors import LazysifError
from lazysif.fetch.routes import Routes
from lazysif.fetch.way import Way
from lazysif.model import ByteRange, EntryKind, Registry, Request
from lazysif.remotes.sources import source_of
from lazysif.remotes.transports import routes_of
from lazysif.telemetry import Counters

_STEP_S = 3.0
_ANSWER_S = 3.0
_ALL_S = 7.0
_FIRST_BYTES = ByteRange(0, 4096)


def goes_straight(remote: RemoteConfig) -> bool:
    """Whether anything is sent to the origin by no proxy."""
    return not remote.proxies or any(DIRECT in group for group in remote.proxies)


def ways(remote: RemoteConfig, image: str | None) -> Iterator[Finding]:
    """Args: image: a path below the remote to compare at mirrors; None looks for one in its listing."""
    name = f"origin {remote.name or origin_of(remote.url)}"
    mirrors: Groups = getattr(remote, "mirrors", ())
    proxies = {by for group in remote.proxies for by in group if by != DIRECT}
    near = {base for group in mirrors for base in group if base != OWN} if goes_straight(remote) else set()
    asked = [(f"{name}: proxy {url}", url) for url in sorted(proxies)]
    asked += [(f"{name}: mirror {url}", url) for url in sorted(near)]
    with ThreadPoolExecutor(max(1, len(asked))) as threads:
        yield from threads.map(lambda one: _connection(*one), asked)
    if mirrors:
        yield from trio.run(_versions, remote, name, image)


def _connection(check: str, url: str) -> Finding:
    host, port = host_and_port(url)
    began_s = time.monotonic()
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        resolved_s = time.monotonic()
        with socket.create_connection((host, port), _STEP_S):
            return connection(check, resolved_s - began_s, time.monotonic() - resolved_s, None)
    except socket.gaierror as error:
        return problem(check, f"the name {host} is not resolved: {error.strerror}", "see its name")
    except OSError as error:
        why = f"nothing within {_STEP_S:g} s" if isinstance(error, TimeoutError) else error.strerror
        return problem(
            check,
            f"no connection to port {port} of {host}: {why}",
            "is it up? Requests go other ways meanwhile",
        )


async def _versions(remote: RemoteConfig, name: str, image: str | None) -> list[Finding]:
    findings: list[Finding] = []
    source = source_of(remote)
    routes = routes_of(remote, source, 2, Counters())
    assert routes is not None, "a remote with mirrors has ways"
    try:
        with trio.fail_after(_ALL_S):
            path = image or await _listed_image(source.make_registry(routes))
            if path is None:
                advice = "give --image NAME to compare the mirrors"
                return [note(f"{name}: mirrors", "no listing that shows an image", advice)]
            await _compare(routes, source.make_registry(routes), name, path, findings)
    except trio.TooSlowError:
        advice = "see the connections above"
        findings.append(problem(f"{name}: mirrors", f"not all within {_ALL_S:g} s", advice))
    except LazysifError as error:
        findings.append(problem(f"{name}: mirrors", error.why, error.hint or "see the origin"))
    finally:
        await routes.aclose()
    return findings


async def _listed_image(registry: Registry) -> str | None:
    entries = await registry.list("") or ()
    return next((e.name for e in entries if e.kind is EntryKind.FILE and has_image_suffix(e.name)), None)


async def _compare(routes: Routes, registry: Registry, name: str, path: str, findings: list[Finding]) -> None:
    """Raises: LazysifError: the origin does not say."""
    location = await registry.locate(path)
    if location is None:
        return
    own = next(way for way in routes.ways if way.mirror is None)
    there = await _probe(own, location.url)
    seen: set[str] = set()
    for way in routes.ways:
        if way.mirror is None or way.mirror in seen:
            continue
        seen.add(way.mirror)
        check = f"{name}: version at {way.mirror}"
        try:
            found = await _probe(way, on_mirror(location.url, routes.base_url, way.mirror) or "")
        except LazysifError as error:
            advice = "requests for it go other ways"
            findings.append(problem(check, f"{path}: {error.why}", advice))
            continue
        findings.append(_verdict(check, path, there, found))


async def _probe(way: Way, url: str) -> IsFile | None:
    request = Request(url, byte_range=_FIRST_BYTES, stall_s=_ANSWER_S, total_s=_ANSWER_S)
    async with way.transport.send(request) as answer:
        verdict = judge_probe(answer.head, _FIRST_BYTES, url)
    return verdict if isinstance(verdict, IsFile) else None


def _verdict(check: str, path: str, there: IsFile | None, found: IsFile | None) -> Finding:
    if there is None or found is None:
        return note(check, f"{path} is no file at both", "give --image the name of an image")
    if there.validator == found.validator and there.size_bytes == found.size_bytes:
        return ok(check, f"{path} is the same, by {there.validator.kind.value}")
    if same_version(there, found):
        return ok(check, f"{path} is the same, by size and Last-Modified; the ETags differ")
    return problem(
        check,
        f"{path} is another version: {found.size_bytes} bytes, the origin has {there.size_bytes}"
        if found.size_bytes != there.size_bytes
        else f"{path} is another version, or its time was not kept",
        "copy with times (rsync -t), or leave the mirror out",
    )
