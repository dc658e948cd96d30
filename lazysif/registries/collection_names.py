"""Names of the form `collection/name[:tag][@digest][.sif]`: of Singularity Hub, static registries and sregistry.

The form alone says what a name is: one component is a collection, two are an image, and nothing lies below. So a
name that cannot be one costs no request (`.git`, `lost+found/x`), and `.sif` may always be left out.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from lazysif.core.locations import has_expired
from lazysif.core.references import Reference, parse_reference
from lazysif.errors import AccessDenied, NoSuchEntry
from lazysif.model import Location

_MOST = 1000
_PART = re.compile(r"[A-Za-z0-9_][-A-Za-z0-9_.+]{0,127}")
"""Wider than any of the three: Singularity Hub takes 39 and 64 characters, the others say no limit."""


def reference_of(path: str) -> Reference | None:
    """What a path below the remote names; None for a collection.

    Raises: NoSuchEntry: no image can have that name.
    """
    if not path:
        return None
    parts = path.split("/")
    try:
        reference = parse_reference(path, whole=len(parts) == 2)
    except ValueError:
        raise _impossible() from None
    if len(parts) == 1:
        if not _PART.fullmatch(path):
            raise _impossible()
        return None
    if reference is None or len(parts) != 2:
        raise _impossible()
    written = [*reference.repository.split("/"), reference.tag]
    if reference.digest:
        written.append(reference.digest.replace(":", ".", 1))
    if not all(_PART.fullmatch(part) for part in written):
        raise _impossible()
    return reference


@contextmanager
def surely_an_image() -> Iterator[None]:
    """Around the question for a name of this form: "no" and "not for you" are about an image, not a directory."""
    try:
        yield
    except NoSuchEntry as error:
        error.certain = True
        raise
    except AccessDenied as error:
        error.asks_credentials = True
        raise


def _impossible() -> NoSuchEntry:
    return NoSuchEntry("no image can have that name", hint="names are collection/name:tag.sif", certain=True)


class Resolved:
    """Locations of references that name a digest: these never mean anything else, so they are asked for once."""

    def __init__(self) -> None:
        self._known: OrderedDict[Reference, Location] = OrderedDict()

    def get(self, reference: Reference) -> Location | None:
        """What it was resolved to, while its URL holds."""
        known = self._known.get(reference)
        return None if known is None or has_expired(known, time.time()) else known

    def keep(self, reference: Reference, location: Location) -> Location:
        """Remember the location if the reference names a digest."""
        if reference.digest and location.validator is not None:
            self._known[reference] = location
            self._known.move_to_end(reference)
            while len(self._known) > _MOST:
                self._known.popitem(last=False)
        return location
