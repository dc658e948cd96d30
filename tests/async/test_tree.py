"""tree.tree and tree.files: inodes that outlive the daemon, deadlines, listings, and the state that is on disk."""

import random
import resource
import sqlite3
import time
from operator import attrgetter

import pytest
import trio

from lazysif.core.asked import Asked, words_of
from lazysif.core.identity import ROOT_INODE
from lazysif.errors import (
    DeadlineExceeded,
    ImageChanged,
    LocalDirectoryError,
    NoSuchEntry,
    SourceError,
    StaleInode,
)
from lazysif.fetch.policy import RemotePolicy
from lazysif.model import EntryKind, Image, ImageId, InodeNumber, Location, Validator, ValidatorKind
from lazysif.tree import files as files_module
from lazysif.tree import open_images as open_images_module
from lazysif.tree.state import StateStore
from tests.support.cache_damage import eventually, written
from tests.support.fake_transport import Directory, FakeTransport, File, HoldHead, Refused, Status
from tests.support.guesses import guess_little
from tests.support.world import world

DATA = random.Random(7).randbytes(900_000)
IMAGE = File(DATA)
NAMELESS = File(DATA[:50_000], None, None, ranges=False)


async def names_of(it, number=ROOT_INODE):
    return [entry.name for entry in await it.tree.entries(number)]


async def test_remotes_are_directories_of_the_root(tmp_path):
    origin = FakeTransport({"/a.sif": IMAGE})
    async with world(tmp_path, origin, names=("bio", "shub")) as it:
        assert await names_of(it) == ["bio", "shub"]
        one, other = await it.number("shub/a.sif"), await it.number("bio/a.sif")
        assert one != other, "each name has an inode of its own"
        with pytest.raises(NoSuchEntry, match="no remote"):
            await it.tree.lookup(ROOT_INODE, b"a.sif")
        assert (await it.tree.attributes(await it.number("shub"))).kind is EntryKind.DIRECTORY


@pytest.mark.parametrize(
    ("remote", "path"), [("none", "a.sif"), ("bio", "../a.sif"), ("bio", "d//a.sif"), ("bio", "")]
)
async def test_names_that_do_not_come_through_the_kernel_are_looked_at(tmp_path, remote, path):
    origin = FakeTransport({"/a.sif": IMAGE})
    async with world(tmp_path, origin, names=("bio",)) as it:
        with pytest.raises(NoSuchEntry, match="no image can have"):
            await it.tree.find_image(remote, path)
        assert origin.requests == []


async def test_directories_of_our_own_have_numbers_that_outlive_the_daemon(tmp_path):
    origin = FakeTransport({"/a.sif": IMAGE})
    numbers = []
    for _ in range(2):
        async with world(tmp_path, origin, names=("bio", "shub")) as it:
            numbers.append([await it.number("bio"), await it.number("shub")])
    assert numbers[0] == numbers[1]
    assert len({ROOT_INODE, *numbers[0]}) == 3


async def test_files_below_directories(tmp_path):
    origin = FakeTransport({"/d/e/a.sif": IMAGE})
    async with world(tmp_path, origin) as it:
        number = await it.open("d/e/a.sif")
        assert await it.read(number, 100, 50) == DATA[100:150]
        assert await names_of(it, await it.number("d")) == ["e"]


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 1), (0, len(DATA)), (4090, 10), (len(DATA) - 1, 4096), (len(DATA), 1), (10**12, 1)],
)
async def test_a_read_is_as_long_as_the_file_allows(tmp_path, offset, size):
    async with world(tmp_path, FakeTransport({"/a.sif": IMAGE})) as it:
        number = await it.open("a.sif")
        for _ in range(2):
            assert await it.read(number, offset, size) == DATA[offset : offset + size]


