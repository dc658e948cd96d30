"""Whatever happens to the files: right bytes or a miss, nothing executed, counted, and well again by itself."""

import errno
import fcntl
import os
import pickle
import random
import shutil
import sqlite3
import struct
import subprocess
import zlib
from contextlib import closing
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from lazysif.cache.block_tables import BlockTables
from lazysif.cache.frame import HEADER_BYTES, DamagedFrame, decode, encode, pieces, worth_packing
from lazysif.cache.frame_reads import ReadResult
from lazysif.cache.store import FrameStore
from lazysif.cache.table_file import RECORD_BYTES
from lazysif.cache.trouble import StoreTrouble
from lazysif.core.disk_health import DiskState, Trouble
from lazysif.model import ImageId
from lazysif.telemetry import Counters
from tests.support.cache_damage import (
    MIB,
    block,
    change_rows,
    command,
    digest_of,
    eventually,
    fill,
    fill_up,
    row,
    running,
    value_file,
    value_files,
)

needs_mount = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root"),
]

# --- frames ------------------------------------------------------------------------------------------------

PLAIN = block(1, 500)
PACKED = b"compressible " * 100


@given(st.binary(max_size=5000))
def test_a_frame_gives_back_what_it_was_made_of(data):
    assert bytes(decode(encode(digest_of(data), data), digest_of(data))) == data


@pytest.mark.parametrize("data", [PLAIN, PACKED], ids=["plain", "zstd"])
def test_every_flipped_bit_is_found(data):
    digest = digest_of(data)
    frame = encode(digest, data)
    for bit in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            content = decode(bytes(damaged), digest)
        except DamagedFrame:
            continue
        # A few bits of a zstd frame mean nothing; what it unpacks to is proven all the same.
        assert data is PACKED
        assert bit >= HEADER_BYTES * 8
        assert content == data


@pytest.mark.parametrize("data", [PLAIN, PACKED], ids=["plain", "zstd"])
def test_every_truncation_and_every_tail_is_found(data):
    digest = digest_of(data)
    frame = encode(digest, data)
    for damaged in (*(frame[:stop] for stop in range(len(frame))), frame + b"\0", frame + frame):
        with pytest.raises(DamagedFrame):
            decode(damaged, digest)


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=200)
def test_garbage_is_damage_and_never_another_error(garbage, behind_header):
    digest = digest_of(PACKED)
    frame = encode(digest, PACKED)[:HEADER_BYTES] + garbage if behind_header else garbage
    with pytest.raises(DamagedFrame):
        decode(frame, digest)


def test_a_frame_of_another_block_is_damage():
    with pytest.raises(DamagedFrame, match="another block"):
        decode(encode(digest_of(PACKED), PACKED), digest_of(PLAIN))


def test_compression_that_saves_little_is_not_kept():
    data = block(1, 99_000) + bytes(1_000)
    assert len(encode(digest_of(data), data)) == HEADER_BYTES + len(data)


def test_blocks_are_worth_packing_where_some_of_them_shrink():
    packed, text = [block(seed, 128 << 10) for seed in range(8)], b"squashfs without compression " * 4_000
    assert not worth_packing(packed)
    assert worth_packing([*packed[:7], text])
    assert worth_packing([text[:100]])
    assert not worth_packing([b"", packed[0]])
    header, payload = pieces(digest_of(text), text, packed=False)
    assert payload is text
    assert bytes(decode(header + payload, digest_of(text))) == text


def test_a_decompression_bomb_is_refused_before_it_is_unpacked():
    bomb = encode(digest_of(bytes(MIB)), bytes(MIB))[HEADER_BYTES:]
    small = encode(digest_of(PACKED), PACKED)
    fields = bytearray(small[: HEADER_BYTES - 4])
    struct.pack_into("<I", fields, 16, len(bomb))
    with pytest.raises(DamagedFrame, match="declares another length"):
        decode(bytes(fields) + struct.pack("<I", zlib.crc32(fields)) + bomb, digest_of(PACKED))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(7).randrange(len(content))] ^= 4
    path.write_bytes(content)


