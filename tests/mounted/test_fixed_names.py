"""[images]: chosen images under names of the site's own, through a real mount."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.nginx import Nginx
from tests.support.images import BuiltImage
from tests.support.mount import Mount

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]
MakeMount = Callable[..., Mount]


@pytest.fixture
def mount(nginx: Nginx, small_image: BuiltImage, lazysif: MakeMount, tmp_path: Path) -> Mount:
    (nginx.root / "d").mkdir()
    (nginx.root / "d/real.sif").symlink_to(small_image.path)
    configuration = tmp_path / "lazysif.toml"
    configuration.write_text(
        f'[remote.bio]\nkind = "http"\nurl = "{nginx.url}/d"\n'
        "[images]\n"
        f'"gpu.sif" = "{nginx.url}/d/real.sif"\n'
        f'"site/apps/x.sif" = "{nginx.url}/d/real.sif?signature=s3cr3t"\n'
        f'"bio/alias.sif" = "{nginx.url}/d/real.sif"\n'
        f'"site/gone.sif" = "{nginx.url}/d/gone.sif"\n'
    )
    return lazysif(config=configuration)


def test_chosen_images_have_their_names(mount: Mount, small_image: BuiltImage) -> None:
    for name in ("gpu.sif", "site/apps/x.sif", "bio/alias.sif", "bio/real.sif"):
        assert (mount.path / name).read_bytes() == small_image.data, name
    assert (mount.path / "gpu.sif").stat().st_ino == (mount.path / "bio/real.sif").stat().st_ino
    with pytest.raises(FileNotFoundError):
        (mount.path / "site/gone.sif").stat()
    with pytest.raises(FileNotFoundError):
        (mount.path / "site/other.sif").stat()


def test_listings_show_them_and_no_hidden_remote(mount: Mount) -> None:
    assert sorted(os.listdir(mount.path)) == ["bio", "gpu.sif", "site"]
    assert sorted(os.listdir(mount.path / "site")) == ["apps", "gone.sif"]
    assert os.listdir(mount.path / "site/apps") == ["x.sif"]
    assert sorted(os.listdir(mount.path / "bio")) == ["alias.sif", "real.sif"]
    assert not (mount.path / "@http").exists()


def test_commands_take_uris(mount: Mount, nginx: Nginx, small_image: BuiltImage) -> None:
    uri = f"{nginx.url}/d/real.sif"
    assert (mount.path / "bio/real.sif").read_bytes() == small_image.data
    mount.run("reload", mount.path)  # what was touched is recorded when a daemon ends
    mount.adopt()
    assert "1 paths" in mount.run("trace", "show", uri).stdout
    assert mount.run("warm", "--wait", uri).returncode == 0
    checks = json.loads(
        mount.run("doctor", "--config", str(mount.config), "--image", uri, "--json", check=False).stdout
    )
    assert "real.sif" in json.dumps(checks)
    done = mount.run("trace", "show", "https://elsewhere.example/x.sif?sig=s3cr3t", check=False)
    assert done.returncode == 2
    assert "https://elsewhere.example/x.sif: no mount serves it" in done.stderr
    assert "s3cr3t" not in done.stderr


def test_open_files_outlive_the_daemon(mount: Mount, small_image: BuiltImage) -> None:
    with (mount.path / "site/apps/x.sif").open("rb", buffering=0) as opened:
        os.kill(mount.pid, 9)
        assert opened.read(4096) == small_image.data[:4096]
        assert os.listdir(mount.path / "site/apps") == ["x.sif"]
    mount.adopt()
    shown = mount.log() + mount.run("status", mount.path, "--json").stdout
    assert "s3cr3t" not in shown
