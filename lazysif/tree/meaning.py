"""What a name means. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from lazysif.errors import LazysifError
from lazysif.model import Image, InodeNumber

Key = tuple[str, str]
"""A remote's name and a path below it."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name means: an image, or a directory where `image` is None; `number` is its inode."""

    number: InodeNumber
    image: Image | None


Answer = Meaning | LazysifError
"""What was found out about a name."""