def swap_in_another(path: Path) -> None:
    other = block(99)
    path.write_bytes(encode(digest_of(other), other))


FRAME_DAMAGE = {
    "flipped bit": flip,
    "flipped bit in the header": lambda p: p.write_bytes(b"\1" + p.read_bytes()[1:]),
    "truncated": lambda p: os.truncate(p, p.stat().st_size // 2),
    "empty": lambda p: os.truncate(p, 0),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"tail"),
    "another block's frame": swap_in_another,
    "missing": lambda p: p.unlink(),
    "sparse and huge": lambda p: os.truncate(p, 2**40),
}


@pytest.mark.parametrize("damage", FRAME_DAMAGE.values(), ids=FRAME_DAMAGE)
async def test_a_damaged_frame_is_a_miss_and_can_be_fetched_again(tmp_path, damage):
    counters = Counters()
    async with running(tmp_path, counters) as cache:
        bad, good = await fill(cache, [block(1), block(2)])
        damage(value_file(tmp_path, bad))
        assert await cache.load([bad, good]) == {good: block(2)}
        assert counters.frames_quarantined == 1
        assert await cache.load([bad]) == {}
        await eventually(lambda: row(tmp_path, bad) is None)
        await fill(cache, [block(1)])
        assert await cache.load([bad, good]) == {bad: block(1), good: block(2)}
        assert counters.frames_quarantined == 1
        assert cache.status().state is DiskState.NORMAL


async def test_an_unreadable_frame_is_a_miss_and_fetched_again(tmp_path):
    counters = Counters()
    async with running(tmp_path, counters) as cache:
        (digest,) = await fill(cache, [block(1)])
        path = value_file(tmp_path, digest)
        path.unlink()
        path.mkdir()
        assert await cache.load([digest]) == {}
        assert counters.cache_read_errors == 1
        path.rmdir()
        await eventually(lambda: cache.status().state is DiskState.NORMAL)
        await eventually(lambda: row(tmp_path, digest) is None)
        await fill(cache, [block(1)])
        assert await cache.load([digest]) == {digest: block(1)}


# --- planted values ----------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("where", ["inline", "file", "text file", "outside", "absolute", "null"])
async def test_a_planted_row_is_deleted_and_nothing_is_executed(tmp_path, where):
    proof, outside = tmp_path / "executed", tmp_path / "outside.val"
    outside.write_bytes(encode(digest_of(block(1)), block(1)))
    payload = pickle.dumps(Bomb(proof))
    counters = Counters()
    async with running(tmp_path / "cache", counters) as cache:
        (digest,) = await fill(cache, [block(1)])
        path = value_file(tmp_path / "cache", digest)
        columns = {
            "inline": ("mode = 4, filename = NULL, value = ?", payload),
            "file": ("mode = 4, value = ?", None),
            "text file": ("mode = 3, value = ?", None),
            "outside": ("filename = ?", "../../outside.val"),
            "absolute": ("filename = ?", str(outside)),
            "null": ("filename = ?", None),
        }[where]
        if where == "file":
            path.write_bytes(payload)
        change_rows(tmp_path / "cache", f"UPDATE Cache SET {columns[0]}", columns[1])
        assert await cache.load([digest]) == {}
        assert counters.frames_quarantined == 1
        await eventually(lambda: row(tmp_path / "cache", digest) is None)
        await fill(cache, [block(1)])
        assert await cache.load([digest]) == {digest: block(1)}
    assert not proof.exists()
    assert outside.exists()


