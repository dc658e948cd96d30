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
        images = ((toml_text.quoted(name), uri) for name, uri in config.images.items())
        lines += ["[images]", *(_url_line(*pair, whole=whole) for pair in images), ""]
    return "\n".join(lines)


def _section(head: str, table: Table, *, whole: bool = False) -> Iterator[str]:
    yield f"[{head}]"
    for key, value in msgspec.structs.asdict(table).items():
        if value is None or key == "name":
            continue
        if key.endswith("url") and isinstance(value, str):
            yield _url_line(key, value, whole=whole)
        else:
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


def _url_line(key: str, url: str, *, whole: bool) -> str:
    shown, mark, _ = url.partition("?")
    hidden = bool(mark) and not whole
    line = f"{key} = {toml_text.rendered(shown if hidden else url)}"
    return f"{line}  # and a query, not shown" if hidden else line
