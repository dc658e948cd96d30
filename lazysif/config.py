"""The configuration: what is in force, typed, and how it is read, checked, overlaid and shown.

Secrets are never part of it: it holds the names of their files, and `config_values.read_secret` reads them
where they are used. A URL may hold a signature in its query, so `repr` and `render` leave the query out.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from lazysif import config_values as values
from lazysif import toml_text
from lazysif.config_remotes import (
    PARSERS,
    RemoteConfig,
    Span,
    SpanOrNone,
    Table,
    contradictions,
    kind_of,
)
from lazysif.errors import ConfigError
from lazysif.sizes import ShareOrSize, exact_size
from lazysif.toml_text import KeyPath


def _default_dir(system: str, variable: str, home: str) -> Path:
    if os.geteuid() == 0:
        return Path(system)
    base = os.environ.get(variable, "")
    return (Path(base) if base.startswith("/") else Path.home() / home) / "lazysif"


class CacheConfig(Table, frozen=True, kw_only=True):
    """[cache]: the block cache on this node's disk, and the memory tier above it."""

    dir: Path = msgspec.field(
        default_factory=lambda: _default_dir("/var/cache/lazysif", "XDG_CACHE_HOME", ".cache")
    )
    size: ShareOrSize = ShareOrSize(share=Fraction(1, 2))
    min_free: ShareOrSize = ShareOrSize(share=Fraction(1, 20))
    block_size: int = 128 * 1024
    memory: int = 48 * 1024 * 1024


class StateConfig(Table, frozen=True, kw_only=True):
    """[state]: what must outlive a restart (inode numbers, sockets, the log)."""

    dir: Path = msgspec.field(
        default_factory=lambda: _default_dir("/var/lib/lazysif", "XDG_STATE_HOME", ".local/state")
    )


class LogConfig(Table, frozen=True, kw_only=True):
    """[log]. `file` None: standard error in the foreground, STATE/lazysif.log in the background."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    file: Path | None = None


class MountConfig(Table, frozen=True, kw_only=True):
    """[mount]. Only root may give `allow_other` without an entry in /etc/fuse.conf."""

    options: tuple[str, ...] = msgspec.field(
        default_factory=lambda: ("allow_other",) if os.geteuid() == 0 else ()
    )


class LimitsConfig(Table, frozen=True, kw_only=True):
    """[limits]. Timeouts in seconds, for one request of the kernel; `connections` for each remote."""

    read_timeout: Span = 60.0
    lookup_timeout: Span = 20.0
    connections: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16


class TracesConfig(Table, frozen=True, kw_only=True):
    """[traces]: starts are recorded, followed and shared. `url` takes traces where `put` is true.

    `offer_within` in seconds: the nodes of an array do not write all at once. `give_pages`: what they name goes into
    the kernel's page cache ahead of jobs (`fuse.pages`).
    """

    enabled: bool = True
    give_pages: bool = True
    dir: Path | None = None
    url: str = ""
    put: bool = False
    offer_within: SpanOrNone = 30.0
    beside: bool = True
    ca_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None


class FillConfig(Table, frozen=True, kw_only=True):
    """[fill]: the rest of images that are open, brought while nobody waits for blocks. `rate` in bytes a second."""

    enabled: bool = False
    quiet: Span = 300.0
    rate: int = 20 * 1024 * 1024


class Config(Table, frozen=True, kw_only=True):
    """All of it. In source mode there is one remote, named "", and it is the mount's root."""

    cache: CacheConfig = msgspec.field(default_factory=CacheConfig)
    state: StateConfig = msgspec.field(default_factory=StateConfig)
    log: LogConfig = msgspec.field(default_factory=LogConfig)
    mount: MountConfig = msgspec.field(default_factory=MountConfig)
    limits: LimitsConfig = msgspec.field(default_factory=LimitsConfig)
    traces: TracesConfig = msgspec.field(default_factory=TracesConfig)
    fill: FillConfig = msgspec.field(default_factory=FillConfig)
    remotes: tuple[RemoteConfig, ...] = ()
    images: dict[str, str] = msgspec.field(default_factory=dict)
    """[images]: by path below the mountpoint, the URI of the image that has this name; may hold signatures."""

    @property
    def source_mode(self) -> bool:
        return len(self.remotes) == 1 and self.remotes[0].name == ""


_T = TypeVar("_T", bound=Table)
Problem = tuple[KeyPath, str]

_TABLES: dict[str, type[Table]] = {
    "cache": CacheConfig,
    "state": StateConfig,
    "log": LogConfig,
    "mount": MountConfig,
    "limits": LimitsConfig,
    "traces": TracesConfig,
    "fill": FillConfig,
}
# Keys that are more than a number or one of a few words; all others are checked by their annotation.
_PARSERS: dict[type[Table], dict[str, Callable[[object], object]]] = {
    CacheConfig: {
        "dir": values.path,
        "size": values.cache_size,
        "min_free": values.share_or_size,
        "block_size": values.block_size,
        "memory": values.size,
    },
    StateConfig: {"dir": values.path},
    LogConfig: {"file": values.optional_path},
    MountConfig: {"options": values.mount_options},
    TracesConfig: {
        "dir": values.optional_path,
        "url": values.optional_url,
        "ca_file": values.readable_file,
        "username": values.username,
        "password_file": values.secret_file,
        "token_file": values.secret_file,
    },
    FillConfig: {"rate": values.rate},
    **PARSERS,
}