async def test_counts_go_back_to_zero_and_numbers_can_be_used_again(tmp_path):
    async with world(tmp_path, FakeTransport({"/a.sif": IMAGE})) as it:
        number = await it.number("a.sif")
        assert await it.number("a.sif") == number
        it.tree.forget([(number, 1)])
        assert len(it.tree._lookups) == 1
        it.tree.forget([(number, 1)])
        assert len(it.tree._lookups) == 0
        assert (await it.tree.attributes(number)).size_bytes == len(DATA), "out of the state directory"


# --- versions ------------------------------------------------------------------------------------


async def test_a_reader_keeps_its_version_and_the_next_open_gets_the_new_one(tmp_path):
    origin = FakeTransport({"/a.sif": IMAGE})
    async with world(tmp_path, origin) as it:
        old = await it.open("a.sif")
        await it.read(old, 0, 4096)
        origin.files["/a.sif"] = File(DATA[::-1], '"v2"')
        with pytest.raises(ImageChanged):
            await it.read(old, 800_000, 4096)
        assert it.counters.image_changes == 1
        assert await it.read(old, 0, 4096) == DATA[:4096]
        new = await it.open("a.sif")
        assert new != old, "the reader's doubt made the next look-up ask"
        assert await it.read(new, 800_000, 4096) == DATA[::-1][800_000:804_096]


async def test_a_file_without_a_validator_is_one_download(tmp_path):
    origin = FakeTransport({"/a.sif": NAMELESS})
    async with world(tmp_path, origin) as it:
        number = await it.open("a.sif")
        assert await it.read(number, 40_000, 20_000) == NAMELESS.data[40_000:]
        assert await it.read(number, 0, 100) == NAMELESS.data[:100]
        assert len(origin.requests) == 2, "the probe and the download"


# --- the next life -------------------------------------------------------------------------------


async def test_inodes_and_handles_of_a_predecessor_are_answered(tmp_path):
    origin = FakeTransport({"/d/a.sif": IMAGE})
    async with world(tmp_path, origin) as it:
        directory, number = await it.number("d"), await it.open("d/a.sif")
        before = await it.tree.attributes(number)
    async with world(tmp_path, origin) as it:
        assert await it.tree.attributes(number) == before
        assert await it.read(number, 500_000, 100) == DATA[500_000:500_100]
        assert (await it.tree.lookup(directory, b"a.sif")).number == number
        await it.tree.files.release(number)
        assert (await it.tree.files.extended_attributes(number))["user.lazysif.validator"] == 'etag "v1"'


@pytest.mark.parametrize(
    "call", ["attributes", "entries", "files.open", "files.release", "files.extended_attributes"]
)
async def test_an_inode_that_nobody_gave_out_is_stale(tmp_path, call):
    async with world(tmp_path, FakeTransport()) as it:
        with pytest.raises(StaleInode):
            await attrgetter(call)(it.tree)(InodeNumber(12345))


async def test_a_remote_that_is_not_configured_any_more_leaves_stale_inodes(tmp_path):
    origin = FakeTransport({"/d/a.sif": IMAGE})
    async with world(tmp_path, origin, names=("old", "kept")) as it:
        numbers = [await it.number(path) for path in ("old", "old/d", "old/d/a.sif")]
    async with world(tmp_path, origin, names=("kept",)) as it:
        for number in numbers:
            with pytest.raises(StaleInode):
                await it.tree.attributes(number)


async def test_a_damaged_state_file_is_set_aside_and_numbers_stay_the_same(tmp_path):
    origin = FakeTransport({"/a.sif": IMAGE})
    async with world(tmp_path, origin) as it:
        number = await it.number("a.sif")
    file = tmp_path / "state/state-v1.sqlite"
    file.write_bytes(b"no database" * 1000)
    async with world(tmp_path, origin) as it:
        with pytest.raises(StaleInode):
            await it.tree.attributes(number)
        assert await it.number("a.sif") == number
    assert (tmp_path / "state/state-v1.sqlite.damaged").read_bytes().startswith(b"no database")


