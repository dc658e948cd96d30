"""A transport that knows what S3 means: the bucket's region, old credentials, version ids that may not be asked for.

Wraps another transport. What can be put right is put right and sent once more; what cannot is told in words
for people instead of a bare status.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from lazysif.core.names import origin_of
from lazysif.core.s3_answers import S3Error, error_for_people, s3_error
from lazysif.core.s3_bucket import BucketAddress, Region
from lazysif.core.sigv4 import SigningKey
from lazysif.model import Answer, AnswerHead, Request, Transport
from lazysif.transport.read_answer import SAID_BY_STATUS, ReadAnswer, start_of
from lazysif.transport.renewable import Renewable

log = logging.getLogger(__name__)


class S3Transport:
    """GETs of one bucket.

    Args:
        keys: where the transport's credentials come from; None sends none.
    """

    def __init__(
        self,
        transport: Transport,
        address: BucketAddress,
        region: Region,
        keys: Renewable[SigningKey] | None = None,
    ) -> None:
        self._transport = transport
        self._address = address
        self._region = region
        self._keys = keys
        self._versions_allowed = True

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Answer]:
        """See `model.Transport.send`.

        Raises:
            NoSuchEntry, AccessDenied, SourceError: an answer that says more than its status.
        """
        tries = _Tries()
        while True:
            sent = self._placed(request, tries)
            key = await self._keys.current() if self._keys is not None else None
            async with self._transport.send(sent) as answer:
                status = answer.head.status
                if status < 300 or status in SAID_BY_STATUS:
                    self._learn(tries)
                    yield answer
                    return
                body = await start_of(answer)
                error = s3_error(answer.head, body)
                if not await self._put_right(sent, answer.head, error, key, tries):
                    self._raise_if_told(answer.head, error, sent)
                    # S3 says it as a 400; the connection is fine
                    head = replace(answer.head, status=503) if error.temporary else answer.head
                    yield ReadAnswer(head, body)
                    return

    async def aclose(self) -> None:
        await self._transport.aclose()

    def _placed(self, request: Request, tries: _Tries) -> Request:
        url = self._address.placed(request.url, self._region.known)
        if tries.version or not self._versions_allowed:
            url = _without_version(url)
        return replace(request, url=url) if url != request.url else request

    async def _put_right(
        self, sent: Request, head: AnswerHead, error: S3Error, key: SigningKey | None, tries: _Tries
    ) -> bool:
        """Whether the request may be answered better now; each cure is tried once a request."""
        if error.elsewhere and not tries.region and self._region.learn(error.region, sent.url):
            tries.region = True
            log.info('bucket "%s" is in region %s', self._address.bucket, self._region.known)
            return True
        if error.credentials_outdated and self._keys is not None and key is not None and not tries.key:
            tries.key = True
            return await self._keys.other_than(key) is not None
        return _drop_version(sent, head, error, tries)

    def _learn(self, tries: _Tries) -> None:
        """What a success after a cure tells for later requests."""
        if tries.version_refused and self._versions_allowed:
            self._versions_allowed = False
            log.info('bucket "%s" lets no versions be asked for: ETags guard alone', self._address.bucket)

    def _raise_if_told(self, head: AnswerHead, error: S3Error, sent: Request) -> None:
        told = error_for_people(
            head,
            error,
            bucket=self._address.bucket,
            now_s=time.time(),
            anonymous=self._keys is None,
        )
        if told is not None:
            told.about(origin=origin_of(sent.url))
            raise told


@dataclass(slots=True)
class _Tries:
    """What was tried already for one request."""

    region: bool = False
    key: bool = False
    version: bool = False
    version_refused: bool = False


def _drop_version(sent: Request, head: AnswerHead, error: S3Error, tries: _Tries) -> bool:
    """Ask for the present version instead, where the condition sent along makes sure that it is the same.

    To read by version id takes a right of its own (s3:GetObjectVersion), which public buckets seldom give. And a
    version that is gone may have been replaced by the same bytes.
    """
    guarded = "If-Match" in sent.headers and _without_version(sent.url) != sent.url
    tries.version_refused = guarded and head.status == 403 and error.code in ("AccessDenied", "")
    tries.version = tries.version_refused or (guarded and head.status == 404)
    return tries.version


def _without_version(url: str) -> str:
    parts = urlsplit(url)
    kept = [pair for pair in parts.query.split("&") if not pair.startswith("versionId=")]
    return parts._replace(query="&".join(kept)).geturl() if parts.query else url
