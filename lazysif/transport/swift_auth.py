"""Tokens of OpenStack Swift: logins of Keystone v3 and of Swift's own v1, `X-Auth-Token` on what lies in the account.

A token ends without notice (hours, or when an administrator says so): the answer is 401, and one login for all who
meet it brings the next. Neither keystoneauth nor python-swiftclient is used: both are built on requests, block their
thread, and would bring a second HTTP stack with its own proxies and trust into the daemon, for two requests.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import trio

from lazysif.core.names import same_origin

_LOGGED_IN = (200, 201, 204)
_KEPT = ("user-agent", "accept-encoding")
_REFUSED_S = 60.0
"""Between logins that are refused."""


@dataclass(frozen=True, slots=True)
class Login:
    """How to ask for a token.

    Args:
        url: of the request; a GET of it by anybody becomes the login.
        headers: of a v1 login.
        body: of a v3 login, "" for v1.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    body: str = field(default="", repr=False)

    def request(self, asked: httpx.Request) -> httpx.Request:
        """The login, in place of or before `asked`, with the timeouts of that."""
        headers = {name: asked.headers[name] for name in _KEPT if name in asked.headers} | self.headers
        if not self.body:
            return httpx.Request("GET", self.url, headers=headers, extensions=asked.extensions)
        headers["Content-Type"] = "application/json"
        return httpx.Request(
            "POST", self.url, headers=headers, content=self.body.encode(), extensions=asked.extensions
        )

    def token_in(self, response: httpx.Response) -> str:
        """The token of a good answer, "" of any other."""
        if response.status_code not in _LOGGED_IN:
            return ""
        names = ("x-subject-token",) if self.body else ("x-auth-token", "x-storage-token")
        return next((response.headers[name] for name in names if name in response.headers), "")


def login_of(keys: Mapping[str, str]) -> Login | None:
    """The login that the keys of a remote describe (`SWIFT_KEYS`, and `password` and
    `application_credential_secret`); None where they describe none."""
    auth_url = keys.get("auth_url")
    if auth_url is None:
        return None
    if keys.get("auth_version") == "1":
        return Login(auth_url, headers={"X-Auth-User": keys["username"], "X-Auth-Key": keys["password"]})
    if "application_credential_id" in keys:
        # it knows its project
        secret = keys["application_credential_secret"]
        credential = {"id": keys["application_credential_id"], "secret": secret}
        identity = {"methods": ["application_credential"], "application_credential": credential}
        return _v3(auth_url, {"identity": identity})
    user = {"name": keys["username"], "password": keys["password"], "domain": _domain(keys, "user")}
    identity = {"methods": ["password"], "password": {"user": user}}
    if "project_id" in keys:
        project: dict[str, Any] = {"id": keys["project_id"]}
    else:
        project = {"name": keys["project"], "domain": _domain(keys, "project")}
    return _v3(auth_url, {"identity": identity, "scope": {"project": project}})


def _domain(keys: Mapping[str, str], whose: str) -> dict[str, str]:
    """As the API has it; "default" is the id of the one that every Keystone begins with."""
    identifier, name = keys.get(f"{whose}_domain_id"), keys.get(f"{whose}_domain")
    return {"name": name} if name and not identifier else {"id": identifier or "default"}


def _v3(auth_url: str, auth: dict[str, Any]) -> Login:
    base = auth_url.rstrip("/")
    base = base if base.endswith("/v3") else base + "/v3"
    return Login(base + "/auth/tokens", body=json.dumps({"auth": auth}))


SWIFT_KEYS = (
    "storage_url",
    "auth_url",
    "auth_version",
    "username",
    "user_domain",
    "user_domain_id",
    "project",
    "project_id",
    "project_domain",
    "project_domain_id",
    "application_credential_id",
    "region",
    "interface",
)
"""Of a remote's table, those that are no secrets."""


