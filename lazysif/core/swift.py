"""OpenStack Swift: which endpoint of a catalog is the object store, and what a listing says. Pure.

Sources: the identity API v3 (`token.catalog`), Swift's API reference ("show container details and list objects",
`format=json`, `delimiter`, `prefix`, `marker`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from lazysif.core.names import is_name, join_url
from lazysif.errors import FormatError
from lazysif.model import DirectoryEntry, EntryKind

PAGE = 10_000
"""Entries; Swift's own limit, and most that it gives."""


def storage_url(token: Any, *, region: str = "", interface: str = "public") -> str:
    """The URL of the account in the object store, from the answer to a login (`{"token": {"catalog": ...}}`).

    Args:
        region: "" takes the only one there is.

    Raises:
        FormatError: no object store, not in that region or on that interface, or several to choose from.
    """
    body = token.get("token") if isinstance(token, dict) else None
    catalog = body.get("catalog") if isinstance(body, dict) else None
    if not isinstance(catalog, list):
        raise FormatError("the identity service gives no catalog: the login needs a project")
    endpoints = [
        endpoint
        for service in catalog
        if isinstance(service, dict) and service.get("type") == "object-store"
        for endpoint in service.get("endpoints") or []
        if isinstance(endpoint, dict) and isinstance(endpoint.get("url"), str)
    ]
    if not endpoints:
        raise FormatError("the identity service knows no object store for this project")
    found = {
        (str(endpoint.get("region") or endpoint.get("region_id") or ""), endpoint["url"])
        for endpoint in endpoints
        if endpoint.get("interface") == interface
    }
    if not found:
        raise FormatError(f"the identity service knows no {interface} address of the object store")
    matching = {pair for pair in found if region in ("", pair[0])}
    regions = ", ".join(sorted({name for name, _ in found if name}))
    if not matching:
        raise FormatError(f'there is no object store in region "{region}", only in: {regions}')
    if len({url for _, url in matching}) > 1:
        raise FormatError(f"there are object stores in several regions, write one as region: {regions}")
    return str(matching.pop()[1])


def listing_url(base_url: str, container: str, prefix: str, marker: str) -> str:
    """Of one page: the names below `prefix` (which ends in "/" or is ""), up to the next "/".

    Without a container: of the account's containers.
    """
    query = {"format": "json", "limit": str(PAGE)}
    if container:
        query["delimiter"] = "/"
    if prefix:
        query["prefix"] = prefix
    if marker:
        query["marker"] = marker
    return join_url(base_url, container).rstrip("/") + "?" + urlencode(query)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing; `marker` is where the next begins, "" at the end."""

    entries: tuple[DirectoryEntry, ...]
    marker: str


def parse_page(found: Any, prefix: str, *, of_account: bool = False) -> Page:
    """A page of a listing; names that cannot be file names are left out, as are markers of empty directories.

    Raises: FormatError: no listing.
    """
    if not isinstance(found, list) or not all(isinstance(line, dict) for line in found):
        raise FormatError("the answer is no listing")
    entries = []
    marker = ""
    for line in found:
        full = line.get("subdir", line.get("name"))
        if not isinstance(full, str):
            raise FormatError("the listing has a line without a name")
        marker = full
        is_directory = of_account or "subdir" in line
        name = full.removeprefix(prefix)
        name = name.removesuffix("/") if is_directory else name
        if full.startswith(prefix) and is_name(name):
            entries.append(DirectoryEntry(name, EntryKind.DIRECTORY if is_directory else EntryKind.FILE))
    return Page(tuple(entries), marker if len(found) >= PAGE else "")


def merged(entries: Iterable[DirectoryEntry]) -> tuple[DirectoryEntry, ...]:
    """Each name once: an object `a` and names below `a/` are a file here, as `a` can be opened."""
    found: dict[str, DirectoryEntry] = {}
    for entry in entries:
        if entry.name not in found or entry.kind is EntryKind.FILE:
            found[entry.name] = entry
    return tuple(found.values())
