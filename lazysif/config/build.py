"""From what tomllib gives to typed tables: what is wrong becomes a problem, and the rest is read on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import msgspec

from lazysif import toml_text
from lazysif.config import urls, values
from lazysif.config.base import Table
from lazysif.config.contradictions import contradictions
from lazysif.config.kinds import kind_of
from lazysif.config.parsers import PARSERS
from lazysif.config.remote import RemoteConfig
from lazysif.config.tables import TABLES, Config, TracesConfig
from lazysif.errors import ConfigError
from lazysif.toml_text import KeyPath

_T = TypeVar("_T", bound=Table)
Problem = tuple[KeyPath, str]


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


def build_table(
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
        parse = PARSERS.get(kind, {}).get(key)
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


def build_remote(
    path: KeyPath, given: object, found: list[Problem], *, name: str = ""
) -> RemoteConfig | None:
    """One remote's table, with the keys of its kind: without that nothing can be said of the others."""
    if not isinstance(given, Mapping) or "kind" not in given:
        given = {} if isinstance(given, Mapping) else given
        return build_table(RemoteConfig, path, given, found, name=name)
    try:
        return build_table(kind_of(given["kind"]), path, given, found, name=name)
    except ValueError as error:
        found.append(((*path, "kind"), str(error)))
        return None


def build_config(given: Mapping[str, object], found: list[Problem]) -> Config | None:
    """Everything that can be read of a file's content; what cannot is in `found` and left at its default.

    None where that leaves a directory without one. Raises: ConfigError: so does a content that is right.
    """
    built: dict[str, Any] = {}
    remotes: list[RemoteConfig] = []
    for key, value in given.items():
        if key in TABLES:
            built[key] = build_table(TABLES[key], (key,), value, found)
        elif key == "images":
            built[key] = _images(value, found)
        elif key != "remote":
            known = [*TABLES, "remote", "images"]
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
        remote = build_remote(("remote", name), value, found, name=name)
        remotes += [remote] if remote else []
    try:
        return Config(remotes=tuple(remotes), **{key: table for key, table in built.items() if table})
    except ConfigError:
        if found:
            return None
        raise


def _images(given: object, found: list[Problem]) -> dict[str, str]:
    """The table [images]: fixed names of chosen images."""
    if not isinstance(given, Mapping):
        found.append((("images",), "this is a table: write [images] on a line of its own"))
        return {}
    images: dict[str, str] = {}
    for name, uri in given.items():
        try:
            images[values.fixed_name(name)] = urls.image_uri(uri)
        except ValueError as error:
            found.append((("images", name), str(error)))
    for name in images:
        above = [other for other in images if name.startswith(other + "/")]
        found += [
            (("images", name), f'"{other}" is an image and cannot be a directory, too') for other in above
        ]
    return images
