"""The mark of where a remote's names lead: what one daemon was told, another believes only under the same one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lazysif.config.kinds import HttpRemote, OrasRemote, SwiftRemote
from lazysif.config.remote import RemoteConfig

BASE = HttpRemote(name="bio", kind="http", url="https://one.example/")


def mark(remote: RemoteConfig, base_url: str = "https://one.example/") -> str:
    return remote.mark(base_url)


def http(**given: object) -> HttpRemote:
    return HttpRemote(**{"name": "bio", "kind": "http", "url": "https://one.example/", **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        http(url="https://two.example/"),
        http(prefix="labs/"),
        http(username="me"),
        http(password_file=Path("/etc/other")),
        http(mirrors=(("https://mirror.example/",),)),
        http(whole_file="refuse"),
        OrasRemote(name="bio", kind="oras", hosts=("one.example",)),
    ],
)
def test_another_configuration_has_another_mark(other: RemoteConfig) -> None:
    assert mark(other) != mark(BASE)


def test_what_comes_from_the_environment_is_in_it() -> None:
    swift = SwiftRemote(name="s", kind="swift", url="swift://images")
    assert mark(swift, "https://keystone.one/") != mark(swift, "https://keystone.two/")


def test_a_key_at_its_default_changes_no_mark() -> None:
    """Else each release that knows one key more made all nodes ask about all names at once."""
    assert mark(http(revalidate=60.0, mode=0o555, username=None)) == mark(BASE)


def test_a_secret_is_not_in_it(tmp_path: Path) -> None:
    """It goes into the state directory, and a short password could be guessed from a digest."""
    secret = tmp_path / "secret"
    secret.write_text("one")
    before = mark(http(password_file=secret))
    secret.write_text("two")
    assert mark(http(password_file=secret)) == before
