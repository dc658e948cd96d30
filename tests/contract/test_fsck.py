"""`lazysif fsck`: it finds what is wrong with a cache directory, discards just that, and then all is well."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial

import pytest
import trio

from lazysif.cache.block_tables import BlockTables
from lazysif.cache.frame import encode
from lazysif.cache.fsck import check_offline
from lazysif.cache.fsck_online import OnlineFsck
from lazysif.cache.fsck_report import Kind
from lazysif.cache.store import FrameStore
from lazysif.cache.table_file import RECORD_BYTES
from lazysif.control.client import Refused, fetch_document
from lazysif.control.server import ControlServer
from lazysif.errors import LocalDirectoryError
from lazysif.model import ImageId
from lazysif.telemetry import Counters
from tests.support.cache_damage import (
    block,
    change_rows,
    digest_of,
    eventually,
    fill,
    row,
    running,
    value_file,
    value_files,
)

IMAGE = ImageId("0123456789abcdef" * 2)
BLOCKS = [block(seed, 6000) for seed in range(40)]
DIGESTS = [digest_of(data) for data in BLOCKS]
OLD_S = time.time() - 3600


@pytest.fixture
def directory(tmp_path):
    """A cache of 40 frames and one table that names 30 of them, and nobody who uses it."""
    directory = tmp_path / "cache"
    store = FrameStore(directory)
    store.open()
    store.write_many((d, encode(d, data), False) for d, data in zip(DIGESTS, BLOCKS, strict=True))
    store.close()
    tables = BlockTables(directory)
    tables.prepare()
    table = tables.open(IMAGE, 3000)
    for index, digest in enumerate(DIGESTS[:30]):
        table.set(index * 100, digest)
    tables.flush()
    return directory


def check(directory, *, dry_run=False):
    report = check_offline(directory, dry_run=dry_run, tell=lambda _: None)
    return report, {kind: count for kind, count in report.found.items() if count}


def left(directory):
    store = FrameStore(directory)
    store.open()
    try:
        return set(store.read_many(DIGESTS).found)
    finally:
        store.close()


def rewrite(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def flip(content):
    content[len(content) // 2] ^= 4


def table_file(directory):
    (path,) = (directory / "tables-v1").iterdir()
    return path


def swap_files(directory):
    first, second = (value_file(directory, digest) for digest in DIGESTS[:2])
    first.rename(first.with_suffix(".x"))
    second.rename(first)
    first.with_suffix(".x").rename(second)


def add_orphan(directory, *, modified_s=OLD_S):
    path = directory / f"frames-v1/a/a7{'0' * 30}.val"
    path.write_bytes(encode(DIGESTS[0], BLOCKS[0]))
    os.utime(path, (modified_s, modified_s))


def plant(columns, *values):
    return lambda d: change_rows(d, f"UPDATE Cache SET {columns} WHERE key = ?", *values, DIGESTS[0])


def damage_record(directory, position, change=flip):
    path = table_file(directory)
    with open(path, "r+b") as file:
        file.seek((1 + position) * RECORD_BYTES)
        record = bytearray(file.read(RECORD_BYTES))
        change(record)
        file.seek((1 + position) * RECORD_BYTES)
        file.write(record)


STALE = {Kind.STALE: 1}
DAMAGE = {
    "flipped": (lambda d: rewrite(value_file(d, DIGESTS[0]), flip), {Kind.FRAMES: 1} | STALE, {0}),
    "empty": (lambda d: os.truncate(value_file(d, DIGESTS[0]), 0), {Kind.FRAMES: 1} | STALE, {0}),
    "huge": (lambda d: os.truncate(value_file(d, DIGESTS[0]), 2**40), {Kind.FRAMES: 1} | STALE, {0}),
    "swapped": (swap_files, {Kind.FRAMES: 2, Kind.STALE: 2}, {0, 1}),
    "no file": (lambda d: value_file(d, DIGESTS[0]).unlink(), {Kind.NO_FILE: 1} | STALE, {0}),
    "a link": (
        lambda d: (value_file(d, DIGESTS[0]).unlink(), value_file_link(d)),
        {Kind.UNREADABLE: 1} | STALE,
        {0},
    ),
    "pickle": (plant("mode = 4"), {Kind.FOREIGN: 1} | STALE, {0}),
    "outside": (plant("filename = '../../x.val'"), {Kind.FOREIGN: 1, Kind.ORPHANS: 1} | STALE, {0}),
    "not text": (
        plant("filename = CAST(? AS TEXT)", b"\xff\xfe"),
        {Kind.FOREIGN: 1, Kind.ORPHANS: 1} | STALE,
        {0},
    ),
    "never evicted": (plant("expire_time = NULL"), {Kind.FOREIGN: 1} | STALE, {0}),
    "another key": (plant("key = 'text'"), {Kind.FOREIGN: 1} | STALE, {0}),
    "size": (plant("size = 5"), {Kind.SIZES: 1}, set()),
    "sum too small for a deletion": (
        lambda d: (
            rewrite(value_file(d, DIGESTS[0]), flip),
            change_rows(d, "UPDATE Settings SET value = 7 WHERE key = 'size'"),
        ),
        {Kind.FRAMES: 1, Kind.SUMS: 1} | STALE,
        {0},
    ),
    "sum": (
        lambda d: change_rows(d, "UPDATE Settings SET value = 7 WHERE key = 'size'"),
        {Kind.SUMS: 1},
        set(),
    ),
    "orphan": (add_orphan, {Kind.ORPHANS: 1}, set()),
    "young orphan": (lambda d: add_orphan(d, modified_s=time.time()), {}, set()),
    "deleted row": (
        lambda d: change_rows(d, "DELETE FROM Cache WHERE key = ?", DIGESTS[0]),
        {Kind.ORPHANS: 1} | STALE,
        {0},
    ),
    "table header": (
        lambda d: rewrite(table_file(d), lambda c: c.__setitem__(0, 1)),
        {Kind.TABLES: 1},
        set(),
    ),
    "table size": (lambda d: os.truncate(table_file(d), 100), {Kind.TABLES: 1}, set()),
    "record": (lambda d: damage_record(d, 100), {Kind.RECORDS: 1}, set()),
    "record elsewhere": (
        lambda d: damage_record(d, 101, lambda r: r.__setitem__(slice(None), DIGESTS[1] + b"\1" * 8)),
        {Kind.RECORDS: 1},
        set(),
    ),
    "directory of values": (
        lambda d: shutil.rmtree(d / "frames-v1" / f"{DIGESTS[0][0] >> 4:x}"),
        {Kind.NO_FILE: 1} | STALE,
        {n for n, digest in enumerate(DIGESTS) if digest[0] >> 4 == DIGESTS[0][0] >> 4},
    ),
}


def value_file_link(directory):
    value_file(directory, DIGESTS[0]).symlink_to(value_file(directory, DIGESTS[1]))


def changes(directory):
    """What would show a change of any file."""
    paths = [path for path in directory.rglob("*") if path.suffix in (".val", ".table")]
    return {path: (path.lstat().st_ino, path.lstat().st_mtime_ns, path.lstat().st_size) for path in paths}


def age_files(directory):
    for path in value_files(directory):
        os.utime(path, (OLD_S, OLD_S), follow_symlinks=False)


def test_a_sound_cache_is_left_as_it_is(directory):
    before = {path: path.read_bytes() for path in value_files(directory)}
    report, found = check(directory)
    assert (found, report.clean) == ({}, True)
    assert (report.frames, report.frames_total, report.tables, report.records) == (40, 40, 1, 30)
    assert report.frame_bytes == sum(map(len, before.values()))
    assert {path: path.read_bytes() for path in value_files(directory)} == before
    assert left(directory) == set(DIGESTS)


@pytest.mark.parametrize(("damage", "expected", "lost"), DAMAGE.values(), ids=DAMAGE)
def test_each_damage_is_found_discarded_and_gone(directory, damage, expected, lost):
    damage(directory)
    if Kind.ORPHANS in expected:
        age_files(directory)
    if Kind.NO_FILE in expected:
        expected = {Kind.NO_FILE: len(lost), Kind.STALE: len([n for n in lost if n < 30])}
    before = changes(directory)
    report, found = check(directory, dry_run=True)
    assert found == {k: n for k, n in expected.items() if k is not Kind.STALE} | (
        {Kind.STALE: found[Kind.STALE]} if Kind.STALE in found else {}
    )
    assert changes(directory) == before
    report, found = check(directory)
    assert found == expected
    assert report.clean == (not expected)
    _, found = check(directory)
    assert found == {}
    assert left(directory) == {digest for n, digest in enumerate(DIGESTS) if n not in lost}
    with closing(sqlite3.connect(directory / "frames-v1/cache.db")) as base:
        (said,) = base.execute("SELECT value FROM Settings WHERE key = 'size'").fetchone()
    assert said == 8192 * (40 - len(lost))


@pytest.mark.parametrize("size", ["NULL", "5.5", "'many'"])
@pytest.mark.parametrize("columns", ["", ", mode = 4"])
def test_a_size_that_is_none_does_not_cost_the_cache(directory, size, columns):
    """It must not reach the sum, which the store would take for a damaged database."""
    with closing(sqlite3.connect(directory / "frames-v1/cache.db")) as base:
        base.execute("DROP TRIGGER Settings_size_update")
        base.execute(f"UPDATE Cache SET size = {size}{columns} WHERE key = ?", (DIGESTS[0],))
        base.commit()
    _, found = check(directory)
    assert found.get(Kind.FOREIGN if columns else Kind.SIZES) == 1
    assert Kind.DATABASES not in found
    assert check(directory)[1] == {}
    assert len(left(directory)) == (39 if columns else 40)


def test_records_of_evicted_frames_are_struck_off_and_are_no_fault(directory):
    store = FrameStore(directory)
    store.open()
    store.delete_many(DIGESTS[:3])
    store.close()
    report, found = check(directory)
    assert found == {Kind.STALE: 3}
    assert report.clean
    table = BlockTables(directory).open(IMAGE, 3000)
    assert table.known == 27
    assert table.get(300) == DIGESTS[3]


@pytest.mark.parametrize("how", ["garbage", "a setting", "an index"])
def test_a_damaged_database_is_begun_anew(directory, how):
    path = directory / "frames-v1/cache.db"
    if how == "garbage":
        path.write_bytes(random.Random(3).randbytes(path.stat().st_size))
    elif how == "a setting":
        change_rows(directory, "INSERT INTO Settings VALUES ('disk_surprise', 1)")
    else:
        with closing(sqlite3.connect(path)) as base:
            base.execute("PRAGMA writable_schema = 1")
            base.execute(
                "UPDATE sqlite_master SET sql = 'CREATE INDEX Cache_expire_time ON Cache (size)'"
                " WHERE name = 'Cache_expire_time'"
            )
            base.commit()
    if how != "a setting":
        assert check(directory, dry_run=True)[1] == {Kind.DATABASES: 1}
        assert path.stat().st_size > 20_000
    assert check(directory)[1] == {Kind.DATABASES: 1, Kind.STALE: 30}
    assert check(directory)[1] == {}
    assert sorted(p.name for p in directory.iterdir()) == ["frames-v1", "lock", "tables-v1"]


def test_a_disk_that_reads_nothing_is_not_emptied(directory):
    for digest in DIGESTS[5:9]:
        path = value_file(directory, digest)
        path.unlink()
        path.mkdir()
    with pytest.raises(LocalDirectoryError, match="cannot be read"):
        check(directory)
    assert len(value_files(directory)) == 40


def test_directories_that_cannot_be_used(tmp_path, directory):
    with pytest.raises(LocalDirectoryError, match="there is no cache directory"):
        check(tmp_path / "missing")
    store = FrameStore(directory)
    store.open()
    with pytest.raises(LocalDirectoryError, match="in use by process"):
        check(directory)
    store.close()
    directory.chmod(0o777)
    with pytest.raises(LocalDirectoryError, match="written by other users"):
        check(directory)


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("names", [[], ["lock", "notes.txt"], ["frames-v2", "tables-v2"]])
def test_a_directory_that_is_no_cache_is_left_alone(tmp_path, names, dry_run):
    """Regression: all was well with it, and it got a file `lock`."""
    directory = tmp_path / "home"
    directory.mkdir()
    for name in names:
        (directory / name).touch()
    with pytest.raises(LocalDirectoryError, match=f"{directory} is not a cache of lazysif"):
        check(directory, dry_run=dry_run)
    assert sorted(path.name for path in directory.iterdir()) == names


@pytest.mark.parametrize("name", ["frames-v1", "frames-v1.damaged-2", "tables-v1"])
def test_a_part_of_a_cache_is_checked(tmp_path, name):
    (tmp_path / name).mkdir()
    assert check(tmp_path)[0].clean


# --- the command -----------------------------------------------------------------------------------------


def command(tmp_path, *arguments):
    (tmp_path / "run").mkdir(mode=0o700, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "lazysif", "fsck", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "LAZYSIF_RUNTIME_DIR": str(tmp_path / "run")},
        timeout=30,
        check=False,
    )


def test_the_command_says_what_it_found(tmp_path, directory):
    rewrite(value_file(directory, DIGESTS[0]), flip)
    done = command(tmp_path, "--cache-dir", directory, "--dry-run")
    assert done.returncode == 1, done.stderr
    assert "40 frames" in done.stdout
    assert "1 damaged frames" in done.stdout
    assert "nothing was changed" in done.stdout
    done = command(tmp_path, "--cache-dir", directory, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert (document["clean"], document["online"]) == (False, False)
    assert {k: n for k, n in document["found"].items() if n} == {"damaged_frames": 1, "stale_records": 1}
    file = tmp_path / "lazysif.toml"
    file.write_text(f'[cache]\ndir = "{directory}"\n[remote.x]\nkind = "http"\nurl = "https://h/"\n')
    done = command(tmp_path, "--config", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert "all is well" in done.stdout
    done = command(tmp_path, "--cache-dir", tmp_path / "missing")
    assert (done.returncode, done.stdout) == (4, "")
    assert "there is no cache directory" in done.stderr
    done = command(tmp_path, "--cache-dir", tmp_path, "--dry-run")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"lazysif: directory {tmp_path} is not a cache of lazysif; " + (
        "name one with --cache-dir or --config\n"
    )


# --- beside readers --------------------------------------------------------------------------------------


async def check_online(cache, nursery, counters, *, dry_run=False):
    fsck = OnlineFsck(cache, nursery, counters)
    fsck.begin(dry_run=dry_run)
    await eventually(lambda: not fsck.document()["running"])
    document = fsck.document()
    assert document["stopped"] == ""
    return {kind: count for kind, count in document["found"].items() if count}


async def test_a_daemon_checks_its_own_cache_and_goes_on(directory, nursery):
    counters = Counters()
    rewrite(value_file(directory, DIGESTS[0]), flip)
    damage_record(directory, 500)
    async with running(directory, counters) as cache:
        assert await check_online(cache, nursery, counters, dry_run=True) == {
            Kind.FRAMES: 1,
            Kind.RECORDS: 1,
        }
        assert counters.frames_quarantined == 0
        assert await check_online(cache, nursery, counters) == {
            Kind.FRAMES: 1,
            Kind.RECORDS: 1,
            Kind.STALE: 1,
        }
        assert counters.frames_quarantined == 1
        assert row(directory, DIGESTS[0]) is None
        assert await check_online(cache, nursery, counters) == {}
        assert set(await cache.load(DIGESTS)) == set(DIGESTS[1:])
    assert BlockTables(directory).open(IMAGE, 3000).known == 28


async def test_tables_that_are_open_are_mended_from_memory(directory, nursery):
    counters = Counters()
    async with running(directory, counters) as cache:
        table = await cache.open_table(IMAGE, 3000)
        assert table.get(500) == DIGESTS[5]
        sound = table_file(directory).read_bytes()
        damage_record(directory, 500)
        assert await check_online(cache, nursery, counters) == {Kind.RECORDS: 1}
        assert table.get(500) == DIGESTS[5]
        await eventually(lambda: table_file(directory).read_bytes() == sound)
        os.truncate(table_file(directory), 77)
        assert await check_online(cache, nursery, counters) == {Kind.TABLES: 1}
    assert BlockTables(directory).open(IMAGE, 3000).known == 30


async def test_blocks_on_their_way_to_the_disk_are_not_gone(directory, nursery):
    counters = Counters()
    entered, go_on = threading.Event(), threading.Event()
    async with running(directory, counters) as cache:
        table = await cache.open_table(IMAGE, 3000)
        new = block(99, 6000)
        inner = cache._store.write_many

        def write_many(frames):
            entered.set()
            assert go_on.wait(20)
            return inner(frames)

        table.set(7, digest_of(new))
        await eventually(lambda: not cache.tables._unwritten)
        cache._store.write_many = write_many
        cache.put(digest_of(new), new)
        await trio.to_thread.run_sync(entered.wait)
        assert await check_online(cache, nursery, counters) == {}
        go_on.set()
        assert table.get(7) == digest_of(new)


async def test_a_check_beside_churn_finds_nothing(directory, nursery):
    counters = Counters()
    async with running(directory, counters, limit_bytes=600_000) as cache:

        async def churn():
            for seed in range(100, 100_000):
                await fill(cache, [block(seed * 10 + n, 6000) for n in range(10)])

        async with trio.open_nursery() as churning:
            churning.start_soon(churn)
            for _ in range(10):
                found = await check_online(cache, nursery, counters)
                assert set(found) <= {Kind.STALE}
            churning.cancel_scope.cancel()
        assert counters.frames_evicted > 0
        assert counters.frames_quarantined == 0


async def test_only_one_at_a_time_and_over_the_socket(directory, nursery, tmp_path):
    counters = Counters()
    async with running(directory, counters) as cache:
        fsck = OnlineFsck(cache, nursery, counters)
        path = tmp_path / "control.sock"
        server = ControlServer(
            path,
            dict,
            views={"/fsck": fsck.document},
            verbs={"/fsck": lambda query: fsck.begin(dry_run=query.get("dry_run") == "1")},
        )
        server.start()
        ask = partial(trio.to_thread.run_sync, fetch_document, path)
        try:
            assert await ask("/fsck") == {"running": False}
            assert path.stat().st_mode & 0o777 == 0o600
            document = await ask("/fsck?dry_run=1", "POST")
            assert (document["running"], document["dry_run"], document["online"]) == (True, True, True)
            fsck._report.running = True
            with pytest.raises(Refused, match="under way"):
                await ask("/fsck", "POST")
            for target, method in (("/status", "POST"), ("/fsk", "GET"), ("/fsck", "DELETE")):
                with pytest.raises(OSError, match="the daemon answered 40"):
                    await ask(target, method)
        finally:
            server.close()
