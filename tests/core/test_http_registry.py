"""The registry of plain web servers, over a transport that answers from a table."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lazysif.core.index_page import LARGEST_PAGE
from lazysif.errors import NoSuchEntry, SourceProtocolError, SourceUnavailable
from lazysif.model import AnswerHead, DirectoryEntry, EntryKind, Location, Request
from lazysif.registries.http import HttpRegistry

PAGES = Path(__file__).parent / "index_pages"
BASE = "https://images.example/sif?sig=1"
PAGE = b"<title>Index of /sif/</title><a href='../'>../</a><a href='d/'>d/</a><a href='a.sif'>a.sif</a>"
ENTRIES = (DirectoryEntry("d", EntryKind.DIRECTORY), DirectoryEntry("a.sif", EntryKind.FILE))


@dataclass
class TableAnswer:
    head: AnswerHead
    body: bytes

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.body), 1 << 20):
            yield self.body[start : start + (1 << 20)]


@dataclass
class OneAnswer:
    """Gives every request the same answer and keeps the requests."""

    status: int = 200
    body: bytes = PAGE
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "text/html"})
    url: str = "https://images.example/sif/"
    asked: list[Request] = field(default_factory=list)

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[TableAnswer]:
        self.asked.append(request)
        yield TableAnswer(AnswerHead(self.status, self.headers, self.url), self.body)

    async def aclose(self) -> None: ...


async def test_a_name_is_a_url() -> None:
    transport = OneAnswer()
    assert await HttpRegistry(BASE, transport).locate("d/a b.sif") == Location(
        "https://images.example/sif/d/a%20b.sif?sig=1", "https://images.example/sif/d/a%20b.sif"
    )
    assert not transport.asked


@pytest.mark.parametrize("path", ["..", "a/../b", "a\n", "a//b"])
async def test_what_is_no_name_is_not_asked_for(path: str) -> None:
    registry = HttpRegistry(BASE, OneAnswer())
    for call in (registry.locate, registry.list):
        with pytest.raises(NoSuchEntry):
            await call(path)


async def test_a_directory_is_listed() -> None:
    transport = OneAnswer()
    assert await HttpRegistry(BASE, transport).list("") == ENTRIES
    assert transport.asked[0].url == "https://images.example/sif/?sig=1"
    assert transport.asked[0].byte_range is None


async def test_a_directory_below() -> None:
    transport = OneAnswer(
        url="https://images.example/sif/bio%20x/", body=b"<title>Index of /x</title><a href=b>"
    )
    entries = await HttpRegistry(BASE, transport).list("bio x")
    assert entries == (DirectoryEntry("b", EntryKind.FILE),)
    assert transport.asked[0].url == "https://images.example/sif/bio%20x/?sig=1"


async def test_json_is_read() -> None:
    body = (PAGES / "nginx.json").read_bytes()
    entries = await HttpRegistry(
        BASE, OneAnswer(body=body, headers={"content-type": "application/json"})
    ).list("")
    assert entries is not None
    assert len(entries) == 11


async def test_a_mirror_with_the_same_path_is_believed() -> None:
    assert await HttpRegistry(BASE, OneAnswer(url="http://mirror.example:81/sif/")).list("") == ENTRIES


async def test_a_long_page_is_parsed_off_the_trio_thread() -> None:
    body = PAGE + b"<!-- filler -->" * 10_000
    assert await HttpRegistry(BASE, OneAnswer(body=body)).list("") == ENTRIES


@pytest.mark.parametrize(
    "transport",
    [
        OneAnswer(status=401),
        OneAnswer(status=403),
        OneAnswer(status=404),
        OneAnswer(status=400),
        OneAnswer(status=301),
        OneAnswer(status=204, body=b""),
        OneAnswer(body=b"<title>Welcome</title>"),
        OneAnswer(headers={}),
        OneAnswer(headers={"content-type": "application/octet-stream"}),
        OneAnswer(url="https://images.example/login/"),
        OneAnswer(url="https://images.example/sif"),
    ],
    ids=lambda transport: f"{transport.status} {transport.url} {transport.body[:20]!r}",
)
async def test_no_listing_is_an_answer(transport: OneAnswer) -> None:
    assert await HttpRegistry(BASE, transport).list("") is None


async def test_listing_can_be_off() -> None:
    transport = OneAnswer()
    assert await HttpRegistry(BASE, transport, "off").list("") is None
    assert not transport.asked


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_an_origin_that_cannot_say(status: int) -> None:
    transport = OneAnswer(status=status, headers={"retry-after": "7"})
    with pytest.raises(SourceUnavailable) as raised:
        await HttpRegistry(BASE, transport).list("")
    assert raised.value.retry_after_s == 7
    assert "sig" not in str(raised.value)


@pytest.mark.parametrize(
    "transport",
    [
        OneAnswer(body=PAGE + bytes(LARGEST_PAGE)),
        OneAnswer(body=PAGE + b"".join(b"<a href=%d>" % number for number in range(100_001))),
        OneAnswer(headers={"content-type": "text/html", "content-encoding": "gzip"}),
    ],
    ids=["too long", "too many", "compressed"],
)
async def test_a_page_that_cannot_be_believed(transport: OneAnswer) -> None:
    with pytest.raises(SourceProtocolError, match=r"images\.example/sif"):
        await HttpRegistry(BASE, transport).list("")
