"""`lazysif fsck` on the cache of a live mount: the daemon does it and repairs, and readers get the right bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.nginx import Nginx
from tests.support.images import BuiltImage
from tests.support.mount import Mount, wait_until

pytestmark = pytest.mark.mounted

MakeMount = Callable[..., Mount]


def read_uncached(path: Path) -> bytes:
    """Around the page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def test_a_daemon_repairs_its_cache_under_a_live_mount(
    nginx: Nginx, small_image: BuiltImage, lazysif: MakeMount
) -> None:
    (nginx.root / "x.sif").symlink_to(small_image.path)
    mount = lazysif(nginx.url, options=["--block-size", "64KiB"])
    image = small_image.path.read_bytes()
    assert read_uncached(mount.path / "x.sif") == image
    blocks = -(-len(image) // 65536)
    wait_until(lambda: len(frames(mount)) >= blocks - 1, "frames are not written")
    sound = mount.run("fsck", "--cache-dir", mount.cache_dir, "--json")
    document = json.loads(sound.stdout)
    assert (document["online"], document["clean"], document["stopped"]) == (True, True, "")
    for path in frames(mount)[:5]:
        path.write_bytes(bytes(path.stat().st_size))
    done = mount.run("fsck", "--cache-dir", mount.cache_dir, check=False)
    assert done.returncode == 1
    assert "5 damaged frames" in done.stdout
    assert "by the daemon that uses it" in done.stdout
    done = mount.run("fsck", "--cache-dir", mount.cache_dir)
    assert "all is well" in done.stdout
    assert read_uncached(mount.path / "x.sif") == image
    assert mount.counters()["frames_quarantined"] == 5
    mount.umount()
    document = json.loads(mount.run("fsck", "--cache-dir", mount.cache_dir, "--json").stdout)
    assert (document["online"], document["clean"]) == (False, True)


def frames(mount: Mount) -> list[Path]:
    return sorted((mount.cache_dir / "frames-v1").rglob("*.val"))
