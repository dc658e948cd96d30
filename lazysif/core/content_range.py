"""What to say to an origin about versions and ranges, and what its answers mean. Pure.

Decided here alone (RFC 9110 sections 8.8, 13 and 14): the validator that an answer gives, the conditions sent
with later requests, and whether an answer is believed. An answer is believed only as a 206 with exactly the
asked range and the known total, uncoded, of the version that was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from lazysif.core.names import has_image_suffix
from lazysif.errors import (
    AccessDenied,
    ImageChanged,
    LazysifError,
    NoSuchEntry,
    SourceProtocolError,
    SourceUnavailable,
)
from lazysif.model import AnswerHead, ByteRange, Image, Validator, ValidatorKind

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII | re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,19})", re.ASCII | re.IGNORECASE)
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')
_SWIFT_ETAG = re.compile(r"[0-9a-f]{32}")
_MAX_RETRY_AFTER_S = 3600.0
_LARGEST_RANGED = 1 << 40
"""Bytes. A hundred times any image seen; the block table of more would take over 350 MB of memory."""
_LARGEST_WHOLE = 64 << 30
"""Bytes of a file that is downloaded whole: each of its blocks is waited for at once."""
NO_VALIDATOR = Validator(ValidatorKind.NONE, "")


def range_header(asked: ByteRange) -> str:
    """The `Range` value (RFC 9110 section 14.2); the inclusive form exists only here."""
    return f"bytes={asked.start}-{asked.stop - 1}"


def parse_content_range(value: str) -> tuple[ByteRange, int] | None:
    """`bytes a-b/total` as the range and the total, or None for anything else (RFC 9110 section 14.4)."""
    match = _CONTENT_RANGE.fullmatch(value.strip())
    if match is None:
        return None
    first, last, total = (int(group) for group in match.groups())
    if not first <= last < total:
        return None
    return ByteRange(first, last + 1), total


def content_length(headers: Mapping[str, str]) -> int | None:
    """The body's length as the origin declares it, None if it does not or not in plain digits."""
    value = headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None


def http_date_s(value: str) -> int:
    """An HTTP date as seconds since 1970, 0 for what is not one (RFC 9110 section 5.6.7)."""
    try:
        parsed = parsedate_to_datetime(value)
        # asctime dates name no zone and are GMT; a datetime without one would be local time
        return max(0, int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()))
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0


def validator_of(headers: Mapping[str, str]) -> Validator:
    """The strongest validator an answer gives; `NO_VALIDATOR` if none that could join two ranges.

    A weak ETag joins no ranges (RFC 9110 section 8.8.1) and counts as absent. `Last-Modified` counts only where
    the origin's clock says that it lies at least a second back (section 8.8.2.2): a file written this very
    second may be written again in it. A dynamic large object of Swift (`X-Object-Manifest`) changes with its
    segments, and its manifest's time does not: only the ETag over its segments counts.
    """
    etag = headers.get("etag", "").strip()
    if _STRONG_ETAG.fullmatch(etag) or _is_swift_etag(etag, headers):
        return Validator(ValidatorKind.ETAG, etag)
    if "x-object-manifest" in headers:
        return NO_VALIDATOR
    modified = headers.get("last-modified", "").strip()
    modified_s = http_date_s(modified)
    date_s = http_date_s(headers.get("date", ""))
    if modified_s and (not date_s or date_s - modified_s >= 1):
        return Validator(ValidatorKind.LAST_MODIFIED, modified)
    return NO_VALIDATOR


def _is_swift_etag(etag: str, headers: Mapping[str, str]) -> bool:
    """Swift (and Ceph's gateway to it) gives the MD5 of a plain object without the quotes that RFC 9110 wants.

    It is as strong as one with quotes, and goes back as it came: Swift takes both forms in `If-Match` (its
    `swob.Match` drops quotes). Other servers' bare ETags stay unbelieved. A manifest's is that of the manifest
    itself, which is an empty object.
    """
    is_swift = "x-timestamp" in headers and "x-object-manifest" not in headers
    return is_swift and _SWIFT_ETAG.fullmatch(etag) is not None


