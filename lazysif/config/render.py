"""The configuration as TOML: for people, and for another process of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from lazysif import toml_text
from lazysif.config.base import Table
from lazysif.config.tables import TABLES, CacheConfig, Config
from lazysif.sizes import ShareOrSize, exact_size


def render(config: Config) -> str:
    """TOML of what is in force, for `config show`: names of secret files, no secrets, no query of a URL."""
    return _rendered(config, whole=False)


def to_toml(config: Config) -> str:
    """All of it for another process of ours, queries of URLs included: not to be shown. `load.from_toml` reads it."""
    return _rendered(config, whole=True)


def _rendered(config: Config, *, whole: bool) -> str:
    lines: list[str] = []
    for key in TABLES:
        lines += _section(key, getattr(config, key), whole=whole)
    for remote in config.remotes:
        lines += _section(toml_text.dotted(("remote", remote.name)), remote, whole=whole)
    if config.images:
        lines += ["[images]", *(_image_line(*pair, whole=whole) for pair in config.images.items()), ""]
    return "\n".join(lines)


def _section(head: str, table: Table, *, whole: bool = False) -> Iterator[str]:
    yield f"[{head}]"
    for key, value in msgspec.structs.asdict(table).items():
        if value is None or key == "name":
            continue
        if not whole and key.endswith("url") and isinstance(value, str) and "?" in value:
            yield f"{key} = {toml_text.rendered(value.partition('?')[0])}  # and a query, not shown"
            continue
        yield f"{key} = {toml_text.rendered(_shown(table, key, value))}"
    yield ""


def _shown(table: Table, key: str, value: object) -> str | int | float | tuple[object, ...]:
    if isinstance(value, Path | ShareOrSize):
        return str(value)
    if isinstance(table, CacheConfig) and isinstance(value, int):
        return exact_size(value)
    if key == "mode" and isinstance(value, int):
        return f"{value:04o}"
    assert isinstance(value, str | int | float | tuple)
    return value


def _image_line(name: str, uri: str, *, whole: bool) -> str:
    shown, mark, _ = uri.partition("?")
    hidden = bool(mark) and not whole
    line = f"{toml_text.quoted(name)} = {toml_text.rendered(shown if hidden else uri)}"
    return f"{line}  # and a query, not shown" if hidden else line
