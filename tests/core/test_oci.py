"""Names and manifests of OCI registries."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core import oci
from lazysif.core.oci import Descriptor, Index, parse_manifest
from lazysif.errors import FormatError, LazysifError, NoSuchEntry, SourceProtocolError

DIGEST = "sha256:" + "a" * 64
SIF, TYPO = oci.SIF_LAYERS


def manifest(*layers: dict[str, object]) -> bytes:
    return json.dumps({"schemaVersion": 2, "layers": layers}).encode()


def layer(kind: str = SIF, digest: str = DIGEST, size: object = 9) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest, "size": size}


def index(*platforms: str | None) -> bytes:
    entries = []
    for number, platform in enumerate(platforms):
        entry: dict[str, object] = {"mediaType": "x", "digest": f"sha256:{number:064}", "size": 1}
        if platform is not None:
            system, _, architecture = platform.partition("/")
            entry["platform"] = {"os": system, "architecture": architecture}
        entries.append(entry)
    return json.dumps({"manifests": entries}).encode()


@pytest.mark.parametrize("kind", [SIF, TYPO])
def test_a_sif_is_one_layer(kind: str) -> None:
    assert parse_manifest(manifest(layer(kind))) == Descriptor(DIGEST, 9, kind)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (manifest(), "0 layers of nothing"),
        (manifest(layer(), layer()), "2 layers of application/vnd.sylabs.sif"),
        (manifest(layer("application/x.tar+gzip")), "1 layers of application/x.tar"),
        (manifest(layer("\x1b[2Jx")), "something unreadable"),
    ],
)
def test_what_is_no_sif_is_said_in_one_line(body: bytes, why: str) -> None:
    with pytest.raises(SourceProtocolError, match=why) as raised:
        parse_manifest(body)
    assert "apptainer build" in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        manifest(layer(digest="md5:0")),
        manifest(layer(digest=DIGEST + "\n")),
        manifest(layer(size=-1)),
        manifest(layer(size="9")),
        b'{"manifests": [{"digest": "../../x", "size": 1}]}',
    ],
)
def test_what_is_no_manifest(body: bytes) -> None:
    with pytest.raises(FormatError):
        parse_manifest(body)


@given(st.binary(max_size=200))
def test_only_our_errors(body: bytes) -> None:
    try:
        parse_manifest(body)
    except LazysifError:
        pass


def test_an_index_is_chosen_from_by_platform() -> None:
    parsed = parse_manifest(index("windows/amd64", "linux/arm64", None))
    assert isinstance(parsed, Index)
    assert parsed.choose("arm64").digest.endswith("1")
    assert parsed.choose("amd64").digest.endswith("2")
    with pytest.raises(
        NoSuchEntry, match=r"no linux/s390x of it, only linux/amd64, linux/arm64, windows/amd64"
    ):
        parsed.choose("s390x")


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("ghcr.io", True),
        ("localhost:5000", True),
        ("10.0.0.1", True),
        ("[::1]:5000", True),
        ("registry.example.:443", True),
        ("a_b.example", False),
        ("-a.example", False),
        ("a..b", False),
        ("", False),
        ("a@b", False),
        ("a:b", False),
        ("a:1:2", False),
        ("a/b", False),
        ("a\n", False),
        (".git", False),
    ],
)
def test_hosts(host: str, is_one: bool) -> None:
    assert oci.is_host(host) is is_one


@pytest.mark.parametrize(
    ("url", "repository"),
    [
        (f"https://h/v2/a/b/blobs/{DIGEST}", "a/b"),
        ("https://h/v2/a/manifests/1.0?x=/v2/c/blobs/d", "a"),
        ("https://h/v2/manifests/manifests/1", "manifests"),
        ("https://h/v2/", None),
        ("https://h/x/v2/a/blobs/b", None),
        ("https://h/v2/A/blobs/b", None),
        ("https://h/v2/a/../b/blobs/c", None),
    ],
)
def test_the_repository_in_a_url(url: str, repository: str | None) -> None:
    assert oci.repository_in(url) == repository


def test_the_node_is_named_as_registries_do() -> None:
    assert [oci.architecture_of(machine) for machine in ("x86_64", "aarch64", "s390x")] == [
        "amd64",
        "arm64",
        "s390x",
    ]


def test_long_names_take_no_long_time() -> None:
    assert not oci.is_repository("a-" * 100_000)
    assert not oci.is_repository("a" * 200 + "--" * 20 + "!")
    assert not oci.is_host("a-" * 120 + "!")
