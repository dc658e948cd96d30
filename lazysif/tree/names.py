"""What names mean: asked at the origin once at a time, believed for a while, remembered when the origin is gone.

A while is as long for many daemons as for one: what a predecessor was told holds for the rest of its time. An upgrade
or a crash on a thousand nodes asks their origin nothing, and a start behind it waits for no round trip.

Resolutions run in the daemon's nursery, so that a kernel request that gives up neither ends one nor hands its
cancellation to the others who wait for the same name.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import trio

from lazysif.core.confirmation import Moment, left_of
from lazysif.core.names import has_image_suffix
from lazysif.errors import AccessDenied, LazysifError, NoSuchEntry, SourceError
from lazysif.fetch.remote import FoundDirectory, FoundImage, Remote
from lazysif.model import DirectoryEntry, EntryKind, Image, InodeNumber, ValidatorKind
from lazysif.tree.clocks import present
from lazysif.tree.state import Remembered, Said, StateStore

log = logging.getLogger(__name__)

_MAX_NAMES = 100_000
_MAX_MISSES = 10_000
"""Names that are missing or fail are kept apart, so that a storm of them drives no name out that means something."""
_MAX_LISTINGS = 256
_PROOFS = 64
"""So many missing names in a row that a listing lacks too, and it is believed for the rest of its time: a storm of
stats then asks nobody. One name that it lacks and that exists, and it never is."""
_OLD_LISTING_S = 0.5
"""How long an origin that has been silent for a second keeps `ls` waiting where an older listing is at hand."""
_ERROR_S = 1.0
"""How long a failed look-up is repeated without asking: a storm of stats costs one request a second."""
_DOUBT_S = 2.0


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name means: an image, or a directory where `image` is None; `number` is its inode."""

    number: InodeNumber
    image: Image | None


Key = tuple[str, str]


@dataclass(slots=True)
class _Known:
    answer: Meaning | LazysifError
    until: float


@dataclass(slots=True)
class _Listed:
    """A listing that was given; `proofs` counts the missing names that it lacks, -1 once it lacked another."""

    until: float
    entries: tuple[DirectoryEntry, ...] | None
    names: frozenset[str]
    proofs: int = 0


class _Listing:
    """One directory being listed; whoever needs it waits for `done`."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: tuple[DirectoryEntry, ...] | LazysifError | None = None


class _Resolution:
    """One name being asked for; whoever needs it waits for `done`."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Meaning | LazysifError = NoSuchEntry("not resolved")


