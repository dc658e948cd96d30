"""What names mean: asked at the origin once at a time, believed for a while, remembered when the origin is gone.

A while is as long for many daemons as for one: what a predecessor was told holds for the rest of its time. An upgrade
or a crash on a thousand nodes asks their origin nothing, and a start behind it waits for no round trip.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import trio

from lazysif.core.confirmation import Moment, left_of
from lazysif.core.names import has_image_suffix
from lazysif.errors import AccessDenied, LazysifError, NoSuchEntry
from lazysif.fetch.probe import FoundDirectory, FoundImage
from lazysif.fetch.remote import Remote
from lazysif.model import DirectoryEntry, EntryKind, Image, ValidatorKind
from lazysif.tree.asked_once import AskedOnce
from lazysif.tree.clocks import present
from lazysif.tree.listings import Listings
from lazysif.tree.meaning import Answer, Key, Meaning
from lazysif.tree.name_cache import NameCache
from lazysif.tree.state import Remembered, Said, StateStore

log = logging.getLogger(__name__)

_ERROR_S = 1.0
"""How long a failed look-up is repeated without asking: a storm of stats costs one request a second."""
_DOUBT_S = 2.0


class Names:
    """Args:
    known: what was answered lately.
    listings: of the directories in which the names are.
    keep: takes the first bytes that came with a probe.
    present: the clocks by which daemons tell each other when an origin was asked.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        state: StateStore,
        known: NameCache,
        listings: Listings,
        keep: Callable[[FoundImage], Awaitable[None]],
        present: Callable[[], Moment] = present,
    ) -> None:
        self._nursery = nursery
        self._state = state
        self._known = known
        self._listings = listings
        self._keep = keep
        self._present = present
        self._threads = trio.CapacityLimiter(1)
        self._resolutions = AskedOnce[Answer](nursery, "look-up", self._resolve)
        self._doubted: set[Key] = set()
        """Whatever the state directory says until it has heard of the doubt."""

    async def resolve(self, remote: Remote, path: str) -> Meaning:
        """What `path` below a remote means now, or meant at most `revalidate_s` ago.

        Raises:
            NoSuchEntry, AccessDenied, SourceError: remembered for a short while, too.
        """
        key = (remote.name, path)
        answer = self._known.fresh(key)
        if answer is None:
            if self._known.last(key) is None and self._listings.lacks(key):
                raise NoSuchEntry("the origin's listing has no such name")
            answer = await self._resolutions.start(remote, path).answer()
        if isinstance(answer, LazysifError):
            raise answer.with_traceback(None)
        return answer

    async def _resolve(self, remote: Remote, path: str) -> Answer:
        """Ask, and believe the answer for its time."""
        key = (remote.name, path)
        answer, valid_s = await self._ask(remote, path)
        self._doubted.discard(key)
        self._known.believe(key, answer, valid_s)
        self._listings.judge(remote, path, answer)
        return answer

    async def _ask(self, remote: Remote, path: str) -> tuple[Answer, float]:
        """The answer and for how many seconds it holds."""
        policy = remote.policy
        last = await self._last(remote, path)
        if last is not None and (left_s := self._left_s(remote, last)) > 0:
            return Meaning(last.number, last.image), left_s
        before = last.image if last is not None else None
        try:
            found = await remote.find(path, before)
        except (NoSuchEntry, AccessDenied) as error:
            if last is not None:
                await self._forget(remote, path)
            final = error.asks_credentials if isinstance(error, AccessDenied) else error.certain
            if not final and await self._implies_directory(remote, path):
                return await self._directory(remote, path), policy.revalidate_s
            return error, policy.negative_s if isinstance(error, NoSuchEntry) else max(
                policy.negative_s, _ERROR_S
            )
        except LazysifError as error:
            if before is not None and error.temporary:
                log.warning("%s; the version known before is served", error)
                return await self._image(before, None), max(policy.negative_s, _ERROR_S)
            log.warning("look-up failed: %s", error)
            return error, _ERROR_S
        if isinstance(found, FoundDirectory):
            return await self._directory(remote, path), policy.revalidate_s
        if found.first_bytes:
            # nobody waits for it, and it has the image before anybody who opens it
            self._nursery.start_soon(self._keep_bytes, found, name=f"first bytes of {remote.name}/{path}")
        return await self._image(found.image, self._said(remote)), policy.revalidate_s

    async def _keep_bytes(self, found: FoundImage) -> None:
        try:
            await self._keep(found)
        except Exception:
            log.exception("%s: its first bytes are not kept", found.image.name)

    async def _last(self, remote: Remote, path: str) -> Remembered | None:
        """What the name meant last: in this daemon's life, which is over with that, or before it."""
        key = (remote.name, path)
        known = self._known.last(key)
        if known is not None:
            return Remembered(known.number, known.image, None)
        last = await trio.to_thread.run_sync(self._state.remembered, remote.name, path, limiter=self._threads)
        if last is not None and last.image is not None and not _can_be_asked_about(last.image):
            return replace(last, image=None, confirmed=None)
        return replace(last, confirmed=None) if last is not None and key in self._doubted else last

    def _left_s(self, remote: Remote, last: Remembered) -> float:
        """For how long a predecessor's answer still holds."""
        if last.confirmed is None:
            return 0.0
        policy = remote.policy
        return left_of(last.confirmed, policy.asked_of, self._present(), policy.revalidate_s)

    async def _forget(self, remote: Remote, path: str) -> None:
        """The origin has said no: when it is down later, that still holds."""
        await trio.to_thread.run_sync(self._state.forget_name, remote.name, path, limiter=self._threads)

    def _said(self, remote: Remote) -> Said:
        return self._present(), remote.policy.asked_of

    async def _directory(self, remote: Remote, path: str) -> Meaning:
        number = await trio.to_thread.run_sync(
            self._state.remember_directory, remote.name, path, self._said(remote), limiter=self._threads
        )
        return Meaning(number, None)

    async def _image(self, image: Image, said: Said | None) -> Meaning:
        number = await trio.to_thread.run_sync(self._state.remember_image, image, said, limiter=self._threads)
        return Meaning(number, image)

    async def _implies_directory(self, remote: Remote, path: str) -> bool:
        """Whether a name that the origin does not have may still be on the way to one that it has.

        Object stores have no directories: there `dir` is nothing, and `dir/x.sif` is an image. Where the origin
        lists the parent, the list decides; where it lists nothing, any name that does not look like an image
        may be a directory.
        """
        name = path.rpartition("/")[2]
        if not path or name.startswith(".") or has_image_suffix(name):
            return False
        try:
            entries = await self._listings.entries(remote, path.rpartition("/")[0])
        except LazysifError:
            return False
        if entries is None:
            return True
        return DirectoryEntry(name, EntryKind.DIRECTORY) in entries

    def doubt(self, remote: str, path: str) -> None:
        """Ask again at the next look-up, by this daemon or the next: a reader has met another version."""
        key = (remote, path)
        self._known.doubt(key)
        if key not in self._doubted:
            self._doubted.add(key)
            self._nursery.start_soon(self._write_doubt, key, name=f"doubt of {remote}/{path}")

    async def _write_doubt(self, key: Key) -> None:
        """The end of the daemon, too, waits for it, though no longer than for the rest."""
        with trio.move_on_after(_DOUBT_S, shield=True):
            await trio.to_thread.run_sync(
                self._state.doubt, *key, abandon_on_cancel=True, limiter=self._threads
            )


def _can_be_asked_about(image: Image) -> bool:
    """Whether the next daemon can ask if this version still holds, and go on with it.

    A whole download without a validator cannot be asked about; it is asked for anew, unless its registry can tell:
    each GET may be counted there.
    """
    told = ValidatorKind.NONE not in (image.validator.kind, image.condition.kind)
    return image.ranges or told or image.validator.kind is ValidatorKind.DIGEST