async def test_a_planted_row_is_evicted_without_touching_what_it_names(tmp_path):
    outside = tmp_path / "outside.val"
    outside.write_bytes(b"not ours to delete")
    async with running(tmp_path / "cache", limit_bytes=2 * MIB) as cache:
        await fill(cache, [block(1, 100_000)])
        change_rows(tmp_path / "cache", "UPDATE Cache SET filename = ?", str(outside))
        await fill(cache, [block(n, 100_000) for n in range(2, 40)])
    assert outside.read_bytes() == b"not ours to delete"


# --- the database ------------------------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(3).randbytes(path.stat().st_size))


def scribble(path: Path) -> None:
    """Damage below the first page, which only shows when a page is needed."""
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(random.Random(4).randbytes(path.stat().st_size - 4096))


DATABASE_DAMAGE = {
    "garbage": lambda d: garbage(d / "cache.db"),
    "scribbled": lambda d: scribble(d / "cache.db"),
    "truncated": lambda d: os.truncate(d / "cache.db", 5000),
    "zero length": lambda d: os.truncate(d / "cache.db", 0),
    "short zeros": lambda d: (d / "cache.db").write_bytes(bytes(100)),
    "another database": lambda d: another_database(d / "cache.db"),
    "deleted": lambda d: (d / "cache.db").unlink(),
    "directory deleted": shutil.rmtree,
    "garbage log": lambda d: (d / "cache.db-wal").write_bytes(random.Random(5).randbytes(50_000)),
    "a directory in its place": lambda d: ((d / "cache.db").unlink(), (d / "cache.db").mkdir()),
    "planted setting": lambda d: plant_setting(d),
}


def another_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE Cache (x)")


def plant_setting(frames: Path) -> None:
    change_rows(frames.parent, "INSERT INTO Settings VALUES ('disk_surprise', 1)")


@pytest.mark.parametrize("damage", DATABASE_DAMAGE.values(), ids=DATABASE_DAMAGE)
async def test_a_damaged_database_at_start_is_begun_anew(tmp_path, damage):
    async with running(tmp_path) as cache:
        digests = await fill(cache, [block(n) for n in range(60)])
    damage(tmp_path / "frames-v1")
    counters = Counters()
    async with running(tmp_path, counters) as cache:
        await serves_right_and_recovers(cache, digests)
    assert len(list(tmp_path.glob("frames-v1.damaged-*"))) <= 1


@pytest.mark.parametrize("damage", DATABASE_DAMAGE.values(), ids=DATABASE_DAMAGE)
async def test_a_database_damaged_while_running_is_begun_anew(tmp_path, damage):
    counters = Counters()
    async with running(tmp_path, counters) as cache:
        digests = await fill(cache, [block(n) for n in range(60)])
        damage(tmp_path / "frames-v1")
        await serves_right_and_recovers(cache, digests)
        assert counters.unexpected_errors == 0
    # What was written over a database that was overwritten below us may be lost at the next start, but not wrong.
    async with running(tmp_path, counters) as cache:
        await serves_right_and_recovers(cache, digests)


async def serves_right_and_recovers(cache, digests):
    for _ in range(3):
        for digest, data in (await cache.load(digests)).items():
            assert data == block(digests.index(digest))
    await eventually(lambda: cache.status().state is DiskState.NORMAL)
    for _ in range(3):
        found = await cache.load(digests)
        missing = [n for n, digest in enumerate(digests) if digest not in found]
        await fill(cache, [block(n) for n in missing])
        await eventually(lambda: cache.status().state is DiskState.NORMAL)
    found = await cache.load(digests)
    assert found == {digest: block(n) for n, digest in enumerate(digests)}


async def test_what_was_set_aside_is_removed_in_the_background(tmp_path):
    counters = Counters()
    async with running(tmp_path, counters) as cache:
        await fill(cache, [block(n) for n in range(20)])
        garbage(tmp_path / "frames-v1" / "cache.db")
        (tmp_path / "frames-v1" / "cache.db").rename(tmp_path / "frames-v1" / "moved.db")
        await eventually(lambda: counters.cache_set_aside == 1)
        await eventually(lambda: not list(tmp_path.glob("frames-v1.damaged-*")))
        assert len(value_files(tmp_path)) == 0


