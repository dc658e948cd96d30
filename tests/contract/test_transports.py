"""What every transport must do (model.Transport), asked of each: httpx and libcurl.

The origin is `RawOrigin`, on real sockets; where one transport alone can show a thing, the test says so.
"""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import httpx
import pytest
import trio
import trustme

from lazysif.errors import LazysifError, SourceProtocolError, SourceTimeout, SourceUnavailable
from lazysif.model import Answer, AnswerHead, ByteRange, Request, Transport
from lazysif.transport.authorities import ClientCertificate
from lazysif.transport.credentials import BearerAuth, Keyring, OriginKeyring
from lazysif.transport.curl_engine import CurlEngine
from lazysif.transport.curl_transport import CurlTransport
from lazysif.transport.httpx_transport import HttpxTransport
from lazysif.transport.proxy import Proxy
from tests.support import faults
from tests.support.forward_proxy import ForwardProxy
from tests.support.raw_origin import RawOrigin, Wire
from tests.support.raw_origin import Request as Asked

DATA = random.Random(3).randbytes(300_000)
SECRET = "5ecret-s1gnature"
Make = Callable[..., Transport]


class InBulk:
    """Every request as one that nobody waits for."""

    def __init__(self, transport: CurlTransport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def send(self, request: Request) -> AbstractAsyncContextManager[Answer]:
        return self._transport.send(replace(request, bulk=1 << 16))


@pytest.fixture(params=["httpx", "curl", "curl in bulk"])
async def make(request: pytest.FixtureRequest, engine: CurlEngine) -> AsyncGenerator[Make, None]:
    made: list[Transport] = []

    def make(base_url: str, **settings: object) -> Transport:
        plain = HttpxTransport(base_url, **settings)  # type: ignore[arg-type]
        made.append(plain)
        if request.param == "httpx":
            return plain
        by_curl = CurlTransport(base_url, engine, token_client=plain, **settings)  # type: ignore[arg-type]
        made.append(by_curl)
        return cast("Transport", InBulk(by_curl)) if request.param == "curl in bulk" else by_curl

    yield make
    for transport in made:
        await transport.aclose()


async def get(transport: Transport, url: str, **words: object) -> tuple[AnswerHead, bytes]:
    """Head and body, within patience that no right answer needs."""
    request = Request(url, **{"stall_s": 5.0, "total_s": 10.0, **words})  # type: ignore[arg-type]
    async with transport.send(request) as answer, aclosing(answer.chunks()) as chunks:
        return answer.head, b"".join([chunk async for chunk in chunks])


# --- what is sent and what comes back ---------------------------------------------------------------------


async def test_a_range_is_asked_for_in_plain_words(make: Make) -> None:
    with RawOrigin({"/a b.sif": DATA}) as origin:
        head, body = await get(make(origin.url), origin.url + "/a%20b.sif", byte_range=ByteRange(1000, 5000))
        (entry,) = origin.log
    assert (head.status, body) == (206, DATA[1000:5000])
    assert head.headers["content-range"] == f"bytes 1000-4999/{len(DATA)}"
    assert head.url == origin.url + "/a%20b.sif"
    sent = {name: value for name, value in entry.headers.items() if name not in ("host", "connection")}
    assert sent.pop("user-agent").startswith("lazysif/")
    assert sent == {"range": "bytes=1000-4999", "accept-encoding": "identity", "accept": "*/*"}
    assert entry.headers["host"] == origin.url.removeprefix("http://")


async def test_the_address_reaches_the_origin_as_it_is(make: Make) -> None:
    """A signature covers the path as it is written: dots, escapes and empty parts."""
    with RawOrigin() as origin:
        for target in ("/a//b/%7Ex", "/%2e%2e/x?a=%2F&b=+&c", "/x?signature=%2B%2f="):
            await get(make(origin.url), origin.url + target)
        assert [entry.target for entry in origin.log] == [
            "/a//b/%7Ex", "/%2e%2e/x?a=%2F&b=+&c", "/x?signature=%2B%2f=",
        ]  # fmt: skip


async def test_the_whole_of_a_large_file(make: Make) -> None:
    data = random.Random(4).randbytes(9_000_000)
    with RawOrigin({"/a": data}) as origin:
        assert (await get(make(origin.url), origin.url + "/a"))[1] == data


async def test_headers_are_bytes_and_repeated_ones_are_joined(make: Make) -> None:
    with RawOrigin({"/a": DATA}, decide=lambda _: OddHeaders()) as origin:
        head, _ = await get(make(origin.url), origin.url + "/a", headers={"If-Match": '"caf\xe9"'})
        assert origin.log[0].headers["if-match"] == '"caf\xe9"'
    assert head.headers["etag"] == '"caf\xe9"'
    assert head.headers["x-many"] == "one, two"
    assert head.headers["x-empty"] == ""


async def test_interim_answers_and_trailers_are_no_answers(make: Make) -> None:
    with RawOrigin({"/a": DATA}, decide=lambda _: Roundabout()) as origin:
        head, body = await get(make(origin.url), origin.url + "/a")
    assert (head.status, body) == (200, b"body")
    assert "x-early" not in head.headers
    assert "x-late" not in head.headers


async def test_a_compressed_answer_is_not_unpacked(make: Make) -> None:
    with RawOrigin({"/a": DATA}, default=faults.GzipOnRange()) as origin:
        head, body = await get(make(origin.url), origin.url + "/a", byte_range=ByteRange(0, 1000))
    assert head.headers["content-encoding"] == "gzip"
    assert body.startswith(b"\x1f\x8b")


@pytest.mark.parametrize("status", [204, 304, 404, 416, 500, 503])
async def test_any_status_is_an_answer(make: Make, status: int) -> None:
    with RawOrigin(default=faults.Status(status, body=b"")) as origin:
        head, body = await get(make(origin.url), origin.url + "/a")
    assert (head.status, body) == (status, b"")


async def test_connections_are_kept_and_given_up_where_an_answer_is_left(make: Make) -> None:
    with RawOrigin({"/a": DATA}) as origin:
        transport = make(origin.url)
        for _ in range(3):
            await get(transport, origin.url + "/a")
        assert origin.connection_count == 1
        async with transport.send(Request(origin.url + "/a")):
            pass
        await get(transport, origin.url + "/a")
        assert origin.connection_count <= 2


async def test_a_header_that_would_be_two_is_not_sent(make: Make) -> None:
    with RawOrigin({"/a": DATA}) as origin:
        for value in ("a\r\nX-Injected: b", "a\nb", "a\0b"):
            with pytest.raises(SourceProtocolError, match="not a possible request"):
                await get(make(origin.url), origin.url + "/a", headers={"If-Match": value})
        assert origin.log == []


# --- what goes wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (faults.ShortBody(1000), SourceUnavailable, "the connection broke"),
        (faults.ResetMidBody(1000), SourceUnavailable, "the connection broke"),
        (faults.CloseBeforeAnswer(), SourceUnavailable, "the connection broke"),
        (faults.CloseBeforeAnswer(reset=True), SourceUnavailable, "the connection broke"),
        (faults.Garbage(), SourceUnavailable, "the connection broke"),
        (faults.EndlessHeaders(), SourceUnavailable, "the connection broke"),
        (faults.StallBeforeHead(), SourceTimeout, "no data from the origin in time"),
        (faults.StallAfterHead(), SourceTimeout, "no data from the origin in time"),
        (faults.StallMidBody(1000), SourceTimeout, "no data from the origin in time"),
        (faults.Drip(piece=16, every_s=0.1), SourceTimeout, "the origin did not send all of it in time"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "play") else "",
)
async def test_a_broken_answer_is_an_error_of_ours(
    make: Make, fault: faults.Ok, kind: type[LazysifError], says: str
) -> None:
    """The one after it is right: nothing of a transfer that broke off is left."""
    with RawOrigin({"/a": DATA}) as origin:
        transport = make(origin.url, connections=1)
        origin.script(fault)
        url = f"{origin.url}/a?signature={SECRET}"
        with pytest.raises(LazysifError) as caught:
            await get(transport, url, stall_s=0.3, total_s=0.9)
        assert type(caught.value) is kind
        assert says in str(caught.value)
        assert f"(origin {origin.url}/a)" in str(caught.value)
        assert SECRET not in str(caught.value)
        assert (await get(transport, url))[1] == DATA


