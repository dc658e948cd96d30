"""A static registry as GitHub Pages serve it: pages in directories of a real nginx, all of them text/html.

The pages are what the templates of singularityhub/registry make (`_layouts/manifests/singularity.html`, `tags.html`,
`home.html`), with a README counted as a tag and sizes that are no bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.support.shub_server import Storage


class StaticPages:
    """Args: root: of the web server; the registry lies below its `/registry`."""

    def __init__(self, root: Path, storage: Storage) -> None:
        self.root = root / "registry"
        self.storage = storage
        self._published: dict[tuple[str, str], bytes] = {}

    def put(
        self, repository: str, tag: str, data: bytes, *, digest: str | None = None, **changes: Any
    ) -> str:
        """Publish an image; returns its address.

        Args:
            digest: as it is written there, by default its sha256.
            changes: of the manifest.
        """
        self._published[repository, tag] = data
        name = hashlib.sha256(data).hexdigest()
        self.storage.files[name] = data
        address = self.storage.address(name)
        digest = f"sha256:{name}" if digest is None else digest
        layer = {
            "mediaType": "application/vnd.singularity.image.squashfs",
            "size": len(data) // 1024,
            "digest": digest,
            "urls": [address],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.singularity.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.singularity.container.image.v1+json",
                "size": len(data) // 1024,
                "digest": digest,
            },
            "layers": [layer],
        }
        self.page(f"{repository}/manifests/{tag}", json.dumps({**manifest, **changes}, indent=4))
        tags = [known for name, known in self._published if name == repository]
        self.page(f"{repository}/tags", json.dumps({"name": repository, "tags": ["README.md", *tags]}))
        links = "".join(
            f'<tr><td><a href="/registry/{name}">{name}</a></td></tr>'
            for name in dict.fromkeys(name for name, _ in self._published)
        )
        self.page("", f'<html><a href="https://elsewhere.example/a/b">about</a><table>{links}</table></html>')
        return address

    def sign_anew(self) -> None:
        """The pages have other addresses, and then those given out before hold no longer.

        The other way round whoever is refused in between finds the refused address on the page once more.
        """
        before = list(self.storage.signatures)
        for (repository, tag), data in list(self._published.items()):
            self.put(repository, tag, data)
        self.storage.expire(before)

    def page(self, path: str, text: str) -> None:
        directory = self.root / path
        directory.mkdir(parents=True, exist_ok=True)
        part = directory / "part"
        part.write_text(text)
        part.rename(directory / "index.html")
