"""Which of a Singularity Registry Server's two APIs is asked, and what its odd answers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from lazysif.errors import AccessDenied, LazysifError, NoSuchEntry, SourceProtocolError, SourceUnavailable
from lazysif.model import Location
from lazysif.registries.sregistry import SregistryRegistry
from tests.support.fake_transport import FakeTransport, File, Stall, Status

BASE = "https://sregistry.example"
DIGEST = "a" * 64
LIBRARY, OWN = "/v1/images/tools/hello:latest", "/api/container/tools/hello:latest"


def page(content: Any) -> File:
    return File(json.dumps(content).encode())


IN_LIBRARY = page({"data": {"hash": f"sha256.{DIGEST}"}})
SECRET = f"{BASE}/containers/7/download/0123456789abcdef"
IN_OWN = page({"id": 7, "image": SECRET, "version": f"sha256.{DIGEST}"})


async def located(transport: FakeTransport, path: str = "tools/hello.sif") -> Location | None:
    return await SregistryRegistry(BASE, transport).locate(path)


async def test_the_library_api_goes_first_and_names_the_version() -> None:
    transport = FakeTransport({LIBRARY: IN_LIBRARY, OWN: IN_OWN})
    location = await located(transport)
    assert location is not None
    assert location.url == f"{BASE}/v1/imagefile/tools/hello:sha256.{DIGEST}?arch=amd64"
    assert not location.once
    assert len(transport.requests) == 1


async def test_its_own_api_gives_an_address_to_be_asked_once_and_never_shown() -> None:
    location = await located(FakeTransport({OWN: IN_OWN}))
    assert location is not None
    assert (location.url, location.once) == (SECRET, True)
    assert "0123456789abcdef" not in location.origin + repr(location)


async def test_which_api_a_server_speaks_is_remembered() -> None:
    transport = FakeTransport({LIBRARY: IN_LIBRARY})
    registry = SregistryRegistry(BASE, transport)
    await registry.locate("tools/hello.sif")
    with pytest.raises(NoSuchEntry):
        await registry.locate("tools/absent.sif")
    assert len(transport.requests) == 2
    transport = FakeTransport({OWN: IN_OWN})
    registry = SregistryRegistry(BASE, transport)
    await registry.locate("tools/hello.sif")
    await registry.locate("tools/hello.sif")
    assert [request.url.removeprefix(BASE).partition("/")[2][:4] for request in transport.requests] == [
        "v1/i",
        "api/",
        "api/",
    ]


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (page(429), SourceProtocolError, "limit of downloads"),
        (page(400), AccessDenied, "does not take the credentials"),
        (page([]), SourceProtocolError, "no description"),
        (page({"image": ""}), SourceProtocolError, "names no address"),
        (File(b"<html>"), SourceProtocolError, "not JSON"),
    ],
)
async def test_odd_answers_are_told(answer: File, kind: type[LazysifError], told: str) -> None:
    with pytest.raises(kind, match=told):
        await located(FakeTransport({OWN: answer}))


async def test_500_is_a_private_collection_or_a_server_in_trouble() -> None:
    """Its library API fails for a private collection without a token; its own says so."""
    transport = FakeTransport({LIBRARY: IN_LIBRARY, OWN: IN_OWN}, script=[Status(500), Status(403)])
    with pytest.raises(AccessDenied, match="username, token_file") as raised:
        await located(transport)
    assert raised.value.asks_credentials
    transport = FakeTransport({LIBRARY: IN_LIBRARY, OWN: IN_OWN})
    registry = SregistryRegistry(BASE, transport)
    await registry.locate("tools/hello.sif")
    transport.script.append(Status(500))
    with pytest.raises(SourceUnavailable, match="500"):
        await registry.locate("tools/hello.sif")


async def test_a_version_that_the_server_did_not_look_at_is_not_taken_for_it() -> None:
    other = "b" * 64
    with pytest.raises(NoSuchEntry, match="another version"):
        await located(
            FakeTransport({f"/api/container/tools/hello:latest@sha256.{other}": IN_OWN}),
            f"tools/hello@sha256.{other}.sif",
        )


async def test_a_silent_server_is_told_before_the_look_up_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    transport = FakeTransport({OWN: IN_OWN}, script=[Stall()])
    began = trio.current_time()
    with pytest.raises(SourceUnavailable):
        await located(transport)
    assert trio.current_time() - began <= 15
