"""Credentials for S3: keys from botocore's chain, and each request signed with them.

botocore is used for what it alone knows (environment, profiles, SSO, processes, containers, instance metadata,
roles to assume, their renewal) and loaded when the first request needs a key: it takes 0.1 s and 8 MB.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import httpx

from lazysif.core.s3_bucket import BucketAddress, Region
from lazysif.core.sigv4 import SigningKey, signature_headers
from lazysif.errors import AccessDenied, LazysifError, SourceUnavailable
from lazysif.transport.renewable import Held, Renewable

if TYPE_CHECKING:
    from botocore.credentials import Credentials

_LOOKED_AT_S = 60.0
"""botocore renews temporary keys 15 minutes before they end; it is asked for the present ones so often."""
_HINT = (
    "write profile, credentials_file or anonymous = true in the remote's table, or set AWS_* for the daemon"
)


class AwsChain:
    """Keys of botocore's chain; to be called on a thread.

    Args:
        profile: of the AWS configuration files; "" is the environment's choice.
        credentials_file: instead of ~/.aws/credentials; then nothing else is looked at before it.
    """

    def __init__(self, profile: str = "", credentials_file: str = "") -> None:
        self._profile = profile or ("default" if credentials_file else "")
        self._credentials_file = credentials_file
        self._found: Credentials | None = None

    def __call__(self, anew: bool) -> Held[SigningKey]:
        """Raises: AccessDenied: there are none; SourceUnavailable: they cannot be renewed now."""
        import botocore.exceptions

        # at DEBUG they write requests and answers, which hold keys
        for name in ("botocore", "urllib3"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            if self._found is None or anew:
                self._found = self._find()
            if self._found is None:
                raise AccessDenied("no AWS credentials were found", hint=_HINT, asks_credentials=True)
            frozen = self._found.get_frozen_credentials()
        except botocore.exceptions.BotoCoreError as error:
            raise _told(error) from None
        now = time.time()
        key = SigningKey(frozen.access_key, frozen.secret_key, frozen.token or "")
        return Held(key, now + _LOOKED_AT_S, now + _LOOKED_AT_S)

    def _find(self) -> Credentials | None:
        import botocore.session

        session = botocore.session.Session(profile=self._profile or None)
        if self._credentials_file:
            session.set_config_variable("credentials_file", self._credentials_file)
        return session.get_credentials()


def _told(error: Exception) -> LazysifError:
    """A failure of botocore's in a line. The texts of credential programs and services are left out: they may
    quote what they should not."""
    import botocore.exceptions as known

    kind = type(error).__name__
    settled = (
        known.ProfileNotFound,
        known.PartialCredentialsError,
        known.ConfigNotFound,
        known.ConfigParseError,
        known.InvalidConfigError,
        known.SSOTokenLoadError,
        known.UnauthorizedSSOTokenError,
        known.InfiniteLoopConfigError,
    )
    if isinstance(error, settled):
        return AccessDenied(f"no AWS credentials: {error}", hint=_HINT, asks_credentials=True)
    return SourceUnavailable(f"AWS credentials cannot be had now ({kind})", hint=_HINT)


class S3Auth(httpx.Auth):
    """Signs each request anew (`core.sigv4`).

    Args:
        region: what the bucket's requests are signed for.
        keys: the present key.
        requester_pays: agree to pay for requests and traffic of the bucket.
    """

    def __init__(self, region: Region, keys: Renewable[SigningKey], *, requester_pays: bool = False) -> None:
        self._region = region
        self._keys = keys
        self._requester_pays = requester_pays

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        key = await self._keys.current()
        if self._requester_pays:
            request.headers["x-amz-request-payer"] = "requester"
        request.headers.update(
            signature_headers(
                request.headers["Host"],
                request.url.raw_path.decode("ascii"),
                request.headers,
                key,
                self._region.for_signing(str(request.url)),
                time.time(),
            )
        )
        yield request


class S3Keyring:
    """Signs requests to the bucket's own addresses, and no others."""

    def __init__(self, address: BucketAddress, auth: S3Auth) -> None:
        self._address = address
        self._auth = auth

    def for_url(self, url: str) -> httpx.Auth | None:
        """See `credentials.Keyring`."""
        return self._auth if self._address.owns(url) else None