async def test_a_row_of_a_later_version_is_not_understood_and_does_no_harm(tmp_path):
    image = Image(
        ImageId("0" * 32), "", "a.sif", Location("u", "u"), 1, Validator(ValidatorKind.DIGEST, "x"), True
    )
    store = StateStore(tmp_path)
    number = store.remember_image(image)
    assert store.image_of(number).validator == image.validator
    store.close()
    with sqlite3.connect(tmp_path / "state-v1.sqlite") as db:
        db.execute("UPDATE images SET validator_kind = 'moon phase'")
    db.close()
    store = StateStore(tmp_path)
    assert store.image_of(number) is None
    assert store.remembered("", "a.sif") is None
    store.close()


async def test_a_full_state_disk_costs_the_memory_and_not_the_look_up(tmp_path):
    """Regression: every look-up of every image was EIO as soon as its time to be asked about had come."""
    origin = FakeTransport({"/d/a.sif": IMAGE})
    async with world(tmp_path, origin) as it:
        it.state._db.execute("PRAGMA query_only = ON")
        number = await it.open("d/a.sif")
        assert await it.read(number, 0, 10) == DATA[:10]
    async with world(tmp_path, origin) as it:
        assert await it.number("d/a.sif") == number, "the number is the same all the same"


def test_a_sick_disk_at_the_start_is_no_reason_to_set_the_state_aside(tmp_path):
    """Regression: a full disk at the start made the inodes of running jobs stale."""
    StateStore(tmp_path).close()
    before = (tmp_path / "state-v1.sqlite").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(LocalDirectoryError, match="state directory"):
            StateStore(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "state-v1.sqlite").read_bytes() == before


# --- deadlines -----------------------------------------------------------------------------------


async def test_a_look_up_ends_in_time_and_its_question_goes_on(tmp_path):
    go = trio.Event()
    origin = FakeTransport({"/a.sif": IMAGE}, [HoldHead(go)])
    async with world(tmp_path, origin, lookup_timeout_s=0.1) as it:
        with trio.fail_after(2), pytest.raises(DeadlineExceeded, match=r"a\.sif"):
            await it.tree.lookup(ROOT_INODE, b"a.sif")
        assert len(it.tree._lookups) == 0
        go.set()
        await eventually(lambda: origin.under_way == 0)
        await it.tree.lookup(ROOT_INODE, b"a.sif")
        assert len(origin.requests) == 1


async def test_a_read_ends_in_time_and_its_fetch_goes_on(tmp_path):
    origin = FakeTransport({"/a.sif": IMAGE})
    async with world(tmp_path, origin, read_timeout_s=0.1) as it:
        number = await it.number("a.sif")
        go = trio.Event()
        origin.script.append(HoldHead(go))
        with trio.fail_after(2), pytest.raises(DeadlineExceeded, match=r"a\.sif.*http://origin/"):
            await it.read(number, 500_000, 10)
        assert "0.1 s" in (await it.tree.files.extended_attributes(number))["user.lazysif.last_error"]
        with trio.fail_after(2), pytest.raises(DeadlineExceeded, match=r"a\.sif.*http://origin/"):
            await it.read(number, 500_002, 4)
        go.set()
        await eventually(lambda: it.tree.files.read_now(number, 500_000, 10) == DATA[500_000:500_010])
        assert len(origin.requests) == 2


async def test_what_was_given_up_is_not_waited_for_once_more(tmp_path):
    """Regression: the kernel asks again for a page that was not read ahead, and that read had a time of its own."""
    origin = FakeTransport({"/a.sif": IMAGE})
    async with world(tmp_path, origin, read_timeout_s=0.3) as it:
        number = await it.number("a.sif")
        origin.script.append(HoldHead(go := trio.Event()))
        with trio.fail_after(2), pytest.raises(DeadlineExceeded):
            await it.read(number, 500_000, 8192)
        it.tree.files._read_timeout_s = 60.0
        with trio.fail_after(10), pytest.raises(DeadlineExceeded, match=r"a\.sif.*http://origin/"):
            await it.read(number, 504_000, 4096)
        assert await it.read(number, 0, 10) == DATA[:10], "what is cached is served"
        assert (it.counters.reads_late, it.counters.reads_refused) == (1, 1)
        go.set()


