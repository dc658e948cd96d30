"""A disk that does not give the bytes of the database: its frames are kept, whatever SQLite calls that.

SQLite says "malformed" to EIO (SQLITE_IOERR_CORRUPTFS), and to other errors it rolls back by itself, so that the
ROLLBACK of diskcache fails and hides them. Both counted as damage once, and cost the whole cache.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from lazysif.cache.frame import encode
from lazysif.cache.store import FrameStore
from lazysif.core.disk_health import DiskState
from lazysif.telemetry import Counters
from tests.support.cache_damage import block, digest_of, eventually, fill, running

SHIM = Path(__file__).parents[1] / "support/sick_reads.c"
BLOCKS = [block(n, 5000) for n in range(200)]


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    made = tmp_path_factory.mktemp("shim") / "sick_reads.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", made, SHIM, "-ldl"], check=True)
    return made


@pytest.mark.parametrize("often", ["", "once"], ids=["for good", "once"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENXIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("job", ["reading", "writing", "opening"])
def test_a_database_that_cannot_be_read_is_not_set_aside(tmp_path, shim, job, number, often):
    environ = {**os.environ, "LD_PRELOAD": str(shim), "SICK_READS": str(tmp_path / "sick")}
    words = [sys.executable, "-m", __name__, job, str(tmp_path), f"{number} {often}"]
    ended = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("words", [["fsck"], ["fsck", "--dry-run"]], ids=" ".join)
def test_a_check_takes_no_sick_disk_for_a_damaged_database(tmp_path, shim, words):
    directory = tmp_path / "cache"
    store = FrameStore(directory)
    store.open()
    store.write_many((digest_of(b), encode(digest_of(b), b), False) for b in BLOCKS)
    store.close()
    sick = tmp_path / "sick"
    sick.write_text(str(errno.EIO))
    environ = {**os.environ, "LD_PRELOAD": str(shim), "SICK_READS": str(sick)}
    command = [sys.executable, "-m", "lazysif", *words, "--cache-dir", str(directory)]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr.count("\n") == 1
    assert "cannot be checked: the disk does not let the database be read: i/o error" in ended.stderr
    assert ended.returncode == 4
    sick.unlink()
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    assert not list(directory.glob("*.damaged-*"))


async def live_through(job: str, directory: Path, sickness: str) -> None:
    """Fill a cache, let the disk fall sick over a `job`, and find all blocks once it is well again."""
    sick, counters = directory / "sick", Counters()
    async with running(directory / "cache") as cache:
        digests = await fill(cache, BLOCKS)
    if job == "opening":
        sick.write_text(sickness)
    async with running(directory / "cache", counters) as cache:
        sick.write_text(sickness)
        if job == "reading":
            await cache.load(digests)
        cache.put(digest_of(block(500)), block(500))
        if "once" in sickness:
            await eventually(lambda: not sick.exists())
        else:
            await eventually(lambda: cache.status().state is not DiskState.NORMAL)
            assert cache.status().trouble == "i/o error"
            sick.unlink()
        await eventually(lambda: cache.status().state is DiskState.NORMAL)
        assert await cache.load(digests) == dict(zip(digests, BLOCKS, strict=True))
        assert (counters.cache_set_aside, counters.unexpected_errors) == (0, 0)


if __name__ == "__main__":
    trio.run(live_through, sys.argv[1], Path(sys.argv[2]), sys.argv[3])
