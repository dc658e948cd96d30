"""Tokens for Google Cloud Storage, by google-auth: service accounts, and application default credentials.

google-auth is loaded when the first request needs a token, and sends through httpx as everything else here does.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import httpx

from lazysif.config.files import read_secret_file
from lazysif.errors import AccessDenied, ConfigError, LazysifError, SourceUnavailable
from lazysif.transport.authorities import tls_context
from lazysif.transport.httpx_transport import proxy_for_httpx
from lazysif.transport.proxy import Proxy
from lazysif.transport.renewable import Held, Renewable

SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_TIMEOUT_S = 5.0
_MARGIN_S = 240.0
"""A metadata server gives the token that it holds until four minutes before its end."""
_HINT = (
    "write credentials_file or anonymous = true in the remote's table, or set GOOGLE_APPLICATION_CREDENTIALS"
)
_KINDS = ("service_account", "authorized_user")


def check_credentials_file(file: Path) -> None:
    """Raises: ConfigError: not a file of Google credentials that can be used here."""
    _read(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        said = json.loads(read_secret_file(file))
    except (ValueError, RecursionError):
        # "from None": the error itself quotes the text
        raise ConfigError(f"secret file {file} is not JSON") from None
    kind = said.get("type") if isinstance(said, dict) else None
    if kind not in _KINDS:
        raise ConfigError(
            f"secret file {file} holds no service account's key and no user's credentials",
            hint="name other kinds in GOOGLE_APPLICATION_CREDENTIALS",
        )
    return dict(said)


class GoogleTokens:
    """Access tokens; to be called on a thread.

    Args:
        credentials_file: a service account's key or a user's credentials; None is what the environment gives.
        ca_file: of a private certificate authority, trusted beside the system's.
        proxy: on the way to Google; a metadata server is this machine's own, and asked directly.
    """

    def __init__(
        self, credentials_file: Path | None, ca_file: str | None = None, proxy: Proxy | None = None
    ) -> None:
        self._credentials_file = credentials_file
        self._ca_file = ca_file
        self._proxy = proxy
        self._credentials: Any = None

    def __call__(self, anew: bool) -> Held[str]:
        """Raises: AccessDenied: there are no credentials; SourceUnavailable: no token can be had now."""
        from google.auth import exceptions

        # at DEBUG it writes requests and answers, at WARNING each try to reach a metadata server
        logging.getLogger("google").setLevel(logging.ERROR)
        with self._client() as client:
            sender = _Sender(client)
            try:
                if self._credentials is None or anew:
                    self._credentials = self._find(sender)
                self._credentials.refresh(sender)
            except exceptions.DefaultCredentialsError:
                raise AccessDenied(
                    "no Google credentials were found", hint=_HINT, asks_credentials=True
                ) from None
            except exceptions.GoogleAuthError as error:
                raise _told(error) from None
            except ValueError:
                raise AccessDenied(
                    "the Google credentials cannot be read", hint=_HINT, asks_credentials=True
                ) from None
        now, expiry = time.time(), self._credentials.expiry
        ends_at_s = expiry.replace(tzinfo=UTC).timestamp() if expiry is not None else now + 2 * _MARGIN_S
        return Held(str(self._credentials.token), max(ends_at_s - _MARGIN_S, now + 1.0), ends_at_s)

    def _client(self) -> httpx.Client:
        trust = tls_context(self._ca_file)
        proxy = proxy_for_httpx(self._proxy, trust)
        ways = {"https://": httpx.HTTPTransport(proxy=proxy, verify=trust)} if proxy is not None else {}
        return httpx.Client(verify=trust, trust_env=False, timeout=_TIMEOUT_S, mounts=ways)

    def _find(self, sender: _Sender) -> Any:
        import google.auth

        if self._credentials_file is None:
            return google.auth.default(scopes=[SCOPE], request=sender)[0]
        try:
            said = _read(self._credentials_file)
        except ConfigError as error:
            raise AccessDenied(error.why, hint=_HINT, asks_credentials=True) from None
        if said["type"] == "service_account":
            from google.oauth2 import service_account

            return service_account.Credentials.from_service_account_info(said, scopes=[SCOPE])
        from google.oauth2 import credentials

        return credentials.Credentials.from_authorized_user_info(said, scopes=[SCOPE])


def _told(error: Exception) -> LazysifError:
    """A failure of google-auth's in a line. Its own text may quote an answer: only the OAuth error is taken."""
    said = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], dict) else {}
    code = str(said.get("error", ""))
    if code in ("invalid_grant", "invalid_client", "unauthorized_client", "access_denied", "deleted_client"):
        return AccessDenied(
            f"Google's token server refuses the credentials ({code})",
            hint="make a new key, and see that the clock is right",
            asks_credentials=True,
        )
    return SourceUnavailable(f"no token can be had from Google now ({type(error).__name__})")


class _Sender:
    """What google-auth calls to send a request (`google.auth.transport.Request`)."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> _Received:
        from google.auth import exceptions

        try:
            answer = self._client.request(
                method,
                url,
                content=body,
                headers=dict(headers or {}),
                timeout=min(timeout or _TIMEOUT_S, _TIMEOUT_S),
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise exceptions.TransportError(type(error).__name__) from None
        return _Received(answer)


class _Received:
    """`google.auth.transport.Response`."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status = answer.status_code
        self.headers = answer.headers
        self.data = answer.content


class GoogleAuth(httpx.Auth):
    """`Authorization: Bearer`; a token that is refused is replaced once.

    Args: billing_project: that pays for requests and traffic, "" for the bucket's own.
    """

    def __init__(self, tokens: Renewable[str], billing_project: str = "") -> None:
        self._tokens = tokens
        self._billing_project = billing_project

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        token = await self._tokens.current()
        if self._billing_project:
            request.headers["x-goog-user-project"] = self._billing_project
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code != 401:
            return
        other = await self._tokens.other_than(token)
        if other is not None:
            request.headers["Authorization"] = f"Bearer {other}"
            yield request
