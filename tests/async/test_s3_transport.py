"""What S3's refusals bring about: the region is learned, keys are renewed, versions are let go, people are told."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from lazysif.core.s3_bucket import Region, bucket_address
from lazysif.core.sigv4 import SigningKey
from lazysif.errors import AccessDenied, NoSuchEntry, SourceProtocolError
from lazysif.model import AnswerHead, ByteRange, Request
from lazysif.transport.renewable import Held, Renewable
from lazysif.transport.s3_auth import S3Auth, S3Keyring
from lazysif.transport.s3_transport import S3Transport

AWS = "https://images.s3.amazonaws.com"
PRESIGNED = f"{AWS}/a.sif?X-Amz-Credential=x&X-Amz-Signature=y"
OLD, NEW = SigningKey("OLD", "one"), SigningKey("NEW", "two")


@dataclass
class Answered:
    head: AnswerHead
    body: bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield self.body


@dataclass
class Table:
    """Answers each request by a function of it: (status, headers, body)."""

    answer: Callable[[Request], tuple[int, dict[str, str], bytes]]
    asked: list[Request] = field(default_factory=list)

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Answered]:
        self.asked.append(request)
        status, headers, body = self.answer(request)
        yield Answered(AnswerHead(status, headers, request.url.partition("?")[0]), body)

    async def aclose(self) -> None: ...


def error(code: str, more: str = "") -> bytes:
    return f"<Error><Code>{code}</Code>{more}</Error>".encode()


def keys(*given: SigningKey) -> Renewable[SigningKey]:
    """The first, and the others in turn when they are asked for anew."""
    left = list(given)

    def load(anew: bool) -> Held[SigningKey]:
        key = left.pop(0) if len(left) > 1 else left[0]
        return Held(key, time.time() + 60, time.time() + 60)

    return Renewable(load, "keys")


def transport(
    table: Table, *, url: str = "s3://images", own: Renewable[SigningKey] | None = None
) -> S3Transport:
    address = bucket_address(url)
    return S3Transport(table, address, Region(address), own)


async def status_of(sender: S3Transport, request: Request) -> int:
    async with sender.send(request) as answer:
        return answer.head.status


REQUEST = Request(f"{AWS}/a.sif", byte_range=ByteRange(0, 10))
PINNED = Request(f"{AWS}/a.sif?versionId=v1", {"If-Match": '"e"'}, ByteRange(0, 10))


@pytest.mark.parametrize(
    "refusal",
    [
        (301, {"x-amz-bucket-region": "eu-west-1"}, error("PermanentRedirect")),
        (400, {}, error("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>")),
        (400, {"x-amz-bucket-region": "eu-west-1"}, b""),
    ],
)
async def test_the_region_is_learned_once(refusal):
    table = Table(lambda asked: (206, {}, b"x") if ".eu-west-1." in asked.url else refusal)
    sender = transport(table)
    assert await status_of(sender, REQUEST) == 206
    assert await status_of(sender, REQUEST) == 206
    assert [asked.url for asked in table.asked] == [
        f"{AWS}/a.sif",
        "https://images.s3.eu-west-1.amazonaws.com/a.sif",
        "https://images.s3.eu-west-1.amazonaws.com/a.sif",
    ]


async def test_a_region_that_helps_nothing_is_told():
    table = Table(lambda _: (301, {"x-amz-bucket-region": "eu-west-1"}, error("PermanentRedirect")))
    with pytest.raises(SourceProtocolError, match="another region"):
        await status_of(transport(table), REQUEST)
    assert len(table.asked) == 2


async def test_a_region_that_was_configured_wrong_is_put_right():
    right = "https://images.s3.eu-west-1.amazonaws.com/a.sif"
    elsewhere = (301, {"x-amz-bucket-region": "eu-west-1"}, error("PermanentRedirect"))
    table = Table(lambda asked: (206, {}, b"x") if asked.url == right else elsewhere)
    assert await status_of(transport(table, url="https://images.s3.us-west-2.amazonaws.com"), REQUEST) == 206


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId"])
async def test_credentials_that_ended_are_asked_for_anew(code):
    own = keys(OLD, NEW)

    def answer(_: Request) -> tuple[int, dict[str, str], bytes]:
        refused = own._held is not None and own._held.value == OLD
        return (400, {}, error(code)) if refused else (206, {}, b"x")

    table = Table(answer)
    assert await status_of(transport(table, own=own), REQUEST) == 206
    assert len(table.asked) == 2


async def test_credentials_that_ended_and_have_no_successor_are_told():
    table = Table(lambda _: (400, {}, error("ExpiredToken")))
    sender = transport(table, own=keys(OLD))
    for _ in range(2):
        with pytest.raises(AccessDenied, match="expired") as raised:
            await status_of(sender, REQUEST)
        assert raised.value.asks_credentials
        assert raised.value.origin == f"{AWS}/a.sif"
    assert len(table.asked) == 2


async def test_a_version_that_may_not_be_asked_for_is_not_asked_for_again():
    """Without s3:GetObjectVersion; the ETag guards the bytes."""
    table = Table(
        lambda asked: (403, {}, error("AccessDenied")) if "versionId" in asked.url else (206, {}, b"x")
    )
    sender = transport(table)
    assert await status_of(sender, PINNED) == 206
    assert await status_of(sender, PINNED) == 206
    assert [("versionId" in asked.url, asked.headers) for asked in table.asked] == [
        (True, {"If-Match": '"e"'}),
        (False, {"If-Match": '"e"'}),
        (False, {"If-Match": '"e"'}),
    ]


async def test_who_may_read_nothing_does_not_lose_versions():
    table = Table(lambda _: (403, {}, error("AccessDenied")))
    sender = transport(table)
    with pytest.raises(AccessDenied):
        await status_of(sender, PINNED)
    table.answer = lambda _: (206, {}, b"x")
    assert await status_of(sender, PINNED) == 206
    assert table.asked[-1].url == PINNED.url


async def test_a_version_that_is_gone_may_be_there_again():
    table = Table(
        lambda asked: (404, {}, error("NoSuchVersion")) if "versionId" in asked.url else (412, {}, b"")
    )
    sender = transport(table)
    for _ in range(2):
        assert await status_of(sender, PINNED) == 412
    assert len(table.asked) == 4


async def test_without_a_guard_a_version_is_never_let_go():
    table = Table(lambda _: (404, {}, error("NoSuchVersion")))
    assert await status_of(transport(table), Request(PINNED.url)) == 404
    assert len(table.asked) == 1


@pytest.mark.parametrize("status", [200, 206, 304, 412, 416])
async def test_answers_pass_unread(status):
    table = Table(lambda _: (status, {}, b"body"))
    async with transport(table).send(REQUEST) as answer:
        assert [chunk async for chunk in answer.chunks()] == [b"body"]


async def test_a_missing_key_is_the_status_alone():
    table = Table(lambda _: (404, {}, error("NoSuchKey")))
    assert await status_of(transport(table), REQUEST) == 404


async def test_a_missing_bucket_is_told():
    table = Table(lambda _: (404, {}, error("NoSuchBucket")))
    with pytest.raises(NoSuchEntry, match='no bucket "images"'):
        await status_of(transport(table), REQUEST)


async def test_a_slow_request_is_temporary_though_its_status_is_400():
    table = Table(lambda _: (400, {}, error("RequestTimeout")))
    assert await status_of(transport(table), REQUEST) == 503


async def test_a_long_body_is_not_read_to_its_end():
    async def endless() -> AsyncGenerator[bytes, None]:
        for _ in range(1000):
            yield bytes(1 << 16)
        pytest.fail("read to the end")

    table = Table(lambda _: (400, {}, b""))
    answered = Answered(AnswerHead(400, {}, AWS), b"")
    answered.chunks = endless  # type: ignore[method-assign]

    @asynccontextmanager
    async def send(request: Request) -> AsyncIterator[Answered]:
        yield answered

    table.send = send  # type: ignore[method-assign]
    assert await status_of(transport(table), REQUEST) == 400


# --- credentials ----------------------------------------------------------------------------------


def keyring(url: str = "s3://images") -> S3Keyring:
    address = bucket_address(url)
    return S3Keyring(address, S3Auth(Region(address), keys(OLD), requester_pays=True))


@pytest.mark.parametrize(
    "url", [PRESIGNED, "https://cdn.example/a.sif", "https://other.s3.amazonaws.com/a.sif"]
)
def test_nothing_but_the_bucket_is_signed(url):
    assert keyring().for_url(url) is None


async def test_a_request_is_signed_for_its_region():
    url = "https://images.s3.eu-west-1.amazonaws.com/a.sif"
    auth = keyring().for_url(url)
    assert auth is not None
    request = httpx.Request("GET", url, headers={"Range": "bytes=0-9"})
    async with aclosing(auth.async_auth_flow(request)) as flow:
        sent = await anext(flow)
    assert "/eu-west-1/s3/aws4_request" in sent.headers["authorization"]
    assert "range" not in sent.headers["authorization"].lower()
    assert "x-amz-request-payer" in sent.headers["authorization"]
    assert sent.headers["x-amz-request-payer"] == "requester"
