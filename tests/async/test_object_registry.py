"""Buckets as directories: what is asked for a name, pages of listings, and listings that are not allowed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import pytest

from lazysif.core.gcs import gcs_bucket
from lazysif.core.s3_bucket import bucket_address
from lazysif.errors import AccessDenied, NoSuchEntry, SourceProtocolError, SourceUnavailable
from lazysif.model import AnswerHead, DirectoryEntry, EntryKind, Request
from lazysif.registries.gcs import GcsStore
from lazysif.registries.object_store import ObjectRegistry
from lazysif.registries.s3 import S3Store

FILE, DIRECTORY = EntryKind.FILE, EntryKind.DIRECTORY
Answered = tuple[int, str]


@dataclass
class Answer:
    head: AnswerHead
    body: bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield self.body


@dataclass
class Bucket:
    """Answers listings by a function of their query."""

    listing: Callable[[dict[str, str]], Answered]
    asked: list[dict[str, str]] = field(default_factory=list)

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Answer]:
        query = {name: values[0] for name, values in parse_qs(urlsplit(request.url).query).items()}
        self.asked.append(query)
        status, body = self.listing(query)
        yield Answer(AnswerHead(status, {}, request.url.partition("?")[0]), body.encode())

    async def aclose(self) -> None: ...


def page(*keys: str, prefixes: tuple[str, ...] = (), token: str = "") -> Answered:
    more = (
        f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
        if token
        else ""
    )
    contents = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys)
    common = "".join(f"<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>" for prefix in prefixes)
    return 200, f"<ListBucketResult>{more}{contents}{common}</ListBucketResult>"


def s3(bucket: Bucket, *, listing: bool = True) -> ObjectRegistry:
    return ObjectRegistry(S3Store(bucket_address("s3://images/sif")), bucket, listing=listing)


async def test_the_name_of_an_image_costs_nothing() -> None:
    bucket = Bucket(lambda _: page())
    location = await s3(bucket).locate("d/a.sif")
    assert location is not None
    assert location.url == location.origin == "https://images.s3.amazonaws.com/sif/d/a.sif"
    assert not bucket.asked


@pytest.mark.parametrize(
    ("answer", "is_directory"),
    [
        (page("sif/d/a.sif"), True),
        (page(prefixes=("sif/d/e/",)), True),
        (page(), False),
        (page("sif/d/"), False),
    ],
    ids=["file below", "directory below", "nothing", "the marker alone"],
)
async def test_another_name_is_asked_for_as_a_directory(answer: Answered, is_directory: bool) -> None:
    bucket = Bucket(lambda _: answer)
    assert (await s3(bucket).locate("d") is None) is is_directory
    (asked,) = bucket.asked
    assert (asked["prefix"], asked["delimiter"], asked["max-keys"]) == ("sif/d/", "/", "1")


async def test_pages_are_joined_and_a_name_is_there_once() -> None:
    pages = {
        "": page("sif/a.sif", "sif/d", prefixes=("sif/c/",), token="1"),
        "1": page("sif/b.sif", prefixes=("sif/d/",), token="2"),
        "2": page(),
    }
    bucket = Bucket(lambda query: pages[query.get("continuation-token", "")])
    assert await s3(bucket).list("") == (
        DirectoryEntry("a.sif", FILE),
        DirectoryEntry("d", FILE),
        DirectoryEntry("c", DIRECTORY),
        DirectoryEntry("b.sif", FILE),
    )
    assert len(bucket.asked) == 3


async def test_a_token_that_stays_ends_the_listing() -> None:
    bucket = Bucket(lambda _: page("sif/a.sif", token="same"))
    assert await s3(bucket).list("") == (DirectoryEntry("a.sif", FILE),)
    assert len(bucket.asked) == 2


async def test_a_directory_of_too_many_names_is_told() -> None:
    def listing(query: dict[str, str]) -> Answered:
        start = int(query.get("continuation-token", "0"))
        keys = [f"sif/{number}" for number in range(start, start + 20_000)]
        return page(*keys, token=str(start + 20_000))

    with pytest.raises(SourceProtocolError, match="more than 100000 names"):
        await s3(Bucket(listing)).list("")


async def test_who_may_not_list_is_asked_once_and_names_still_work(mock_clock) -> None:
    bucket = Bucket(lambda _: (403, ""))
    registry = s3(bucket)
    assert await registry.list("") is None
    assert await registry.list("d") is None
    assert await registry.locate("d") is not None
    assert len(bucket.asked) == 1
    mock_clock.jump(301)
    assert await registry.list("") is None
    assert len(bucket.asked) == 2


async def test_refused_credentials_are_no_missing_right() -> None:
    registry = s3(Bucket(lambda _: (401, "")))
    for ask in (registry.list, registry.locate):
        with pytest.raises(AccessDenied):
            await ask("d")


async def test_listing_can_be_off() -> None:
    bucket = Bucket(lambda _: page("sif/d/a.sif"))
    registry = s3(bucket, listing=False)
    assert await registry.list("") is None
    assert await registry.locate("d") is not None
    assert not bucket.asked


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((503, ""), SourceUnavailable),
        ((404, ""), NoSuchEntry),
        ((200, "<html>"), SourceProtocolError),
        ((200, "x" * (9 << 20)), SourceProtocolError),
    ],
    ids=["busy", "no bucket", "no listing", "too long"],
)
async def test_listings_that_fail(answer: Answered, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        await s3(Bucket(lambda _: answer)).list("")


@pytest.mark.parametrize("path", ["..", "a//b", "a\n", "x" * 1100])
async def test_what_is_no_name_is_not_asked_for(path: str) -> None:
    bucket = Bucket(lambda _: page())
    for call in (s3(bucket).locate, s3(bucket).list):
        with pytest.raises(NoSuchEntry):
            await call(path)
    assert not bucket.asked


async def test_the_remotes_own_directory_is_one() -> None:
    assert await s3(Bucket(lambda _: page())).locate("") is None


async def test_google_lists_in_json() -> None:
    said = {"": '{"items": [{"name": "sif/a.sif"}], "nextPageToken": "t"}', "t": '{"prefixes": ["sif/d/"]}'}
    bucket = Bucket(lambda query: (200, said[query.get("pageToken", "")]))
    registry = ObjectRegistry(GcsStore(gcs_bucket("gs://images/sif")), bucket)
    assert await registry.list("") == (DirectoryEntry("a.sif", FILE), DirectoryEntry("d", DIRECTORY))
    location = await registry.locate("a.sif")
    assert location is not None
    assert location.url == "https://storage.googleapis.com/storage/v1/b/images/o/sif%2Fa.sif?alt=media"
    assert location.origin == "https://storage.googleapis.com/images/sif/a.sif"
