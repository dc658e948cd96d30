"""The tree that the kernel sees, without FUSE: names to inodes, and directories; its files are in `tree.files`."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from lazysif.core.asked import Asked
from lazysif.core.identity import ROOT_INODE
from lazysif.core.inodes import LookupCounts
from lazysif.core.names import decode_name, is_name
from lazysif.errors import DeadlineExceeded, LazysifError, NoSuchEntry
from lazysif.fetch.remote import Remote
from lazysif.model import EntryKind, Image, ImageId, InodeNumber
from lazysif.telemetry import Counters
from lazysif.tree.attributes import (
    Attributes,
    ListedEntry,
    directory_attributes,
    image_attributes,
    unresolved_attributes,
)
from lazysif.tree.deadlines import Deadlines
from lazysif.tree.files import Files
from lazysif.tree.fixed_names import FixedNames
from lazysif.tree.inodes import Inodes
from lazysif.tree.listings import Listings
from lazysif.tree.meaning import Meaning
from lazysif.tree.name_cache import NameCache
from lazysif.tree.names import Names
from lazysif.tree.open_images import OpenImages
from lazysif.tree.reading import PagesAhead, Reading
from lazysif.tree.state import StateStore


class Tree:
    """Args:
    remotes: by name; the one named "" alone makes the mount's root, those that begin with "@" are not seen.
    fixed: names of chosen images, which stand for names of remotes.
    lookup_timeout_s, read_timeout_s: within which every look-up and read ends, in data or an error.
    whole_file_timeout_s: the same for reads of a file that its origin only sends whole.
    asked: since when requests wait that a predecessor of this daemon left.
    pages: fills the kernel's page cache ahead of jobs, where that is wanted.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        remotes: Mapping[str, Remote],
        images: OpenImages,
        state: StateStore,
        counters: Counters,
        *,
        fixed: FixedNames | None = None,
        lookup_timeout_s: float = 20.0,
        read_timeout_s: float = 60.0,
        whole_file_timeout_s: float = 600.0,
        asked: Asked | None = None,
        pages: PagesAhead | None = None,
    ) -> None:
        self._remotes = dict(remotes)
        self._fixed = fixed or FixedNames({})
        self._known = NameCache()
        self._listings = Listings(nursery, self._known)
        self._names = Names(nursery, state, self._known, self._listings, images.keep)
        self._lookups = LookupCounts()
        self._inodes = Inodes(state, self._remotes, self._fixed)
        self._reading = Reading(pages)
        self._lookup_timeout_s = lookup_timeout_s
        self._deadlines = Deadlines(lookup_timeout_s, asked or Asked())
        self.in_hand = self._deadlines.in_hand
        self.files = Files(
            self._inodes,
            images,
            self._reading,
            self._deadlines,
            counters,
            read_timeout_s=read_timeout_s,
            whole_file_timeout_s=whole_file_timeout_s,
            doubt=self._names.doubt,
        )

    # --- names ------------------------------------------------------------------------------------

    async def lookup(self, parent: InodeNumber, raw_name: bytes) -> Attributes:
        """What `raw_name` in a directory is; takes a lookup count.

        Raises:
            NoSuchEntry, StaleInode, AccessDenied, SourceError, DeadlineExceeded.
        """
        name = decode_name(raw_name)
        if name is None:
            raise NoSuchEntry("a name that no image can have")
        try:
            attributes = await self._deadlines.in_time("lookup", (parent, name), self._lookup, parent, name)
        except LazysifError as error:
            error.about(image=self._inodes.shown(parent, name))
            raise
        self._lookups.add(attributes.number)
        self._reading.named(attributes.number, self._inodes.shown(parent, name))
        return attributes

    async def _lookup(self, parent: InodeNumber, name: str) -> Attributes:
        remote_name, directory = await self._inodes.directory(parent)
        path = f"{directory}/{name}" if directory else name
        shown = f"{remote_name}/{path}" if remote_name else path
        target = self._fixed.target(shown)
        if target is not None:
            return await self._fixed_name(*target)
        if not remote_name and "" not in self._remotes:
            if path in self._visible_remotes():
                return await self._own_directory(path, "")
            if self._fixed.is_directory(path):
                return await self._own_directory("", path)
            raise NoSuchEntry(f"no remote is called {name!r}")
        if self._fixed.is_directory(shown):
            return await self._own_directory(remote_name, path)
        meaning = await self._names.resolve(self._remotes[remote_name], path)
        return self._attributes(meaning, remote_name, path)

    async def _fixed_name(self, remote: str, path: str) -> Attributes:
        meaning = await self._names.resolve(self._remotes[remote], path)
        if meaning.image is None:
            raise NoSuchEntry("the configuration gives this name to something that is no image")
        return self._attributes(meaning, remote, path)

    async def attributes(self, number: InodeNumber) -> Attributes:
        """Attributes of an inode given out before. Raises: StaleInode."""
        if number == ROOT_INODE:
            return self._directory_attributes(number, "")
        meaning = self._inodes.get(number)
        if meaning is None:
            meaning = await self._deadlines.in_time("getattr", number, self._inodes.restore, number)
        if meaning.image is None:
            remote, path = await self._inodes.directory(number)
            return self._attributes(meaning, remote, path)
        return self._attributes(meaning, meaning.image.remote, meaning.image.path)

    def _visible_remotes(self) -> list[str]:
        return [name for name in self._remotes if not name.startswith("@")]

    async def _own_directory(self, remote: str, path: str) -> Attributes:
        return self._attributes(await self._inodes.own_directory(remote, path), remote, path)

    def _attributes(self, meaning: Meaning, remote: str, path: str) -> Attributes:
        self._inodes.note(meaning, remote, path)
        if meaning.image is None:
            return self._directory_attributes(meaning.number, remote)
        return image_attributes(meaning.number, meaning.image, self._remotes[remote].policy)

    def _directory_attributes(self, number: InodeNumber, remote: str) -> Attributes:
        return directory_attributes(number, self._remotes[remote].policy if remote in self._remotes else None)

    def forget(self, returned: list[tuple[InodeNumber, int]]) -> None:
        """The kernel gives lookup counts back."""
        for number in self._lookups.forget(returned):
            self._inodes.forget(number)
            self._reading.forget(number)

    # --- directories ------------------------------------------------------------------------------

    async def entries(self, number: InodeNumber) -> list[ListedEntry]:
        """The entries of a directory, sorted by name, without `.` and `..`; takes no lookup counts.

        Where the origin gives no listing, the names that were used lately. A file whose size is not known yet
        gets attributes that the kernel may not believe for a moment: `stat` asks by LOOKUP.

        Raises:
            StaleInode, AccessDenied, SourceError, DeadlineExceeded.
        """
        return await self._deadlines.in_time("readdir", number, self._list, number)

    async def _list(self, number: InodeNumber) -> list[ListedEntry]:
        remote_name, directory = await self._inodes.directory(number)
        attributes: dict[str, Attributes] = {}
        if remote_name in self._remotes:
            attributes = await self._list_remote(self._remotes[remote_name], directory)
        elif number == ROOT_INODE:
            attributes = {name: await self._own_directory(name, "") for name in self._visible_remotes()}
        shown = "/".join(part for part in (remote_name, directory) if part)
        for name, target in self._fixed.below(shown).items():
            if target is not None:
                kind, remote = EntryKind.FILE, self._remotes[target[0]]
                attributes[name] = unresolved_attributes(remote.policy, shown, name, kind)
            elif name not in attributes:
                attributes[name] = unresolved_attributes(None, shown, name, EntryKind.DIRECTORY)
        ordered = sorted(attributes.items())
        return [ListedEntry(name, entry, position + 1) for position, (name, entry) in enumerate(ordered)]

    async def _list_remote(self, remote: Remote, directory: str) -> dict[str, Attributes]:
        known = self._known.below(remote.name, directory)
        listed = await self._listings.entries(remote, directory)
        entries: dict[str, Attributes] = {}
        for name, meaning in known.items():
            path = f"{directory}/{name}" if directory else name
            entries[name] = self._attributes(meaning, remote.name, path)
        if listed is None:
            return entries
        names = {entry.name for entry in listed}
        entries = {name: attributes for name, attributes in entries.items() if name in names}
        for entry in listed:
            if entry.name not in entries:
                shown = f"{remote.name}/{directory}" if remote.name else directory
                entries[entry.name] = unresolved_attributes(remote.policy, shown, entry.name, entry.kind)
        return entries

    def listed_to_kernel(self, attributes: Attributes) -> None:
        """The kernel took an entry of a listing: readdirplus counts as a look-up."""
        self._lookups.add(attributes.number)

    # --- for the rest of the daemon ---------------------------------------------------------------

    async def find_image(self, remote: str, path: str) -> Image:
        """The present version of a path below a remote, for who does not come through the kernel.

        Raises:
            NoSuchEntry, AccessDenied, SourceError, DeadlineExceeded.
        """
        if remote not in self._remotes or not all(is_name(name) for name in path.split("/")):
            raise NoSuchEntry("a name that no image can have")
        try:
            with trio.fail_after(self._lookup_timeout_s):
                meaning = await self._names.resolve(self._remotes[remote], path)
        except trio.TooSlowError:
            raise DeadlineExceeded(f"no answer within {self._lookup_timeout_s:g} s") from None
        if meaning.image is None:
            raise NoSuchEntry("a directory, and no image")
        return meaning.image

    def numbers_of(self, image_id: ImageId) -> list[InodeNumber]:
        """The inodes that stand for a version, as far as this daemon has met them."""
        return self._inodes.numbers_of(image_id)

    @property
    def waiting_reads(self) -> int:
        """Reads that are not answered from memory, under way now."""
        return self.files.waiting_reads