async def test_a_read_that_a_predecessor_had_in_hand_keeps_its_deadline(tmp_path):
    """Regression: each daemon gave what it was asked again a whole `read_timeout`."""
    origin = FakeTransport({"/a.sif": IMAGE}, [])
    async with world(tmp_path, origin) as it:
        number = await it.number("a.sif")
    what = (number, 500_000, 10)
    now = time.monotonic()
    asked = Asked(words_of([(("read", what), now - 60)]), heard_s=now - 1)
    asked.began(now)
    async with world(tmp_path, origin, read_timeout_s=2.0, asked=asked) as it:
        origin.script.append(HoldHead(trio.Event()))
        began = trio.current_time()
        with trio.fail_after(1.8), pytest.raises(DeadlineExceeded, match=r"a\.sif"):
            await it.read(*what)
        assert trio.current_time() - began >= 1, "half of its time is left all the same"


async def test_what_is_in_hand_is_told_with_its_age(tmp_path):
    origin = FakeTransport({"/a.sif": IMAGE})
    async with world(tmp_path, origin) as it:
        number = await it.number("a.sif")
        origin.script.append(HoldHead(go := trio.Event()))
        async with trio.open_nursery() as readers:
            readers.start_soon(it.read, number, 500_000, 10)
            await eventually(lambda: it.tree.waiting_reads == 1)
            ((what, since_s),) = it.tree.in_hand.listed()
            go.set()
        assert what == ("read", (number, 500_000, 10))
        assert time.monotonic() - 60 < since_s < time.monotonic()
        assert it.tree.in_hand.listed() == []


async def test_a_listing_ends_in_time(tmp_path):
    origin = FakeTransport({"": Directory()}, [HoldHead(trio.Event())])
    async with world(tmp_path, origin, lookup_timeout_s=0.1) as it:
        with trio.fail_after(2), pytest.raises(DeadlineExceeded):
            await it.tree.entries(ROOT_INODE)


async def test_too_many_waiting_reads_are_refused_and_not_queued(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "_MAX_WAITING_READS", 5)
    origin = FakeTransport({"/a.sif": IMAGE})
    async with world(tmp_path, origin) as it:
        number = await it.number("a.sif")
        origin.script.append(HoldHead(go := trio.Event()))
        got = []

        async def reader():
            got.append(await it.read(number, 500_000, 10))

        async with trio.open_nursery() as readers:
            for _ in range(5):
                readers.start_soon(reader)
            await eventually(lambda: it.tree.waiting_reads == 5)
            with pytest.raises(SourceError, match="too many reads"):
                await it.read(number, 600_000, 10)
            assert await it.read(number, 0, 10) == DATA[:10], "what is in memory needs no wait"
            go.set()
        assert got == [DATA[500_000:500_010]] * 5
        assert await it.read(number, 600_000, 10) == DATA[600_000:600_010], "the count goes down again"


async def test_a_start_from_cached_blocks_works_while_too_many_wait(tmp_path, monkeypatch):
    guess_little(monkeypatch)
    monkeypatch.setattr(files_module, "_MAX_WAITING_READS", 1)
    origin = FakeTransport({"/a.sif": IMAGE})
    async with world(tmp_path, origin) as it:
        number = await it.open("a.sif")
        await it.read(number, 0, 100_000)
        await written(it.cache)
    async with world(tmp_path, origin) as it:
        await it.number("a.sif")
        origin.everything = HoldHead(go := trio.Event())
        async with trio.open_nursery() as readers:
            readers.start_soon(it.read, number, 500_000, 10)
            await eventually(lambda: it.tree.waiting_reads == 1)
            with trio.fail_after(10):
                assert await it.open("a.sif") == number
                for offset in range(0, 100_000, 20_000):
                    assert it.tree.files.read_now(number, offset, 20_000) is None, "it comes from the disk"
                    assert await it.read(number, offset, 20_000) == DATA[offset : offset + 20_000]
                with pytest.raises(SourceError, match=r"a\.sif: too many reads.*http://origin/"):
                    await it.read(number, 880_000, 10)
                assert it.counters.reads_refused == 1
            origin.everything = None
            go.set()


