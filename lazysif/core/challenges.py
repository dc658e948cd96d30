"""`WWW-Authenticate`: what a server asks for before it answers (RFC 9110 section 11.6.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_LONGEST = 8 << 10
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PARAMETER = re.compile(rf"({_TOKEN})[ \t]*=[ \t]*({_TOKEN}|{_QUOTED})")
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+([A-Za-z0-9._~+/-]+=*)(?=[ \t]*(?:,|$)))?")
_BETWEEN = re.compile(r"[ \t,]*")
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate: `scheme` and the names of parameters in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(value: str) -> tuple[Challenge, ...]:
    """The challenges of a header, of which several may be joined by commas; what cannot be read ends the list."""
    found: list[Challenge] = []
    parameters: dict[str, str] = {}
    value = value[:_LONGEST]
    place = _skip(value, 0)
    while place < len(value):
        match = _PARAMETER.match(value, place)
        if match is not None and found:
            parameters.setdefault(match[1].lower(), _unquoted(match[2]))
        else:
            match = _SCHEME.match(value, place)
            if match is None:
                break
            parameters = {}
            found.append(Challenge(match[1].lower(), parameters))
        place = _skip(value, match.end())
    return tuple(found)


def _skip(value: str, place: int) -> int:
    match = _BETWEEN.match(value, place)
    return match.end() if match is not None else place


def _unquoted(text: str) -> str:
    return _ESCAPE.sub(r"\1", text[1:-1]) if text.startswith('"') else text
