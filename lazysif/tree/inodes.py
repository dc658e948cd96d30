"""What inode numbers mean that the kernel was given.

They outlive the process: a number that a predecessor gave out is looked up in the state directory.
"""

from __future__ import annotations

from collections.abc import Container

import trio

from lazysif.core.identity import ROOT_INODE
from lazysif.errors import StaleInode
from lazysif.model import Image, ImageId, InodeNumber
from lazysif.tree.fixed_names import FixedNames
from lazysif.tree.meaning import Meaning
from lazysif.tree.state import StateStore


class Inodes:
    """Args: remotes, fixed: of this mount; inodes of what it does not have any more are stale."""

    def __init__(self, state: StateStore, remotes: Container[str], fixed: FixedNames) -> None:
        self._state = state
        self._remotes = remotes
        self._fixed = fixed
        self._meanings: dict[InodeNumber, Meaning] = {}
        self._directories: dict[InodeNumber, tuple[str, str]] = {}
        self._own_directories: dict[tuple[str, str], InodeNumber] = {}
        self._threads = trio.CapacityLimiter(1)

    def note(self, meaning: Meaning, remote: str, path: str) -> None:
        """The kernel is told of a number, which stands for a path below a remote."""
        self._meanings[meaning.number] = meaning
        if meaning.image is None:
            self._directories[meaning.number] = (remote, path)

    def get(self, number: InodeNumber) -> Meaning | None:
        """As far as this daemon has met it."""
        return self._meanings.get(number)

    async def restore(self, number: InodeNumber) -> Meaning:
        """What a number meant that a predecessor gave out. Raises: StaleInode."""
        image = await trio.to_thread.run_sync(
            self._state.image_of, number, abandon_on_cancel=True, limiter=self._threads
        )
        if image is not None and image.remote in self._remotes:
            meaning = Meaning(number, image)
        else:
            await self.directory(number)
            meaning = Meaning(number, None)
        self._meanings[number] = meaning
        return meaning

    async def image(self, number: InodeNumber) -> Image:
        """The image of a file's inode. Raises: StaleInode."""
        meaning = self._meanings.get(number) or await self.restore(number)
        if meaning.image is None:
            raise StaleInode("not a file")
        return meaning.image

    async def directory(self, number: InodeNumber) -> tuple[str, str]:
        """Remote and path of a directory's inode. Raises: StaleInode."""
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

    async def own_directory(self, remote: str, path: str) -> Meaning:
        """A directory that is there whatever an origin says: a remote's own, or one on the way to a fixed name."""
        number = self._own_directories.get((remote, path))
        if number is None:
            number = await trio.to_thread.run_sync(
                self._state.remember_directory, remote, path, abandon_on_cancel=True, limiter=self._threads
            )
            self._own_directories[remote, path] = number
        return Meaning(number, None)

    def shown(self, parent: InodeNumber, name: str) -> str:
        """The path below the mountpoint of a name in a directory, as far as this daemon has met that."""
        remote, directory = self._directories.get(parent, ("", ""))
        return "/".join(part for part in (remote, directory, name) if part)

    def numbers_of(self, image_id: ImageId) -> list[InodeNumber]:
        """The inodes that stand for a version, as far as this daemon has met them."""
        return [
            number
            for number, meaning in list(self._meanings.items())  # asked from another thread
            if meaning.image is not None and meaning.image.id == image_id
        ]

    def forget(self, number: InodeNumber) -> None:
        """The kernel knows the number no more."""
        self._meanings.pop(number, None)
        self._directories.pop(number, None)
