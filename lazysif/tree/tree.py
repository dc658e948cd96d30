"""The tree that the kernel sees, without FUSE: names to inodes, inodes to images, and the deadlines of it all.

Inode numbers outlive the process: a number that a predecessor gave out is looked up in the state directory, and a
file handle is its inode number, so that reads need nothing that was made at open.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import TypeVar

import trio

from lazysif.config.values import directory_mode
from lazysif.core.asked import Asked, GivenUp, left_s
from lazysif.core.identity import ROOT_INODE, inode_number
from lazysif.core.inodes import LookupCounts
from lazysif.core.names import decode_name, is_name
from lazysif.errors import (
    DeadlineExceeded,
    ImageChanged,
    LazysifError,
    NoSuchEntry,
    SourceUnavailable,
    StaleInode,
)
from lazysif.fetch.remote import FoundImage, Remote, RemotePolicy
from lazysif.image.open_image import OpenImage
from lazysif.model import Buffer, EntryKind, Image, ImageId, InodeNumber
from lazysif.telemetry import Counters, InHand
from lazysif.tree.attributes import Attributes, ListedEntry
from lazysif.tree.fixed_names import FixedNames
from lazysif.tree.names import Meaning, Names
from lazysif.tree.open_images import OpenImages
from lazysif.tree.reading import PagesAhead, Reading
from lazysif.tree.state import StateStore

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_ENTRY_TIMEOUT_S = 1.0
_IMAGE_ATTR_TIMEOUT_S = 3600.0
_DIRECTORY_ATTR_TIMEOUT_S = 60.0
_MAX_WAITING_READS = 800
"""Below the 1,000 handlers that run at once, so that stalled reads never keep look-ups waiting."""


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
        self._images = images
        self._state = state
        self._counters = counters
        self._names = Names(nursery, state, self._keep)
        self._lookups = LookupCounts()
        self._nodes: dict[InodeNumber, Meaning] = {}
        self._directories: dict[InodeNumber, tuple[str, str]] = {}
        self._own_directories: dict[tuple[str, str], InodeNumber] = {}
        self._reading = Reading(pages)
        self._waiting_reads = 0
        self.in_hand = InHand()
        self._asked = asked or Asked()
        self._given_up = GivenUp()
        self._lookup_timeout_s = lookup_timeout_s
        self._read_timeout_s = read_timeout_s
        self._whole_file_timeout_s = whole_file_timeout_s
        self._threads = trio.CapacityLimiter(1)

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
            attributes = await self._in_time("lookup", (parent, name), self._lookup, parent, name)
        except LazysifError as error:
            error.about(image=self._shown(parent, name))
            raise
        self._lookups.add(attributes.number)
        self._reading.named(attributes.number, self._shown(parent, name))
        return attributes

    async def _lookup(self, parent: InodeNumber, name: str) -> Attributes:
        remote_name, directory = await self._directory(parent)
        path = f"{directory}/{name}" if directory else name
        shown = f"{remote_name}/{path}" if remote_name else path
        target = self._fixed.target(shown)
        if target is not None:
            return await self._fixed_name(*target)
        if not remote_name and "" not in self._remotes:
            if path in self._visible_remotes():
                return await self._new_directory(path, "")
            if self._fixed.is_directory(path):
                return await self._new_directory("", path)
            raise NoSuchEntry(f"no remote is called {name!r}")
        if self._fixed.is_directory(shown):
            return await self._new_directory(remote_name, path)
        meaning = await self._names.resolve(self._remotes[remote_name], path)
        return self._attributes(meaning, remote_name, path)

    async def _fixed_name(self, remote: str, path: str) -> Attributes:
        meaning = await self._names.resolve(self._remotes[remote], path)
        if meaning.image is None:
            raise NoSuchEntry("the configuration gives this name to something that is no image")
        return self._attributes(meaning, remote, path)

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

    def _visible_remotes(self) -> list[str]:
        return [name for name in self._remotes if not name.startswith("@")]

    def _shown(self, parent: InodeNumber, name: str) -> str:
        remote, directory = self._directories.get(parent, ("", ""))
        return "/".join(part for part in (remote, directory, name) if part)

    async def _new_directory(self, remote: str, path: str) -> Attributes:
        """A directory that is there whatever an origin says: a remote's own, or one on the way to a fixed name."""
        number = self._own_directories.get((remote, path))
        if number is None:
            number = await trio.to_thread.run_sync(
                self._state.remember_directory, remote, path, abandon_on_cancel=True, limiter=self._threads
            )
            self._own_directories[remote, path] = number
        return self._attributes(Meaning(number, None), remote, path)

    async def _directory(self, number: InodeNumber) -> tuple[str, str]:
        """Remote and path of a directory's inode."""
        if number == ROOT_INODE:
            return "", ""
        known = self._directories.get(number)
        if known is None:
            known = await trio.to_thread.run_sync(
                self._state.directory_of, number, abandon_on_cancel=True, limiter=self._threads
            )
            if known is None or not self._is_known(*known):
                raise StaleInode("a directory that this mount does not know")
            self._directories[number] = known
        return known

    def _is_known(self, remote: str, path: str) -> bool:
        return remote in self._remotes or (not remote and self._fixed.is_directory(path))

    def _attributes(self, meaning: Meaning, remote: str, path: str) -> Attributes:
        self._nodes[meaning.number] = meaning
        if meaning.image is None:
            self._directories[meaning.number] = (remote, path)
            return self._directory_attributes(meaning.number, remote)
        policy = self._remotes[remote].policy
        return Attributes(
            number=meaning.number,
            kind=EntryKind.FILE,
            size_bytes=meaning.image.size_bytes,
            mode=policy.mode,
            uid=policy.uid,
            gid=policy.gid,
            modified_s=meaning.image.modified_s,
            entry_timeout_s=min(_ENTRY_TIMEOUT_S, policy.revalidate_s),
            attr_timeout_s=_IMAGE_ATTR_TIMEOUT_S,
        )

    def _directory_attributes(self, number: InodeNumber, remote: str) -> Attributes:
        policy = self._remotes[remote].policy if remote in self._remotes else None
        return Attributes(
            number=number,
            kind=EntryKind.DIRECTORY,
            size_bytes=0,
            mode=directory_mode(policy.mode) if policy is not None else 0o555,
            uid=policy.uid if policy is not None else 0,
            gid=policy.gid if policy is not None else 0,
            modified_s=0,
            entry_timeout_s=_ENTRY_TIMEOUT_S,
            attr_timeout_s=_DIRECTORY_ATTR_TIMEOUT_S,
        )

    async def attributes(self, number: InodeNumber) -> Attributes:
        """Attributes of an inode given out before. Raises: StaleInode."""
        if number == ROOT_INODE:
            return self._directory_attributes(number, "")
        meaning = self._nodes.get(number)
        if meaning is None:
            meaning = await self._in_time("getattr", number, self._restore, number)
        if meaning.image is None:
            remote, path = await self._directory(number)
            return self._attributes(meaning, remote, path)
        return self._attributes(meaning, meaning.image.remote, meaning.image.path)

    async def _restore(self, number: InodeNumber) -> Meaning:
        """What a number meant that a predecessor gave out."""
        image = await trio.to_thread.run_sync(
            self._state.image_of, number, abandon_on_cancel=True, limiter=self._threads
        )
        if image is not None and image.remote in self._remotes:
            meaning = Meaning(number, image)
        else:
            await self._directory(number)
            meaning = Meaning(number, None)
        self._nodes[number] = meaning
        return meaning

    def forget(self, returned: list[tuple[InodeNumber, int]]) -> None:
        """The kernel gives lookup counts back."""
        for number in self._lookups.forget(returned):
            self._nodes.pop(number, None)
            self._directories.pop(number, None)
            self._reading.forget(number)

    # --- directories ------------------------------------------------------------------------------

    async def entries(self, number: InodeNumber) -> list[ListedEntry]:
        """The entries of a directory, sorted by name, without `.` and `..`; takes no lookup counts.

        Where the origin gives no listing, the names that were used lately. A file whose size is not known yet
        gets attributes that the kernel may not believe for a moment: `stat` asks by LOOKUP.

        Raises:
            StaleInode, AccessDenied, SourceError, DeadlineExceeded.
        """
        return await self._in_time("readdir", number, self._list, number)

    async def _list(self, number: InodeNumber) -> list[ListedEntry]:
        remote_name, directory = await self._directory(number)
        attributes: dict[str, Attributes] = {}
        if remote_name in self._remotes:
            attributes = await self._list_remote(self._remotes[remote_name], directory)
        elif number == ROOT_INODE:
            attributes = {name: await self._new_directory(name, "") for name in self._visible_remotes()}
        shown = "/".join(part for part in (remote_name, directory) if part)
        for name, target in self._fixed.below(shown).items():
            if target is not None:
                kind, remote = EntryKind.FILE, self._remotes[target[0]]
                attributes[name] = self._unresolved(remote.policy, shown, name, kind)
            elif name not in attributes:
                attributes[name] = self._unresolved(None, shown, name, EntryKind.DIRECTORY)
        ordered = sorted(attributes.items())
        return [ListedEntry(name, entry, position + 1) for position, (name, entry) in enumerate(ordered)]

    async def _list_remote(self, remote: Remote, directory: str) -> dict[str, Attributes]:
        known = self._names.resolved_below(remote.name, directory)
        listed = await self._names.listing(remote, directory)
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
                entries[entry.name] = self._unresolved(remote.policy, shown, entry.name, entry.kind)
        return entries

    def _unresolved(
        self, policy: RemotePolicy | None, directory: str, name: str, kind: EntryKind
    ) -> Attributes:
        """Attributes for an entry that was listed and not asked for: enough for `ls`, believed for no time."""
        mode = policy.mode if policy is not None else 0o555
        return Attributes(
            number=inode_number(f"listed\0{directory}\0{name}"),
            kind=kind,
            size_bytes=0,
            mode=mode if kind is EntryKind.FILE else directory_mode(mode),
            uid=policy.uid if policy is not None else 0,
            gid=policy.gid if policy is not None else 0,
            modified_s=0,
            entry_timeout_s=0.0,
            attr_timeout_s=0.0,
        )

    def listed_to_kernel(self, attributes: Attributes) -> None:
        """The kernel took an entry of a listing: readdirplus counts as a look-up."""
        self._lookups.add(attributes.number)

    # --- files ------------------------------------------------------------------------------------

    async def open(self, number: InodeNumber) -> None:
        """Count a handle of an image. Raises: StaleInode."""
        await self._in_time("open", number, self._open, number)

    async def _open(self, number: InodeNumber) -> None:
        self._reading.opened(number, await self._images.open(await self._image(number)))

    async def release(self, number: InodeNumber) -> None:
        """A handle is closed."""
        image = await self._in_time("release", number, self._image, number)
        self._images.release(image)
        self._reading.released(number)

    async def _image(self, number: InodeNumber) -> Image:
        meaning = self._nodes.get(number) or await self._restore(number)
        if meaning.image is None:
            raise StaleInode("not a file")
        return meaning.image

    def read_now(self, number: InodeNumber, offset: int, size: int) -> Buffer | None:
        """The answer if it is at hand in memory, else None."""
        opened = self._reading.get(number)
        data = opened.read_now(offset, size) if opened is not None else None
        if data is not None:
            self._counters.read_requests += 1
            self._counters.served_bytes += len(data)
        return data

    def read_given(self, number: InodeNumber, offset: int, size: int) -> Buffer | None:
        """What lies in memory in one block, for who fills the page cache; it counts for nothing."""
        opened = self._reading.get(number)
        return opened.glance(offset, size) if opened is not None else None

    async def read(self, number: InodeNumber, offset: int, size: int) -> Buffer:
        """Exactly `min(size, EOF - offset)` bytes.

        Raises:
            ImageChanged, AccessDenied, SourceError, DeadlineExceeded, StaleInode.
        """
        self._counters.read_requests += 1
        since_s = self._since("read", what := (number, offset, size))
        opened = self._reading.get(number)
        if opened is None:
            opened = await self._in_time("read", what, self._reopen, number)
        timeout_s = self._read_timeout_s if opened.image.ranges else self._whole_file_timeout_s
        if self._given_up.covers(number, offset, size, time.monotonic()):
            return await self._read_cached(opened, what, DeadlineExceeded(f"no data within {timeout_s:g} s"))
        if self._waiting_reads >= _MAX_WAITING_READS:
            return await self._read_cached(
                opened, what, SourceUnavailable("too many reads wait for the origin")
            )
        self._waiting_reads += 1
        mark = self.in_hand.enter("read", since_s, what)
        try:
            with trio.fail_after(left_s(timeout_s, time.monotonic() - since_s)):
                data = await opened.read(offset, size)
        except trio.TooSlowError:
            self._given_up.add(number, offset, size, time.monotonic())
            self._counters.reads_late += 1
            late = DeadlineExceeded(
                f"no data within {timeout_s:g} s",
                image=opened.image.name,
                origin=opened.image.location.origin,
            )
            opened.last_error = str(late)
            raise late from None
        except ImageChanged:
            self._counters.image_changes += 1
            self._names.doubt(opened.image.remote, opened.image.path)
            raise
        finally:
            self._waiting_reads -= 1
            self.in_hand.leave(mark)
        self._counters.served_bytes += len(data)
        return data

    async def _reopen(self, number: InodeNumber) -> OpenImage:
        """The image of a handle that a predecessor gave out."""
        opened = await self._images.get(await self._image(number))
        self._reading.reads(number, opened)
        return opened

    async def _read_cached(
        self, opened: OpenImage, what: tuple[InodeNumber, int, int], refusal: LazysifError
    ) -> Buffer:
        """A read that may not wait for an origin: what is cached is served, the rest is refused."""
        data = await self._in_time("read", what, opened.read_cached, *what[1:])
        if data is None:
            self._counters.reads_refused += 1
            refusal.about(image=opened.image.name, origin=opened.image.location.origin)
            raise refusal
        self._counters.served_bytes += len(data)
        return data

    def numbers_of(self, image_id: ImageId) -> list[InodeNumber]:
        """The inodes that stand for a version, as far as this daemon has met them."""
        return [
            number
            for number, meaning in list(self._nodes.items())  # asked from another thread
            if meaning.image is not None and meaning.image.id == image_id
        ]

    @property
    def waiting_reads(self) -> int:
        """Reads that are not answered from memory, under way now."""
        return self._waiting_reads

    async def _keep(self, found: FoundImage) -> None:
        opened = await self._images.get(found.image)
        opened.keep(0, found.first_bytes)

    async def extended_attributes(self, number: InodeNumber) -> dict[str, str]:
        """What `getfattr` shows of an image; {} for a directory (design section 10)."""
        if number == ROOT_INODE:
            return {}
        meaning = self._nodes.get(number)
        if meaning is None:
            meaning = await self._in_time("getxattr", number, self._restore, number)
        if meaning.image is None:
            return {}
        opened = await self._in_time("getxattr", number, self._images.get, meaning.image)
        image = opened.image
        percent = 100.0 * opened.blocks.cached_bytes() / image.size_bytes if image.size_bytes else 100.0
        return {
            "user.lazysif.cached_percent": f"{percent:.1f}",
            "user.lazysif.origin": image.location.origin,
            "user.lazysif.validator": f"{image.validator.kind.value} {image.validator.value}",
            "user.lazysif.last_error": opened.last_error,
            "user.lazysif.verified": opened.verdict or "no digest to check",
        }

    # --- deadlines --------------------------------------------------------------------------------

    def _since(self, kind: str, what: Hashable) -> float:
        """Since when the kernel waits for a request that was read now."""
        return self._asked.since((kind, what), time.monotonic())

    async def _in_time(
        self, kind: str, what: Hashable, work: Callable[..., Awaitable[_T]], *arguments: object
    ) -> _T:
        since_s = self._since(kind, what)
        mark = self.in_hand.enter(kind, since_s, what)
        try:
            with trio.fail_after(left_s(self._lookup_timeout_s, time.monotonic() - since_s)):
                return await work(*arguments)
        except trio.TooSlowError:
            raise DeadlineExceeded(f"no answer within {self._lookup_timeout_s:g} s") from None
        finally:
            self.in_hand.leave(mark)
