"""Listings of directories: asked at the origin once at a time, believed for a while, and what they say of names that
they lack.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

import trio

from lazysif.errors import LazysifError, NoSuchEntry
from lazysif.fetch.remote import Remote
from lazysif.model import DirectoryEntry
from lazysif.tree.asked_once import AskedOnce, Question
from lazysif.tree.meaning import Answer, Key, Meaning
from lazysif.tree.name_cache import NameCache

_MAX_LISTINGS = 256
_PROOFS = 64
"""So many missing names in a row that a listing lacks too, and it is believed for the rest of its time: a storm of
stats then asks nobody. One name that it lacks and that exists, and it never is."""
_OLD_LISTING_S = 0.5
"""How long an origin that has been silent for a second keeps `ls` waiting where an older listing is at hand."""


_Entries = tuple[DirectoryEntry, ...] | None


@dataclass(slots=True)
class _Listed:
    """A listing that was given; `proofs` counts the missing names that it lacks, -1 once it lacked another."""

    until: float
    entries: _Entries
    names: frozenset[str]
    proofs: int = 0


class Listings:
    """Args: known: what was resolved lately; a listing that hides some of it is not believed about the others."""

    def __init__(self, nursery: trio.Nursery, known: NameCache) -> None:
        self._known = known
        self._listings = AskedOnce[_Entries](nursery, "listing", self._list)
        self._given: OrderedDict[Key, _Listed] = OrderedDict()
        self._misses_of: Counter[Key] = Counter()

    async def entries(self, remote: Remote, path: str) -> _Entries:
        """The origin's listing of a directory, at most `revalidate_s` old; None where it gives none.

        Raises:
            LazysifError: as the origin answers; a temporary one only where no older listing stands in.
        """
        key = (remote.name, path)
        listed = self._given.get(key)
        if listed is not None and listed.until > trio.current_time():
            return listed.entries
        asked_before = self._listings.under_way(remote, path)
        listing = self._start(remote, path)
        if listed is not None and remote.contact.doubtful:
            with trio.move_on_after(0.0 if asked_before else _OLD_LISTING_S):
                await listing.done.wait()
            if not listing.done.is_set():
                return listed.entries
        try:
            return await listing.answer()
        except LazysifError as error:
            if listed is not None and error.temporary:
                return listed.entries
            raise

    def _start(self, remote: Remote, path: str) -> Question[_Entries]:
        """The listing that is under way, or a new one."""
        if not self._listings.under_way(remote, path):
            self._misses_of.pop((remote.name, path), None)
        return self._listings.start(remote, path)

    async def _list(self, remote: Remote, path: str) -> _Entries:
        entries = await remote.list(path)
        self._note(remote, path, entries)
        return entries

    def _note(self, remote: Remote, path: str, entries: _Entries) -> None:
        key = (remote.name, path)
        names = frozenset(entry.name for entry in entries or ())
        hides = not names.issuperset(self._known.below(remote.name, path))
        until = trio.current_time() + remote.policy.revalidate_s
        self._given[key] = _Listed(until, entries, names, proofs=-1 if hides else 0)
        self._given.move_to_end(key)
        while len(self._given) > _MAX_LISTINGS:
            self._given.popitem(last=False)

    def lacks(self, key: Key) -> bool:
        """Whether the parent's listing is fresh, lacks the name, and has proved to be whole."""
        directory, _, name = key[1].rpartition("/")
        listed = self._given.get((key[0], directory))
        return (
            listed is not None
            and listed.proofs >= _PROOFS
            and listed.until > trio.current_time()
            and name not in listed.names
        )

    def judge(self, remote: Remote, path: str, answer: Answer) -> None:
        """Compare what the origin said of a name with its listing; after many missing names, ask for one."""
        directory, _, name = path.rpartition("/")
        listed = self._given.get((remote.name, directory))
        if listed is None or listed.until <= trio.current_time():
            if isinstance(answer, NoSuchEntry):
                self._count_miss(remote, directory)
            return
        if listed.entries is None or name in listed.names or listed.proofs < 0:
            return
        if isinstance(answer, NoSuchEntry):
            listed.proofs += 1
        elif isinstance(answer, Meaning):
            listed.proofs = -1

    def _count_miss(self, remote: Remote, directory: str) -> None:
        key = (remote.name, directory)
        if len(self._misses_of) > _MAX_LISTINGS:
            self._misses_of.clear()
        self._misses_of[key] += 1
        if self._misses_of[key] >= _PROOFS:
            del self._misses_of[key]
            self._start(remote, directory)