def same_version_headers(validator: Validator) -> dict[str, str]:
    """Conditions for a ranged GET of one version: another version answers 412, without a body."""
    match validator.kind:
        case ValidatorKind.ETAG:
            return {"If-Match": validator.value}
        case ValidatorKind.LAST_MODIFIED:
            return {"If-Unmodified-Since": validator.value}
        case _:
            return {}


def changed_headers(validator: Validator) -> dict[str, str]:
    """Conditions for asking whether a version still holds: the same version answers 304, without a body."""
    match validator.kind:
        case ValidatorKind.ETAG:
            return {"If-None-Match": validator.value}
        case ValidatorKind.LAST_MODIFIED:
            return {"If-Modified-Since": validator.value}
        case _:
            return {}


def refusal(head: AnswerHead) -> LazysifError:
    """The error that a status outside 2xx and 304 stands for."""
    status = head.status
    if status in (401, 407):
        return AccessDenied(
            f"the origin asks for credentials ({status})",
            hint="check the remote's credentials",
            asks_credentials=True,
        )
    if status == 403:
        return AccessDenied("the origin refuses access (403)", hint="check the remote's credentials")
    if status in (404, 410):
        return NoSuchEntry(f"the origin does not have it ({status})")
    if status in (408, 425, 429) or (status >= 500 and status not in (501, 505)):
        return SourceUnavailable(f"the origin answered {status}", retry_after_s=_retry_after_s(head.headers))
    return SourceProtocolError(f"the origin answered {status}")


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return min(float(value), _MAX_RETRY_AFTER_S)
    until, now = http_date_s(value), http_date_s(headers.get("date", ""))
    return min(float(max(0, until - now)), _MAX_RETRY_AFTER_S) if until and now else None


def _check_coding(head: AnswerHead) -> None:
    coding = head.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", ""):
        raise SourceProtocolError(
            f"the origin sent the bytes coded as {coding[:40]!r}",
            hint="switch compression off for images there",
        )


def _check_partial(head: AnswerHead, asked: ByteRange, total: int | None) -> int:
    """Check that a 206 holds `asked` (cut at the total) uncoded; returns the total."""
    _check_coding(head)
    if head.headers.get("content-type", "").lower().startswith("multipart/byteranges"):
        raise SourceProtocolError("the origin answered one range with several parts")
    parsed = parse_content_range(head.headers.get("content-range", ""))
    if parsed is None:
        raise SourceProtocolError("the origin answered 206 without a readable Content-Range")
    got, got_total = parsed
    if total is not None and got_total != total:
        raise ImageChanged(f"the file at the origin now has {got_total} bytes, not {total}")
    if got != ByteRange(asked.start, min(asked.stop, got_total)):
        raise SourceProtocolError(
            f"the origin answered bytes {got.start}-{got.stop - 1} to a request for {range_header(asked)[6:]}"
        )
    if content_length(head.headers) not in (None, got.length):
        raise SourceProtocolError("the origin's Content-Length does not fit its Content-Range")
    return got_total


def _check_version(head: AnswerHead, image: Image) -> None:
    """A 206 or 200 may name another version although it was asked for this one: some origins ignore If-Match.

    An answer that names no version at all is believed only if the condition was surely looked at, which nothing
    tells; so it must repeat the validator.
    """
    validator, version = image.condition, image.location.version
    match validator.kind:
        case ValidatorKind.ETAG:
            now = head.headers.get("etag", "").strip()
        case ValidatorKind.LAST_MODIFIED:
            now = head.headers.get("last-modified", "").strip()
        case ValidatorKind.GENERATION if version is not None:
            now = head.headers.get(version.header, "").strip()
        case _:
            return
    if now != validator.value:
        raise ImageChanged(
            f"the origin now says version {_shown(now) or 'nothing'}, not {_shown(validator.value)}"
        )


def _shown(value: str) -> str:
    """A header's value for a log line: no bytes above ASCII, some of which are terminal controls."""
    return value[:80].encode("ascii", "backslashreplace").decode()


def check_range_answer(head: AnswerHead, asked: ByteRange, image: Image) -> None:
    """Raise unless this is the asked range of this version of the image.

    Raises:
        ImageChanged: 404, 410, 412, 416, another total or another validator.
        SourceProtocolError: 200 instead of 206, another range, coded bytes.
        AccessDenied, SourceUnavailable: as `refusal` reads the status.
    """
    if head.status == 206:
        _check_partial(head, asked, image.size_bytes)
        _check_version(head, image)
        return
    if head.status == 200:
        _check_version(head, image)
        raise SourceProtocolError("the origin answered a request for a range with the whole file (200)")
    _raise_changed_or_refused(head)


