"""What S3's XML says: errors, and listings. Pure.

Codes are those of the Amazon S3 API reference, "List of error codes"; other implementations use the same.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_plus

from lazysif.core.content_range import refusal
from lazysif.core.object_listing import ListingPage, entries_below
from lazysif.errors import (
    AccessDenied,
    FormatError,
    LazysifError,
    NoSuchEntry,
    SourceProtocolError,
)
from lazysif.model import AnswerHead

_MOST_SHOWN = 200
_CREDENTIALS = (
    "check the credentials: profile or credentials_file in the remote's table, or AWS_* of the daemon"
)
_OUTDATED = (
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "InvalidToken",
    "InvalidAccessKeyId",
)
_ELSEWHERE = (
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
)
_BARE_ELSEWHERE = (301, 307, 400)
_CODE = re.compile(r"[A-Za-z0-9.]{1,80}", re.ASCII)
_STATUS_SAYS_IT = ("", "NoSuchKey", "NoSuchVersion", "PreconditionFailed", "InvalidRange", "NotModified")
_TEMPORARY = ("RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError", "OperationAborted")


@dataclass(frozen=True, slots=True)
class S3Error:
    """An answer that is no success.

    Args:
        code: "" where the body says none.
        region: the one that the bucket is in, where the answer says so.
        elsewhere: the request went to, or was signed for, another region than that.
        server_s: the server's clock in seconds since 1970, 0 if not said.
    """

    code: str = ""
    message: str = ""
    region: str = ""
    elsewhere: bool = False
    server_s: int = 0

    @property
    def temporary(self) -> bool:
        """Whether to come again: RequestTimeout is one with status 400."""
        return self.code in _TEMPORARY

    @property
    def credentials_outdated(self) -> bool:
        """Whether other credentials may help: temporary ones that have ended, or a key that is gone."""
        return self.code in _OUTDATED


def s3_error(head: AnswerHead, body: bytes) -> S3Error:
    """What an answer with a status of 300 or more says; never raises."""
    try:
        root = _parsed(body)
        said = {_tag(child): (child.text or "").strip() for child in root} if _tag(root) == "Error" else {}
    except FormatError:
        said = {}
    code = said.get("Code", "")
    region = head.headers.get("x-amz-bucket-region", "").strip() or said.get("Region", "")
    return S3Error(
        code=code if _CODE.fullmatch(code) else "",
        message=_shown(said.get("Message", "")),
        region=region,
        elsewhere=bool(region) and (code in _ELSEWHERE or (not code and head.status in _BARE_ELSEWHERE)),
        server_s=_moment_s(said.get("ServerTime", "")),
    )


def error_for_people(
    head: AnswerHead, error: S3Error, *, bucket: str, now_s: float, anonymous: bool
) -> LazysifError | None:
    """The error that the answer stands for; None where the status says it all (a missing key, come again).

    Args: now_s: this node's clock, seconds since 1970.
    """
    code, status = error.code, head.status
    if status == 403 and code in ("", "AccessDenied"):
        said = f": {error.message}" if error.message.lower().rstrip(".") not in ("", "access denied") else ""
        return AccessDenied(
            f"the origin refuses access ({f'403 {code}'.strip()}{said})", hint=_denied(anonymous)
        )
    if code in _STATUS_SAYS_IT or code in _TEMPORARY:
        return None
    if code == "NoSuchBucket":
        return NoSuchEntry(
            f'the origin has no bucket "{bucket}" (NoSuchBucket)', hint="check the remote's url"
        )
    if code in _OUTDATED or code == "SignatureDoesNotMatch":
        return AccessDenied(_refused(code), hint=_CREDENTIALS, asks_credentials=True)
    if code == "RequestTimeTooSkewed":
        return AccessDenied(
            f"the origin refuses signatures of this node's clock, {_off(error, now_s)} (RequestTimeTooSkewed)",
            hint="set the clock (NTP): S3 allows 15 minutes; then check the credentials",
            asks_credentials=True,
        )
    if code == "InvalidObjectState":
        return SourceProtocolError(
            "the object is in an archive and cannot be read (InvalidObjectState)", hint="restore it first"
        )
    if code in _ELSEWHERE:
        where = f" ({error.region})" if error.region else ""
        return SourceProtocolError(
            f"the bucket is in another region{where}, {code}", hint="write its region in the remote's table"
        )
    general = refusal(head)
    general.why += f" {code}"
    return general


def _refused(code: str) -> str:
    match code:
        case "SignatureDoesNotMatch":
            return "the secret key does not fit the access key, says the origin (SignatureDoesNotMatch)"
        case "InvalidAccessKeyId":
            return "the origin does not know the access key (InvalidAccessKeyId)"
        case _:
            return f"the credentials have expired, and there are no newer ones ({code})"


def _denied(anonymous: bool) -> str:
    # without s3:ListBucket a missing key is answered so, too
    missing = "a missing name is answered so, too, where listing is not allowed"
    return (
        f"{missing}; it is asked without credentials (anonymous)"
        if anonymous
        else f"{missing}; check the credentials"
    )


def _off(error: S3Error, now_s: float) -> str:
    off_s = now_s - error.server_s
    if not error.server_s:
        return "which is off"
    return f"which is {abs(off_s) / 60:.0f} minutes {'ahead' if off_s > 0 else 'behind'}"


def parse_listing(body: bytes, directory: str) -> ListingPage:
    """One page of ListObjectsV2 below `directory` (as `object_listing.directory_key` gives it).

    Raises:
        FormatError: no listing.
    """
    root = _parsed(body)
    if _tag(root) != "ListBucketResult":
        raise FormatError("the answer is no listing of a bucket")
    top = {_tag(child): child.text or "" for child in root}
    decoded = unquote_plus if top.get("EncodingType") == "url" else str
    keys, prefixes = (
        [decoded(_child(item, tag)) for item in root if _tag(item) == list_tag]
        for list_tag, tag in (("Contents", "Key"), ("CommonPrefixes", "Prefix"))
    )
    more = top.get("IsTruncated", "").strip() == "true"
    token = top.get("NextContinuationToken", "") if more else ""
    return ListingPage(entries_below(directory, keys, prefixes), token)


def _child(element: ElementTree.Element, tag: str) -> str:
    return next((child.text or "" for child in element if _tag(child) == tag), "")


def _parsed(body: bytes) -> ElementTree.Element:
    """Raises: FormatError: no XML, or a document type: entities are what makes XML dangerous, and S3 has none."""
    try:
        text = body.decode()
        # CDATA is no part of it either
        if "<!" in text:
            raise FormatError("XML with declarations")
        return ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError, ValueError) as error:
        raise FormatError("not XML") from error


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _shown(text: str) -> str:
    """For a log line: printable ASCII, and not much of it."""
    return "".join(c for c in text[:_MOST_SHOWN] if c.isascii() and c.isprintable()).strip()


def _moment_s(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp())
    except (ValueError, OverflowError):
        return 0
