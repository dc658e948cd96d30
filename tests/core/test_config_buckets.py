"""Remotes of kind s3 and gcs as people write them: what is taken, and the one line for what is not."""

from pathlib import Path

import pytest

from lazysif.config.kinds import GcsRemote, S3Remote
from lazysif.config.load import check_config, config_for_source, from_toml, load_config
from lazysif.config.render import to_toml
from lazysif.errors import ConfigError
from lazysif.image_uri import parse_uri
from lazysif.remotes import object_stores
from lazysif.remotes.sources import source_of


def written(tmp_path: Path, keys: str) -> Path:
    file = tmp_path / "lazysif.toml"
    file.write_text(f"[remote.r]\n{keys}\n")
    return file


@pytest.mark.parametrize(
    "keys",
    [
        'kind = "s3"\nurl = "s3://images"',
        'kind = "s3"\nurl = "s3://images/sif/"\nendpoint = "https://h/"\naddressing = "virtual"\nanonymous = true',
        'kind = "s3"\nurl = "https://h:9000/images"\nregion = "garage"\nprofile = "site"\nrequester_pays = true',
        'kind = "gcs"\nurl = "gs://images/sif"',
        'kind = "gcs"\nurl = "gs://images"\nendpoint = "http://127.0.0.1:4443"\nbilling_project = "p"',
        'kind = "gcs"\nurl = "gs://images"\nendpoint = "http://emulator:4443"\nanonymous = true',
    ],
)
def test_what_is_written_reaches_a_restarted_daemon(tmp_path: Path, keys: str) -> None:
    file = written(tmp_path, keys)
    assert check_config(file) == []
    config = load_config(file)
    assert from_toml(to_toml(config)) == config


@pytest.mark.parametrize(
    ("keys", "line", "words"),
    [
        ('kind = "s3"', 1, "missing: write url"),
        ('kind = "s3"\nurl = "images"', 3, "the URL has no scheme"),
        ('kind = "s3"\nurl = "s3://"', 3, "names no bucket: write s3://BUCKET"),
        ('kind = "s3"\nurl = "s3://key:secret@images"', 3, "names no bucket"),
        (
            'kind = "s3"\nurl = "https://h/images/a.sif?X-Amz-Signature=abc"',
            3,
            "a signed URL is for one object",
        ),
        ('kind = "s3"\nurl = "https://h/images"\nendpoint = "https://h"', 4, "url names the host already"),
        ('kind = "s3"\nurl = "s3://images"\nendpoint = "h:9000"', 4, "scheme"),
        ('kind = "s3"\nurl = "s3://images"\nendpoint = "https://h/path"', 4, "scheme, host and port alone"),
        ('kind = "s3"\nurl = "s3://images"\nregion = "eu west"', 4, "is not a region"),
        (
            'kind = "s3"\nurl = "s3://images"\naddressing = "host"',
            4,
            'write one of "auto", "path", "virtual"',
        ),
        ('kind = "s3"\nurl = "s3://images"\nanonymous = true\nprofile = "x"', 5, "sends no credentials"),
        ('kind = "s3"\nurl = "s3://images"\nacces_key = "x"', 4, "unknown key"),
        ('kind = "s3"\nurl = "s3://images"\ncredentials_file = "/nowhere"', 4, "cannot be used"),
        ('kind = "gcs"\nurl = "s3://images"', 3, "cannot be read"),
        ('kind = "gcs"\nurl = "https://storage.googleapis.com/images"', 3, "write gs://BUCKET"),
        (
            'kind = "gcs"\nurl = "gs://images"\nendpoint = "http://emulator:4443"',
            4,
            "cross the network in clear",
        ),
        (
            'kind = "gcs"\nurl = "gs://images"\nanonymous = true\nbilling_project = "p"',
            5,
            "sends no credentials",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path: Path, keys: str, line: int, words: str) -> None:
    (problem,) = check_config(written(tmp_path, keys))
    assert problem.startswith(f"{tmp_path}/lazysif.toml:{line}: remote.r.")
    assert words in problem
    assert "abc" not in problem
    assert "secret@" not in problem


def test_a_file_of_keys_is_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "keys").touch(0o644)
    keys = f'kind = "s3"\nurl = "s3://images"\ncredentials_file = "{tmp_path}/keys"'
    (problem,) = check_config(written(tmp_path, keys))
    assert "chmod 600" in problem


def test_uris_belong_to_the_bucket_and_its_prefix() -> None:
    s3 = S3Remote(name="r", kind="s3", url="s3://images/sif")
    gcs = GcsRemote(name="r", kind="gcs", url="gs://images")
    assert s3.path_of(parse_uri("s3://images/sif/d/a%20b.sif")) == "d/a%20b.sif"
    assert s3.path_of(parse_uri("s3://images/other/a.sif")) is None
    assert s3.path_of(parse_uri("s3://images/sif")) is None
    assert s3.path_of(parse_uri("gs://images/sif/a.sif")) is None
    assert gcs.path_of(parse_uri("gs://images/a.sif")) == "a.sif"


def test_an_image_of_no_remote_is_asked_for_without_credentials() -> None:
    for kind, text in ((S3Remote, "s3://images/d/a.sif"), (GcsRemote, "gs://images/d/a.sif")):
        remote = kind.for_uri(parse_uri(text), "@x")
        assert remote is not None
        assert remote.anonymous
        assert remote.path_of(parse_uri(text)) == "d/a.sif"


def test_a_bucket_is_a_source() -> None:
    assert isinstance(config_for_source("s3://images/sif").remotes[0], S3Remote)
    assert isinstance(config_for_source("gs://images").remotes[0], GcsRemote)
    assert config_for_source("https://h/images").remotes[0].kind == "http"


@pytest.mark.parametrize(("kind", "url"), [("s3", "s3://images"), ("gcs", "gs://images")])
def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path: Path, kind: str, url: str) -> None:
    monkeypatch.setattr(object_stores, "find_spec", lambda _: None)
    keys = f'kind = "{kind}"\nurl = "{url}"'
    with pytest.raises(ConfigError, match=rf"pip install 'lazysif\[{kind}\]'"):
        source_of(load_config(written(tmp_path, keys)).remotes[0])
    source_of(load_config(written(tmp_path, f"{keys}\nanonymous = true")).remotes[0])
