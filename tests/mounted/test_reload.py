"""`lazysif reload`: other remotes and other secrets under a live mount."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.nginx import Nginx
from tests.support.images import BuiltImage
from tests.support.mount import Mount

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]
MakeMount = Callable[..., Mount]


def password_line(password: str) -> str:
    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


@pytest.fixture
def private(tmp_path: Path, small_image: BuiltImage) -> Iterator[Nginx]:
    """An nginx that serves whoever knows the second password."""
    root = tmp_path / "private"
    root.mkdir()
    (root / "a.sif").symlink_to(small_image.path)
    check = f'if ($http_authorization != "{password_line("second-one")}") {{ return 401; }}'
    with Nginx(root, server=check) as server:
        yield server


def write_config(tmp_path: Path, private: Nginx, more: str = "") -> Path:
    file = tmp_path / "lazysif.toml"
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    file.write_text(
        f'[remote.bio]\nkind = "http"\nurl = "{private.url}"\nusername = "me"\npassword_file = "{secret}"\n{more}'
    )
    return file


def test_a_new_password_and_a_new_remote_are_there_and_open_files_go_on(
    private: Nginx, nginx: Nginx, small_image: BuiltImage, lazysif: MakeMount, tmp_path: Path
) -> None:
    (nginx.root / "b.sif").symlink_to(small_image.path)
    plain = f'[remote.plain]\nkind = "http"\nurl = "{nginx.url}"\n'
    config = write_config(tmp_path, private, plain)
    (tmp_path / "password").write_text("first-one\n")
    mount = lazysif(config=config)
    with pytest.raises(PermissionError):
        (mount.path / "bio/a.sif").stat()
    with (mount.path / "plain/b.sif").open("rb", buffering=0) as opened:
        (tmp_path / "password").write_text("second-one\n")
        write_config(tmp_path, private, plain + f'[remote.more]\nkind = "http"\nurl = "{nginx.url}"\n')
        assert "3 remotes" in mount.run("reload", mount.path).stdout
        mount.adopt()
        assert (mount.path / "bio/a.sif").read_bytes() == small_image.data
        assert (mount.path / "more/b.sif").read_bytes() == small_image.data
        assert opened.read(4096) == small_image.data[:4096]
    log = mount.log()
    assert "first-one" not in log
    assert "second-one" not in log


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('[remote.x]\nkind = "nothing"\n', "lazysif.toml:7: remote.x.kind: 'nothing' is not known"),
        ('[cache]\ndir = "/tmp/elsewhere"\n', ""),
        ("[mount]\noptions = []\n", "mount.options cannot change while it is mounted"),
    ],
)
def test_a_wrong_configuration_leaves_the_old_one_in_force(
    private: Nginx, small_image: BuiltImage, lazysif: MakeMount, tmp_path: Path, change: str, said: str
) -> None:
    config = write_config(tmp_path, private)
    (tmp_path / "password").write_text("second-one\n")
    mount = lazysif(config=config)
    write_config(tmp_path, private, change)
    done = mount.run("reload", mount.path, check=False)
    if said:  # --cache-dir of the command line goes before the file, at a reload too
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert said in done.stderr
        assert mount.status()["pid"] == mount.pid
    else:
        assert done.returncode == 0
    assert (mount.path / "bio/a.sif").read_bytes() == small_image.data
    mount.adopt()


def test_a_secret_that_is_gone_is_told_and_the_old_one_stays(
    private: Nginx, small_image: BuiltImage, lazysif: MakeMount, tmp_path: Path
) -> None:
    mount = lazysif(config=write_config(tmp_path, private), start=False)
    (tmp_path / "password").write_text("second-one\n")
    mount.start()
    (tmp_path / "password").write_text("")
    done = mount.run("reload", mount.path, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "does not hold one line of text" in done.stderr
    assert (mount.path / "bio/a.sif").read_bytes() == small_image.data


def test_a_name_that_was_just_asked_about_leads_elsewhere_as_soon_as_its_remote_does(
    nginx: Nginx, small_image: BuiltImage, lazysif: MakeMount, tmp_path: Path
) -> None:
    """What one daemon was told the next one believes, but not of another URL."""
    other = tmp_path / "other"
    other.mkdir()
    (nginx.root / "a.sif").symlink_to(small_image.path)
    (other / "a.sif").write_bytes(small_image.data[::-1])
    config = tmp_path / "lazysif.toml"
    config.write_text(f'[remote.bio]\nkind = "http"\nurl = "{nginx.url}"\n')
    mount = lazysif(config=config)
    assert (mount.path / "bio/a.sif").read_bytes() == small_image.data
    asked = len(nginx.requests("/a.sif"))
    mount.run("reload", mount.path)
    mount.adopt()
    assert (mount.path / "bio/a.sif").read_bytes() == small_image.data
    assert len(nginx.requests("/a.sif")) == asked, "nothing has changed"
    with Nginx(other) as elsewhere:
        config.write_text(f'[remote.bio]\nkind = "http"\nurl = "{elsewhere.url}"\n')
        mount.run("reload", mount.path)
        mount.adopt()
        time.sleep(1.1)  # what the kernel believes of a name
        assert (mount.path / "bio/a.sif").read_bytes() == small_image.data[::-1]


def test_after_umount_there_is_nothing_to_reload(nginx: Nginx, lazysif: MakeMount) -> None:
    mount = lazysif(nginx.url)
    mount.umount()
    done = mount.run("reload", mount.path, check=False)
    assert done.returncode == 3
    assert "nothing is mounted" in done.stderr