async def test_the_whole_directory_deleted_while_running(tmp_path):
    directory = tmp_path / "cache"
    async with running(directory) as cache:
        digests = await fill(cache, [block(1), block(2)])
        table = await cache.open_table(ImageId("ab" * 16), 10)
        table.set(3, digests[0])
        shutil.rmtree(directory)
        assert await cache.load(digests) == {}
        await eventually(lambda: (directory / "frames-v1" / "cache.db").exists())
        await eventually(lambda: cache.status().state is DiskState.NORMAL)
        await fill(cache, [block(1)])
        assert await cache.load(digests) == {digests[0]: block(1)}


async def test_a_suspicion_is_kept_until_the_disk_lets_it_be_proved(tmp_path, monkeypatch):
    """A newer one takes the place of the one that could not be proved."""
    counters, asked = Counters(), []
    first, second = digest_of(block(2)), digest_of(block(3))
    met = [first, second]
    token = trio.lowlevel.current_trio_token()

    async with running(tmp_path, counters) as cache:
        inner = cache._store.read_many

        def read_many(digests):
            return ReadResult(suspect=met.pop(0)) if met else inner(digests)

        def ask_again(suspect):
            asked.append(suspect)
            if suspect is first:
                trio.from_thread.run(cache.load, [second], trio_token=token)
                raise StoreTrouble(Trouble.IO, "the disk dies")

        monkeypatch.setattr(cache._store, "read_many", read_many)
        monkeypatch.setattr(cache._store, "ask_again", ask_again)
        assert await cache.load([first]) == {}
        await eventually(lambda: asked == [first, second])
        (digest,) = await fill(cache, [block(1)])
        assert await cache.load([digest]) == {digest: block(1)}
    assert counters.unexpected_errors == 0


def test_the_rollback_of_what_sqlite_rolled_back_itself_hides_no_error(tmp_path):
    """diskcache's ROLLBACK fails then; its error counted as damage, and cost the cache."""

    def dies(cache):
        with cache.transact():
            cache._sql("ROLLBACK")
            raise OSError(errno.EIO, "the disk dies")

    store = FrameStore(tmp_path)
    store.open()
    with pytest.raises(StoreTrouble, match="the disk dies") as caught:
        store._database.write(dies)
    assert caught.value.trouble is Trouble.IO
    assert store.set_aside_count == 0
    store.close()


# --- block tables ------------------------------------------------------------------------------------------

IMAGE = ImageId("0123456789abcdef" * 2)
OTHER = ImageId("f" * 32)
DIGESTS = [digest_of(bytes([n])) for n in range(8)]


@pytest.fixture
def tables(tmp_path):
    tables = BlockTables(tmp_path)
    tables.prepare()
    return tables


def written_table(tables, image=IMAGE, digests=DIGESTS):
    table = tables.open(image, len(digests))
    for index, digest in enumerate(digests):
        table.set(index, digest)
    tables.flush()
    return table.path


def reread(tmp_path, image=IMAGE, count=8):
    counters = Counters()
    table = BlockTables(tmp_path, counters).open(image, count)
    return [table.get(index) for index in range(count)], counters, table


def test_a_table_survives(tmp_path, tables):
    written_table(tables)
    digests, counters, table = reread(tmp_path)
    assert digests == DIGESTS
    assert table.known == 8
    assert counters.table_records_refused == 0


def test_known_counts_what_comes_and_goes(tmp_path, tables):
    table = tables.open(IMAGE, 8)
    assert (table.known, table.known_indices()) == (0, [])
    table.set(2, DIGESTS[0])
    table.set(5, DIGESTS[1])
    table.set(5, DIGESTS[2])
    table.forget(2)
    table.forget(2)
    assert (table.known, table.known_indices(), table.get(2), table.get(5)) == (1, [5], None, DIGESTS[2])
    tables.flush()
    _, _, again = reread(tmp_path)
    assert (again.known, again.known_indices(), again.get(5)) == (1, [5], DIGESTS[2])


