"""Listings of object stores: a directory is what keys have in common up to a slash. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lazysif.core.names import decode_name, is_name
from lazysif.model import DirectoryEntry, EntryKind

_LONGEST_KEY = 1024
"""Bytes, at AWS and at Google alike; longer ones are answered as a bad request and not as missing."""
LONGEST_PAGE = 8 << 20
"""Bytes. A page has up to 1000 keys of up to 1024 bytes, each of which may take three characters when encoded."""


@dataclass(frozen=True, slots=True)
class ListingPage:
    """One answer to a listing of a directory; `token` asks for the next one, "" if there is none."""

    entries: tuple[DirectoryEntry, ...]
    token: str


def key_of(prefix: str, path: str) -> str:
    """The key of a name below a remote's prefix. Raises: ValueError: no path of names, or longer than a key is."""
    key = "/".join(filter(None, (prefix, path)))
    if not all(is_name(name) for name in path.split("/")) or len(key.encode()) > _LONGEST_KEY:
        raise ValueError(f"not a path of names: {path[:100]!r}")
    return key


def directory_key(prefix: str, directory: str) -> str:
    """What the keys in a directory start with: "" or ending in "/". Raises: ValueError."""
    key = key_of(prefix, directory) if directory else prefix
    return f"{key}/" if key else ""


def entries_below(
    directory: str, keys: Iterable[object], prefixes: Iterable[object]
) -> tuple[DirectoryEntry, ...]:
    """Entries directly below `directory` (as `directory_key` gives it), files first.

    Names that cannot be (`core.names.decode_name`) are left out, and so is the object that some clients make to
    stand for the directory itself.
    """
    named = [(_name_below(key, directory, ""), EntryKind.FILE) for key in keys]
    named += [(_name_below(key, directory, "/"), EntryKind.DIRECTORY) for key in prefixes]
    return tuple(DirectoryEntry(name, kind) for name, kind in named if name is not None)


def _name_below(key: object, directory: str, suffix: str) -> str | None:
    if not isinstance(key, str) or not key.startswith(directory):
        return None
    return decode_name(key[len(directory) :].removesuffix(suffix).encode(errors="surrogatepass"))
