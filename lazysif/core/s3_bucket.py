"""Where an S3 bucket is: its URLs by addressing style and region, and which URLs may see its credentials. Pure.

An image's identity is the bucket's URL without a region: the region may be found out only from an answer, and
names the same bytes. Requests go to the region's own address once it is known (`BucketAddress.placed`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote, urlencode, urlsplit

from lazysif.core.names import is_name, same_origin
from lazysif.core.object_listing import directory_key, key_of

Addressing = Literal["auto", "path", "virtual"]
FIRST_REGION = "us-east-1"
"""What AWS expects of who does not know better, and most other implementations by default."""
_SAFE = "-._~"
"""Unreserved in RFC 3986; the signature is made over just this encoding, so it is sent so."""
# s3.amazonaws.com, s3.eu-west-1.amazonaws.com, s3-eu-west-1 (old), s3.dualstack.eu-west-1, with or without a bucket
_AWS_HOST = re.compile(
    r"(?:(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])\.)?s3(?:\.dualstack)?"
    r"(?:[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-\d+))?\.amazonaws\.com(?P<china>\.cn)?"
)
_IN_A_HOST_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""A bucket with a dot in it fits no wildcard certificate."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,254}")
"""More than AWS allows: others have capitals, underscores, and `tenant:bucket`."""
_REGION = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """A bucket, and the part of it that a remote shows.

    Args:
        prefix: of all keys, without slashes at its ends; "" is the whole bucket.
        endpoint: scheme, host and port of another provider than AWS, else "".
        region: as configured, or as the URL says; "" is not known.
        virtual: the bucket is part of the host name, not of the path.
    """

    bucket: str
    prefix: str
    endpoint: str
    region: str
    virtual: bool

    def url_of(self, path: str) -> str:
        """The URL of a key, its identity. Raises: ValueError: no path of names."""
        return f"{self._base('')}/{quote(key_of(self.prefix, path), safe='/' + _SAFE)}"

    def listing_url(self, directory: str, token: str, most: int) -> str:
        """One page of what lies directly in a directory (ListObjectsV2). Raises: ValueError."""
        query = {"list-type": "2", "delimiter": "/", "encoding-type": "url", "max-keys": str(most)}
        prefix = directory_key(self.prefix, directory)
        query |= {"prefix": prefix} if prefix else {}
        query |= {"continuation-token": token} if token else {}
        return f"{self._base('')}/?{urlencode(query, quote_via=quote, safe='')}"

    def placed(self, url: str, region: str) -> str:
        """The same URL at the address of `region`; unchanged where the provider has one address."""
        base = self._base("")
        if self.endpoint or not region or not url.startswith(f"{base}/"):
            return url
        return self._base(region) + url[len(base) :]

    def owns(self, url: str) -> bool:
        """Whether requests to `url` are signed: the bucket's own addresses, and no URL that carries a signature."""
        parts = urlsplit(url)
        if "x-amz-signature=" in parts.query.lower():
            return False
        if self.endpoint:
            return same_origin(url, self._base(""))
        found = _AWS_HOST.fullmatch(parts.netloc)
        if found is None or parts.scheme != "https" or bool(found["china"]) != self._china:
            return False
        if found["bucket"] is not None:
            return found["bucket"] == self.bucket
        return parts.path.startswith(f"/{quote(self.bucket, safe=_SAFE)}/")

    def region_of(self, url: str) -> str:
        """The region that the host of an own URL names, "" if none."""
        found = None if self.endpoint else _AWS_HOST.fullmatch(urlsplit(url).netloc)
        return (found["region"] or "") if found is not None else ""

    @property
    def _china(self) -> bool:
        return self.region.startswith("cn-")

    def _base(self, region: str) -> str:
        bucket = quote(self.bucket, safe=_SAFE)
        if self.endpoint:
            scheme, _, host = self.endpoint.partition("://")
            return f"{scheme}://{bucket}.{host}" if self.virtual else f"{self.endpoint}/{bucket}"
        host = f"s3.{region}." if region else "s3."
        host += "amazonaws.com.cn" if self._china else "amazonaws.com"
        return f"https://{bucket}.{host}" if self.virtual else f"https://{host}/{bucket}"


def bucket_address(
    url: str, *, endpoint: str = "", region: str = "", addressing: Addressing = "auto"
) -> BucketAddress:
    """What a remote's keys mean.

    Args:
        url: `s3://bucket/prefix`, or an http(s) URL of the same: of AWS in either style, else
            `https://host/bucket/prefix`.
        endpoint: scheme and host of another provider, with `s3://` URLs.

    Raises:
        ValueError: with a text for people.
    """
    if region and not _REGION.fullmatch(region):
        raise ValueError(f'"{region}" is not a region: write one as "eu-west-1"')
    scheme, _, rest = url.partition("://")
    if scheme == "s3":
        bucket, _, prefix = rest.partition("/")
    elif endpoint:
        raise ValueError("an endpoint and an http URL contradict each other: write url as s3://bucket/prefix")
    else:
        host, _, path = rest.partition("?")[0].partition("/")
        aws = _AWS_HOST.fullmatch(host.lower())
        if aws is None:
            endpoint = f"{scheme}://{host}"
        elif scheme != "https":
            raise ValueError("AWS is asked by https alone: write https:// or s3://")
        else:
            region = region or aws["region"] or ("cn-north-1" if aws["china"] else "")
        bucket, _, prefix = path.partition("/")
        if aws is not None and aws["bucket"] is not None:
            bucket, prefix = aws["bucket"], path
        bucket, prefix = unquote(bucket), unquote(prefix)
    if not _BUCKET.fullmatch(bucket):
        raise ValueError("no bucket is named: write s3://BUCKET or s3://BUCKET/PREFIX")
    prefix = prefix.strip("/")
    if prefix and not all(is_name(name) for name in prefix.split("/")):
        raise ValueError("the prefix is not a path of names")
    virtual = addressing == "virtual" or (
        addressing == "auto" and not endpoint and bool(_IN_A_HOST_NAME.fullmatch(bucket))
    )
    return BucketAddress(bucket, prefix, endpoint.rstrip("/"), region, virtual)


class Region:
    """The region of a bucket, as far as it is known: configured, or learned from an answer."""

    def __init__(self, address: BucketAddress) -> None:
        self._address = address
        self.known = address.region

    def for_signing(self, url: str) -> str:
        """What a request to `url` is signed for."""
        return self._address.region_of(url) or self.known or FIRST_REGION

    def learn(self, told: str, asked_url: str) -> bool:
        """An answer to `asked_url` names the bucket's region; whether it was signed for another one."""
        if not _REGION.fullmatch(told) or told == self.for_signing(asked_url):
            return False
        self.known = told
        return True
