"""A Singularity Registry Server as its sources have it (shub/apps: api, library, main), with or without library API.

Of note: errors that are bare numbers with status 200, tags looked at where a version was asked for, 500 for a private
collection and no token, each GET of the download page counted and none answered by ranges.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qs

from tests.support.shub_server import Storage
from tests.support.web_stand import Asked, Reply, WebStand, file_reply


class Minio(Storage):
    """Presigned addresses as MinIO's client makes them."""

    def address(self, name: str) -> str:
        signature = secrets.token_hex(32)
        self.signatures[signature] = name
        self.given.append(signature)
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        return f"{self.url}/{name}?X-Amz-Date={now}&X-Amz-Expires=300&X-Amz-Signature={signature}"

    def answer(self, asked: Asked) -> Reply:
        name = asked.path.removeprefix("/")
        if self.signatures.get(parse_qs(asked.query).get("X-Amz-Signature", [""])[0]) != name:
            return Reply(
                403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>"
            )
        return file_reply(self.files[name], asked) if name in self.files else Reply(404)


@dataclass
class Container:
    number: int
    name: str
    tag: str
    version: str
    data: bytes


@dataclass
class Collection:
    private: bool = False
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    containers: list[Container] = field(default_factory=list)


class SregistryServer(WebStand):
    """Args: storage: None for a server without library API."""

    user = "alice"
    limit = 100

    def __init__(self, storage: Storage | None) -> None:
        super().__init__()
        self.storage = storage
        self.token = secrets.token_hex(20)
        self.downloads = 0
        self.breaking = 0
        """So many of the next downloads break off half-way."""
        self.collections: dict[str, Collection] = {}
        self._numbers = 0

    def put(self, repository: str, tag: str, data: bytes, *, private: bool = False, version: str = "") -> str:
        """Push; a tag that is there moves. Returns the version."""
        name, _, image = repository.partition("/")
        collection = self.collections.setdefault(name, Collection())
        collection.private = private
        self._numbers += 1
        version = version or f"sha256.{hashlib.sha256(data).hexdigest()}"
        container = Container(self._numbers, image, tag, version, data)
        kept = [known for known in collection.containers if (known.name, known.tag) != (image, tag)]
        collection.containers = [*kept, container]
        if self.storage is not None:
            self.storage.files[f"{name}/{image}:{version}"] = data
        return version

    def answer(self, asked: Asked) -> Reply:
        routes: list[tuple[str, Callable[..., Reply]]] = [
            (r"/api/container/([^/]+)/([^/:@]+)(?::([^@]+))?(?:@(.+))?", self._container),
            (r"/api/collections/", self._collections),
            (r"/api/collection/([^/]+)", self._collection),
            (r"/containers/(\d+)/download/(\w+)", self._download),
        ]
        if self.storage is not None:
            name = r"(?:[^/:@]+/)?([^/:@]+)/([^/:@]+)(?::([^@]+))?"
            routes += [
                (rf"/v1/images/{name}", self._library_image),
                (rf"/v1/imagefile/{name}", self._library_file),
            ]
        for pattern, reply in routes:
            match = re.fullmatch(pattern, asked.path)
            if match is not None:
                return reply(asked, *match.groups())
        return Reply(404, {"Content-Type": "text/html"}, b"<h1>Not Found</h1>")

    def secrets(self) -> list[str]:
        """What nobody else is to see: the token, the secrets of download pages, signatures."""
        given = self.storage.given if self.storage is not None else []
        return [self.token, *(collection.secret for collection in self.collections.values()), *given]

    # --- its own API

    def _container(self, asked: Asked, name: str, image: str, tag: str | None, version: str | None) -> Reply:
        found = self._found(name, image, lambda container: container.tag == (tag or "latest"))
        if found is None:
            return Reply.json({"detail": "Not found."}, 404)
        if self.downloads >= self.limit:
            return Reply.json(429)
        collection = self.collections[name]
        if collection.private:
            refused = self._refusal(asked.headers.get("authorization"), name, image, tag or "latest")
            if refused is not None:
                return refused
        return Reply.json(
            {
                "id": found.number,
                "name": image,
                "image": f"{self.url}/containers/{found.number}/download/{collection.secret}",
                "tag": found.tag,
                "add_date": "2026-01-01T00:00:00Z",
                "metrics": {},
                "version": found.version,
                "frozen": False,
                "metadata": {"size_mb": len(found.data) // 1000000},
                "collection": name,
            }
        )

    def _refusal(self, authorization: str | None, name: str, image: str, tag: str) -> Reply | None:
        if authorization is None:
            return Reply.json({"detail": "Authentication Required"}, 403)
        scheme, _, content = authorization.partition(" ")
        values = dict(part.split("=", 1) for part in content.split(","))
        kind, user, hour = values.get("Credential", "//").split("/")
        if base64.b64decode(user).decode() != self.user:
            return Reply.json({"detail": "Unauthorized"}, 403)
        now = datetime.now(UTC).strftime("%Y%m%dT%HZ")
        signed = hmac.new(self.token.encode(), f"pull|{name}|{now}|{image}|{tag}|".encode(), hashlib.sha256)
        if (scheme, kind, hour) != ("SREGISTRY-HMAC-SHA256", "pull", now):
            return Reply.json(400)
        return None if hmac.compare_digest(signed.hexdigest(), values["Signature"]) else Reply.json(400)

    def _collections(self, asked: Asked) -> Reply:
        public = [name for name, collection in self.collections.items() if not collection.private]
        page = int(parse_qs(asked.query).get("page", ["1"])[0])
        shown = public[page - 1 : page]
        following = f"{self.url}/api/collections/?page={page + 1}" if page < len(public) else None
        results = [{"id": page, "name": name, "containers": []} for name in shown]
        return Reply.json({"count": len(public), "next": following, "previous": None, "results": results})

    def _collection(self, asked: Asked, name: str) -> Reply:
        collection = self.collections.get(name)
        if collection is None:
            return Reply.json({})
        if collection.private:
            return Reply(500, {"Content-Type": "text/html"}, b"<h1>Server Error (500)</h1>")
        listed = [
            {"name": c.name, "tag": c.tag, "uri": f"{name}/{c.name}:{c.tag}"} for c in collection.containers
        ]
        return Reply.json({"id": 1, "name": name, "containers": listed})

    def _download(self, asked: Asked, number: str, secret: str) -> Reply:
        for collection in self.collections.values():
            for container in collection.containers:
                if container.number == int(number) and collection.secret == secret:
                    self.downloads += 1
                    if self.downloads > self.limit:
                        return Reply(403)
                    name = f"{container.name}:{container.tag}.sif"
                    headers = {
                        "Content-Type": "application/img",
                        "Content-Disposition": f'attachment; filename="{name}"',
                    }
                    data = container.data
                    if self.breaking:
                        self.breaking -= 1
                        headers |= {"Content-Length": str(len(data)), "Connection": "close"}
                        data = data[: len(data) // 2]
                    return Reply(200, headers, data)
        return Reply(404)

    # --- the library API

    def _library_image(self, asked: Asked, name: str, image: str, tag: str | None) -> Reply:
        found = self._by_tag_or_version(name, image, tag)
        if found is None:
            return Reply(404)
        if self.collections[name].private and not self._has_token(asked):
            return Reply(500, {"Content-Type": "text/html"}, b"<h1>Server Error (500)</h1>")
        data = {
            "id": str(found.number),
            "hash": found.version,
            "container": found.version,
            "arch": "amd64",
            "size": None,
            "tags": [found.tag],
            "collectionName": name,
            "containerName": image,
            "deleted": False,
        }
        return Reply.json({"data": data})

    def _library_file(self, asked: Asked, name: str, image: str, tag: str | None) -> Reply:
        found = self._by_tag_or_version(name, image, tag)
        if found is None or (self.collections[name].private and not self._has_token(asked)):
            return Reply(404)
        assert self.storage is not None
        return Reply(302, {"Location": self.storage.address(f"{name}/{image}:{found.version}")})

    def _has_token(self, asked: Asked) -> bool:
        return asked.headers.get("authorization", "").lower().removeprefix("bearer").strip() == self.token

    def _by_tag_or_version(self, name: str, image: str, tag: str | None) -> Container | None:
        tag = tag or "latest"
        if tag.startswith("sha256"):
            return self._found(name, image, lambda container: container.version == tag)
        return self._found(name, image, lambda container: container.tag == tag)

    def _found(self, name: str, image: str, suits: Callable[[Container], bool]) -> Container | None:
        collection = self.collections.get(name, Collection())
        return next((c for c in collection.containers if c.name == image and suits(c)), None)
