"""Answers about names, each for as long as it holds: meanings, and names that are missing or fail. Memory only."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import trio

from lazysif.tree.meaning import Answer, Key, Meaning

_MAX_NAMES = 100_000
_MAX_MISSES = 10_000
"""Names that are missing or fail are kept apart, so that a storm of them drives no name out that means something."""


@dataclass(slots=True)
class _Known:
    answer: Answer
    until: float


class NameCache:
    """Positive and negative entries. A meaning stays known after its time, until it is driven out or denied."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._misses: OrderedDict[Key, _Known] = OrderedDict()

    def fresh(self, key: Key) -> Answer | None:
        """The answer that still holds, if there is one."""
        known = self._known.get(key) or self._misses.get(key)
        return known.answer if known is not None and known.until > trio.current_time() else None

    def last(self, key: Key) -> Meaning | None:
        """What the name meant last, whether that still holds or not."""
        known = self._known.get(key)
        return known.answer if known is not None and isinstance(known.answer, Meaning) else None

    def below(self, remote: str, directory: str) -> dict[str, Meaning]:
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

    def believe(self, key: Key, answer: Answer, valid_s: float) -> None:
        """From now on this is the answer, and for `valid_s` seconds nobody needs to ask."""
        known = _Known(answer, trio.current_time() + valid_s)
        if isinstance(answer, Meaning):
            self._misses.pop(key, None)
            _keep_latest(self._known, key, known, _MAX_NAMES)
        else:
            self._known.pop(key, None)
            _keep_latest(self._misses, key, known, _MAX_MISSES)

    def doubt(self, key: Key) -> None:
        """What the name means is to be asked again; what it meant stays known."""
        known = self._known.get(key)
        if known is not None:
            known.until = 0.0


def _keep_latest(table: OrderedDict[Key, _Known], key: Key, known: _Known, most: int) -> None:
    table[key] = known
    table.move_to_end(key)
    while len(table) > most:
        table.popitem(last=False)