def test_every_flipped_bit_costs_at_most_its_record(tmp_path, tables):
    path = written_table(tables)
    content = path.read_bytes()
    for bit in range(0, len(content) * 8, 3):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        digests, counters, table = reread(tmp_path)
        if bit // 8 < RECORD_BYTES:
            assert digests == [None] * 8
        else:
            hit = bit // 8 // RECORD_BYTES - 1
            assert digests == [*DIGESTS[:hit], None, *DIGESTS[hit + 1 :]]
            assert counters.table_records_refused == 1
            assert table.known == 7


def test_swapped_records_are_refused(tmp_path, tables):
    path = written_table(tables)
    records = [path.read_bytes()[i : i + RECORD_BYTES] for i in range(0, 9 * RECORD_BYTES, RECORD_BYTES)]
    records[2], records[3] = records[3], records[2]
    path.write_bytes(b"".join(records))
    digests, counters, _ = reread(tmp_path)
    assert digests == [DIGESTS[0], None, None, *DIGESTS[3:]]
    assert counters.table_records_refused == 2


def test_another_images_file_is_not_believed_even_behind_our_header(tmp_path, tables):
    ours, theirs = written_table(tables), written_table(tables, OTHER, DIGESTS[::-1])
    header = ours.read_bytes()[:RECORD_BYTES]
    ours.write_bytes(theirs.read_bytes())
    assert reread(tmp_path)[0] == [None] * 8
    ours.write_bytes(header + theirs.read_bytes()[RECORD_BYTES:])
    digests, counters, _ = reread(tmp_path)
    assert digests == [None] * 8
    assert counters.table_records_refused == 8


@pytest.mark.parametrize(
    "size", [0, 1, RECORD_BYTES, 5 * RECORD_BYTES, 9 * RECORD_BYTES - 1, 10 * RECORD_BYTES]
)
def test_a_table_of_another_size_starts_empty_and_is_written_anew(tmp_path, tables, size):
    path = written_table(tables)
    os.truncate(path, size)
    fresh = BlockTables(tmp_path)
    table = fresh.open(IMAGE, 8)
    assert table.known == 0
    table.set(1, DIGESTS[1])
    fresh.flush()
    assert reread(tmp_path)[0] == [None, DIGESTS[1], *[None] * 6]


@pytest.mark.parametrize("harm", [os.unlink, lambda p: os.truncate(p, 100)], ids=["deleted", "truncated"])
def test_a_table_harmed_while_open_is_written_whole_again(tmp_path, tables, harm):
    table = tables.open(IMAGE, 8)
    path = written_table(tables)
    harm(path)
    table.set(0, DIGESTS[5])
    tables.flush()
    tables.flush()
    assert reread(tmp_path)[0] == [DIGESTS[5], *DIGESTS[1:]]


def test_tables_of_images_long_unused_are_deleted(tmp_path, tables):
    old, new = written_table(tables), written_table(tables, OTHER)
    os.utime(old, (1, 1))
    assert tables.delete_unused(kept=()) == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_opening_counts_as_use(tmp_path, tables):
    path = written_table(tables)
    os.utime(path, (1, 1))
    reread(tmp_path)
    assert tables.delete_unused(kept=()) == 0


async def test_a_daemon_that_runs_for_months_deletes_tables_long_unused(tmp_path, monkeypatch):
    """All but those that it has open, whose files may be as old."""
    monkeypatch.setattr("lazysif.cache.disk_writer._SWEEP_S", 0.05)
    async with running(tmp_path) as cache:
        table = await cache.open_table(IMAGE, 8)
        table.set(3, DIGESTS[0])
        await eventually(table.path.exists)
        forgotten = table.path.with_name(f"{OTHER}-8.table")
        forgotten.write_bytes(b"old")
        for path in (table.path, forgotten):
            os.utime(path, (1, 1))
        await eventually(lambda: not forgotten.exists())
        assert table.path.exists()