def check_whole_answer(head: AnswerHead, image: Image) -> None:
    """Raise unless this is the whole of this version (for origins without ranges); errors as for a range."""
    if head.status == 200:
        _check_coding(head)
        _check_version(head, image)
        if content_length(head.headers) != image.size_bytes:
            raise ImageChanged(f"the file at the origin no longer has {image.size_bytes} bytes")
        return
    _raise_changed_or_refused(head)


def _raise_changed_or_refused(head: AnswerHead) -> None:
    if head.status in (404, 410, 412, 416):
        raise ImageChanged(f"the version that was opened is gone at the origin ({head.status})")
    raise refusal(head)


@dataclass(frozen=True, slots=True)
class Unchanged:
    """304: the known version still holds."""


@dataclass(frozen=True, slots=True)
class IsDirectory:
    """The origin sent the name on to the same name with a slash."""


@dataclass(frozen=True, slots=True)
class IsFile:
    """A file: its size, version, time, and whether the origin answers ranges of it.

    `body` is the range of the file that the answer's body holds, None if it is not to be read.
    """

    size_bytes: int
    validator: Validator
    modified_s: int
    ranges: bool
    body: ByteRange | None


ProbeVerdict = Unchanged | IsDirectory | IsFile


def judge_probe(
    head: AnswerHead, asked: ByteRange, asked_url: str, *, content_addressed: bool = False
) -> ProbeVerdict:
    """What the first ranged GET of a name tells.

    A range without a validator could be joined with nothing, so such a file counts as one without ranges, unless
    its URL is `content_addressed` (holds the digest).

    Raises:
        NoSuchEntry, AccessDenied, SourceUnavailable, SourceProtocolError: as the status says, or for a file
            whose size the origin does not tell.
    """
    if _added_slash(asked_url, head.url) and (head.status < 400 or head.status in (403, 416)):
        return IsDirectory()  # 403 is a directory without a listing, 416 an empty page
    if head.status == 304:
        return Unchanged()
    _refuse_page(head, asked_url)
    validator = validator_of(head.headers)
    modified_s = http_date_s(head.headers.get("last-modified", ""))
    if head.status == 206:
        total = _check_partial(head, asked, None)
        if validator == NO_VALIDATOR and not content_addressed:
            _check_size(total, _LARGEST_WHOLE)
            return IsFile(total, validator, modified_s, ranges=False, body=None)
        _check_size(total, _LARGEST_RANGED)
        body = ByteRange(asked.start, min(asked.stop, total))
        return IsFile(total, validator, modified_s, ranges=True, body=body)
    if head.status == 200:
        _check_coding(head)
        size = content_length(head.headers)
        if size is None:
            raise SourceProtocolError("the origin gives neither ranges nor a Content-Length")
        _check_size(size, _LARGEST_WHOLE)
        return IsFile(size, validator, modified_s, ranges=size == 0, body=None)
    if head.status == 416:
        match = _UNSATISFIED.fullmatch(head.headers.get("content-range", "").strip())
        if match is not None and int(match.group(1)) == 0:
            return IsFile(0, validator, modified_s, ranges=True, body=None)
        raise SourceProtocolError("the origin refuses the file's first bytes (416)")
    raise refusal(head)


def _refuse_page(head: AnswerHead, asked_url: str) -> None:
    """A login or maintenance page that comes as a success, often behind a redirect, is no image."""
    kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
    if head.status in (200, 206) and kind == "text/html" and has_image_suffix(urlsplit(asked_url).path):
        raise SourceProtocolError("the origin answered with a web page", hint="it may ask for a login")


def _check_size(size: int, largest: int) -> None:
    if size > largest:
        raise SourceProtocolError(
            f"the origin says {size} bytes, which is larger than the {largest} it may have"
        )


def _added_slash(asked_url: str, final_url: str) -> bool:
    asked_path, final_path = urlsplit(asked_url).path, urlsplit(final_url).path
    return final_path == asked_path + "/" and not asked_path.endswith("/")
