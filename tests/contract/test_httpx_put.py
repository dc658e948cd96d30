"""`HttpxTransport.put` against a real nginx: small files written, credentials at their origin alone, no redirects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from bench.nginx import Nginx
from lazysif.errors import SourceTimeout, SourceUnavailable
from lazysif.model import Request
from lazysif.transport.credentials import OriginKeyring, make_auth
from lazysif.transport.httpx_transport import HttpxTransport
from tests.support.raw_origin import RawOrigin

SERVER = """
dav_methods PUT;
auth_basic "traces";
auth_basic_user_file {users};
location /moved/ {{ return 307 /elsewhere; }}
"""


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Nginx]:
    root = tmp_path / "dav"
    root.mkdir()
    (tmp_path / "users").write_text("node:{PLAIN}secret\n")
    try:
        with Nginx(root, server=SERVER.format(users=tmp_path / "users")) as running:
            yield running
    except FileNotFoundError as error:
        pytest.skip(str(error))


def transport(base_url: str) -> HttpxTransport:
    return HttpxTransport(
        base_url, keyring=OriginKeyring(base_url, make_auth(username="node", password="secret"))
    )


async def test_a_file_is_written_and_written_again(origin: Nginx) -> None:
    sender = transport(origin.url)
    for content, status in ((b"one", 201), (b"two", 204)):
        head = await sender.put(f"{origin.url}/x.lazysif-trace", content, 5.0)
        assert head.status == status
        assert (origin.root / "x.lazysif-trace").read_bytes() == content
    await sender.aclose()


async def test_credentials_stay_at_their_origin(origin: Nginx) -> None:
    sender = transport("http://127.0.0.1:1/")
    assert (await sender.put(f"{origin.url}/x", b"one", 5.0)).status == 401
    assert not (origin.root / "x").exists()
    await sender.aclose()


async def test_a_redirect_is_told_and_not_followed(origin: Nginx) -> None:
    sender = transport(origin.url)
    assert (await sender.put(f"{origin.url}/moved/x", b"one", 5.0)).status == 307
    assert [request.uri for request in origin.requests() if request.method == "PUT"] == ["/moved/x"]
    await sender.aclose()


async def test_nobody_there() -> None:
    sender = transport("http://127.0.0.1:1")
    with pytest.raises(SourceUnavailable, match="no connection to the origin"):
        await sender.put("http://127.0.0.1:1/x", b"one", 5.0)
    await sender.aclose()


async def test_an_origin_that_says_nothing() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    sender = transport(f"http://127.0.0.1:{port}")
    with pytest.raises(SourceTimeout, match="in time"):
        await sender.put(f"http://127.0.0.1:{port}/x", b"one", 0.2)
    await sender.aclose()
    await listeners[0].aclose()


async def test_an_answer_without_a_body_keeps_its_connection() -> None:
    """Each revalidation is one: a new connection would cost the next request two round trips."""
    with RawOrigin({"/a": b"x" * 5000}) as origin:
        sender = HttpxTransport(origin.url)
        async with sender.send(Request(f"{origin.url}/a")) as answer:
            etag = answer.head.headers["etag"]
            assert sum([len(chunk) async for chunk in answer.chunks()]) == 5000
        for _ in range(3):
            async with sender.send(Request(f"{origin.url}/a", {"If-None-Match": etag})) as answer:
                assert answer.head.status == 304
        assert origin.connection_count == 1
        await sender.aclose()
