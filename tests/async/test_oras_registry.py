"""Names of an oras remote: what is asked, what is remembered, what is not believed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from lazysif.config.load import check_config
from lazysif.core.names import is_named_host
from lazysif.core.oci import SIF_LAYERS, digest_of
from lazysif.errors import (
    AccessDenied,
    ImageChanged,
    LazysifError,
    NoSuchEntry,
    SourceProtocolError,
    SourceUnavailable,
)
from lazysif.model import DirectoryEntry, EntryKind, Image, ImageId, Validator, ValidatorKind
from lazysif.registries.oras import OrasRegistry
from tests.support.fake_transport import FakeTransport, File, Headers, Status

BLOB = "sha256:" + "b" * 64


def manifest(digest: str = BLOB) -> bytes:
    return json.dumps({"layers": [{"mediaType": SIF_LAYERS[0], "digest": digest, "size": 9}]}).encode()


BODY = manifest()
DIGEST = digest_of(BODY)
INDEX = json.dumps(
    {"manifests": [{"digest": DIGEST, "size": 1, "platform": {"os": "linux", "architecture": "arm64"}}]}
).encode()


@pytest.fixture
def transport() -> FakeTransport:
    files = {"1": File(BODY, etag=f'"{DIGEST}"'), DIGEST: File(BODY), "multi": File(INDEX)}
    return FakeTransport({f"/v2/a/b/manifests/{name}": file for name, file in files.items()})


def registry(transport: FakeTransport, below: str = "", architecture: str = "arm64") -> OrasRegistry:
    return OrasRegistry(
        transport,
        lambda host: host in ("ghcr.example", "index.docker.io", "docker.io"),
        architecture=architecture,
        below=below,
        shown_hosts=("ghcr.example",),
        hint="log in",
    )


def urls(transport: FakeTransport) -> list[str]:
    return [request.url for request in transport.requests]


async def test_a_name_leads_to_the_blob_of_a_digest(transport: FakeTransport) -> None:
    location = await registry(transport).locate("ghcr.example/a/b:1.sif")
    assert location is not None
    assert location.url == location.origin == f"https://ghcr.example/v2/a/b/blobs/{BLOB}"
    assert location.validator == Validator(ValidatorKind.DIGEST, BLOB)
    assert (location.size_bytes, location.content_addressed) == (9, True)
    assert urls(transport) == ["https://ghcr.example/v2/a/b/manifests/1"]


async def test_docker_hub_has_another_name_for_its_api(transport: FakeTransport) -> None:
    await registry(transport).locate("docker.io/a/b:1")
    assert urls(transport) == ["https://index.docker.io/v2/a/b/manifests/1"]


async def test_a_tag_is_asked_about_by_its_etag(transport: FakeTransport) -> None:
    names = registry(transport)
    first = await names.locate("ghcr.example/a/b:1")
    assert await names.locate("ghcr.example/a/b:1") == first
    assert [request.headers.get("If-None-Match") for request in transport.requests] == [None, f'"{DIGEST}"']
    transport.files["/v2/a/b/manifests/1"] = File(manifest("sha256:" + "c" * 64), etag='"c"')
    moved = await names.locate("ghcr.example/a/b:1")
    assert moved is not None
    assert moved.url.endswith("c" * 64)


async def test_a_digest_is_asked_about_once(transport: FakeTransport) -> None:
    names = registry(transport)
    for path in (f"a/b@{DIGEST}.sif", f"a/b:any@{DIGEST}", "a/b:multi", f"a/b@{DIGEST}.sif"):
        location = await names.locate(f"ghcr.example/{path}")
        assert location is not None
        assert location.validator == Validator(ValidatorKind.DIGEST, BLOB)
    assert [url.rpartition("/")[2] for url in urls(transport)] == [DIGEST, "multi"]


async def test_directories_on_the_way_cost_nothing(transport: FakeTransport) -> None:
    names = registry(transport)
    assert [await names.locate(path) for path in ("", "ghcr.example", "ghcr.example/a")] == [None] * 3
    assert await names.list("") == (DirectoryEntry("ghcr.example", EntryKind.DIRECTORY),)
    assert await names.list("ghcr.example") is None
    assert transport.requests == []


async def test_a_remote_of_one_project(transport: FakeTransport) -> None:
    names = registry(transport, below="ghcr.example/a")
    assert await names.locate("b:1.sif") is not None
    assert await names.locate("") is None
    assert await names.list("") is None


@pytest.mark.parametrize(
    "path",
    [
        "evil.example/a:1",
        "evil.example",
        "ghcr.example/A:1",
        "ghcr.example/a/../b:1",
        "ghcr.example/.git",
        "ghcr.example/a:1@md5:0",
        "ghcr.example/a:1@sha256:0",
        "ghcr.example/a:b c",
        "ghcr.example/a?x:1",
        "ghcr.example@evil.example/a:1",
    ],
)
async def test_what_is_no_name_is_not_asked_for(transport: FakeTransport, path: str) -> None:
    with pytest.raises(NoSuchEntry) as raised:
        await registry(transport).locate(path)
    assert raised.value.certain
    assert transport.requests == []


@pytest.mark.parametrize(
    ("path", "fault", "kind", "text"),
    [
        ("a/b:none", None, NoSuchEntry, "404"),
        ("a/b:1", Status(403), AccessDenied, "log in"),
        ("a/b:1", Headers({"docker-content-digest": BLOB}), SourceProtocolError, "does not have its digest"),
        ("a/b:lies", None, SourceProtocolError, "cannot be read"),
        ("a/b:loop", None, SourceProtocolError, "leads to no manifest"),
        (f"a/b@{BLOB}", None, SourceProtocolError, "does not have its digest"),
    ],
)
async def test_what_is_not_believed(
    transport: FakeTransport, path: str, fault: Status | Headers | None, kind: type[LazysifError], text: str
) -> None:
    here = {"os": "linux", "architecture": "arm64"}
    loop = INDEX
    for _ in range(5):
        transport.files[f"/v2/a/b/manifests/{digest_of(loop)}"] = File(loop)
        loop = json.dumps({"manifests": [{"digest": digest_of(loop), "size": 1, "platform": here}]}).encode()
    transport.files["/v2/a/b/manifests/loop"] = File(loop)
    transport.files["/v2/a/b/manifests/lies"] = File(b"<html>")
    transport.files[f"/v2/a/b/manifests/{BLOB}"] = File(BODY)
    if fault is not None:
        transport.script.append(fault)
    with pytest.raises(kind, match=text) as raised:
        await registry(transport).locate(f"ghcr.example/{path}")
    assert "https://ghcr.example/v2/a/b/manifests/" in str(raised.value)


async def test_a_registry_that_asks_to_slow_down_is_left_alone(
    transport: FakeTransport, autojump_clock: trio.testing.MockClock
) -> None:
    names = registry(transport)
    transport.script.append(Status(429, {"retry-after": "600"}))
    with pytest.raises(SourceUnavailable, match="429"):
        await names.locate("ghcr.example/a/b:1")
    await trio.sleep(590)
    with pytest.raises(SourceUnavailable, match="429, and is not asked for 10 s more") as raised:
        await names.locate("ghcr.example/a/b:multi")
    assert raised.value.retry_after_s == 10
    assert await names.locate("docker.io/a/b:1") is not None  # others are no part of it
    await trio.sleep(11)
    assert await names.locate("ghcr.example/a/b:1") is not None
    assert len(transport.requests) == 3


async def test_of_all_hosts_a_bare_word_is_none(transport: FakeTransport) -> None:
    names = OrasRegistry(
        transport,
        lambda host: is_named_host(host, ["*", "site"]),
        architecture="arm64",
        shown_hosts=("site",),
    )
    assert [await names.locate(host) for host in ("any.example", "any:5000", "site")] == [None] * 3
    for host in (
        "README",
        "lost+found",
        "localhost",
        "localhost:5000",
        "127.0.0.1",
        "169.254.169.254",
        "[::1]",
    ):
        with pytest.raises(NoSuchEntry):
            await names.locate(f"{host}/a:1")
    assert transport.requests == []


async def test_another_architecture_is_not_there(transport: FakeTransport) -> None:
    with pytest.raises(NoSuchEntry, match="no linux/riscv64 of it, only linux/arm64"):
        await registry(transport, architecture="riscv64").locate("ghcr.example/a/b:multi")


async def test_the_same_version_is_where_it_was(transport: FakeTransport) -> None:
    names = registry(transport)
    location = await names.locate("ghcr.example/a/b:1")
    assert location is not None
    assert location.validator is not None
    known = Image(
        ImageId("0" * 32), "r", "ghcr.example/a/b:1", replace(location, url=""), 9, location.validator
    )
    transport.requests.clear()
    assert await names.renew(known) == location
    for origin in ("https://ghcr.example/v2/a/b/blobs/x", "http://ghcr.example/v2/a/b/blobs/" + BLOB):
        with pytest.raises(ImageChanged):
            await names.renew(replace(known, location=replace(location, origin=origin)))
    with pytest.raises(NoSuchEntry):
        await names.renew(
            replace(known, location=replace(location, origin=f"https://evil.example/v2/a/blobs/{BLOB}"))
        )
    assert transport.requests == []


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("", "r.hosts: missing: name the registries that may be asked"),
        ("hosts = []", "r.hosts: missing"),
        ('hosts = "ghcr.io"', "r.hosts: not a list of hosts"),
        ('hosts = ["https://ghcr.io"]', 'r.hosts: "https://ghcr.io" is not a host'),
        ('hosts = ["ghcr.io"]\nurl = "oras://quay.io"', "r.hosts: url names the registry already"),
        ('url = "https://quay.io"', "r.url: not the address of a registry"),
        ('url = "oras://quay.io/Upper"', "r.url: not the address of a registry"),
        (
            'hosts = ["a.io", "b.io"]\nusername = "u"\npassword_file = "{secret}"',
            "r.username: this is for one",
        ),
        ('hosts = ["*"]\nplain_http = true', "r.plain_http: this is for one registry"),
        ('hosts = ["a.io"]\nusername = "u"', "r.username: a user name needs a password"),
        ('hosts = ["a.io"]\nauth_file = "{open}"', "r.auth_file: {open} has mode 0644"),
        ('hosts = ["a.io"]\ncredential_helper = "no-such"', "r.credential_helper: docker-credential-no-such"),
        ('hosts = ["a.io"]\ncredential_helper = "../x"', 'r.credential_helper: "../x" is not a program'),
        (
            'hosts = ["a.io"]\ncredential_helper = "{shared}"',
            "r.credential_helper: {shared} can be written by",
        ),
        (
            'hosts = ["a.io"]\nauth_file = "{secret}"\ncredential_helper = "/bin/true"',
            "r.credential_helper: auth_file says the credentials already",
        ),
    ],
)
def test_a_mistake_in_a_table_is_one_line(tmp_path: Path, keys: str, line: str) -> None:
    names = {name: str(tmp_path / name) for name in ("secret", "open", "shared")}
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "shared").touch()
    (tmp_path / "shared").chmod(0o777)
    file = tmp_path / "lazysif.toml"
    for name, path in names.items():
        keys, line = keys.replace(f"{{{name}}}", path), line.replace(f"{{{name}}}", path)
    file.write_text(f'[remote.r]\nkind = "oras"\n{keys}\n')
    (found,) = check_config(file)
    assert f": remote.{line}" in found
