"""The status document: what a daemon has, has done and waits for."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from lazysif import __version__
from lazysif.cache.block_cache import BlockCache
from lazysif.control.watchdog import iso_time
from lazysif.core.names import origin_of
from lazysif.fetch.contact import Contact
from lazysif.fetch.routes import Routes
from lazysif.telemetry import Counters
from lazysif.tree.open_images import OpenImages
from lazysif.tree.tree import Tree


class StatusDocument:
    """Of one mount.

    Args:
        source: as mount tables show it.
        started_s: when the daemon began, by the wall clock.
        bulk_by: what brings the bytes of images.
        contacts: of all remotes, by name.
        routes: of those remotes that have several ways, or proxies.
    """

    def __init__(
        self,
        mountpoint: str,
        source: str,
        *,
        started_s: float,
        bulk_by: str,
        tree: Tree,
        images: OpenImages,
        cache: BlockCache,
        counters: Counters,
        contacts: Mapping[str, Contact],
        routes: Mapping[str, Routes],
    ) -> None:
        self._mountpoint = mountpoint
        self._source = source
        self._started_s = started_s
        self._bulk_by = bulk_by
        self._tree = tree
        self._images = images
        self._cache = cache
        self._counters = counters
        self._contacts = contacts
        self._routes = routes

    def document(self) -> dict[str, Any]:
        """As it is now; safe on any thread, asks neither the mount nor the trio thread."""
        keeper, restarts = (int(field) for field in os.environ.get("LAZYSIF_KEEPER", "0 0").split())
        return {
            "mountpoint": self._mountpoint,
            "pid": os.getpid(),
            "keeper_pid": keeper,
            "restarts": restarts,
            "version": __version__,
            "bulk_by": self._bulk_by,
            "uptime_s": round(time.time() - self._started_s, 1),
            "source": self._source,
            "images": self._shown_images(),
            "remotes": self._shown_remotes(),
            "requests": {
                "in_hand": self._tree.in_hand.by_kind(),
                "oldest_s": round(self._tree.in_hand.oldest_s(time.monotonic()), 3),
                "waiting_reads": self._tree.waiting_reads,
            },
            "counters": self._counters.snapshot(),
            "cache": self._shown_cache(),
        }

    def _shown_images(self) -> list[dict[str, Any]]:
        return [
            {
                "name": opened.image.name,
                "origin": origin_of(opened.image.location.origin),
                "size_bytes": opened.image.size_bytes,
                "cached_bytes": opened.blocks.cached_bytes(),
                "open_handles": self._images.handles(opened.image.id),
                "last_error": opened.last_error,
                "verified": opened.verdict or None,
            }
            for opened in self._images.listed()
        ]

    def _shown_remotes(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "offline_since": iso_time(contact.offline_since),
                "last_error": contact.last_error,
                "ways": self._routes[name].status() if name in self._routes else [],
            }
            for name, contact in self._contacts.items()
        ]

    def _shown_cache(self) -> dict[str, Any]:
        cache = self._cache.status()
        return {
            "directory": str(self._cache.settings.directory),
            "used_bytes": cache.used_bytes,
            "limit_bytes": cache.limit_bytes,
            "free_bytes": cache.free_bytes,
            "state": cache.state,
        }
