"""Swift: catalogs, listings, and configurations of its remotes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from lazysif.config.load import check_config
from lazysif.core import swift
from lazysif.core.swift import listing_url, merged, parse_page, storage_url
from lazysif.errors import FormatError
from lazysif.model import DirectoryEntry, EntryKind


def token(*endpoints: tuple[str, str, str]) -> dict[str, Any]:
    listed = [{"interface": kind, "region": region, "url": url} for kind, region, url in endpoints]
    return {"token": {"catalog": [{"type": "image"}, {"type": "object-store", "endpoints": listed}]}}


NORTH, SOUTH = ("public", "north", "https://n/v1/A"), ("public", "south", "https://s/v1/A")
INSIDE = ("internal", "north", "http://inside/v1/A")


def test_the_endpoint_of_region_and_interface() -> None:
    assert storage_url(token(NORTH, INSIDE)) == NORTH[2]
    assert storage_url(token(NORTH, SOUTH, INSIDE), region="south") == SOUTH[2]
    assert storage_url(token(NORTH, INSIDE), interface="internal") == INSIDE[2]


@pytest.mark.parametrize(
    ("found", "keys", "told"),
    [
        (None, {}, "no catalog"),
        ({"token": {}}, {}, "the login needs a project"),
        ({"token": {"catalog": ["x", {"type": "object-store"}]}}, {}, "knows no object store"),
        (token(NORTH, SOUTH), {}, "write one as region: north, south"),
        (token(NORTH, SOUTH), {"region": "east"}, 'region "east", only in: north, south'),
        (token(NORTH), {"interface": "admin"}, "no admin address"),
        (token(("public", "north", 7)), {}, "knows no object store"),  # type: ignore[arg-type]
    ],
)
def test_what_a_catalog_does_not_tell(found: Any, keys: dict[str, str], told: str) -> None:
    with pytest.raises(FormatError, match=told):
        storage_url(found, **keys)


def test_a_page_of_a_container() -> None:
    lines = [
        {"name": "a/b/", "bytes": 0},  # what some clients make of an empty directory
        {"name": "a/b/x.sif", "bytes": 1},
        {"subdir": "a/b/c/"},
        {"subdir": "a/b//"},
        {"name": "a/b/..", "bytes": 1},
        {"name": "else/x.sif"},
    ]
    page = parse_page(lines, "a/b/")
    assert page.entries == (DirectoryEntry("x.sif", EntryKind.FILE), DirectoryEntry("c", EntryKind.DIRECTORY))
    assert page.marker == ""


def test_pages_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swift, "PAGE", 2)
    page = parse_page([{"name": "a"}, {"name": "b c"}], "")
    assert page.marker == "b c"
    query = parse_qs(urlsplit(listing_url("https://s/v1/A", "con tainer", "", page.marker)).query)
    assert query == {"format": ["json"], "limit": ["2"], "delimiter": ["/"], "marker": ["b c"]}


def test_the_listing_of_an_account() -> None:
    page = parse_page([{"name": "images", "count": 3}], "", of_account=True)
    assert page.entries == (DirectoryEntry("images", EntryKind.DIRECTORY),)
    assert urlsplit(listing_url("https://s/v1/A", "", "", "")).path == "/v1/A"


@pytest.mark.parametrize("found", [None, {}, ["x"], [{"bytes": 1}], [{"name": 3}]])
def test_what_is_no_listing(found: Any) -> None:
    with pytest.raises(FormatError):
        parse_page(found, "")


def test_an_object_and_names_below_it_are_the_object() -> None:
    file, directory = DirectoryEntry("a", EntryKind.FILE), DirectoryEntry("a", EntryKind.DIRECTORY)
    assert merged([directory, file]) == merged([file, directory]) == (file,)


LOGIN = 'auth_url = "https://k"\nproject = "p"\nusername = "u"\npassword_file = "FILE"'


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (LOGIN, None),
        (LOGIN.replace('project = "p"', 'auth_version = "1"').replace('"u"', '"account:user"'), None),
        ('storage_url = "https://s/v1/A"', None),
        ('url = "swift://images/lab"\nstorage_url = "https://s/v1/A"\ntoken_file = "FILE"', None),
        (
            'auth_url = "https://k"\napplication_credential_id = "a"\napplication_credential_secret_file = "FILE"',
            None,
        ),
        ('url = "https://s/v1/A/c"', "not a container"),
        (LOGIN.replace('project = "p"\n', ""), "a login needs a project"),
        (LOGIN.replace('auth_url = "https://k"\n', ""), "missing auth_url"),
        (LOGIN.replace('password_file = "FILE"', ""), "this goes with password_file"),
        (LOGIN + '\ntoken_file = "FILE"\nstorage_url = "https://s/v1/A"', "leave one of them out"),
        ('token_file = "FILE"', "write storage_url"),
        ('auth_url = "https://k"', "a login needs username and password_file"),
        (LOGIN + '\nregoin = "north"', 'did you mean "region"'),
        ('auth_url = "https://k"\npassword = "secret"', 'did you mean "password_file"'),
    ],
)
def test_configurations(lines: str, told: str | None, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    file = tmp_path / "lazysif.toml"
    file.write_text('[remote.r]\nkind = "swift"\n' + lines.replace("FILE", str(secret)))
    problems = check_config(file)
    if told is None:
        assert problems == []
    else:
        assert any(told in problem for problem in problems), problems
        assert all(problem.startswith(f"{file}:") for problem in problems)