async def test_interim_answers_without_end_end_with_the_time(make: Make) -> None:
    with RawOrigin(decide=lambda _: EndlessInterim()) as origin, pytest.raises(SourceUnavailable):
        await get(make(origin.url), origin.url + "/a", stall_s=0.3, total_s=0.5)


async def test_more_than_was_promised_is_not_taken(make: Make) -> None:
    with RawOrigin({"/a": DATA}, default=faults.LongBody(extra=1000, after=True)) as origin:
        assert (await get(make(origin.url), origin.url + "/a"))[1] == DATA


async def test_nobody_there(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}/a?{SECRET}"
    with pytest.raises(SourceUnavailable, match="no connection to the origin") as caught:
        await get(make(url), url)
    assert SECRET not in str(caught.value)
    url = "http://no-such-host.invalid/a"
    with pytest.raises(SourceUnavailable, match="host name has no address"):
        await get(make(url), url)


@pytest.mark.parametrize("url", ["http://[x", "http://a..b/", f"http://{'x' * 70}.invalid/"])
async def test_an_address_that_cannot_be(make: Make, url: str) -> None:
    with pytest.raises(LazysifError, match="cannot be used"):
        await get(make("http://192.0.2.1"), url)


async def test_a_connection_that_is_not_taken_up(make: Make) -> None:
    """A full backlog: the kernel lets SYNs go unanswered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        with pytest.raises(SourceTimeout, match="no connection from the origin in time"):
            await get(make(url), url, stall_s=0.4, total_s=5.0)
        for filler in fillers:
            filler.close()


# --- who waits and who stops waiting ----------------------------------------------------------------------


async def test_a_reader_that_is_slow_is_not_the_origins_fault(make: Make) -> None:
    data = random.Random(5).randbytes(20_000_000)
    with RawOrigin({"/a": data}) as origin:
        request = Request(origin.url + "/a", stall_s=0.2, total_s=20.0)
        async with make(origin.url).send(request) as answer, aclosing(answer.chunks()) as chunks:
            pieces = [await anext(chunks)]
            await trio.sleep(0.5)
            pieces += [chunk async for chunk in chunks]
        assert b"".join(pieces) == data


# httpx leaves the innermost of its generators to the collector where an answer is left early
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_reader_that_does_not_read_stops_the_origin(make: Make) -> None:
    """What is under way stays bounded, by the transport and the kernel's buffers."""
    endless = Endless()
    with RawOrigin({"/a": b"x"}, decide=lambda _: endless) as origin:
        request = Request(origin.url + "/a", stall_s=5.0, total_s=20.0)
        async with make(origin.url).send(request) as answer, aclosing(answer.chunks()) as chunks:
            await anext(chunks)
            sent = -1
            with trio.fail_after(5):
                while sent != origin.log[0].body_bytes:
                    sent = origin.log[0].body_bytes
                    await trio.sleep(0.3)
            assert sent < 40_000_000
            for _ in range(5):
                await anext(chunks)
        origin.wait_for(1, finished=True)