def _plain(kind: Any, given: object, *, strict: bool) -> object:
    """A number or one of a few words, as the annotation says. Raises: ValueError."""
    words = getattr(kind, "__args__", ()) if getattr(kind, "__origin__", None) is Literal else ()
    if words:
        if given not in words:
            known = ", ".join(f'"{word}"' for word in words)
            raise ValueError(f"{given!r} is not known{values.near(str(given), words)}: write one of {known}")
        return given
    try:
        return msgspec.convert(given, kind, strict=strict)
    except msgspec.ValidationError as error:
        text = str(error).replace("`", "").replace("float", "number").replace("int", "whole number")
        raise ValueError(f"{text[0].lower()}{text[1:]}; found {given!r}") from None


def _table(
    kind: type[_T],
    path: KeyPath,
    given: object,
    found: list[Problem],
    *,
    base: _T | None = None,
    name: str = "",
) -> _T | None:
    """One table as a struct, over `base` if there is one; None and entries in `found` where it is wrong."""
    if not isinstance(given, Mapping):
        found.append((path, f"this is a table: write [{toml_text.dotted(path)}] on a line of its own"))
        return None
    fields = {field.name: field for field in msgspec.structs.fields(kind) if field.name != "name"}
    built: dict[str, object] = {}
    problems: list[Problem] = []
    for key, value in given.items():
        if key not in fields:
            problems.append(((*path, key), f"unknown key{values.near(key, fields) or ': leave it out'}"))
            continue
        parse = _PARSERS.get(kind, {}).get(key)
        try:
            built[key] = parse(value) if parse else _plain(fields[key].type, value, strict=base is None)
        except ValueError as error:
            problems.append(((*path, key), str(error)))
    if base is not None:
        built = {**msgspec.structs.asdict(base), **built}
    elif issubclass(kind, RemoteConfig):
        built["name"] = name
    if issubclass(kind, RemoteConfig | TracesConfig):
        problems += [((*path, key), text) for key, text in contradictions({**given, **built})]
    for field in fields.values():
        if field.required and field.name not in built and field.name not in given:
            problems.append(
                ((*path, field.name), f'missing: write {field.name} = "..." below the table\'s head')
            )
    found += problems
    return None if problems else kind(**built)


def _remote(path: KeyPath, given: object, found: list[Problem], *, name: str = "") -> RemoteConfig | None:
    """One remote's table, with the keys of its kind: without that nothing can be said of the others."""
    if not isinstance(given, Mapping) or "kind" not in given:
        given = {} if isinstance(given, Mapping) else given
        return _table(RemoteConfig, path, given, found, name=name)
    try:
        return _table(kind_of(given["kind"]), path, given, found, name=name)
    except ValueError as error:
        found.append(((*path, "kind"), str(error)))
        return None


def _config(given: Mapping[str, object], found: list[Problem]) -> Config:
    """Everything that can be read of a file's content; what cannot is in `found` and left at its default."""
    built: dict[str, Any] = {}
    remotes: list[RemoteConfig] = []
    for key, value in given.items():
        if key in _TABLES:
            built[key] = _table(_TABLES[key], (key,), value, found)
        elif key == "images":
            built[key] = _images(value, found)
        elif key != "remote":
            known = [*_TABLES, "remote", "images"]
            found.append(((key,), f"unknown table{values.near(key, known) or ': leave it out'}"))
    named = given.get("remote", {})
    if not isinstance(named, Mapping) or not (named or given.get("images")):
        found.append(
            (("remote",), "no remote, so nothing could be mounted: write [remote.NAME] with kind and url")
        )
        named = {}
    for name, value in named.items():
        try:
            values.remote_name(name)
        except ValueError as error:
            found.append((("remote", name), str(error)))
        remote = _remote(("remote", name), value, found, name=name)
        remotes += [remote] if remote else []
    return Config(remotes=tuple(remotes), **{key: table for key, table in built.items() if table})


def _images(given: object, found: list[Problem]) -> dict[str, str]:
    """The table [images]: fixed names of chosen images."""
    if not isinstance(given, Mapping):
        found.append((("images",), "this is a table: write [images] on a line of its own"))
        return {}
    images: dict[str, str] = {}
    for name, uri in given.items():
        try:
            images[values.fixed_name(name)] = values.image_uri(uri)
        except ValueError as error:
            found.append((("images", name), str(error)))
    for name in images:
        above = [other for other in images if name.startswith(other + "/")]
        found += [
            (("images", name), f'"{other}" is an image and cannot be a directory, too') for other in above
        ]
    return images