async def test_tables_are_written_again_where_their_directory_was_removed(tmp_path):
    counters = Counters()
    async with running(tmp_path, counters) as cache:
        table = await cache.open_table(IMAGE, 8)
        table.set(3, DIGESTS[0])
        await eventually(table.path.exists)
        shutil.rmtree(tmp_path / "tables-v1")
        table.set(4, DIGESTS[1])
        await eventually(table.path.exists)
    assert counters.unexpected_errors == 0
    assert reread(tmp_path)[0] == [None, None, None, *DIGESTS[:2], None, None, None]


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 32, "0" * 31])
def test_an_image_id_cannot_lead_elsewhere(tables, name):
    with pytest.raises(ValueError, match="not an image id"):
        tables.open(ImageId(name), 1)


# --- file systems ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    mountpoint = tmp_path / "disk"
    mountpoint.mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "none", mountpoint)
    yield mountpoint
    command("umount", "-l", mountpoint)


@pytest.fixture
def ext4_disk(tmp_path):
    mountpoint, image = tmp_path / "disk", tmp_path / "disk.img"
    mountpoint.mkdir()
    with open(image, "wb") as file:
        file.truncate(32 * MIB)
    command("mkfs.ext4", "-q", image)
    mounted = subprocess.run(["mount", "-o", "loop", image, mountpoint], check=False)
    if mounted.returncode:
        pytest.skip("no loop devices here")
    yield mountpoint
    command("umount", "-l", mountpoint)


