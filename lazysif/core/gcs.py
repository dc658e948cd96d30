"""Google Cloud Storage: URLs of its JSON API, listings and errors in their JSON. Pure.

Source: Cloud Storage JSON API reference, Objects: get and list.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from lazysif.core.names import is_name
from lazysif.core.object_listing import ListingPage, directory_key, entries_below, key_of
from lazysif.errors import AccessDenied, FormatError, LazysifError
from lazysif.model import AnswerHead

_GOOGLE = "https://storage.googleapis.com"
_MOST_SHOWN = 300
_CREDENTIALS = (
    "check the credentials: credentials_file in the remote's table, or the application default credentials"
)


@dataclass(frozen=True, slots=True)
class GcsBucket:
    """A bucket, and the part of it that a remote shows.

    Args:
        prefix: of all names, without slashes at its ends; "" is the whole bucket.
        endpoint: scheme, host and port.
    """

    bucket: str
    prefix: str
    endpoint: str

    def origin_of(self, path: str) -> str:
        """Identity, and what people see. Raises: ValueError: no path of names."""
        return f"{self.endpoint}/{self.bucket}/{quote(key_of(self.prefix, path), safe='/-._~')}"

    def media_url(self, path: str) -> str:
        """Where the bytes are. Raises: ValueError."""
        return f"{self._objects}/{quote(key_of(self.prefix, path), safe='')}?alt=media"

    def listing_url(self, directory: str, token: str, most: int) -> str:
        """One page of what lies directly in a directory. Raises: ValueError."""
        query = {"delimiter": "/", "maxResults": str(most), "fields": "items(name),prefixes,nextPageToken"}
        prefix = directory_key(self.prefix, directory)
        query |= {"prefix": prefix} if prefix else {}
        query |= {"pageToken": token} if token else {}
        return f"{self._objects}?{urlencode(query, quote_via=quote)}"

    @property
    def _objects(self) -> str:
        return f"{self.endpoint}/storage/v1/b/{quote(self.bucket, safe='')}/o"


def gcs_bucket(url: str, endpoint: str = "") -> GcsBucket:
    """What `gs://bucket/prefix` means, at Google where no endpoint is given.

    Raises:
        ValueError: with a text for people.
    """
    bucket, _, prefix = url.removeprefix("gs://").partition("/")
    prefix = prefix.strip("/")
    if not bucket or (prefix and not all(is_name(name) for name in prefix.split("/"))):
        raise ValueError("the URL names no bucket, or a prefix that is no path of names")
    return GcsBucket(bucket, prefix, endpoint.rstrip("/") or _GOOGLE)


def parse_listing(said: object, directory: str) -> ListingPage:
    """One page below `directory` (as `object_listing.directory_key` gives it).

    Raises:
        FormatError: no listing.
    """
    if not isinstance(said, dict):
        raise FormatError("the answer is no listing of a bucket")
    items, prefixes, token = said.get("items", []), said.get("prefixes", []), said.get("nextPageToken", "")
    if not isinstance(items, list) or not isinstance(prefixes, list) or not isinstance(token, str):
        raise FormatError("the answer is no listing of a bucket")
    keys = [item.get("name") for item in items if isinstance(item, dict)]
    return ListingPage(entries_below(directory, keys, prefixes), token)


def error_for_people(head: AnswerHead, body: bytes, *, anonymous: bool) -> LazysifError | None:
    """The error that a 401 or 403 stands for; None for other answers, whose status says it all."""
    if head.status not in (401, 403):
        return None
    why = f"the origin refuses access ({head.status})"
    message = _message(body)
    if message:
        why += f": {message}"
    if anonymous:
        # a missing object is answered so, too, where listing is not allowed
        hint = "it is asked without credentials (anonymous), and a missing name may be answered so, too"
        return AccessDenied(why, hint=hint)
    return AccessDenied(why, hint=_CREDENTIALS, asks_credentials=head.status == 401)


def _message(body: bytes) -> str:
    try:
        text = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return "".join(c for c in str(text)[:_MOST_SHOWN] if c.isascii() and c.isprintable()).strip()
