"""What tomllib leaves out: the line of a key, and writing values back. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
KeyPath = tuple[str, ...]


def only_path(text: str) -> KeyPath:
    """The one chain of keys in a line of TOML (`a."b c" = 0`, `[a.b]`); () where there is none."""
    try:
        value: object = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return ()
    path: list[str] = []
    while isinstance(value, list | dict) and len(value) == 1:
        if isinstance(value, dict):
            path.extend(value)
            value = next(iter(value.values()))
        else:
            value = value[0]
    return tuple(path)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line numbers, from 1, of the tables and keys of a TOML text, by their path.

    Good enough to point at: a line inside a multi-line string that looks like a key is taken for one.
    """
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            table = only_path(line) or table
            lines.setdefault(table, number)
        elif "=" in line and not line.lstrip().startswith("#"):
            key = only_path(line.partition("=")[0] + "= 0")
            if key:
                lines.setdefault(table + key, number)
    return lines


def nearest_line(lines: dict[KeyPath, int], path: KeyPath) -> int | None:
    """The line of `path`, or of the closest table around it that has one."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def dotted(path: Sequence[str]) -> str:
    """A path of keys as TOML writes it: remote."a b".url."""
    return ".".join(key if _BARE.fullmatch(key) else quoted(key) for key in path)


def quoted(text: str) -> str:
    """A basic string (TOML 1.0, "String")."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def rendered(value: str | int | float | bool | Sequence[object]) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int | float):
        return repr(value)
    return "[" + ", ".join(rendered(item) for item in value) + "]"  # type: ignore[arg-type]
