"""What somebody wants examined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Asked:
    """The arguments of the command, told apart.

    Args:
        config_file: None with no `source` is the usual one, where it is there.
        settings: overrides by dotted key, as `lazysif mount` takes them.
        mountpoint: as it was typed.
        image: a path below the mountpoint, to be asked of its origin.
    """

    config_file: Path | None = None
    source: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    mountpoint: str | None = None
    image: str | None = None