class Names:
    """Args:
    keep: takes the first bytes that came with a probe.
    present: the clocks by which daemons tell each other when an origin was asked.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        state: StateStore,
        keep: Callable[[FoundImage], Awaitable[None]],
        present: Callable[[], Moment] = present,
    ) -> None:
        self._nursery = nursery
        self._state = state
        self._keep = keep
        self._present = present
        self._threads = trio.CapacityLimiter(1)
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._underway: dict[Key, _Resolution] = {}
        self._listing: dict[Key, _Listing] = {}
        self._misses: OrderedDict[Key, _Known] = OrderedDict()
        self._listings: OrderedDict[Key, _Listed] = OrderedDict()
        self._misses_of: Counter[Key] = Counter()
        self._doubted: set[Key] = set()
        """Whatever the state directory says until it has heard of the doubt."""

    async def resolve(self, remote: Remote, path: str) -> Meaning:
        """What `path` below a remote means now, or meant at most `revalidate_s` ago.

        Raises:
            NoSuchEntry, AccessDenied, SourceError: remembered for a short while, too.
        """
        key = (remote.name, path)
        known = self._known.get(key) or self._misses.get(key)
        if known is not None and known.until > trio.current_time():
            answer = known.answer
        elif key not in self._known and self._listed_as_missing(key):
            raise NoSuchEntry("the origin's listing has no such name")
        else:
            resolution = self._underway.get(key)
            if resolution is None:
                resolution = self._underway[key] = _Resolution()
                self._nursery.start_soon(
                    self._run, remote, path, resolution, name=f"resolve {remote.name}/{path}"
                )
            await resolution.done.wait()
            answer = resolution.answer
        if isinstance(answer, LazysifError):
            raise answer.with_traceback(None)
        return answer

    async def _run(self, remote: Remote, path: str, resolution: _Resolution) -> None:
        key = (remote.name, path)
        resolution.answer = SourceError("the look-up was broken off")
        try:
            resolution.answer, valid_s = await self._ask(remote, path)
            self._believe(key, resolution.answer, valid_s)
            self._judge_listing(remote, path, resolution.answer)
        except Exception:
            log.exception(
                "look-up of %s in %s failed in an unexpected way", path, remote.name or "the remote"
            )
        finally:
            del self._underway[key]
            resolution.done.set()

    async def _ask(self, remote: Remote, path: str) -> tuple[Meaning | LazysifError, float]:
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
        known = self._known.get(key)
        if known is not None and isinstance(known.answer, Meaning):
            return Remembered(known.answer.number, known.answer.image, None)
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
            entries = await self.listing(remote, path.rpartition("/")[0])
        except LazysifError:
            return False
        if entries is None:
            return True
        return DirectoryEntry(name, EntryKind.DIRECTORY) in entries

    async def listing(self, remote: Remote, path: str) -> tuple[DirectoryEntry, ...] | None:
        """The origin's listing of a directory, at most `revalidate_s` old; None where it gives none."""
        key = (remote.name, path)
        listed = self._listings.get(key)
        if listed is not None and listed.until > trio.current_time():
            return listed.entries
        asked_before = key in self._listing
        listing = self._start_listing(remote, path)
        if listed is not None and remote.contact.doubtful:
            with trio.move_on_after(0.0 if asked_before else _OLD_LISTING_S):
                await listing.done.wait()
            if not listing.done.is_set():
                return listed.entries
        await listing.done.wait()
        if isinstance(listing.answer, LazysifError):
            if listed is not None and listing.answer.temporary:
                return listed.entries
            raise listing.answer.with_traceback(None)
        return listing.answer

    def _start_listing(self, remote: Remote, path: str) -> _Listing:
        """The listing that is under way, or a new one."""
        key = (remote.name, path)
        listing = self._listing.get(key)
        if listing is None:
            listing = self._listing[key] = _Listing()
            self._misses_of.pop(key, None)
            self._nursery.start_soon(self._list, remote, path, listing, name=f"list {remote.name}/{path}")
        return listing

    async def _list(self, remote: Remote, path: str, listing: _Listing) -> None:
        key = (remote.name, path)
        listing.answer = SourceError("the listing was broken off")
        try:
            listing.answer = await remote.list(path)
            entries = listing.answer
            names = frozenset(entry.name for entry in entries or ())
            hides = not names.issuperset(self.resolved_below(remote.name, path))
            until = trio.current_time() + remote.policy.revalidate_s
            self._listings[key] = _Listed(until, entries, names, proofs=-1 if hides else 0)
            self._listings.move_to_end(key)
            while len(self._listings) > _MAX_LISTINGS:
                self._listings.popitem(last=False)
        except LazysifError as error:
            listing.answer = error
        except Exception:
            log.exception(
                "listing of %s in %s failed in an unexpected way", path, remote.name or "the remote"
            )
        finally:
            del self._listing[key]
            listing.done.set()

    def _listed_as_missing(self, key: Key) -> bool:
        """Whether the parent's listing is fresh, lacks the name, and has proved to be whole."""
        directory, _, name = key[1].rpartition("/")
        listed = self._listings.get((key[0], directory))
        return (
            listed is not None
            and listed.proofs >= _PROOFS
            and listed.until > trio.current_time()
            and name not in listed.names
        )

    def _judge_listing(self, remote: Remote, path: str, answer: Meaning | LazysifError) -> None:
        """Compare what the origin said of a name with its listing; after many missing names, ask for one."""
        directory, _, name = path.rpartition("/")
        key = (remote.name, directory)
        listed = self._listings.get(key)
        if listed is None or listed.until <= trio.current_time():
            if isinstance(answer, NoSuchEntry):
                if len(self._misses_of) > _MAX_LISTINGS:
                    self._misses_of.clear()
                self._misses_of[key] += 1
                if self._misses_of[key] >= _PROOFS:
                    del self._misses_of[key]
                    self._start_listing(remote, directory)
            return
        if listed.entries is None or name in listed.names or listed.proofs < 0:
            return
        if isinstance(answer, NoSuchEntry):
            listed.proofs += 1
        elif isinstance(answer, Meaning):
            listed.proofs = -1

    def resolved_below(self, remote: str, directory: str) -> dict[str, Meaning]:
        """Names of this directory that were resolved lately, by their last component."""
        prefix = directory + "/" if directory else ""
        return {
            path[len(prefix) :]: known.answer
            for (name, path), known in self._known.items()
            if name == remote
            and path.startswith(prefix)
            and "/" not in path[len(prefix) :]
            and isinstance(known.answer, Meaning)
        }

    def doubt(self, remote: str, path: str) -> None:
        """Ask again at the next look-up, by this daemon or the next: a reader has met another version."""
        key = (remote, path)
        known = self._known.get(key)
        if known is not None:
            known.until = 0.0
        if key not in self._doubted:
            self._doubted.add(key)
            self._nursery.start_soon(self._write_doubt, key, name=f"doubt of {remote}/{path}")

    async def _write_doubt(self, key: Key) -> None:
        """The end of the daemon, too, waits for it, though no longer than for the rest."""
        with trio.move_on_after(_DOUBT_S, shield=True):
            await trio.to_thread.run_sync(
                self._state.doubt, *key, abandon_on_cancel=True, limiter=self._threads
            )

    def _believe(self, key: Key, answer: Meaning | LazysifError, valid_s: float) -> None:
        known = _Known(answer, trio.current_time() + valid_s)
        self._doubted.discard(key)
        if isinstance(answer, Meaning):
            self._misses.pop(key, None)
            _keep_latest(self._known, key, known, _MAX_NAMES)
        else:
            self._known.pop(key, None)
            _keep_latest(self._misses, key, known, _MAX_MISSES)


def _can_be_asked_about(image: Image) -> bool:
    """Whether the next daemon can ask if this version still holds, and go on with it.

    A whole download without a validator cannot be asked about; it is asked for anew, unless its registry can tell:
    each GET may be counted there.
    """
    told = ValidatorKind.NONE not in (image.validator.kind, image.condition.kind)
    return image.ranges or told or image.validator.kind is ValidatorKind.DIGEST


def _keep_latest(table: OrderedDict[Key, _Known], key: Key, known: _Known, most: int) -> None:
    table[key] = known
    table.move_to_end(key)
    while len(table) > most:
        table.popitem(last=False)
