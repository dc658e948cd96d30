"""Any image by its URL: `HOST/path/x.sif` below the remote is `https://HOST/path/x.sif`, for hosts that are named.

A name is chosen by whoever can reach the mount, so the configuration says which hosts the daemon may ask: the
transport of such a remote holds redirects to them, too (`transport.redirects`).
"""

from __future__ import annotations

from collections.abc import Sequence

from lazysif.core.names import is_named_host, join_url, origin_of
from lazysif.errors import NoSuchEntry
from lazysif.model import DirectoryEntry, EntryKind, Image, Location


class ByUrlRegistry:
    """Args: hosts: names, with a port where it is another than 443; `*.example.org` stands for all below."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = tuple(hosts)

    async def locate(self, path: str) -> Location | None:
        """The URL of `path`; nothing is asked. Raises: NoSuchEntry for hosts that are not named."""
        host, _, below = path.partition("/")
        if not is_named_host(host, self._hosts):
            raise NoSuchEntry("the configuration does not name this host", hint="see `hosts` of the remote")
        if not below:
            return None
        try:
            url = join_url(f"https://{host.lower()}/", below)
        except ValueError:
            raise NoSuchEntry("no image can have that name") from None
        return Location(url, origin_of(url))

    async def renew(self, image: Image) -> Location:
        """As `locate`."""
        location = await self.locate(image.path)
        if location is None:
            raise NoSuchEntry("a host is no image")
        return location

    async def list(self, path: str) -> tuple[DirectoryEntry, ...] | None:
        """The hosts that are named in full; what they have they do not tell."""
        if path:
            return None
        return tuple(DirectoryEntry(host, EntryKind.DIRECTORY) for host in self._hosts if "*" not in host)