class SwiftAuth(httpx.Auth):
    """Adds the token; makes logins of requests for the login's own URL.

    Args:
        login: None where a token was given and no other can be asked for.
    """

    def __init__(self, login: Login | None, token: str = "") -> None:
        self._login = login
        self._token = token
        self._lock = trio.Lock()
        self._refused_for: str | None = None
        self._refused_at = 0.0

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        login = self._login
        if login is not None and str(request.url) == login.url:
            # asked by who wants to know where the account is: the answer goes there
            response = yield login.request(request)
            self._token = login.token_in(response) or self._token
            return
        if login is not None and not self._token:
            async with self._lock:
                if self._may_replace(""):
                    self._take(login, "", (yield login.request(request)))
        used = self._token
        if used:
            request.headers["X-Auth-Token"] = used
        response = yield request
        if response.status_code != 401 or login is None:
            return
        async with self._lock:
            if self._may_replace(used):
                self._take(login, used, (yield login.request(request)))
        # without another token the refusal is asked for again: it is the answer, and the login's is not
        if self._token:
            request.headers["X-Auth-Token"] = self._token
        yield request

    def _may_replace(self, used: str) -> bool:
        """Whether the token is still the one that was refused, and no login was refused for it just now.

        Passwords that no longer hold get accounts locked.
        """
        lately = used == self._refused_for and trio.current_time() - self._refused_at < _REFUSED_S
        return self._token == used and not lately

    def _take(self, login: Login, used: str, response: httpx.Response) -> None:
        """Raises: httpx.HTTPError: the identity service is in trouble; worth another try later."""
        token = login.token_in(response)
        if token:
            self._token = token
        elif response.status_code == 429 or response.status_code >= 500:
            raise httpx.RemoteProtocolError(f"the identity service answered {response.status_code}")
        else:
            self._refused_for, self._refused_at = used, trio.current_time()


class SwiftKeyring:
    """The token goes to the account's host, the password to the identity service's login alone."""

    def __init__(self, auth: SwiftAuth | None, login_url: str = "", storage_url: str = "") -> None:
        self._auth = auth
        self._login_url = login_url
        self._storage_url = storage_url

    def opened(self, storage_url: str) -> None:
        """The login has named the account's address."""
        self._storage_url = storage_url

    def for_url(self, url: str) -> httpx.Auth | None:
        """See `credentials.Keyring`."""
        if self._login_url and url == self._login_url:
            return self._auth
        return self._auth if same_origin(url, self._storage_url) else None


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The keys of a remote as the variables of OpenStack's clients say them, secrets included ("password",
    "application_credential_secret", "token"); empty where there is no login in them.

    `OS_AUTH_URL` and its companions are v3, `ST_AUTH` v1, `OS_STORAGE_URL` with `OS_AUTH_TOKEN` a token.
    """
    found = {key: environ[name] for name, key in _VARIABLES.items() if environ.get(name)}
    ways = ({"username", "password"}, {"application_credential_id", "application_credential_secret"})
    if "auth_url" in found and any(way <= found.keys() for way in ways):
        found.pop("token", None)
        return found | {"auth_version": "3"}
    if {"storage_url", "token"} <= found.keys():
        return {key: found[key] for key in ("storage_url", "token")}
    if all(environ.get(name) for name in ("ST_AUTH", "ST_USER", "ST_KEY")):
        return {
            "auth_url": environ["ST_AUTH"],
            "username": environ["ST_USER"],
            "password": environ["ST_KEY"],
            "auth_version": "1",
        }
    return {}


_VARIABLES = {
    "OS_AUTH_URL": "auth_url",
    "OS_USERNAME": "username",
    "OS_PASSWORD": "password",
    "OS_USER_DOMAIN_NAME": "user_domain",
    "OS_USER_DOMAIN_ID": "user_domain_id",
    "OS_PROJECT_NAME": "project",
    "OS_PROJECT_ID": "project_id",
    "OS_PROJECT_DOMAIN_NAME": "project_domain",
    "OS_PROJECT_DOMAIN_ID": "project_domain_id",
    "OS_REGION_NAME": "region",
    "OS_INTERFACE": "interface",
    "OS_APPLICATION_CREDENTIAL_ID": "application_credential_id",
    "OS_APPLICATION_CREDENTIAL_SECRET": "application_credential_secret",
    "OS_STORAGE_URL": "storage_url",
    "OS_AUTH_TOKEN": "token",
}
