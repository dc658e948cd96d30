"""Names of a library remote: what is asked, what is believed, and which tokens go where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import httpx
import pytest

from lazysif.config.kinds import LibraryRemote, OrasRemote
from lazysif.core.library_names import api_name, parse_library_name
from lazysif.core.references import Reference
from lazysif.errors import AccessDenied, LazysifError, NoSuchEntry, SourceProtocolError, SourceUnavailable
from lazysif.image_uri import parse_uri
from lazysif.model import DirectoryEntry, EntryKind, Image, ImageId, Validator, ValidatorKind
from lazysif.registries.library import LibraryRegistry
from lazysif.transport.library_auth import LibraryKeyring
from tests.support.fake_transport import FakeTransport, File, Status

HEX = "a" * 64
HASH, DIGEST = f"sha256.{HEX}", f"sha256:{HEX}"
URL = "https://library.example"
NAME = "user/tools/hello"


@pytest.mark.parametrize(
    ("path", "reference"),
    [
        (f"{NAME}:1.sif", Reference(NAME, "1")),
        (f"{NAME}", Reference(NAME, "latest")),
        (f"{NAME}:{HASH}.sif", Reference(NAME, HASH, DIGEST)),
        (f"{NAME}@{DIGEST}", Reference(NAME, "latest", DIGEST)),
        (f"{HASH}.sif", Reference(HASH, "latest", DIGEST)),
        (HASH, Reference(HASH, "latest", DIGEST)),
        ("hello.sif", Reference("hello", "latest")),
        ("tools/hello:1", Reference("tools/hello", "1")),
        ("tools/hello", None),
        ("", None),
    ],
)
def test_names(path: str, reference: Reference | None) -> None:
    assert parse_library_name(path) == reference


@pytest.mark.parametrize(
    "path", ["a/b/c/d", "a/b/c/d:1", ".git", "a/b/c:x y", "a/b/c@md5:0", "a/b/c@commit", "a?b/c:1", "a/b:,"]
)
def test_what_is_no_name(path: str) -> None:
    with pytest.raises(NoSuchEntry) as raised:
        parse_library_name(path)
    assert raised.value.certain


def test_how_the_library_calls_it() -> None:
    assert api_name(Reference(NAME, "1")) == f"{NAME}:1"
    assert api_name(Reference(NAME, "latest", DIGEST)) == f"{NAME}:{HASH}"
    assert api_name(Reference(HASH, "latest", DIGEST)) == HASH


# --- what is asked ---------------------------------------------------------------------------------


class Keys:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.trusted: list[str] = []
        self.granted: list[tuple[str, str]] = []

    def trust(self, url: str) -> None:
        self.trusted.append(url)

    def grant(self, below: str, token: str) -> None:
        self.granted.append((below, token))


def said(document: object) -> File:
    return File(json.dumps(document).encode())


def image(**changes: object) -> File:
    return said({"data": {"hash": HASH, "arch": "arm64", **changes}})


def world(files: Mapping[str, File]) -> tuple[LibraryRegistry, FakeTransport, Keys]:
    transport, keys = FakeTransport(files), Keys()
    return LibraryRegistry(URL, transport, keys, architecture="arm64"), transport, keys


def asked(transport: FakeTransport) -> list[str]:
    return [request.url.removeprefix("https://") for request in transport.requests]


async def test_by_a_redirect_of_the_hash() -> None:
    files = {f"/v1/images/{NAME}:1": image(), f"/v1/images/{NAME}:{HASH}": image()}
    registry, transport, _ = world(files)
    location = await registry.locate(f"{NAME}:1.sif")
    assert location is not None
    assert location.url == f"{URL}/v1/imagefile/{NAME}:{HASH}?arch=arm64"
    assert location.origin == f"{URL}/v1/imagefile/{NAME}:{HASH}"
    assert (location.validator, location.content_addressed) == (
        Validator(ValidatorKind.DIGEST, DIGEST),
        False,
    )
    assert asked(transport) == [
        f"library.example/v1/images/{NAME}:1?arch=arm64",
        f"library.example/v1/oci-redirect?namespace={NAME.replace('/', '%2F')}&mapped=1&accessTypes=pull",
        f"library.example/v1/images/{NAME}:{HASH}?arch=arm64",
    ]
    transport.requests.clear()
    assert await registry.locate(f"{NAME}:1.sif") == location
    assert asked(transport) == [f"library.example/v1/images/{NAME}:1?arch=arm64"]
    transport.requests.clear()
    assert [await registry.locate(f"{NAME}:{HASH}"), await registry.locate(f"{NAME}:{HASH}.sif")] == [
        location
    ] * 2
    assert len(transport.requests) == 1  # a hash, once


async def test_by_a_blob_with_a_token() -> None:
    redirect = said({"token": "secret", "url": "https://oci.example/", "name": "mapped/x"})
    registry, transport, keys = world({f"/v1/images/{NAME}:1": image(), "/v1/oci-redirect": redirect})
    location = await registry.locate(f"{NAME}:1")
    assert location is not None
    assert location.url == f"https://oci.example/v2/mapped/x/blobs/{DIGEST}"
    assert location.origin == f"{URL}/v1/imagefile/{NAME}:{HASH}"  # the same image by whatever way
    assert location.content_addressed
    assert keys.granted == [("https://oci.example/v2/mapped/x/", "secret")]
    transport.requests.clear()
    assert location.validator is not None
    known = Image(ImageId("0" * 32), "r", f"{NAME}:1", replace(location, url=""), 9, location.validator)
    assert await registry.renew(known) == location
    assert [url.partition("?")[0] for url in asked(transport)] == ["library.example/v1/oci-redirect"]
    assert len(keys.granted) == 2


async def test_a_version_that_can_no_longer_be_named_is_asked_for_by_its_tag() -> None:
    registry, transport, _ = world({f"/v1/images/{NAME}:1": image()})
    location = await registry.locate(f"{NAME}:1")
    assert location is not None
    assert location.url == f"{URL}/v1/imagefile/{NAME}:1?arch=arm64"
    transport.files[f"/v1/images/{NAME}:1"] = image(hash="sha256." + "b" * 64)
    known = Image(ImageId("0" * 32), "r", f"{NAME}:1", location, 9, Validator(ValidatorKind.DIGEST, DIGEST))
    moved = await registry.renew(known)
    assert moved.validator == Validator(ValidatorKind.DIGEST, "sha256:" + "b" * 64)  # refused by who asked


async def test_an_image_without_a_digest_is_known_by_its_storage() -> None:
    registry, _, _ = world({f"/v1/images/{NAME}:1": image(hash="sif.0123")})
    location = await registry.locate(f"{NAME}:1")
    assert location is not None
    assert (location.validator, location.url) == (None, f"{URL}/v1/imagefile/{NAME}:1?arch=arm64")


async def test_an_endpoint_is_asked_once_where_its_library_is() -> None:
    files = {
        "/assets/config/config.prod.json": said({"libraryAPI": {"uri": "https://api.example/lib"}}),
        f"/lib/v1/images/{NAME}:1": image(),
        f"/v1/images/{NAME}:1": File(b"<html>everything is this page</html>"),
    }
    registry, transport, keys = world(files)
    for _ in range(2):
        await registry.locate(f"{NAME}:1")
    assert keys.trusted == ["https://api.example/lib"]
    assert [url.partition("?")[0] for url in asked(transport)].count(
        "library.example/assets/config/config.prod.json"
    ) == 1
    assert all(url.startswith("api.example/lib/") for url in asked(transport)[2:])


@pytest.mark.parametrize(
    ("files", "kind", "text"),
    [
        ({}, NoSuchEntry, "404"),
        ({f"/v1/images/{NAME}:1": said({"data": [1]})}, SourceProtocolError, "no description of an image"),
        ({f"/v1/images/{NAME}:1": image(arch="amd64")}, NoSuchEntry, "has it for amd64 and not for arm64"),
        ({f"/v1/images/{NAME}:1": image(arch="\x1b[2J")}, NoSuchEntry, "has it for another architecture"),
        (
            {
                f"/v1/images/{NAME}:1": image(),
                "/v1/oci-redirect": said({"url": "http://plain.example", "token": "x"}),
            },
            SourceProtocolError,
            "not with TLS",
        ),
        (
            {
                f"/v1/images/{NAME}:1": image(),
                "/v1/oci-redirect": said({"url": "https://oci.example", "token": "x", "name": "../../x"}),
            },
            SourceProtocolError,
            "no registry that can be asked",
        ),
        (
            {
                f"/v1/images/{NAME}:1": image(),
                "/v1/oci-redirect": said({"url": "https://oci.example", "token": "x\r\ny"}),
            },
            SourceProtocolError,
            "a token that is none",
        ),
        (
            {"/assets/config/config.prod.json": said({"libraryAPI": {"uri": "http://api.example"}})},
            SourceProtocolError,
            "not with TLS",
        ),
    ],
)
async def test_what_is_not_believed(files: Mapping[str, File], kind: type[LazysifError], text: str) -> None:
    registry, _, keys = world(files)
    with pytest.raises(kind, match=text):
        await registry.locate(f"{NAME}:1")
    assert (keys.trusted, keys.granted) == ([], [])


async def test_another_image_than_the_hash_is_not_believed() -> None:
    registry, _, _ = world({f"/v1/images/{NAME}:{HASH}": image(hash="sha256." + "b" * 64)})
    with pytest.raises(SourceProtocolError, match="another image"):
        await registry.locate(f"{NAME}:{HASH}")


async def test_a_refusal_says_which_key_helps() -> None:
    registry, transport, _ = world({})
    transport.script.append(Status(401))
    with pytest.raises(AccessDenied, match="token_file"):
        await registry.locate(f"{NAME}:1")


async def test_a_library_that_is_down_is_no_missing_image() -> None:
    registry, transport, _ = world({f"/v1/images/{NAME}:1": image()})
    for script in ([Status(503)], [Status(404), Status(503)]):
        transport.script.extend(script)
        with pytest.raises(SourceUnavailable):
            await registry.locate(f"{NAME}:1")
    assert await registry.locate(f"{NAME}:1") is not None


async def test_a_listing_where_the_library_gives_one() -> None:
    files = {
        "/v1/entities": said({"data": [{"name": "user"}, {"name": "../x"}, {"name": 1}, "odd"]}),
        "/v1/collections/user": said(
            {"data": {"name": "user", "collections": ["5c1fb79"]}}
        ),  # as Sylabs' does
        "/v1/containers/user/tools": said(
            {
                "data": [
                    {"name": "hello", "archTags": {"arm64": {"latest": "1", "2": "1"}, "amd64": {"3": "1"}}},
                    {"name": "old", "imageTags": {"1": "1", "a/b": "1"}},
                    {"name": "empty"},
                ]
            }
        ),
    }
    registry, _, _ = world(files)
    assert await registry.list("") == (DirectoryEntry("user", EntryKind.DIRECTORY),)
    assert await registry.list("user") is None
    listed = await registry.list("user/tools")
    assert [entry.name for entry in listed or ()] == ["hello.sif", "hello:2.sif", "old:1.sif"]
    assert await registry.list("user/tools/hello") is None


# --- tokens ----------------------------------------------------------------------------------------


def sent(keys: LibraryKeyring, url: str) -> str | None:
    auth = keys.for_url(url)
    if auth is None:
        return None
    request = next(auth.sync_auth_flow(httpx.Request("GET", url)))
    return str(request.headers["Authorization"])


def test_each_token_goes_to_its_place_alone() -> None:
    keys = LibraryKeyring(URL, "mine")
    assert sent(keys, f"{URL}/v1/images/x") == "Bearer mine"
    assert sent(keys, "https://api.example/v1/images/x") is None
    keys.trust("https://api.example/lib")
    assert sent(keys, "https://api.example/lib/v1/images/x") == "Bearer mine"
    keys.grant("https://oci.example/v2/a/", "first")
    keys.grant(f"{URL}/v2/a/", "here")
    keys.grant("https://oci.example/v2/a/", "second")
    assert sent(keys, f"https://oci.example/v2/a/blobs/{DIGEST}") == "Bearer second"
    assert sent(keys, f"{URL}/v2/a/blobs/{DIGEST}") == "Bearer here"
    for other in (
        "https://oci.example/v2/b/blobs/x",
        "http://oci.example/v2/a/x",
        "https://oci.example/",
        "x",
    ):
        assert sent(keys, other) is None


# --- URIs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("library://user/tools/hello:1", "user/tools/hello:1"),
        ("library://user/tools/hello", "user/tools/hello:latest"),
        ("library:///hello", "hello:latest"),
        ("library://host.example/user/tools/hello:1", None),
        ("oras://user/tools/hello", None),
    ],
)
def test_uris_of_libraries(uri: str, path: str | None) -> None:
    remote = LibraryRemote(name="l", kind="library", url=URL)
    assert remote.path_of(parse_uri(uri)) == path


@pytest.mark.parametrize(
    ("uri", "path", "below"),
    [
        ("oras://ghcr.io/a/b:1", "ghcr.io/a/b:1", "b:1"),
        ("oras://ghcr.io/a/b", "ghcr.io/a/b:latest", "b:latest"),
        (f"oras://ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b@{DIGEST}", f"b@{DIGEST}"),
        ("oras://ghcr.io/other/b", "ghcr.io/other/b:latest", None),
        ("oras://quay.io/a/b", None, None),
        ("library://ghcr.io/a/b", None, None),
    ],
)
def test_uris_of_oci_registries(uri: str, path: str | None, below: str | None) -> None:
    assert OrasRemote(name="o", kind="oras", hosts=("ghcr.io",)).path_of(parse_uri(uri)) == path
    assert OrasRemote(name="o", kind="oras", url="oras://ghcr.io/a").path_of(parse_uri(uri)) == below
