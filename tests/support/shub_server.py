"""Singularity Hub: its API on one port, its storage with signed addresses that expire on another."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs

from tests.support.web_stand import Asked, Reply, WebStand, file_reply

LIFETIME_S = 600


@dataclass(frozen=True)
class Version:
    data: bytes
    commit: str

    @property
    def md5(self) -> str:
        return hashlib.md5(self.data).hexdigest()


class Storage(WebStand):
    """Files by signed addresses `/NAME?Expires=...&Signature=...`; `signed=False` needs no signature."""

    def __init__(self, *, signed: bool = True) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.signed = signed
        self.signatures: dict[str, str] = {}
        self.given: list[str] = []
        """All signatures ever given out."""

    def address(self, name: str) -> str:
        if not self.signed:
            return f"{self.url}/{name}"
        signature = secrets.token_hex(16)
        self.signatures[signature] = name
        self.given.append(signature)
        return f"{self.url}/{name}?Expires={int(time.time()) + LIFETIME_S}&Signature={signature}"

    def expire(self, signatures: Iterable[str] | None = None) -> None:
        """No address with these signatures holds any more; without them, none given out so far."""
        for signature in list(self.signatures if signatures is None else signatures):
            del self.signatures[signature]

    def answer(self, asked: Asked) -> Reply:
        name = asked.path.removeprefix("/")
        signature = parse_qs(asked.query).get("Signature", [""])[0]
        if self.signed and self.signatures.get(signature) != name:
            return Reply(403)
        data = self.files.get(name)
        return Reply(404) if data is None else file_reply(data, asked)


class ShubServer(WebStand):
    """`put("user/name", "latest", data)`; a tag that moves leaves its old version to be asked for by digest."""

    def __init__(self, storage: Storage, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host, port)
        self.storage = storage
        self._tags: dict[str, Version] = {}
        self._versions: dict[str, Version] = {}

    def put(self, repository: str, tag: str, data: bytes) -> Version:
        version = Version(data, hashlib.sha1(data).hexdigest())
        self.storage.files[version.md5] = data
        self._tags[f"{repository}:{tag}"] = version
        self._versions[f"{repository}@{version.md5}"] = version
        self._versions[f"{repository}@{version.commit}"] = version
        return version

    def answer(self, asked: Asked) -> Reply:
        name, _, digest = asked.path.removeprefix("/api/container/").partition("@")
        repository, _, tag = name.partition(":")
        found = (
            self._versions.get(f"{repository}@{digest}") if digest else self._tags.get(f"{repository}:{tag}")
        )
        if found is None or not asked.path.startswith("/api/container/"):
            return Reply.json({"detail": "Not found."}, 404)
        return Reply.json(
            {
                "id": 1,
                "name": repository,
                "tag": tag or "latest",
                "image": self.storage.address(found.md5),
                "version": found.md5,
                "commit": found.commit,
                "size_mb": str(len(found.data) // 1000000),
            }
        )
