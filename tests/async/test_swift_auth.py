"""Tokens of Swift: one login for all who need it, and none that was refused again."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest
import trio
import trio.testing

from lazysif.transport.swift_auth import SwiftAuth, SwiftKeyring, from_environment, login_of

AUTH, STORE = "https://keystone.example/v3/auth/tokens", "https://store.example/v1/A"
KEYS = {"auth_url": "https://keystone.example", "username": "u", "password": "p", "project": "g"}


class Cloud:
    """Keystone and Swift behind an httpx client; `valid` is the token that holds."""

    def __init__(self) -> None:
        self.valid = ""
        self.logins = 0
        self.asked: list[tuple[str, str]] = []
        self.login_status = 201
        self.pause_s = 0.0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        token = request.headers.get("X-Auth-Token", "")
        self.asked.append((str(request.url), token))
        if str(request.url) == AUTH:
            self.logins += 1
            await trio.sleep(self.pause_s)
            if self.login_status != 201:
                return httpx.Response(self.login_status)
            assert json.loads(request.content)["auth"]["identity"]["password"]["user"]["password"] == "p"
            self.valid = f"token-{self.logins}"
            return httpx.Response(201, headers={"X-Subject-Token": self.valid}, json={"token": {}})
        return httpx.Response(200 if token and token == self.valid else 401)


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def get(cloud: Cloud) -> Callable[..., object]:
    client = httpx.AsyncClient(transport=httpx.MockTransport(cloud))
    auth = SwiftAuth(login_of(KEYS))

    async def send(url: str = f"{STORE}/c/x") -> httpx.Response:
        return await client.get(url, auth=auth)

    return send


async def test_a_token_is_asked_for_once_and_used(cloud: Cloud, get: Callable) -> None:
    assert [(await get()).status_code for _ in range(3)] == [200] * 3
    assert cloud.logins == 1
    assert len(cloud.asked) == 4


async def test_the_answer_to_a_login_goes_to_who_asked_for_it(cloud: Cloud, get: Callable) -> None:
    assert (await get(AUTH)).json() == {"token": {}}
    assert (await get()).status_code == 200
    assert cloud.logins == 1


async def test_a_hundred_who_meet_the_end_of_a_token_make_one_login(cloud: Cloud, get: Callable) -> None:
    await get()
    cloud.valid = ""
    cloud.pause_s = 0.01
    statuses = []

    async def one() -> None:
        statuses.append((await get()).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(one)
    assert statuses == [200] * 100
    assert cloud.logins == 2


async def test_a_refused_login_is_tried_again_once_a_minute(
    cloud: Cloud, get: Callable, autojump_clock: trio.testing.MockClock
) -> None:
    await get()
    cloud.valid, cloud.login_status = "", 401
    assert [(await get()).status_code for _ in range(5)] == [401] * 5
    assert cloud.logins == 2
    cloud.login_status = 201
    assert (await get()).status_code == 401
    await trio.sleep(61)
    assert (await get()).status_code == 200
    assert cloud.logins == 3


async def test_an_identity_service_in_trouble_is_worth_another_try(cloud: Cloud, get: Callable) -> None:
    cloud.login_status = 503
    for _ in range(2):
        with pytest.raises(httpx.HTTPError, match="503"):
            await get()
    cloud.login_status = 201
    assert (await get()).status_code == 200


async def test_one_who_gives_up_leaves_the_login_to_the_others(cloud: Cloud, get: Callable) -> None:
    cloud.pause_s = 0.05
    with trio.move_on_after(0.01):
        await get()
    assert (await get()).status_code == 200


def test_the_token_goes_to_the_account_and_the_password_to_the_login() -> None:
    auth = SwiftAuth(login_of(KEYS))
    keyring = SwiftKeyring(auth, AUTH)
    assert keyring.for_url(AUTH) is auth
    assert keyring.for_url(STORE) is None
    keyring.opened(STORE)
    assert keyring.for_url(f"{STORE}/c/x") is auth
    for other in (
        "http://store.example/v1/A",
        "https://store.example:444/",
        "https://keystone.example/",
        f"{AUTH}/",
    ):
        assert keyring.for_url(other) is None


def test_logins_say_what_their_interfaces_want() -> None:
    names = {**KEYS, "user_domain": "lab", "project_domain_id": "d1"}
    login = login_of(names)
    assert login is not None
    assert json.loads(login.body)["auth"] == {
        "identity": {
            "methods": ["password"],
            "password": {"user": {"name": "u", "password": "p", "domain": {"name": "lab"}}},
        },
        "scope": {"project": {"name": "g", "domain": {"id": "d1"}}},
    }
    old = login_of({**KEYS, "auth_version": "1"})
    assert old is not None
    assert (old.url, old.headers) == (KEYS["auth_url"], {"X-Auth-User": "u", "X-Auth-Key": "p"})
    assert repr(login) == f"Login(url={AUTH!r})"
    assert login_of({"storage_url": STORE}) is None


@pytest.mark.parametrize(
    ("environment", "keys"),
    [
        ({}, {}),
        ({"OS_USERNAME": "u", "OS_PASSWORD": "p"}, {}),
        ({"OS_AUTH_URL": "https://k", "OS_PASSWORD": "p"}, {}),
        ({"OS_STORAGE_URL": STORE, "OS_AUTH_TOKEN": "t"}, {"storage_url": STORE, "token": "t"}),
        (
            {"ST_AUTH": "https://s/auth", "ST_USER": "a:u", "ST_KEY": "k"},
            {"auth_url": "https://s/auth", "username": "a:u", "password": "k", "auth_version": "1"},
        ),
        (
            {"OS_AUTH_URL": "https://k", "OS_USERNAME": "u", "OS_PASSWORD": "p", "OS_PROJECT_NAME": "g"},
            {"auth_url": "https://k", "username": "u", "password": "p", "project": "g", "auth_version": "3"},
        ),
    ],
)
def test_what_an_environment_says(environment: dict[str, str], keys: dict[str, str]) -> None:
    assert from_environment(environment) == keys
