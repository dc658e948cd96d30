"""No origin sends a node to its own services, its link or its cloud's metadata by redirect."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import httpx
import pytest
import trio

from lazysif.core.names import is_inward
from lazysif.errors import SourceProtocolError
from lazysif.model import Request
from lazysif.transport.httpx_transport import HttpxTransport

INWARD = (
    "127.0.0.1", "127.8.9.10", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "0", "localhost",
    "LOCALHOST.", "a.localhost", "169.254.169.254", "169.254.0.1", "0xa9fea9fe", "[::1]", "::1", "[::]",
    "[fe80::1]", "fe80::1%eth0", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]",
    "metadata.google.internal", "metadata", "100.100.100.200",
)  # fmt: skip
OUTWARD = (
    "192.0.2.1",
    "example.org",
    "10.0.0.1",
    "[2001:db8::1]",
    "localhost.example.org",
    "127.example",
    "1.2.3.4.5",
)
NAMES = {"inner.example": "127.0.0.1", "link.example": "169.254.169.254", "cdn.example": "192.0.2.7"}


@pytest.mark.parametrize("host", INWARD)
def test_inward(host: str) -> None:
    assert is_inward(host)


@pytest.mark.parametrize("host", OUTWARD)
def test_outward(host: str) -> None:
    assert not is_inward(host)


class Resolver(trio.abc.HostnameResolver):
    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        host = host.decode() if isinstance(host, bytes) else host
        if host not in NAMES:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (NAMES[host], 0))]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


@pytest.fixture
async def resolver() -> AsyncIterator[None]:
    before = trio.socket.set_custom_hostname_resolver(Resolver())
    yield
    trio.socket.set_custom_hostname_resolver(before)


async def follow(base: str, target: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts asked on the way of a GET of `base` that is redirected to `target`."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        first = len(asked) == 1
        return httpx.Response(302 if first else 200, headers={"Location": target} if first else {})

    transport = HttpxTransport(base)
    await transport._client.aclose()
    monkeypatch.setattr(transport, "_client", httpx.AsyncClient(transport=httpx.MockTransport(answer)))
    async with transport.send(Request(base + "/a.sif")):
        pass
    await transport.aclose()
    return asked


@pytest.mark.parametrize(
    "host",
    [
        *(h if ":" not in h or "[" in h else f"[{h}]" for h in INWARD if "%" not in h and h != "0177.0.0.1"),
        "inner.example",
        "link.example",
    ],
)
async def test_a_redirect_inward_is_refused(
    host: str, resolver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceProtocolError, match=r"this node or its link|cannot be used"):
        await follow("http://192.0.2.1", f"http://{host}:8080/latest/meta-data", monkeypatch)


@pytest.mark.parametrize("host", ["cdn.example", "192.0.2.9", "no-such.example"])
async def test_a_redirect_elsewhere_is_followed(
    host: str, resolver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await follow("http://192.0.2.1", f"http://{host}/a", monkeypatch) == ["192.0.2.1", host]


@pytest.mark.parametrize("base", ["http://127.0.0.1:1", "http://inner.example"])
async def test_an_origin_that_is_inward_itself_may_redirect_inward(
    base: str, resolver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(await follow(base, "http://127.0.0.2/a", monkeypatch)) == 2
