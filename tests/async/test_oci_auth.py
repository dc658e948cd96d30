"""Credentials of OCI registries: what is asked, of whom, how often, and what is told to nobody."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
import trio

from lazysif.errors import AccessDenied, ConfigError, LazysifError, SourceProtocolError, SourceUnavailable
from lazysif.transport import oci_auth
from lazysif.transport.oci_auth import OciKeyring
from lazysif.transport.oci_credentials import (
    ANONYMOUS,
    Credential,
    OciCredentials,
    default_auth_files,
    from_program,
    in_auth_file,
    oci_credentials,
)

MANIFEST = "https://registry.example/v2/a/b/manifests/1"
OTHER = "https://registry.example/v2/c/manifests/1"
REALM = "https://tokens.example/token"
USER = Credential("me", "password-of-me")
BASIC = "Basic " + base64.b64encode(b"me:password-of-me").decode()


@dataclass
class World:
    """A registry and its token service. `challenge` "" lets everybody in."""

    challenge: str = f'Bearer realm="{REALM}",service="registry",scope="repository:a/b:pull"'
    lifetime_s: float | None = 300
    registry_status: int = 200
    token_status: int = 200
    takes_post: bool = True
    hides: int = 0
    answer: bytes | None = None
    seen: list[httpx.Request] = field(default_factory=list)
    valid: set[str] = field(default_factory=set)

    @property
    def asked(self) -> list[str]:
        return [f"{request.method} {request.url.host}{request.url.path}" for request in self.seen]

    @property
    def tokens_asked(self) -> int:
        return sum(request.url.host == "tokens.example" for request in self.seen)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        self.seen.append(request)
        if request.url.host == "tokens.example":
            return self._token(request)
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.hides and not given and request.url.path != "/v2/":
            return httpx.Response(self.hides)
        if self.challenge and given not in self.valid:
            return httpx.Response(401, headers={"WWW-Authenticate": self.challenge})
        return httpx.Response(self.registry_status, content=b"manifest")

    def _token(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and not self.takes_post:
            return httpx.Response(404)
        if self.token_status != 200:
            return httpx.Response(self.token_status, headers={"Retry-After": "3"})
        token = f"token-{len(self.seen)}"
        self.valid.add(token)
        said = {"token": token} | ({"expires_in": self.lifetime_s} if self.lifetime_s else {})
        return httpx.Response(200, content=_streamed(self.answer or json.dumps(said).encode()))


async def _streamed(body: bytes) -> AsyncIterator[bytes]:
    """As from the network: not read before somebody reads it."""
    yield body


@pytest.fixture
def world() -> World:
    return World()


class NoNames(trio.abc.HostnameResolver):
    """The guard against inward addresses asks what names mean; no test waits for a network."""

    async def getaddrinfo(self, *_: object, **__: object) -> Any:
        raise OSError("no names here")

    async def getnameinfo(self, *_: object, **__: object) -> Any:
        raise OSError("no names here")


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    trio.socket.set_custom_hostname_resolver(NoNames())
    async with httpx.AsyncClient(transport=httpx.MockTransport(world)) as made:
        yield made


def keyring(credential: Credential | None = USER, **more: bool) -> OciKeyring:
    return OciKeyring(OciCredentials(credential), lambda host: host == "registry.example", **more)


def test_of_many_repositories_those_used_last_are_remembered(monkeypatch):
    """A catalogue of all repositories of a registry must not stay in memory."""
    monkeypatch.setattr("lazysif.transport.oci_auth._MAX_REPOSITORIES", 3)
    keys = keyring()
    first, *others = [keys.for_url(f"https://registry.example/v2/r{n}/manifests/1") for n in range(3)]
    assert keys.for_url("https://registry.example/v2/r0/manifests/1") is first
    keys.for_url("https://registry.example/v2/r3/manifests/1")
    assert keys.for_url("https://registry.example/v2/r0/manifests/1") is first
    assert keys.for_url("https://registry.example/v2/r1/manifests/1") is not others[0]
    assert len(keys._repositories) == 3


async def get(client: httpx.AsyncClient, keys: OciKeyring, url: str = MANIFEST) -> int:
    """As the transports send: the body is not read by httpx."""
    auth = keys.for_url(url)
    assert auth is not None
    answer = await client.send(
        client.build_request("GET", url), stream=True, auth=auth, follow_redirects=False
    )
    await answer.aclose()
    return answer.status_code


async def test_a_token_is_asked_for_once_and_used_for_all(world: World, client: httpx.AsyncClient) -> None:
    keys = keyring()
    assert [await get(client, keys) for _ in range(3)] == [200] * 3
    assert world.asked == [
        "GET registry.example/v2/a/b/manifests/1",
        "GET tokens.example/token",
        *["GET registry.example/v2/a/b/manifests/1"] * 3,
    ]
    asked = world.seen[1]
    assert asked.headers["Authorization"] == BASIC
    assert dict(asked.url.params) == {"service": "registry", "scope": "repository:a/b:pull"}
    assert asked.extensions["timeout"] == world.seen[0].extensions["timeout"]
    assert BASIC not in [
        request.headers.get("Authorization") for request in world.seen if request is not asked
    ]


async def test_a_second_repository_costs_no_refused_request(world: World, client: httpx.AsyncClient) -> None:
    keys = keyring()
    await get(client, keys)
    world.seen.clear()
    assert await get(client, keys, OTHER) == 200
    assert world.asked == ["GET tokens.example/token", "GET registry.example/v2/c/manifests/1"]
    assert world.seen[0].url.params["scope"] == "repository:c:pull"


async def test_a_hundred_requests_at_once_ask_for_one_token(world: World, client: httpx.AsyncClient) -> None:
    keys = keyring()
    statuses = []

    async def one() -> None:
        statuses.append(await get(client, keys))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(one)
    assert statuses == [200] * 100
    assert (len(world.seen), world.tokens_asked) == (102, 1)
    world.valid.clear()  # revoked, all at once
    world.seen.clear()
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(one)
    assert statuses == [200] * 200
    assert world.tokens_asked == 1


async def test_a_token_is_renewed_before_it_ends(
    world: World, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = keyring()
    clock = [1000.0]
    monkeypatch.setattr(oci_auth.time, "monotonic", lambda: clock[0])
    await get(client, keys)
    for now, tokens in ((1239.0, 1), (1241.0, 2), (1242.0, 2)):  # 80 % of 300 s
        clock[0] = now
        assert await get(client, keys) == 200
        assert world.tokens_asked == tokens
    assert world.asked.count("GET registry.example/v2/a/b/manifests/1") == 5  # the first was refused alone
    world.lifetime_s = None
    for now, tokens in ((5000.0, 3), (5047.0, 3), (5049.0, 4)):  # 60 s, where it does not say
        clock[0] = now
        await get(client, keys)
        assert world.tokens_asked == tokens


async def test_an_open_registry_is_asked_nothing_else(world: World, client: httpx.AsyncClient) -> None:
    world.challenge = ""
    keys = keyring()
    assert [await get(client, keys), await get(client, keys, OTHER)] == [200, 200]
    assert len(world.seen) == 2
    world.challenge = World().challenge  # a private repository beside the public ones
    assert await get(client, keys) == 200
    assert world.tokens_asked == 1


@pytest.mark.parametrize("status", [403, 404])
async def test_a_registry_that_hides_what_is_private_is_asked_what_it_wants(
    world: World, client: httpx.AsyncClient, status: int
) -> None:
    world.hides = status
    assert await get(client, keyring()) == 200
    assert world.asked == [
        "GET registry.example/v2/a/b/manifests/1",
        "GET registry.example/v2/",
        "GET tokens.example/token",
        "GET registry.example/v2/a/b/manifests/1",
    ]
    world.seen.clear()
    assert await get(client, keyring(None)) == status
    assert len(world.seen) == 1  # without credentials there is nothing to ask for


async def test_what_an_open_registry_does_not_have_is_asked_for_once_more(
    world: World, client: httpx.AsyncClient
) -> None:
    world.challenge, world.registry_status = "", 404
    keys = keyring()
    assert [await get(client, keys), await get(client, keys)] == [404, 404]
    assert len(world.seen) == 4  # the name, the host, the name; and then the name alone


async def test_basic_is_sent_to_the_registry(world: World, client: httpx.AsyncClient) -> None:
    world.challenge, world.valid = 'Basic realm="r"', {BASIC}
    keys = keyring()
    assert [await get(client, keys), await get(client, keys)] == [200, 200]
    assert len(world.seen) == 3
    world.valid = set()
    assert await get(client, keys) == 401
    assert len(world.seen) == 4  # a refused password is not sent again


async def test_without_credentials_an_anonymous_token_is_asked_for(
    world: World, client: httpx.AsyncClient
) -> None:
    assert await get(client, keyring(None)) == 200
    assert "Authorization" not in world.seen[1].headers


async def test_a_token_that_does_not_help_is_not_asked_for_again_and_again(
    world: World, client: httpx.AsyncClient
) -> None:
    world.answer = b'{"access_token": "without-rights"}'
    assert await get(client, keyring()) == 401
    assert (len(world.seen), world.tokens_asked) == (5, 2)


async def test_an_identity_token_is_posted(world: World, client: httpx.AsyncClient) -> None:
    assert await get(client, keyring(Credential(identity_token="refresh-me"))) == 200
    asked = world.seen[1]
    assert asked.method == "POST"
    form = parse_qs(asked.content.decode())
    assert form["grant_type"] == ["refresh_token"]
    assert (form["refresh_token"], form["scope"]) == (["refresh-me"], ["repository:a/b:pull"])


async def test_an_old_token_service_gets_it_as_a_password(world: World, client: httpx.AsyncClient) -> None:
    world.takes_post = False
    assert await get(client, keyring(Credential(identity_token="refresh-me"))) == 200
    asked = world.seen[2]
    assert asked.method == "GET"
    assert base64.b64decode(asked.headers["Authorization"].removeprefix("Basic ")) == b"<token>:refresh-me"
    assert dict(asked.url.params) == {"service": "registry", "scope": "repository:a/b:pull"}


async def test_a_registry_token_is_used_as_it_is(world: World, client: httpx.AsyncClient) -> None:
    world.valid = {"ready-made"}
    assert await get(client, keyring(Credential(registry_token="ready-made"))) == 200
    assert world.tokens_asked == 0


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"token_status": 401}, AccessDenied, "refuses these credentials"),
        ({"token_status": 403}, AccessDenied, "auth_file"),
        ({"token_status": 503}, SourceUnavailable, "503"),
        ({"token_status": 302}, SourceProtocolError, "302"),
        ({"answer": b"<html>"}, SourceProtocolError, "gives no token"),
        ({"answer": b"{}"}, SourceProtocolError, "gives no token"),
        ({"answer": b'{"token": "a\\r\\nX: y"}'}, SourceProtocolError, "gives no token"),
        ({"challenge": "Negotiate"}, AccessDenied, "without saying what credentials"),
        ({"challenge": "Bearer"}, SourceProtocolError, "names no token service"),
        ({"challenge": 'Bearer realm="file:///etc/passwd"'}, SourceProtocolError, "names no token service"),
        ({"challenge": 'Bearer realm="https://a:b@tokens.example/"'}, SourceProtocolError, "names no token"),
        ({"challenge": 'Bearer realm="http://tokens.example/"'}, SourceProtocolError, "without TLS"),
        ({"challenge": 'Bearer realm="https://10.0.0.1/"'}, SourceProtocolError, "private address"),
        ({"challenge": 'Bearer realm="https://169.254.169.254/"'}, SourceProtocolError, "private address"),
        ({"challenge": 'Bearer realm="https://localhost/"'}, SourceProtocolError, "private address"),
    ],
)
async def test_what_goes_wrong_is_one_line_without_a_secret(
    world: World, client: httpx.AsyncClient, change: dict[str, object], kind: type[LazysifError], text: str
) -> None:
    for name, value in change.items():
        setattr(world, name, value)
    with pytest.raises(kind, match=text) as raised:
        await get(client, keyring())
    assert "password" not in str(raised.value).replace("password_file", "")
    assert "\n" not in str(raised.value)
    # and nothing is left held or half known: a registry that is well again is asked as at first
    for name, value in vars(World()).items():
        if name not in ("seen", "valid"):
            setattr(world, name, value)
    keys = keyring()
    assert await get(client, keys) == 200


async def test_a_token_service_whose_name_leads_inward_is_not_asked(
    world: World, client: httpx.AsyncClient
) -> None:
    class LeadsInward(NoNames):
        async def getaddrinfo(self, host: Any, *_: object, **__: object) -> Any:
            address = "169.254.169.254" if host in (b"tokens.example", "tokens.example") else "192.0.2.1"
            return [(0, 0, 0, "", (address, 0))]

    trio.socket.set_custom_hostname_resolver(LeadsInward())
    with pytest.raises(SourceProtocolError):
        await get(client, keyring())
    assert world.tokens_asked == 0


# httpx itself leaves generators half-way when reading its answer fails
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_token_service_that_does_not_stop(world: World, client: httpx.AsyncClient) -> None:
    world.answer = b" " * 300_000
    with pytest.raises(SourceProtocolError, match="too much"):
        await get(client, keyring())


async def test_a_failed_token_request_lets_the_next_one_ask(world: World, client: httpx.AsyncClient) -> None:
    keys = keyring()
    world.token_status = 503
    with pytest.raises(SourceUnavailable) as raised:
        await get(client, keys)
    assert raised.value.retry_after_s == 3
    world.token_status = 200
    assert await get(client, keys) == 200


async def test_one_that_gives_up_holds_up_nobody(world: World, client: httpx.AsyncClient) -> None:
    keys = keyring()
    auth = keys.for_url(MANIFEST)
    assert auth is not None
    async with aclosing(auth.async_auth_flow(client.build_request("GET", MANIFEST))) as flow:
        await anext(flow)  # the first request is on its way, and never answered
    with trio.fail_after(1):
        assert await get(client, keys) == 200


@pytest.mark.parametrize(
    "url",
    [
        "https://storage.example/v2/a/b/blobs/x",
        "http://registry.example/v2/a/b/blobs/x",
        "https://registry.example:8443/v2/a/b/blobs/x",
        "https://registry.example/storage/x?sig=1",
        "https://registry.example.evil.net/v2/a/b/blobs/x",
    ],
)
def test_others_see_nothing(url: str) -> None:
    assert keyring().for_url(url) is None


def test_plain_http_is_for_registries_of_plain_http() -> None:
    keys = keyring(plain_http=True)
    assert keys.for_url(MANIFEST) is None
    assert keys.for_url(MANIFEST.replace("https:", "http:")) is not None


# --- where credentials come from -----------------------------------------------------------------------


def entry(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


AUTHS = {
    "auths": {
        "ghcr.io": entry("g", "1"),
        "ghcr.io/org": entry("o", "2"),
        "https://index.docker.io/v1/": entry("d", "3"),
        "quay.io": {"username": "q", "password": "4"},
        "azure.example": {"auth": entry("00000000", "")["auth"], "identitytoken": "refresh"},
        "bad.example": {"auth": "!!"},
        "helped.example": {},
        "odd.example": "text",
    },
    "credHelpers": {"helped.example": "evil"},
    "credsStore": "evil",
}


@pytest.mark.parametrize(
    ("host", "repository", "found"),
    [
        ("ghcr.io", "x/y", Credential("g", "1")),
        ("ghcr.io", "org/y", Credential("o", "2")),
        ("ghcr.io", "organisation/y", Credential("g", "1")),
        ("index.docker.io", "library/x", Credential("d", "3")),
        ("quay.io", "x", Credential("q", "4")),
        ("azure.example", "x", Credential("00000000", "", identity_token="refresh")),
        ("bad.example", "x", None),
        ("helped.example", "x", None),
        ("odd.example", "x", None),
        ("io", "x", None),
    ],
)
def test_files_of_docker_and_podman(host: str, repository: str, found: Credential | None) -> None:
    assert in_auth_file(AUTHS, host, repository) == found


def test_a_credential_is_never_shown() -> None:
    assert repr(Credential("me", "password", "identity", "registry")) == "Credential()"


async def test_a_login_counts_at_once(tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    file.touch(0o600)
    file.write_text("{}")
    credentials = oci_credentials(auth_file=file)
    assert await credentials.find("ghcr.io", "a") == ANONYMOUS
    file.write_text(json.dumps(AUTHS))
    assert await credentials.find("ghcr.io", "a") == Credential("g", "1")
    file.write_text("{")
    with pytest.raises(AccessDenied, match="is not JSON"):
        await credentials.find("ghcr.io", "a")
    file.chmod(0o644)
    with pytest.raises(AccessDenied, match="chmod 600"):
        await credentials.find("ghcr.io", "a")


async def test_a_program_that_a_file_names_is_not_run_but_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "auth.json"
    file.touch(0o600)
    file.write_text(json.dumps(AUTHS))
    credentials = oci_credentials(auth_file=file)
    for _ in range(2):
        assert await credentials.find("helped.example", "a") == ANONYMOUS
    assert [record.getMessage() for record in caplog.records] == [
        f"{file} leaves the credentials for helped.example to the program 'evil', "
        "which is run only if credential_helper names it"
    ]


def test_a_named_file_must_be_right_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    file.touch(0o600)
    file.write_text("[]")
    with pytest.raises(ConfigError, match='no table "auths"'):
        oci_credentials(auth_file=file)


async def test_files_that_nobody_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("APPTAINER_CONFIGDIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    wanted = [".apptainer/docker-config.json", ".docker/config.json", "run/containers/auth.json"]
    for name in wanted:
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.touch(0o600)
        file.write_text(json.dumps(AUTHS))
    assert default_auth_files() == [tmp_path / name for name in wanted]
    (tmp_path / wanted[0]).chmod(0o640)
    (tmp_path / wanted[1]).write_text("{")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert await oci_credentials().find("ghcr.io", "a") == Credential("g", "1")
    assert len(caplog.records) == 2  # those that were left out
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert await oci_credentials().find("ghcr.io", "a") == ANONYMOUS


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    def write(script: str) -> str:
        file = tmp_path / "helper"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return str(file)

    return write


def test_a_credential_program(program: Callable[[str], str]) -> None:
    said = """read -r server; printf '{"ServerURL": "x", "Username": "%s", "Secret": "%s"}'"""
    assert from_program(program(f'{said} u "$server-$1"'), "ghcr.io") == Credential("u", "ghcr.io-get")
    assert from_program(program(f'{said} u "$server"'), "index.docker.io") == Credential(
        "u", "https://index.docker.io/v1/"
    )
    assert from_program(program(f"{said} '<token>' refresh"), "ghcr.io") == Credential(
        identity_token="refresh"
    )
    missing = program('echo "credentials not found in native keychain"; exit 1')
    assert from_program(missing, "ghcr.io") == ANONYMOUS


def test_a_program_that_fails_is_not_quoted(program: Callable[[str], str]) -> None:
    with pytest.raises(SourceUnavailable, match="failed with status 3") as raised:
        from_program(program("echo secret; echo secret >&2; exit 3"), "ghcr.io")
    assert "secret" not in str(raised.value)
    with pytest.raises(AccessDenied, match="something else than credentials") as denied:
        from_program(program("echo secret"), "ghcr.io")
    assert "secret" not in str(denied.value)
    with pytest.raises(AccessDenied, match="cannot be run"):
        from_program("/nonexistent", "ghcr.io")


async def test_a_program_that_hangs_is_ended(
    program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lazysif.transport.oci_credentials._PROGRAM_S", 0.2)
    with pytest.raises(SourceUnavailable, match="did not end within"):
        await oci_credentials(helper=program("exec sleep 60")).find("ghcr.io", "a")
