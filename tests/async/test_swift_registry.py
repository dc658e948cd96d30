"""Names and listings of Swift, without a server."""

from __future__ import annotations

import json

import pytest

from lazysif.core import swift as core_swift
from lazysif.errors import NoSuchEntry, SourceProtocolError
from lazysif.model import DirectoryEntry, EntryKind
from lazysif.registries.swift import SwiftAccount, SwiftRegistry
from tests.support.fake_transport import FakeTransport, File, Headers

STORE = "https://store.example/v1/A"
LOGIN = "https://keystone.example/v3/auth/tokens"


def registry(transport: FakeTransport, container: str = "", prefix: str = "") -> SwiftRegistry:
    return SwiftRegistry(SwiftAccount(storage_url=STORE), transport, container, prefix)


async def test_a_name_is_an_object_and_costs_nothing() -> None:
    transport = FakeTransport()
    location = await registry(transport).locate("images/dir/x y.sif")
    assert location is not None
    assert location.url == f"{STORE}/images/dir/x%20y.sif"
    below = await registry(transport, "images", "lab/2026").locate("x.sif")
    assert below is not None
    assert below.url == f"{STORE}/images/lab/2026/x.sif"
    assert await registry(transport).locate("images") is None
    with pytest.raises(NoSuchEntry):
        await registry(transport).locate(".git")
    assert transport.requests == []


async def test_a_listing_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_swift, "PAGE", 2)
    pages = FakeTransport({"/v1/A/images": File(json.dumps([{"name": "a.sif"}]).encode())})
    assert await registry(pages, "images").list("") == (DirectoryEntry("a.sif", EntryKind.FILE),)
    full = FakeTransport({"/v1/A/images": File(json.dumps([{"name": "a.sif"}, {"subdir": "b/"}]).encode())})
    assert await registry(full, "images").list("") is None, "one that does not end is none"
    assert len(full.requests) == 20
    assert full.requests[1].url.endswith("&marker=b%2F")


async def test_what_may_not_be_listed_or_is_not_there_has_no_listing() -> None:
    assert await registry(FakeTransport()).list("images") is None


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://store.example/v1/A", "from HTTPS to plain HTTP"),
        ("file:///etc", "names no address"),
        ("", "names no address"),
    ],
)
async def test_where_a_login_may_not_lead(address: str, told: str) -> None:
    trusted: list[str] = []
    transport = FakeTransport(
        {"/v3/auth/tokens": File(b"{}")}, script=[Headers({"x-storage-url": address, "content-length": "2"})]
    )
    account = SwiftAccount(login_url=LOGIN, opened=trusted.append)
    with pytest.raises(SourceProtocolError, match=told):
        await SwiftRegistry(account, transport).locate("images/x.sif")
    assert trusted == []


async def test_a_login_without_a_catalog_is_told() -> None:
    transport = FakeTransport({"/v3/auth/tokens": File(b'{"token": {}}')})
    with pytest.raises(SourceProtocolError, match="the login needs a project"):
        await SwiftRegistry(SwiftAccount(login_url=LOGIN), transport).locate("images/x.sif")
