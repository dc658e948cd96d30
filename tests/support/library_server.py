"""A stand-in for Sylabs' library, that `apptainer pull library://` downloads from by each of its two ways.

After `client/{api,pull,oci,version}.go` of Apptainer's library client. The bytes come from a `SignedStorage` (303),
or from the blobs of an OCI registry with a token of the library's (`v1/oci-redirect`).
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.loopback import Handler, Log, LoopbackServer
from tests.support.signed_storage import SignedStorage

_EMPTY = b"{}"
_SIF = "application/vnd.sylabs.sif.layer.v1.sif"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Held:
    """An image: its file, and the architecture it is for."""

    file: Path
    arch: str
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        self.hash = "sha256." + sha256(self.file.read_bytes())


class _Handler(Handler):
    stand: LibraryServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.stand.log.add(f"GET {parts.path}")
        if parts.path.startswith("/v2/"):
            return self._oci(parts.path)
        if parts.path == "/assets/config/config.prod.json" and self.stand.endpoint:
            said = {
                "libraryAPI": {"uri": f"{self.stand.url}/library"},
                "keystoreAPI": {"uri": self.stand.url},
            }
            return self._json(said)
        prefix = "/library/" if self.stand.endpoint else "/"
        if not parts.path.startswith(prefix + "v"):
            return self.answer(404 if not self.stand.endpoint else 200, b"<html>", Content_Type="text/html")
        return self._library(parts.path.removeprefix(prefix), parse_qs(parts.query))

    def _json(self, said: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(said).encode(), Content_Type="application/json")

    def _error(self, status: int) -> None:
        self._json({"error": {"code": status, "message": "no"}}, status)

    def _library(self, path: str, query: dict[str, list[str]]) -> None:
        if path == "version":
            return self._json({"data": {"version": "v1", "apiVersion": "2.0.0-alpha.2"}})
        if self.stand.token and self.headers.get("Authorization") != f"Bearer {self.stand.token}":
            return self._error(401)
        what, _, name = path.removeprefix("v1/").partition("/")
        if what == "oci-redirect" and self.stand.oci:
            return self._redirect(query["namespace"][0])
        if what in ("entities", "collections", "containers") and self.stand.lists:
            return self._list(what, name)
        if what not in ("images", "imagefile"):
            return self._error(404)
        held = self.stand.find(name.strip("/"), query.get("arch", ["amd64"])[0])
        if held is None:
            return self._error(404)
        if what == "images":
            return self._json({"data": self.stand.describe(held)})
        if not self.stand.redirect_status:
            return self.answer(200, held.file.read_bytes(), Content_Type="application/octet-stream")
        return self.answer(self.stand.redirect_status, Location=self.stand.storage.url_for(held.file))

    def _list(self, what: str, name: str) -> None:
        names: dict[str, dict[str, str]] = {}
        depth = ("entities", "collections", "containers").index(what)
        for whole, held in self.stand.images.items():
            parts = whole.partition(":")[0].split("/")
            if "/".join(parts[:depth]) == name and len(parts) == 3:
                tags = names.setdefault(parts[depth], {})
                tags[whole.partition(":")[2]] = held.hash
        tagged = [{"name": name, "imageTags": tags} for name, tags in names.items()]
        self._json({"data": tagged if depth == 2 else [{"name": name} for name in names]})

    # --- the OCI registry that a newer library stands before ---------------------------------------

    def _redirect(self, name: str) -> None:
        token = secrets.token_hex(16)
        self.stand.tokens.add(token)
        self.stand.given.append(token)
        self._json({"token": token, "url": self.stand.url, "name": f"mapped/{name}"})

    def _oci(self, path: str) -> None:
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.stand.tokens:
            return self.answer(401, WWW_Authenticate="Bearer")
        match = re.fullmatch(r"/v2/(?:mapped/)?(.+)/(manifests|blobs)/([^/]+)", path)
        if match is None:
            return self.answer(404)
        name, what, reference = match.groups()
        for whole, held in self.stand.images.items():
            if whole.partition(":")[0] != name:
                continue
            manifest, config = _manifest(held)
            if what == "manifests" and reference in (whole.partition(":")[2], f"sha256:{sha256(manifest)}"):
                kind = "application/vnd.oci.image.manifest.v1+json"
                digest = f"sha256:{sha256(manifest)}"
                return self.answer(200, manifest, Content_Type=kind, Docker_Content_Digest=digest)
            if what == "blobs" and reference == f"sha256:{sha256(config)}":
                return self.answer(200, config)
            if what == "blobs" and reference == held.hash.replace(".", ":"):
                return self.answer(307, Location=self.stand.storage.url_for(held.file))
        return self.answer(404)


def _manifest(held: Held) -> tuple[bytes, bytes]:
    config = {"architecture": held.arch, "os": "linux", "rootfs": held.hash.replace(".", ":")}
    body = json.dumps(config).encode()
    layer = {
        "mediaType": _SIF,
        "digest": held.hash.replace(".", ":"),
        "size": held.file.stat().st_size,
    }
    described = {
        "mediaType": "application/vnd.sylabs.sif.config.v1+json",
        "digest": f"sha256:{sha256(body)}",
        "size": len(body),
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described,
        "layers": [layer],
    }
    return json.dumps(manifest).encode(), body


class LibraryServer(LoopbackServer):
    """Args:
    token: what clients must show; "" lets everybody in.
    oci: hands out tokens for an OCI registry.
    endpoint: speaks as `apptainer remote` does: the library is at another path, which a file names.
    redirect_status: of `v1/imagefile`; 0 sends the file itself.
    takes_hashes: an image's hash may stand for its tag.
    lists: as Hinkskalle does; Sylabs' own does not.
    """

    handler = _Handler

    def __init__(
        self,
        storage: SignedStorage,
        log: Log | None = None,
        *,
        token: str = "",
        oci: bool = False,
        endpoint: bool = False,
        redirect_status: int = 303,
        takes_hashes: bool = True,
        lists: bool = False,
    ) -> None:
        super().__init__(log)
        self.storage = storage
        self.token = token
        self.oci = oci
        self.endpoint = endpoint
        self.redirect_status = redirect_status
        self.takes_hashes = takes_hashes
        self.lists = lists
        self.images: dict[str, Held] = {}
        """By `entity/collection/name:tag`."""
        self.kept: list[tuple[str, Held]] = []
        self.tokens: set[str] = set()
        self.given: list[str] = []

    def publish(self, name: str, file: Path, arch: str = "amd64") -> None:
        held = Held(file, arch)
        self.images[name] = held
        self.kept.append((name.partition(":")[0], held))

    def find(self, name: str, arch: str) -> Held | None:
        container, _, tag = name.partition(":")
        container = "/".join(["default"] * (2 - container.count("/")) + [container])
        held = self.images.get(f"{container}:{tag or 'latest'}")
        if held is None and self.takes_hashes:
            by_hash = {known.hash: known for where, known in self.kept if not tag or where == container}
            held = by_hash.get(tag or name)
        return held if held is not None and held.arch == arch else None

    def describe(self, held: Held) -> dict[str, Any]:
        """`Image` of the client's models; of the size it says nothing that is right, as some servers do."""
        (container,) = {where for where, known in self.kept if known.hash == held.hash}
        entity, collection, name = container.split("/")
        return {
            "id": "1",
            "hash": held.hash,
            "size": held.file.stat().st_size,
            "arch": held.arch,
            "uploaded": True,
            "entityName": entity,
            "collectionName": collection,
            "containerName": name,
        }

    def expire(self) -> None:
        """Tokens and signed URLs given so far are refused from now on."""
        self.tokens.clear()
        self.storage.expire()
