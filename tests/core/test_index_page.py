"""Index pages as real servers make them, and pages that only look alike."""

import json
from pathlib import Path

import pytest

from lazysif.core.index_page import LARGEST_PAGE, MOST_ENTRIES, looks_like_index, parse_index
from lazysif.errors import FormatError
from lazysif.model import DirectoryEntry, EntryKind

PAGES = Path(__file__).parent / "index_pages"
URL = "http://h/sif/"
FILES = {
    "a.sif",
    "a_very_long_name_that_every_server_cuts_in_its_text_but_not_in_its_link_0123456789.sif",
    "b c+d&e;f=g.sif",
    "back\\slash.sif",
    "größe.sif",
    "per%20cent#q?.sif",
    "q'uo\"te<b>.sif",
    "x:y.sif",
}
DIRECTORIES = {"dir with space", "sub", "ünter"}


def page(name: str) -> str:
    return (PAGES / name).read_bytes().decode()


def kind_of(name: str) -> str:
    return "application/json" if name.endswith("json") else "text/html; charset=utf-8"


def names(body: str, url: str = URL) -> list[str]:
    return [entry.name for entry in parse_index(body, url)]


@pytest.mark.parametrize(
    "name",
    [
        "nginx.html",
        "nginx.json",
        "apache_plain.html",
        "apache_fancy.html",
        "apache_table.html",
        "python.html",
    ],
)
def test_what_a_real_server_lists(name: str) -> None:
    body = page(name)
    assert looks_like_index(kind_of(name), body)
    entries = parse_index(body, URL)
    assert {entry.name for entry in entries if entry.kind is EntryKind.FILE} - {".hidden"} == FILES
    assert {entry.name for entry in entries if entry.kind is EntryKind.DIRECTORY} == DIRECTORIES
    assert len({entry.name for entry in entries}) == len(entries)


@pytest.mark.parametrize("name", ["nginx_empty.html", "nginx_empty.json", "apache_empty.html"])
def test_an_empty_directory(name: str) -> None:
    assert looks_like_index(kind_of(name), page(name))
    assert parse_index(page(name), "http://h/empty/") == ()


def test_the_root_of_a_server() -> None:
    assert names(page("apache_root.html"), "http://h/") == ["empty", "sif"]
    assert names(page("apache_root.html"), "http://h/?sig=1") == ["empty", "sif"]


def test_caddy_speaks_json() -> None:
    body = json.dumps(
        [
            {
                "name": "sub/",
                "size": 4096,
                "url": "./sub/",
                "mode": 2147484141,
                "is_dir": True,
                "is_symlink": False,
            },
            {"name": "a.sif", "size": 2, "url": "./a.sif", "mode": 420, "is_dir": False, "is_symlink": False},
        ]
    )
    assert looks_like_index("application/json", body)
    assert parse_index(body, URL) == (
        DirectoryEntry("sub", EntryKind.DIRECTORY),
        DirectoryEntry("a.sif", EntryKind.FILE),
    )


def test_names_in_json_that_cannot_be() -> None:
    lines = [{"name": name, "type": "file"} for name in ("..", "a/b", "\ud800", "a\n", "ok")]
    assert names(json.dumps([*lines, {"name": "socket", "type": "other"}])) == ["ok"]


@pytest.mark.parametrize(
    ("href", "found"),
    [
        ("a.sif", ["a.sif"]),
        (" a.sif\n", ["a.sif"]),
        ("./a.sif", ["a.sif"]),
        ("/sif/a.sif", ["a.sif"]),
        ("/s%69f/a.sif", ["a.sif"]),
        ("http://h/sif/a.sif", ["a.sif"]),
        ("http://h:80/sif/a.sif", ["a.sif"]),
        ("//h/sif/a.sif", ["a.sif"]),
        ("a;", ["a;"]),
        ("a+b", ["a+b"]),
        ("%252e%252e", ["%2e%2e"]),
        ("grö", ["grö"]),
        ("", []),
        ("/", []),
        ("/sif/", []),
        ("/sif", []),
        ("./", []),
        ("../", []),
        ("..", []),
        ("%2e%2e/", []),
        ("../sif/a.sif", []),
        ("a%2Fb", []),
        ("a/b", []),
        ("a//", []),
        ("%00", []),
        ("%ff", []),
        ("a%0ab", []),
        ("?C=N;O=D", []),
        ("/sif/?C=M&O=A", []),
        ("a.sif?download", []),
        ("#top", []),
        ("/other/a.sif", []),
        ("https://h/sif/a.sif", []),
        ("http://evil/sif/a.sif", []),
        ("//evil/sif/a.sif", []),
        ("mailto:a@b", []),
        ("javascript:x", []),
        ("http://[/sif/a.sif", []),
    ],
)
def test_only_direct_children_count(href: str, found: list[str]) -> None:
    assert names(f'<A class="x>" HREF="{href}">text</A>') == found


def test_links_in_other_words() -> None:
    body = "<a title='x' href='b&amp;c'>1</a><a href=d>2</a><a>3</a><a name=x>4</a><a href>5</a><area href=e>"
    assert names(body) == ["b&c", "d"]


def test_a_page_below_a_path_with_escapes() -> None:
    assert names('<a href="/dir%20x/a.sif">', "http://h/dir%20x/") == ["a.sif"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", page("nginx_404.html")),
        ("text/html", "<title>Welcome</title><h1>Index of /sif</h1><a href='a.sif'>a.sif</a>"),
        ("text/html", "<title>Index of our work</title>"),
        ("text/html", ""),
        ("text/plain", page("nginx.html")),
        ("", page("nginx.html")),
        ("application/json", '{"name": "a", "type": "file"}'),
        ("application/json", '["a"]'),
        ("application/json", '[{"name": 1, "type": "file"}]'),
        ("application/json", '[{"name": "a"}]'),
        ("application/json", "[" * 100_000),
        ("application/json", "<title>Index of /</title>"),
    ],
)
def test_what_is_no_index(content_type: str, body: str) -> None:
    assert not looks_like_index(content_type, body)


def test_a_page_is_bounded() -> None:
    with pytest.raises(FormatError, match="characters"):
        parse_index(" " * (LARGEST_PAGE + 1), URL)
    links = "".join(f"<a href={number}>" for number in range(MOST_ENTRIES + 1))
    with pytest.raises(FormatError, match="names"):
        parse_index(links, URL)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["<a", "<a ", "<a href", '<a href="', "<a href='", "<!--", "<!", "</a", "<a b='\""]
)
def test_hostile_pages_take_linear_time(piece: str) -> None:
    assert names(piece * (1_000_000 // len(piece))) == []
