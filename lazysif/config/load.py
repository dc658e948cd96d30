"""The configuration from where it is written: a file, the command line, or another process of ours."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lazysif import toml_text
from lazysif.config import values
from lazysif.config.base import Table
from lazysif.config.build import Problem, build_config, build_remote, build_table
from lazysif.config.tables import TABLES, Config
from lazysif.errors import ConfigError
from lazysif.toml_text import KeyPath

_KIND_OF_SCHEME = {"s3": "s3", "gs": "gcs"}


def check_config(path: str | Path) -> list[str]:
    """All that is wrong with a configuration file, one line each; an empty list says that it can be used."""
    try:
        return _read(Path(path))[1]
    except ConfigError as error:  # a directory that is not given has no default
        return [f"{path}: {error}"]


def load_config(path: str | Path) -> Config:
    """The configuration in a file.

    Raises:
        ConfigError: with the first of the lines that `check_config` gives, and the count of the others.
    """
    config, problems = _read(Path(path))
    _raise_first(problems)
    assert config is not None
    return config


def _read(path: Path) -> tuple[Config | None, list[str]]:
    """The file's configuration, and a line for each problem, in the order of the file.

    Raises: ConfigError: a directory that is not given has no default.
    """
    try:
        text = path.read_bytes().decode()
        given = tomllib.loads(text)
    except OSError as error:
        return None, [f"{path}: cannot be read: {error.strerror}"]
    except UnicodeDecodeError as error:
        return None, [f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8"]
    except tomllib.TOMLDecodeError as error:
        # tomllib says the place in words: "Cannot declare ('remote', 'a') twice (at line 7, column 10)".
        place = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        what = str(error)[: place.start()] if place else str(error)
        return None, [f"{path}{f':{place[1]}' if place else ''}: not TOML: {what[0].lower()}{what[1:]}"]
    except RecursionError:
        return None, [f"{path}: not TOML: nested too deeply"]
    found: list[Problem] = []
    config = build_config(given, found)
    lines = toml_text.key_lines(text)
    placed = [(toml_text.nearest_line(lines, where), where, what) for where, what in found]
    placed.sort(key=lambda problem: problem[0] or 0)
    return config, [
        f"{path}{f':{line}' if line else ''}: {toml_text.dotted(where)}: {what}"
        for line, where, what in placed
    ]


def _raise_first(problems: list[str]) -> None:
    if problems:
        others = len(problems) - 1
        raise ConfigError(problems[0], hint=f"and {others} more: lazysif config check" if others else "")


def config_for_source(url: str, settings: Mapping[str, object] | None = None) -> Config:
    """The configuration of `lazysif mount URL`: one remote that is the mount's root.

    Args:
        settings: other keys of the remote, as they would stand in its table; None is "not given".

    Raises:
        ConfigError: the URL or a setting cannot be meant.
    """
    found: list[Problem] = []
    kind = _KIND_OF_SCHEME.get(url.partition("://")[0].lower(), "http")
    given: dict[str, object] = {"kind": kind, "url": url}
    given |= {key: value for key, value in (settings or {}).items() if value is not None}
    remote = build_remote(("remote",), given, found)
    _raise_first([f"{toml_text.dotted(where[1:])}: {what}" for where, what in found])
    return Config(remotes=(remote,) if remote else ())


def with_overrides(config: Config, settings: Mapping[str, object]) -> Config:
    """`config` with some keys set anew, from the command line.

    Args:
        settings: dotted keys as in the file ("cache.size", "remote.shub.url"); numbers may come as text, and
            None is "not given".

    Raises:
        ConfigError: a key that is not there, or a value that cannot be meant.
    """
    tables: dict[KeyPath, dict[str, object]] = {}
    found: list[Problem] = []
    for dotted, value in settings.items():
        if value is None:
            continue
        path = toml_text.only_path(f"{dotted} = 0") or (dotted,)
        tables.setdefault(path[:-1], {})[path[-1]] = value
    replaced: dict[KeyPath, Any] = {}
    olds: dict[KeyPath, Table] = {(key,): getattr(config, key) for key in TABLES}
    olds |= {("remote", remote.name): remote for remote in config.remotes}
    for path, given in tables.items():
        if path in olds:
            replaced[path] = build_table(type(olds[path]), path, given, found, base=olds[path])
        else:
            known = [toml_text.dotted(old) for old in olds]
            shown = toml_text.dotted(path)
            found += [((*path, key), f"no table of that name{values.near(shown, known)}") for key in given]
    _raise_first([f"{toml_text.dotted(where)}: {what}" for where, what in found])
    return msgspec.structs.replace(
        config,
        **{key: replaced[(key,)] for key in TABLES if (key,) in replaced},
        remotes=tuple(replaced.get(("remote", remote.name), remote) for remote in config.remotes),
    )


def from_toml(text: str) -> Config:
    """What `render.to_toml` wrote, the nameless remote of source mode included.

    Raises:
        ConfigError: a file it names is gone or open to others by now, or another version wrote it.
    """
    found: list[Problem] = []
    config = build_config(tomllib.loads(text), found)
    found = [(where, what) for where, what in found if where != ("remote", "")]
    _raise_first([f"{toml_text.dotted(where)}: {what}" for where, what in found])
    assert config is not None
    return config