class TestFileSystems:
    pytestmark = needs_mount

    async def test_a_full_disk_is_served_uncached_and_used_again(self, small_disk):
        counters = Counters()
        async with running(small_disk / "cache", counters) as cache:
            kept = await fill(cache, [block(n) for n in range(20)])
            filler = small_disk / "filler"
            fill_up(filler)
            for n in range(100, 160):
                cache.put(digest_of(block(n)), block(n))
            await eventually(lambda: counters.cache_dropped_writes == 60)
            found = await cache.load(kept)
            assert found == {digest: block(n) for n, digest in enumerate(kept)}
            filler.unlink()
            await eventually(lambda: cache.status().state is DiskState.NORMAL)
            # what was being written while the disk was full may fail now, and take one more block with it
            with trio.fail_after(10):
                while not (found := await cache.load(await fill(cache, [block(500)]))):
                    await trio.lowlevel.checkpoint()
            assert list(found.values()) == [block(500)]
            assert counters.unexpected_errors == 0

    def test_a_batch_that_does_not_fit_leaves_nothing_behind(self, small_disk):
        store = FrameStore(small_disk / "cache")
        store.open()
        blocks = [block(n, MIB) for n in range(6)]
        frames = [(digest_of(b), encode(digest_of(b), b), False) for b in blocks]
        with pytest.raises(StoreTrouble) as caught:
            store.write_many(frames)
        assert caught.value.trouble is Trouble.FULL
        assert not value_files(small_disk / "cache")
        store.probe()
        assert store.write_many(frames[:2]) == 2
        assert list(store.read_many([digest for digest, _, _ in frames]).found) == [f[0] for f in frames[:2]]
        store.close()

    async def test_a_disk_that_is_full_at_the_start_does_not_keep_the_daemon_from_starting(self, small_disk):
        filler = small_disk / "filler"
        fill_up(filler)
        async with running(small_disk / "cache") as cache:
            assert await cache.load([digest_of(block(1))]) == {}
            filler.unlink()
            await eventually(lambda: cache.status().state is DiskState.NORMAL)
            (digest,) = await fill(cache, [block(1)])
            assert await cache.load([digest]) == {digest: block(1)}

    async def test_the_floor_of_free_space_is_kept_by_evicting(self, small_disk):
        counters = Counters()
        async with running(small_disk / "cache", counters, min_free_bytes=MIB, batch_bytes=100_000) as cache:
            digests = await fill(cache, [block(n) for n in range(300)])
            status = os.statvfs(small_disk)
            assert status.f_bavail * status.f_frsize > MIB // 2
            assert counters.frames_evicted > 0
            assert await cache.load(digests[-1:]) == {digests[-1]: block(299)}
            assert cache.status().state is DiskState.NORMAL

    def test_a_database_that_cannot_be_begun_leaves_no_connection(self, small_disk):
        """Each attempt cost two descriptors, and held a log that nobody could put away."""
        store = FrameStore(small_disk / "cache")
        status = os.statvfs(small_disk)
        (small_disk / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize - 70_000))
        for _ in range(3):
            with pytest.raises(StoreTrouble):
                store.open()
        left = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_symlink()]
        assert not [name for name in left if name.startswith(str(store.frames))]
        store.close()

    async def test_a_full_disk_gets_back_the_room_of_what_was_set_aside(self, small_disk, monkeypatch):
        """Nothing can be evicted from a new database: only the removal of the old one makes room."""
        monkeypatch.setattr("lazysif.cache.value_file._REMOVED_AT_ONCE", 100)
        directory = small_disk / "cache"
        async with running(directory) as cache:
            await fill(cache, [block(n, 5000) for n in range(220)])
        garbage(directory / "frames-v1" / "cache.db")
        status = os.statvfs(small_disk)
        (small_disk / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize - MIB // 8))
        async with running(directory, min_free_bytes=MIB // 4) as cache:
            await eventually(lambda: cache.status().trouble == "full")
            await eventually(lambda: not list(directory.glob("frames-v1.damaged-*")))
            await eventually(lambda: cache.status().state is DiskState.NORMAL)
            (digest,) = await fill(cache, [block(500)])
            assert await cache.load([digest]) == {digest: block(500)}

    async def test_a_read_only_disk_is_read_on_and_written_again(self, small_disk):
        directory = small_disk / "cache"
        counters = Counters()
        async with running(directory, counters) as cache:
            (kept,) = await fill(cache, [block(1)])
            command("mount", "--bind", directory, directory)
            try:
                command("mount", "-o", "remount,bind,ro", directory)
                cache.put(digest_of(block(2)), block(2))
                await eventually(lambda: counters.cache_write_errors > 0)
                assert cache.status().state is DiskState.UNSTABLE
                assert cache.status().trouble == "read-only"
                assert await cache.load([kept]) == {kept: block(1)}
            finally:
                command("umount", "-l", directory)
            await eventually(lambda: cache.status().state is DiskState.NORMAL)
            (late,) = await fill(cache, [block(3)])
            assert await cache.load([kept, late]) == {kept: block(1), late: block(3)}

    async def test_a_disk_that_dies_is_down_and_nothing_waits_for_it(self, ext4_disk):
        """EXT4_IOC_SHUTDOWN: from then on every access of the file system is an I/O error."""
        counters = Counters()
        async with running(ext4_disk / "cache", counters, longest_pause_s=0.05) as cache:
            digests = await fill(cache, [block(n) for n in range(20)])
            fd = os.open(ext4_disk, os.O_RDONLY)
            try:
                fcntl.ioctl(fd, 0x8004587D, struct.pack("<I", 2))
            finally:
                os.close(fd)
            for digest, data in (await cache.load(digests)).items():
                assert data == block(digests.index(digest))
            await eventually(lambda: cache.status().state is DiskState.DOWN)
            assert await cache.load(digests) == {}
            cache.put(digest_of(block(50)), block(50))
            await cache.wait_room(MIB)
            assert cache._queue.used_bytes == 0
            assert counters.unexpected_errors == 0