async def test_a_fault_in_what_is_fetched_ahead_does_not_end_the_daemon(tmp_path, monkeypatch):
    """Regression: it came up in the root nursery, and all mounts were gone."""

    async def fault(_):
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr(open_images_module, "pin_tables", fault)
    async with world(tmp_path, FakeTransport({"/a.sif": IMAGE})) as it:
        number = await it.open("a.sif")
        await eventually(lambda: it.counters.unexpected_errors == 1)
        assert await it.read(number, 0, 10) == DATA[:10]


# --- listings ------------------------------------------------------------------------------------


async def test_a_listing_shows_what_the_origin_lists_and_sizes_that_are_known(tmp_path):
    root = Directory(files=("a.sif", "b.sif"), directories=("d",))
    origin = FakeTransport({"": root, "/a.sif": IMAGE, "/c.sif": IMAGE})
    async with world(tmp_path, origin) as it:
        number = await it.number("a.sif")
        await it.number("c.sif")
        entries = {entry.name: entry for entry in await it.tree.entries(ROOT_INODE)}
        assert list(entries) == ["a.sif", "b.sif", "d"], "sorted, and c.sif is not listed"
        assert entries["a.sif"].attributes.number == number
        assert entries["a.sif"].attributes.size_bytes == len(DATA)
        assert entries["d"].attributes.kind is EntryKind.DIRECTORY
        for name in ("b.sif", "d"):
            assert entries[name].attributes.attr_timeout_s == entries[name].attributes.entry_timeout_s == 0
        assert [entry.position for entry in entries.values()] == [1, 2, 3]
        it.tree.listed_to_kernel(entries["b.sif"].attributes)
        it.tree.forget([(entries["b.sif"].attributes.number, 1)])
        assert len(it.tree._lookups) == 2


async def test_without_a_listing_the_names_used_lately_are_shown(tmp_path):
    async with world(tmp_path, FakeTransport({"/a.sif": IMAGE})) as it:
        assert await names_of(it) == []
        await it.number("a.sif")
        assert await names_of(it) == ["a.sif"]


async def test_a_file_that_may_not_be_downloaded_whole_says_so_at_look_up(tmp_path):
    policy = RemotePolicy(spool_whole=False)
    async with world(tmp_path, FakeTransport({"/a.sif": NAMELESS}), policy=policy) as it:
        with pytest.raises(SourceError, match="whole_file"):
            await it.number("a.sif")


@pytest.mark.parametrize("fault", [Refused(), Status(503)])
async def test_a_dead_origin_after_a_restart_serves_what_is_cached_and_fails_the_rest(tmp_path, fault):
    origin = FakeTransport({"/a.sif": IMAGE})
    policy = RemotePolicy(probe_bytes=4096, lookup_budget_s=0.3)
    async with world(tmp_path, origin, policy=policy) as it:
        number = await it.open("a.sif")
        await it.read(number, 0, 8192)
        await written(it.cache)
    origin.everything = fault
    async with world(tmp_path, origin, policy=policy, read_timeout_s=0.3) as it:
        assert await it.open("a.sif") == number
        assert await it.read(number, 0, 8192) == DATA[:8192]
        with trio.fail_after(2), pytest.raises((SourceError, DeadlineExceeded)):
            await it.read(number, 890_000, 10)
