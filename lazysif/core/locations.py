"""What the URL of a location says: which version it asks for, and until when its signature holds. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlsplit

from lazysif.model import Location, Validator, ValidatorKind

_MARGIN_S = 30.0
"""A request that is sent now may arrive this much later, or meet a clock that is this much ahead."""
_NO_VERSION = ("", "null")
"""S3 says "null" for an object of a bucket without versions."""


def generation_of(location: Location, headers: Mapping[str, str]) -> Validator | None:
    """The version that an answer names, where the location's store keeps versions."""
    value = headers.get(location.version.header, "").strip() if location.version is not None else ""
    return None if value in _NO_VERSION else Validator(ValidatorKind.GENERATION, value)


def pinned(location: Location, validator: Validator) -> Location:
    """The location of that version and no later one; unchanged where the validator is no generation."""
    if location.version is None or validator.kind is not ValidatorKind.GENERATION:
        return location
    parts = urlsplit(location.url)
    pair = f"{quote(location.version.parameter, safe='')}={quote(validator.value, safe='')}"
    query = f"{parts.query}&{pair}" if parts.query else pair
    return replace(location, url=parts._replace(query=query).geturl())


def has_expired(location: Location, now_s: float) -> bool:
    """Whether the URL is not to be used any more; `now_s` is seconds since 1970."""
    return not location.url or (
        location.expires_at_s is not None and now_s >= location.expires_at_s - _MARGIN_S
    )


def signed_until_s(url: str) -> float | None:
    """When the signature in a URL's query ends, in seconds since 1970; None if there is none that is known.

    S3 `X-Amz-*` (SigV4) and `Expires` (SigV2), Google `X-Goog-*` (V4), Swift `temp_url_expires`, Azure `se`.
    """
    try:
        query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    except ValueError:
        return None
    for vendor in ("x-amz", "x-goog"):
        if f"{vendor}-date" in query and f"{vendor}-expires" in query:
            return _began_and_span(query[f"{vendor}-date"], query[f"{vendor}-expires"])
    for name in ("temp_url_expires", "se", "expires"):
        if name in query:
            return _moment_s(query[name])
    return None


def _began_and_span(began: str, span: str) -> float | None:
    began_s = _moment_s(began)
    return began_s + int(span) if began_s is not None and span.isdecimal() and len(span) < 10 else None


def _moment_s(text: str) -> float | None:
    if text.isdecimal() and len(text) < 12:
        return float(text)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
