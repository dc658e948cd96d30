"""A remote that shows one part of a registry: `prefix = "collection"` makes `image.sif` mean `collection/image`."""

from __future__ import annotations

from dataclasses import replace

from lazysif.model import DirectoryEntry, Image, Location, Registry


class PrefixedRegistry:
    """Args: prefix: a path, put before every name."""

    def __init__(self, registry: Registry, prefix: str) -> None:
        self._registry = registry
        self._prefix = prefix

    async def locate(self, path: str) -> Location | None:
        """See `model.Registry.locate`."""
        return await self._registry.locate(self._whole(path))

    async def renew(self, image: Image) -> Location:
        """See `model.Registry.renew`."""
        return await self._registry.renew(replace(image, path=self._whole(image.path)))

    async def list(self, path: str) -> tuple[DirectoryEntry, ...] | None:
        """See `model.Registry.list`."""
        return await self._registry.list(self._whole(path))

    def _whole(self, path: str) -> str:
        return f"{self._prefix}/{path}" if path else self._prefix
