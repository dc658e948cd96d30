"""Keys of one table that cannot stand together, by kind of remote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lazysif.config import routes


def _oras_contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    url, hosts = given.get("url"), given.get("hosts")
    if url and hosts:
        yield "hosts", "url names the registry already: leave one of them out"
    elif not url and not hosts:
        yield (
            "hosts",
            'missing: name the registries that may be asked, as in hosts = ["ghcr.io"], or one in url',
        )
    if isinstance(hosts, list | tuple) and (len(hosts) > 1 or any("*" in str(host) for host in hosts)):
        for key in ("username", "plain_http"):
            if given.get(key):
                yield key, "this is for one registry: give that a remote of its own"
    ways = [key for key in ("username", "auth_file", "credential_helper") if given.get(key)]
    if len(ways) > 1:
        yield ways[1], f"{ways[0]} says the credentials already: leave one of them out"


def _s3_contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    if given.get("endpoint") and str(given.get("url", "")).startswith("http"):
        yield "endpoint", "url names the host already: write url as s3://bucket/prefix, or leave this out"
    for key in ("profile", "credentials_file", "requester_pays"):
        if given.get("anonymous") and given.get(key):
            yield key, "anonymous sends no credentials: leave one of them out"


def _gcs_contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for key in ("credentials_file", "billing_project"):
        if given.get("anonymous") and given.get(key):
            yield key, "anonymous sends no credentials: leave one of them out"
    endpoint = str(given.get("endpoint", ""))
    if not given.get("anonymous") and endpoint.startswith("http://"):
        host = endpoint.removeprefix("http://").partition("/")[0]
        if host.rpartition(":")[0] not in ("localhost", "127.0.0.1", "[::1]"):
            yield "endpoint", "a token would cross the network in clear: write https://, or anonymous = true"


def _swift_contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    has = {key for key, value in given.items() if value}
    identifier, secret = "application_credential_id", "application_credential_secret_file"
    ways = [way for way in ("username", identifier, "token_file") if way in has]
    if len(ways) > 1:
        yield ways[1], f"{ways[0]} says the credentials already: leave one of them out"
    for one, other in (("username", "password_file"), (identifier, secret)):
        if one in has and other not in has:
            yield one, f"this goes with {other}: name the file with its secret"
        elif other in has and one not in has:
            yield other, f"this goes with {one}: write whose secret it is"
    if "auth_url" in has and not {"username", identifier} & has:
        yield "auth_url", f"a login needs username and password_file, or {identifier}"
    if {"username", identifier} & has and "auth_url" not in has:
        yield min({"username", identifier} & has), "missing auth_url: where to log in"
    if "token_file" in has and "storage_url" not in has:
        yield "token_file", "a token alone does not say where the account is: write storage_url"
    if given.get("auth_version") == "1":
        if identifier in has:
            yield identifier, 'auth_version = "1" knows no application credentials'
    elif {"auth_url", "username"} <= has and not {"project", "project_id"} & has:
        yield "username", "a login needs a project: write project or project_id"


def _sregistry_contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    if given.get("username") and not given.get("token_file"):
        yield "username", "a user name needs a token: name its file in token_file"


_OWN_CREDENTIALS = {"swift": _swift_contradictions, "sregistry": _sregistry_contradictions}
"""Kinds whose user names, passwords and tokens go together in other ways than those of HTTP."""


def contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Keys of one remote's table that cannot stand together, with a text for people."""
    if given.get("kind") == "s3":
        yield from _s3_contradictions(given)
    if given.get("kind") == "gcs":
        yield from _gcs_contradictions(given)
    if given.get("kind") == "oras":
        yield from _oras_contradictions(given)
    yield from routes.contradictions(given)
    if given.get("kind") in _OWN_CREDENTIALS:
        yield from _OWN_CREDENTIALS[str(given["kind"])](given)
        return
    user, password, token = (given.get(key) for key in ("username", "password_file", "token_file"))
    if token and (user or password):
        yield "token_file", "a token and a user name contradict each other: leave one of them out"
    elif user and not password:
        yield "username", "a user name needs a password: name its file in password_file"
    elif password and not user:
        yield "password_file", "a password needs its user: write username"
