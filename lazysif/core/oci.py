"""What OCI registries call things, and how their manifests are read (image and distribution specification). Pure.

A SIF lies in a registry as an artifact of one layer, whose digest is the SHA-256 of the whole file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

from lazysif.errors import FormatError, NoSuchEntry, SourceProtocolError

LARGEST_MANIFEST = 4 << 20
"""Bytes: what registries take (distribution specification, "Pushing Manifests")."""
SIF_LAYERS = ("application/vnd.sylabs.sif.layer.v1.sif", "appliciation/vnd.sylabs.sif.layer.tar")
"""The second is how early clients spelled it."""
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_KINDS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    *_INDEXES,
)
# Distribution specification, "Pulling manifests": what <name> and <reference> may be.
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.|(?=:|$)))+(?::[0-9]{1,5})?|\[[0-9a-f:]+\](?::[0-9]{1,5})?"
)
_IN_API = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags)/[^/]+")
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i686": "386",
    "i386": "386",
    "armv7l": "arm",
    "armv6l": "arm",
    "loongarch64": "loong64",
}
_DOCKER_HUB = "docker.io"
DOCKER_HUB_API = "index.docker.io"


def is_repository(name: str) -> bool:
    return len(name) <= 255 and _REPOSITORY.fullmatch(name) is not None


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Of SHA-256: no registry is known that names a SIF otherwise."""
    return _DIGEST.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """`name`, `name:port`, an address, or `[address]:port`."""
    return len(text) <= 255 and _HOST.fullmatch(text) is not None


def api_host(host: str) -> str:
    """The host that is asked for what users call `host`."""
    return DOCKER_HUB_API if host == _DOCKER_HUB else host


def architecture_of(machine: str) -> str:
    """What Go, and so registries, call the machine that uname(2) names."""
    return _ARCHITECTURES.get(machine, machine)


def repository_in(url: str) -> str | None:
    """The repository that a URL of the distribution API is about; None for other URLs."""
    match = _IN_API.fullmatch(urlsplit(url).path)
    return match[1] if match is not None and is_repository(match[1]) else None


class Platform(msgspec.Struct, frozen=True):
    architecture: str = "amd64"
    os: str = "linux"
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, rename={"media_type": "mediaType"}):
    """A blob or manifest, by digest."""

    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None


class _Manifest(msgspec.Struct, frozen=True, rename={"media_type": "mediaType"}):
    media_type: str = ""
    layers: tuple[Descriptor, ...] | None = None
    manifests: tuple[Descriptor, ...] | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """One manifest a platform."""

    manifests: tuple[Descriptor, ...] = field(default=())

    def choose(self, architecture: str) -> Descriptor:
        """The manifest for Linux on this architecture; one without a platform is for amd64.

        Raises: NoSuchEntry: there is none; the text names those that there are.
        """
        kinds = {entry: entry.platform or Platform() for entry in self.manifests}
        for entry, platform in kinds.items():
            if (platform.os, platform.architecture) == ("linux", architecture):
                return entry
        there = _shown(f"{platform.os}/{platform.architecture}" for platform in kinds.values())
        raise NoSuchEntry(f"the registry has no linux/{architecture} of it, only {there}")


def parse_manifest(body: bytes) -> Index | Descriptor:
    """An index, or the layer that is the SIF.

    Raises:
        FormatError: not a manifest.
        SourceProtocolError: a manifest of something else than one SIF.
    """
    try:
        manifest = msgspec.json.decode(body, type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError("the registry's manifest cannot be read") from error
    if manifest.manifests is not None and (manifest.layers is None or manifest.media_type in _INDEXES):
        found = manifest.manifests
        if not all(is_digest(entry.digest) for entry in found):
            raise FormatError("the registry's index names a manifest without a SHA-256 digest")
        return Index(found)
    if manifest.layers is None:
        raise FormatError("the registry's manifest names no layers")
    return _sif_layer(manifest.layers)


def _sif_layer(layers: tuple[Descriptor, ...]) -> Descriptor:
    if len(layers) != 1 or layers[0].media_type not in SIF_LAYERS:
        kinds = _shown({layer.media_type or "unnamed" for layer in layers})
        raise SourceProtocolError(
            f"this is not a SIF in the registry but {len(layers)} layers of {kinds or 'nothing'}",
            hint="make a SIF of it with apptainer build, and push that",
        )
    (layer,) = layers
    if not is_digest(layer.digest) or layer.size < 0:
        raise FormatError("the registry's manifest names a layer without a SHA-256 digest or size")
    return layer


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _shown(words: Iterable[str]) -> str:
    """For a log line: what a registry writes is not printed as it is."""
    text = ", ".join(sorted(words))
    return (
        text[:200].encode("ascii", "backslashreplace").decode()
        if text.isprintable()
        else "something unreadable"
    )