def _read(path: Path) -> tuple[Config, list[str]]:
    """The file's configuration, and a line for each problem, in the order of the file."""
    try:
        text = path.read_bytes().decode()
        given = tomllib.loads(text)
    except OSError as error:
        return Config(), [f"{path}: cannot be read: {error.strerror}"]
    except UnicodeDecodeError as error:
        return Config(), [f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8"]
    except tomllib.TOMLDecodeError as error:
        # tomllib says the place in words: "Cannot declare ('remote', 'a') twice (at line 7, column 10)".
        place = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        what = str(error)[: place.start()] if place else str(error)
        return Config(), [f"{path}{f':{place[1]}' if place else ''}: not TOML: {what[0].lower()}{what[1:]}"]
    except RecursionError:
        return Config(), [f"{path}: not TOML: nested too deeply"]
    found: list[Problem] = []
    config = _config(given, found)
    lines = toml_text.key_lines(text)
    placed = [(toml_text.nearest_line(lines, where), where, what) for where, what in found]
    placed.sort(key=lambda problem: problem[0] or 0)
    return config, [
        f"{path}{f':{line}' if line else ''}: {toml_text.dotted(where)}: {what}"
        for line, where, what in placed
    ]


def check_config(path: str | Path) -> list[str]:
    """All that is wrong with a configuration file, one line each; an empty list says that it can be used."""
    return _read(Path(path))[1]


def load_config(path: str | Path) -> Config:
    """The configuration in a file.

    Raises:
        ConfigError: with the first of the lines that `check_config` gives, and the count of the others.
    """
    config, problems = _read(Path(path))
    _raise_first(problems)
    return config


def _raise_first(problems: list[str]) -> None:
    if problems:
        others = len(problems) - 1
        raise ConfigError(problems[0], hint=f"and {others} more: lazysif config check" if others else "")


_KIND_OF_SCHEME = {"s3": "s3", "gs": "gcs"}


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
    remote = _remote(("remote",), given, found)
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
    olds: dict[KeyPath, Table] = {(key,): getattr(config, key) for key in _TABLES}
    olds |= {("remote", remote.name): remote for remote in config.remotes}
    for path, given in tables.items():
        if path in olds:
            replaced[path] = _table(type(olds[path]), path, given, found, base=olds[path])
        else:
            known = [toml_text.dotted(old) for old in olds]
            shown = toml_text.dotted(path)
            found += [((*path, key), f"no table of that name{values.near(shown, known)}") for key in given]
    _raise_first([f"{toml_text.dotted(where)}: {what}" for where, what in found])
    return msgspec.structs.replace(
        config,
        **{key: replaced[(key,)] for key in _TABLES if (key,) in replaced},
        remotes=tuple(replaced.get(("remote", remote.name), remote) for remote in config.remotes),
    )


def _shown(table: Table, key: str, value: object) -> str | int | float | tuple[object, ...]:
    if isinstance(value, Path | ShareOrSize):
        return str(value)
    if isinstance(table, CacheConfig) and isinstance(value, int):
        return exact_size(value)
    if key == "mode" and isinstance(value, int):
        return f"{value:04o}"
    assert isinstance(value, str | int | float | tuple)
    return value


def _section(head: str, table: Table, *, whole: bool = False) -> Iterator[str]:
    yield f"[{head}]"
    for key, value in msgspec.structs.asdict(table).items():
        if value is None or key == "name":
            continue
        if not whole and isinstance(table, RemoteConfig) and key == "url" and table.shown_url != table.url:
            yield f"url = {toml_text.rendered(table.shown_url)}  # and a query, not shown"
            continue
        yield f"{key} = {toml_text.rendered(_shown(table, key, value))}"
    yield ""


def _image_line(name: str, uri: str, *, whole: bool) -> str:
    shown, mark, _ = uri.partition("?")
    hidden = bool(mark) and not whole
    line = f"{toml_text.quoted(name)} = {toml_text.rendered(shown if hidden else uri)}"
    return f"{line}  # and a query, not shown" if hidden else line


def _rendered(config: Config, *, whole: bool) -> str:
    lines: list[str] = []
    for key in _TABLES:
        lines += _section(key, getattr(config, key), whole=whole)
    for remote in config.remotes:
        lines += _section(toml_text.dotted(("remote", remote.name)), remote, whole=whole)
    if config.images:
        lines += ["[images]", *(_image_line(*pair, whole=whole) for pair in config.images.items()), ""]
    return "\n".join(lines)


def render(config: Config) -> str:
    """TOML of what is in force, for `config show`: names of secret files, no secrets, no query of a URL."""
    return _rendered(config, whole=False)


def to_toml(config: Config) -> str:
    """All of it for another process of ours, queries of URLs included: not to be shown. `from_toml` reads it."""
    return _rendered(config, whole=True)


def from_toml(text: str) -> Config:
    """What `to_toml` wrote, the nameless remote of source mode included.

    Raises:
        ConfigError: a file it names is gone or open to others by now, or another version wrote it.
    """
    found: list[Problem] = []
    config = _config(tomllib.loads(text), found)
    found = [(where, what) for where, what in found if where != ("remote", "")]
    _raise_first([f"{toml_text.dotted(where)}: {what}" for where, what in found])
    return config
