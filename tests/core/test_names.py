"""Names that the kernel asks for, and the URLs made of them."""

import pytest

from lazysif.core.names import decode_name, has_image_suffix, is_name, join_url, origin_of, same_origin


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "image.sif",
        "ubuntu 22.04.sif",
        "größe.sif",
        "e\u0301",
        "a\\b",
        "...",
        "..a",
        "%2e%2e",
        "?#;",
        "😀",
        "-rf",
    ],
)
def test_a_name_is_decoded(name: str) -> None:
    assert decode_name(name.encode()) == name
    assert is_name(name)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b".",
        b"..",
        b"/",
        b"a/b",
        b"a\0",
        b"a\n",
        b"\x1b[2J",
        b"\x7f",
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"x" * 256,
        "ü".encode() * 128,
        "\x85".encode(),
        "a\u202efis".encode(),
        "\u2066".encode(),
        "\u2028".encode(),
    ],
)
def test_a_name_that_cannot_exist(raw: bytes) -> None:
    assert decode_name(raw) is None


def test_the_longest_name() -> None:
    assert decode_name(b"x" * 255) == "x" * 255


def test_a_lone_surrogate_is_no_name() -> None:
    assert not is_name("\udc80")


@pytest.mark.parametrize(
    ("base", "path", "url"),
    [
        ("https://h", "a.sif", "https://h/a.sif"),
        ("https://h/", "a.sif", "https://h/a.sif"),
        ("https://h/sif", "a/b.sif", "https://h/sif/a/b.sif"),
        ("https://h/sif/", "", "https://h/sif/"),
        ("https://h/sif", "", "https://h/sif/"),
        ("https://h/sif/", "d/", "https://h/sif/d/"),
        ("https://h/s%20f/", "a", "https://h/s%20f/a"),
        ("https://h/s f/", "a", "https://h/s%20f/a"),
        ("https://h/sif?sig=a%2Fb&x=1", "a.sif", "https://h/sif/a.sif?sig=a%2Fb&x=1"),
        ("https://h/sif?sig=1#part", "", "https://h/sif/?sig=1"),
        ("https://[::1]:8443/", "a", "https://[::1]:8443/a"),
        ("https://h/", "a b%?#;+&\\ü.sif", "https://h/a%20b%25%3F%23%3B%2B%26%5C%C3%BC.sif"),
        ("https://h/", "-._~@:,=.sif", "https://h/-._~@:,=.sif"),
        ("https://h/", "%2e%2e/x", "https://h/%252e%252e/x"),
    ],
)
def test_a_url_is_joined(base: str, path: str, url: str) -> None:
    assert join_url(base, path) == url


@pytest.mark.parametrize(
    "path", ["/", "/a", "a//b", "..", "a/../b", "a/.", "a\0", "a//", "\udc80", "x" * 256]
)
def test_a_path_that_is_no_path_of_names(path: str) -> None:
    with pytest.raises(ValueError, match="not a path of names"):
        join_url("https://h/sif/", path)


@pytest.mark.parametrize("base", ["", "/sif", "h/sif", "https:///x"])
def test_a_base_that_is_no_url(base: str) -> None:
    with pytest.raises(ValueError, match="absolute"):
        join_url(base, "a")


def test_endings_of_images() -> None:
    assert all(
        has_image_suffix(f"a{end}") for end in (".sif", ".SIF", ".simg", ".img", ".sqsh", ".sqfs", ".ext3")
    )
    assert has_image_suffix("a.squashfs")
    assert not any(has_image_suffix(name) for name in ("sif", "a.sif.md5", "a.tar", ""))


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://u:p@Host.Example:443/a/B?sig=1#x", "https://host.example/a/B"),
        ("HTTP://h:80/", "http://h/"),
        ("https://h:80/", "https://h:80/"),
        ("https://h:/a", "https://h/a"),
        ("https://a@b@h/", "https://h/"),
        ("https://[::1]:443/x", "https://[::1]/x"),
        ("https://h:port/x", "https://h:port/x"),
        ("https://[broken/x?sig=1", "(not a URL)"),
    ],
)
def test_an_origin_holds_no_secret(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("https://h/a", "https://H:443/b?x", True),
        ("http://u@h/", "http://h:80/", True),
        ("https://h/", "http://h/", False),
        ("https://h/", "https://h:8443/", False),
        ("https://h/", "https://h.evil/", False),
        ("https://h/", "https://h@evil/", False),
        ("ftp://h/", "ftp://h/", False),
        ("https://h:x/", "https://h:x/", False),
        ("https:///a", "https:///a", False),
        ("a", "a", False),
    ],
)
def test_credentials_go_to_the_same_origin_only(a: str, b: str, same: bool) -> None:
    assert same_origin(a, b) is same


def test_secrets_in_paths_are_not_shown() -> None:
    """Of download pages of Singularity Registry Server."""
    page = "https://s.example/containers/7/download/"
    assert origin_of(page + "0123456789abcdef") == page + "(secret)"
    assert origin_of(page + "share/0123456789abcdef/") == page + "share/(secret)/"
    assert origin_of("https://s.example/containers/7/x.sif") == "https://s.example/containers/7/x.sif"
