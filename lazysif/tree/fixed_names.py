"""Names that the configuration gives to chosen images ([images]), anywhere in the tree; the directories to them
come with them."""

from __future__ import annotations

from collections.abc import Mapping

Target = tuple[str, str]
"""A remote's name and a path below it."""


class FixedNames:
    """Args: targets: by path below the mountpoint."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = dict(targets)
        self._entries: dict[str, dict[str, Target | None]] = {}
        for path, target in targets.items():
            found: Target | None = target
            while path:
                directory, _, name = path.rpartition("/")
                self._entries.setdefault(directory, {})[name] = found
                path, found = directory, None

    def target(self, path: str) -> Target | None:
        """What a fixed name stands for; None where the path is none."""
        return self._targets.get(path)

    def is_directory(self, path: str) -> bool:
        """Whether fixed names lie below."""
        return path in self._entries

    def below(self, directory: str) -> Mapping[str, Target | None]:
        """Fixed names of a directory, and directories on the way to others (None)."""
        return self._entries.get(directory, {})
