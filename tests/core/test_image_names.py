"""URIs, fixed names, and which remote serves what."""

from __future__ import annotations

from pathlib import Path

import pytest

from lazysif.config.load import check_config, from_toml, load_config
from lazysif.config.render import render, to_toml
from lazysif.config.tables import Config
from lazysif.errors import ConfigError
from lazysif.image_names import ImageNames
from lazysif.image_uri import parse_uri
from lazysif.tree.fixed_names import FixedNames

REMOTE = '[remote.bio]\nkind = "http"\nurl = "https://images.example/sif/"\n'


def config(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "lazysif.toml"
    file.write_text(text)
    return load_config(file)


@pytest.mark.parametrize(
    ("text", "scheme", "rest"),
    [
        ("shub://user/hello:1", "shub", "user/hello:1"),
        ("library:///entity/col/name", "library", "entity/col/name"),
        ("ORAS://ghcr.io/org/gpu:1", "oras", "ghcr.io/org/gpu:1"),
        ("https://h/a.sif?sig=1", "https", "h/a.sif?sig=1"),
    ],
)
def test_uris_that_apptainer_knows(text: str, scheme: str, rest: str) -> None:
    uri = parse_uri(text)
    assert (uri.scheme, uri.rest) == (scheme, rest)
    assert "sig" not in repr(uri) + uri.shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("docker://alpine", "layers"),
        ("alpine", "starts with one of"),
        ("ftp://h/a.sif", "starts with one of"),
        ("shub://", "nothing that can be asked for"),
        ("https:///a.sif", "nothing that can be asked for"),
        ("oras://h/a b", "nothing that can be asked for"),
        ("https://me:secret@h/a.sif", "user name"),
    ],
)
def test_what_is_no_uri_of_an_image_is_told_without_repeating_it(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_uri(text)
    assert "secret" not in str(caught.value)


def test_chosen_images_are_served_by_the_remote_that_has_them(tmp_path: Path) -> None:
    names = ImageNames(
        config(tmp_path, f'{REMOTE}[images]\n"gpu.sif" = "https://images.example/sif/a/g%20pu.sif"\n')
    )
    assert names.fixed == {"gpu.sif": ("bio", "a/g pu.sif")}
    assert names.hidden == []
    assert names.target("gpu.sif") == ("bio", "a/g pu.sif")
    assert names.target("bio/x/y.sif") == ("bio", "x/y.sif")
    assert names.target("https://images.example/sif/z.sif") == ("bio", "z.sif")


def test_chosen_images_of_no_remote_get_one_that_nobody_sees(tmp_path: Path) -> None:
    text = '[images]\n"gpu.sif" = "https://h.example/d/a.sif?sig=s3cr3t"\n"b.sif" = "https://h.example/d/b.sif"\n'
    names = ImageNames(config(tmp_path, text))
    assert names.fixed == {"gpu.sif": ("@https", "a.sif"), "b.sif": ("@https1", "b.sif")}
    assert [remote.url for remote in names.hidden] == [
        "https://h.example/d/?sig=s3cr3t",
        "https://h.example/d/",
    ]
    with pytest.raises(ConfigError, match="no remote is called '@https'"):
        names.target("@https/a.sif")


def test_a_signature_in_images_is_not_shown_and_reaches_the_daemon(tmp_path: Path) -> None:
    given = config(tmp_path, '[images]\n"gpu.sif" = "https://h.example/a.sif?sig=s3cr3t"\n')
    assert "s3cr3t" not in render(given)
    assert from_toml(to_toml(given)).images == given.images


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('"../a.sif" = "shub://u/n"', '2: images."../a.sif": not a path below the mountpoint'),
        ('"a.sif" = "docker://alpine"', '2: images."a.sif": docker:// names layers'),
        ('"a.sif" = 3', '2: images."a.sif": 3 is not text'),
        ('"a" = "https://h/1"\n"a/b.sif" = "https://h/2"', '3: images."a/b.sif": "a" is an image'),
    ],
)
def test_wrong_names_of_images_are_told_with_their_line(tmp_path: Path, lines: str, said: str) -> None:
    file = tmp_path / "lazysif.toml"
    file.write_text(f"[images]\n{lines}\n")
    (problem,) = check_config(file)
    assert said in problem


def test_directories_come_with_fixed_names() -> None:
    names = FixedNames({"a/b/gpu.sif": ("r", "x"), "a/c.sif": ("r", "y")})
    assert names.below("") == {"a": None}
    assert names.below("a") == {"b": None, "c.sif": ("r", "y")}
    assert names.is_directory("a/b")
    assert not names.is_directory("a/c.sif")
    assert names.target("a/b/gpu.sif") == ("r", "x")
    assert names.target("a/b") is None