async def test_who_leaves_leaves_nothing_behind(make: Make) -> None:
    """With one connection allowed, each of many cancelled requests gives it back, and hangs up.

    httpx loses places of its pool to requests that are cancelled before their answer (docs/concurrency.md), so
    that nobody does that to it.
    """
    with RawOrigin({"/a": DATA}) as origin:
        transport = make(origin.url, connections=1)
        before_head = isinstance(transport, CurlTransport)
        faulty = [*([faults.StallBeforeHead()] * 5 if before_head else []), *[faults.StallMidBody(1000)] * 5]
        origin.script(*faulty)
        for count, fault in enumerate(faulty, 1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(get, transport, origin.url + "/a")
                await trio.to_thread.run_sync(origin.wait_for, count)
                await trio.sleep(0.05 if isinstance(fault, faults.StallMidBody) else 0.0)
                nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            assert (await get(transport, origin.url + "/a"))[1] == DATA
        started = len(origin.log)
        assert all(entry.finished for entry in origin.wait_for(started, finished=True))


async def test_no_more_connections_than_allowed(make: Make) -> None:
    gate = threading.Event()
    with RawOrigin({"/a": DATA}, default=faults.StallBeforeHead(until=gate)) as origin:
        transport = make(origin.url, connections=2)
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(get, transport, origin.url + "/a")
            await trio.to_thread.run_sync(origin.wait_for, 2)
            await trio.sleep(0.1)
            assert len(origin.log) == 2
            gate.set()
        assert len(origin.log) == 6
        assert origin.connection_count == 2


async def test_many_at_once_get_each_its_own(make: Make) -> None:
    with RawOrigin({"/a": DATA}) as origin:
        transport = make(origin.url, connections=8)
        results: dict[int, bytes] = {}

        async def fetch(start: int) -> None:
            _, results[start] = await get(
                transport, origin.url + "/a", byte_range=ByteRange(start, start + 3000)
            )

        async with trio.open_nursery() as nursery:
            for start in range(0, 290_000, 2900):
                nursery.start_soon(fetch, start)
        assert all(body == DATA[start : start + 3000] for start, body in results.items())
        assert origin.connection_count <= 8


# --- redirects --------------------------------------------------------------------------------------------


async def test_redirects_are_followed_and_the_final_address_is_told(make: Make) -> None:
    with RawOrigin({"/b": DATA}) as other, RawOrigin() as origin:
        origin.script(faults.Redirect(f"{other.url}/b?{SECRET}", 307))
        head, body = await get(make(origin.url), origin.url + "/a", byte_range=ByteRange(5, 9))
        assert (head.url, body) == (other.url + "/b", DATA[5:9])
        assert other.log[0].headers["range"] == "bytes=5-8"


async def test_redirects_end(make: Make) -> None:
    with RawOrigin(default=faults.RedirectLoop(growing=True)) as origin:
        with pytest.raises(SourceProtocolError, match="more than 5 redirects"):
            await get(make(origin.url), origin.url + "/a")
        assert len(origin.log) == 6


@pytest.mark.parametrize(
    "target",
    [
        "http://[x",
        "http://a:99999/",
        f"http://{'x' * 70}.invalid/",
        "http://a..b/",
        "file:///x",
        "http://\x80/",
    ],
)
async def test_redirects_to_impossible_addresses_are_errors_of_ours(make: Make, target: str) -> None:
    with RawOrigin(default=faults.Redirect(target)) as origin, pytest.raises(LazysifError):
        await get(make(origin.url), origin.url + "/a")


async def test_a_redirect_inward_is_refused_unasked(make: Make) -> None:
    with RawOrigin({"/a": DATA}) as inner:
        with pytest.raises(SourceProtocolError, match="this node or its link"):
            await get(make("http://192.0.2.1/"), inner.url + "/a")
        assert inner.log == []


async def test_a_name_that_turned_inward_is_refused_at_the_connection(
    engine: CurlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libcurl alone lets us look at the address that a name has led to, before the request is sent."""
    with RawOrigin({"/a": DATA}) as inner:
        transport = CurlTransport("http://192.0.2.1/", engine)

        async def deceived(url: str) -> None:
            """The name meant another address when it was looked at."""

        monkeypatch.setattr(transport.redirects.guard, "check", deceived)
        with pytest.raises(SourceProtocolError, match="this node or its link"):
            await get(transport, inner.url + "/a")
        assert inner.log == []


async def test_cookies_are_not_kept(make: Make) -> None:
    cookie = faults.Status(200, {"Set-Cookie": "session=abc; Path=/"})
    with (
        RawOrigin({"/a": b"x"}) as other,
        RawOrigin(script=[cookie, faults.Redirect(other.url + "/a")]) as origin,
    ):
        transport = make(origin.url)
        for _ in range(2):
            await get(transport, origin.url + "/a")
        assert len(other.log) == 1
        assert not any("cookie" in entry.headers for entry in [*other.log, *origin.log])


async def test_proxies_and_netrc_of_the_environment_do_not_count(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    with RawOrigin({"/a": DATA}) as origin:
        assert (await get(make(origin.url), origin.url + "/a"))[1] == DATA
        assert "authorization" not in origin.log[0].headers


# --- credentials ------------------------------------------------------------------------------------------


async def test_credentials_stay_where_the_keyring_says(make: Make) -> None:
    with RawOrigin({"/b": DATA}) as other, RawOrigin({"/b": DATA}) as origin:
        origin.script(faults.Redirect("/b"), faults.Redirect(other.url + "/b"))
        transport = make(origin.url, keyring=OriginKeyring(origin.url, BearerAuth("t0ken")))
        origin.script()
        await get(transport, origin.url + "/a")
        await get(transport, origin.url + "/c")
        assert {entry.headers.get("authorization") for entry in origin.log} == {"Bearer t0ken"}
        assert "authorization" not in other.log[0].headers


class TokenAuth(httpx.Auth):
    """Asks another host for a token where it is refused, with the reason that the refusal gives."""

    requires_response_body = True

    def __init__(self, realm: str) -> None:
        self.realm = realm
        self.reasons: list[bytes] = []

    def auth_flow(self, request: httpx.Request):  # type: ignore[no-untyped-def]
        refused = yield request
        if refused.status_code == 401:
            self.reasons.append(refused.content)
            token = yield httpx.Request("GET", self.realm)
            request.headers["Authorization"] = f"Bearer {token.json()['token']}"
            yield request


class Ring:
    def __init__(self, base_url: str, auth: httpx.Auth) -> None:
        self._inner = OriginKeyring(base_url, auth)

    def for_url(self, url: str) -> httpx.Auth | None:
        return self._inner.for_url(url)


async def test_a_challenge_is_answered_with_a_token_from_elsewhere(make: Make) -> None:
    def decide(request: Asked) -> faults.Status | None:
        return (
            None if request.headers.get("authorization") == "Bearer abc" else faults.Status(401, body=b"why")
        )

    with (
        RawOrigin({"/token": b'{"token": "abc"}'}) as realm,
        RawOrigin({"/a": DATA}, decide=decide) as origin,
    ):
        auth = TokenAuth(realm.url + "/token")
        keyring: Keyring = Ring(origin.url, auth)
        head, body = await get(
            make(origin.url, keyring=keyring), origin.url + "/a", byte_range=ByteRange(0, 9)
        )
        assert (head.status, body) == (206, DATA[:9])
        assert auth.reasons == [b"why"]
        assert [entry.path for entry in realm.log] == ["/token"]
        assert "range" not in realm.log[0].headers
        assert [entry.headers.get("range") for entry in origin.log] == ["bytes=0-8"] * 2


async def test_a_token_that_cannot_be_had_is_an_error_of_ours(make: Make) -> None:
    with RawOrigin() as gone:
        url = f"{gone.url}/token?{SECRET}"
    with RawOrigin({"/a": DATA}, default=faults.unauthorized()) as origin:
        keyring = OriginKeyring(origin.url, TokenAuth(url))
        with pytest.raises(SourceUnavailable) as caught:
            await get(make(origin.url, keyring=keyring), origin.url + "/a")
        assert SECRET not in str(caught.value)


async def test_a_name_and_password_in_the_address_are_sent_and_not_shown(make: Make) -> None:
    with RawOrigin({"/a": DATA}) as origin:
        url = origin.url.replace("://", "://me:pa55@") + "/a"
        head, _ = await get(make(origin.url), url)
        assert origin.log[0].headers["authorization"].startswith("Basic ")
        assert origin.log[0].headers["host"] == origin.url.removeprefix("http://")
    assert "pa55" not in head.url


# --- certificates -----------------------------------------------------------------------------------------


async def test_a_private_authority_is_trusted_where_it_is_configured(make: Make, tmp_path: Path) -> None:
    with RawOrigin({"/a": DATA}, tls=True) as origin:
        assert origin.ca is not None
        origin.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        trusting = make(origin.url, ca_file=str(tmp_path / "ca.pem"))
        assert (await get(trusting, origin.url + "/a"))[1] == DATA
        with pytest.raises(SourceProtocolError, match=r"is not trusted: .*issuer") as caught:
            await get(make(origin.url), origin.url + "/a")
        assert "for a private authority set ca_file" in str(caught.value)
        trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
        with pytest.raises(SourceProtocolError, match="is not trusted"):
            await get(make(origin.url, ca_file=str(tmp_path / "other.pem")), origin.url + "/a")


async def test_a_file_without_certificates_is_refused_at_once(make: Make, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate\n")
    for name in ("ca.pem", "none.pem"):
        with pytest.raises(OSError):
            make("https://192.0.2.1/", ca_file=str(tmp_path / name))


async def test_a_certificate_of_another_name_is_refused(make: Make, tmp_path: Path) -> None:
    with RawOrigin({"/a": DATA}, tls=True, hosts=("another.example",)) as origin:
        assert origin.ca is not None
        origin.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        with pytest.raises(SourceProtocolError, match="is not trusted"):
            await get(make(origin.url, ca_file=str(tmp_path / "ca.pem")), origin.url + "/a")
        assert origin.log == []


async def test_from_https_to_plain_http_is_refused(make: Make, tmp_path: Path) -> None:
    with RawOrigin({"/a": DATA}) as plain, RawOrigin(tls=True, default=faults.Redirect(plain.url)) as origin:
        assert origin.ca is not None
        origin.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        with pytest.raises(SourceProtocolError, match="from HTTPS to plain HTTP"):
            await get(make(origin.url, ca_file=str(tmp_path / "ca.pem")), origin.url + "/a")
        assert plain.log == []


async def test_tls_spoken_by_nobody(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/a"

        def answer_plainly() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            connection.close()

        threading.Thread(target=answer_plainly, daemon=True).start()
        with pytest.raises(SourceUnavailable, match="no connection to the origin"):
            await get(make(url), url)


async def test_a_handshake_that_stalls(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/a"
        with pytest.raises(SourceTimeout, match="no connection from the origin in time"):
            await get(make(url), url, stall_s=0.4, total_s=5.0)


async def test_a_client_certificate_is_shown_to_the_remote_alone(make: Make, tmp_path: Path) -> None:
    with RawOrigin({"/b": DATA}, tls=True) as other, RawOrigin({"/a": DATA}, tls=True) as origin:
        assert origin.ca is not None
        assert other.ca is not None
        for asking in (origin, other):
            asking._tls.verify_mode = ssl.CERT_OPTIONAL  # type: ignore[union-attr]
            origin.ca.configure_trust(asking._tls)  # type: ignore[arg-type]
        origin._tls.verify_mode = ssl.CERT_REQUIRED  # type: ignore[union-attr]
        (tmp_path / "ca.pem").write_bytes(origin.ca.cert_pem.bytes() + other.ca.cert_pem.bytes())
        issued = origin.ca.issue_cert("node@site.example")
        issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
        certificate = ClientCertificate(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
        ca_file = str(tmp_path / "ca.pem")
        known = make(origin.url, ca_file=ca_file, client_certificate=certificate)
        assert (await get(known, origin.url + "/a"))[1] == DATA
        origin.script(faults.Redirect(other.url + "/b"))
        assert (await get(known, origin.url + "/a"))[1] == DATA
        assert other.log[0].client == ""
        assert "site.example" in origin.log[0].client
        with pytest.raises(LazysifError):
            await get(make(origin.url, ca_file=ca_file), origin.url + "/a")


# --- proxies ----------------------------------------------------------------------------------------------


async def test_a_proxy_is_told_the_whole_address_of_plain_http(make: Make) -> None:
    with RawOrigin({"/a": DATA}) as origin, ForwardProxy("me:pa55") as proxy:
        transport = make(origin.url, proxy=Proxy(proxy.url, "me", "pa55"))
        head, body = await get(transport, origin.url + "/a?x=%2F", byte_range=ByteRange(0, 99))
        assert (head.status, body) == (206, DATA[:99])
        assert proxy.log[0].startswith(f"GET {origin.url}/a?x=%2F HTTP/1.1\r\n")
        assert "proxy-authorization" not in origin.log[0].headers


async def test_a_proxy_connects_to_https_and_sees_no_more(make: Make, tmp_path: Path) -> None:
    with RawOrigin({"/a": DATA}, tls=True) as origin, ForwardProxy("me:pa55") as proxy:
        assert origin.ca is not None
        origin.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        keyring = OriginKeyring(origin.url, BearerAuth("t0ken"))
        transport = make(
            origin.url,
            keyring=keyring,
            ca_file=str(tmp_path / "ca.pem"),
            proxy=Proxy(proxy.url, "me", "pa55"),
        )
        for _ in range(2):
            head, body = await get(transport, origin.url + "/a")
            assert (head.status, body) == (200, DATA)
        assert "x-proxy" not in head.headers
        assert [line.split("\r\n")[0] for line in proxy.log] == [
            f"CONNECT {origin.url.removeprefix('https://')} HTTP/1.1"
        ]
        assert not any("t0ken" in line for line in proxy.log)
        assert origin.log[0].headers["authorization"] == "Bearer t0ken"
        assert not any("proxy" in name for name in origin.log[0].headers)


async def test_a_proxy_that_refuses_is_named(make: Make) -> None:
    with ForwardProxy(refuses=True) as proxy:
        url = f"https://192.0.2.1/a?{SECRET}"
        with pytest.raises(SourceUnavailable, match="the proxy does not connect to the origin") as caught:
            await get(make(url, proxy=Proxy(proxy.url)), url)
        assert SECRET not in str(caught.value)
    with pytest.raises(SourceUnavailable, match="no connection to the proxy"):
        await get(make(url, proxy=Proxy(proxy_gone())), url)


def proxy_gone() -> str:
    """The address of a proxy that is no longer there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


# --- the thread of libcurl --------------------------------------------------------------------------------


async def test_the_end_of_the_engine_ends_its_transfers() -> None:
    engine = CurlEngine()
    engine.start()
    with RawOrigin({"/a": DATA}, default=faults.StallMidBody(1000)) as origin:
        transport = CurlTransport(origin.url, engine)

        async def read() -> None:
            with pytest.raises(SourceUnavailable, match="shutting down"):
                await get(transport, origin.url + "/a")

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.to_thread.run_sync(origin.wait_for)
                await trio.sleep(0.05)
                await engine.aclose()
            with pytest.raises(SourceUnavailable, match="shutting down"):
                await get(transport, origin.url + "/a")


async def test_a_fault_in_the_thread_fails_its_transfers_and_no_others(
    engine: CurlEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with RawOrigin({"/a": DATA}, script=[faults.StallMidBody(1000)]) as origin:
        transport = CurlTransport(origin.url, engine)

        async def read() -> None:
            with pytest.raises(SourceUnavailable, match="internal error"):
                await get(transport, origin.url + "/a")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.to_thread.run_sync(origin.wait_for)
            engine.call(lambda: 1 // 0)
        with trio.fail_after(5):
            assert (await get(transport, origin.url + "/a"))[1] == DATA
    assert "begins anew" in caplog.text


async def test_transfers_take_no_descriptors_along(engine: CurlEngine) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with RawOrigin({"/a": DATA}) as origin:
        transport = CurlTransport(origin.url, engine)
        await get(transport, origin.url + "/a")
        before = descriptors()
        for _ in range(20):
            async with transport.send(Request(origin.url + "/a")):
                pass
        await get(transport, origin.url + "/a")
        origin.drop_connections()  # its ends are of this process, too
        await get(transport, origin.url + "/a")
        with trio.fail_after(5):
            while descriptors() > before + 2:  # noqa: ASYNC110 - no event tells that the kernel has closed one
                await trio.sleep(0.02)


# --- faults of this suite's own ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OddHeaders:
    def play(self, wire: Wire) -> None:
        wire.send_raw(
            b'HTTP/1.1 200 OK\r\nETag: "caf\xe9"\r\nX-Many: one\r\nX-Empty:\r\nx-many:  two \r\n'
            b"Content-Length: 2\r\n\r\nab"
        )


@dataclass(frozen=True, slots=True)
class Roundabout:
    """103 Early Hints, then the answer, chunked, with a trailer."""

    def play(self, wire: Wire) -> None:
        wire.send_raw(b"HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n")
        wire.send_raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Late: 1\r\n\r\n"
        )


@dataclass(frozen=True, slots=True)
class EndlessInterim:
    def play(self, wire: Wire) -> None:
        while not wire.origin.closing.is_set():
            wire.send_raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 50)
            wire.wait(0.01)


@dataclass(slots=True)
class Endless:
    """A body without end, of unsaid length."""

    def play(self, wire: Wire) -> None:
        piece = bytes(64 << 10)
        wire.send_raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not wire.origin.closing.is_set():
            wire.send_body(piece)
