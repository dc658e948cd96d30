"""The front of the block cache: bounds, joins, order of eviction, and what happens when the disk is slow."""

import threading
import time

import pytest
import trio
import trio.testing

from lazysif.cache.block_cache import BlockCache
from lazysif.cache.cache_settings import CacheSettings
from lazysif.cache.memory import MemoryTier
from lazysif.cache.store import FrameStore
from lazysif.cache.write_behind import WriteQueue
from lazysif.core.disk_health import DiskState
from lazysif.errors import LocalDirectoryError
from lazysif.model import ImageId
from lazysif.telemetry import Counters
from tests.support.cache_damage import (
    MIB,
    block,
    digest_of,
    eventually,
    fill,
    plant_frames,
    running,
    value_file,
    value_files,
    written,
)


class Gate:
    """Stands before a method of the store and holds calls in their thread."""

    def __init__(self, store, name):
        self.calls = 0
        self.open = threading.Event()
        self._inner = getattr(store, name)
        setattr(store, name, self)

    def __call__(self, *args):
        self.calls += 1
        assert self.open.wait(20)
        return self._inner(*args)


async def test_what_was_put_is_there_at_once_and_after_a_restart(tmp_path):
    async with running(tmp_path, memory_bytes=MIB) as cache:
        cache.put(digest_of(block(1)), block(1))
        assert cache.lookup(digest_of(block(1))) == block(1)
        assert await cache.load([digest_of(block(1)), digest_of(block(2))]) == {digest_of(block(1)): block(1)}
    async with running(tmp_path, memory_bytes=MIB) as cache:
        digest = digest_of(block(1))
        assert cache.lookup(digest) is None
        assert await cache.load([digest]) == {digest: block(1)}
        assert cache.lookup(digest) == block(1)


async def test_closing_writes_what_waits(tmp_path):
    async with running(tmp_path, batch_bytes=50_000) as cache:
        digests = [digest_of(block(n)) for n in range(30)]
        for n, digest in enumerate(digests):
            cache.put(digest, block(n))
        table = await cache.open_table(ImageId("a" * 32), 30)
        table.set(7, digests[7])
    async with running(tmp_path) as cache:
        assert len(await cache.load(digests)) == 30
        assert (await cache.open_table(ImageId("a" * 32), 30)).get(7) == digests[7]


async def test_closing_during_a_batch_writes_what_came_after_it_began(tmp_path):
    async with running(tmp_path, tick_s=1000.0) as cache:
        (damaged,) = await fill(cache, [block(1)])
        value_file(tmp_path, damaged).write_bytes(b"not what it was")
        table = await cache.open_table(ImageId("a" * 32), 30)
        gate = Gate(cache._store, "write_many")
        cache.put(digest_of(block(2)), block(2))
        await eventually(lambda: gate.calls == 1)
        table.set(7, digest_of(block(2)))
        assert await cache.load([damaged]) == {}, "and the frame is to be deleted"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cache.aclose)
            await trio.testing.wait_all_tasks_blocked(0.05)
            gate.open.set()
    assert value_files(tmp_path) == {value_file(tmp_path, digest_of(block(2)))}
    async with running(tmp_path) as cache:
        assert set(await cache.load([digest_of(block(n)) for n in (1, 2)])) == {digest_of(block(2))}
        assert (await cache.open_table(ImageId("a" * 32), 30)).get(7) == digest_of(block(2))


async def test_blocks_gather_and_are_written_together(tmp_path):
    async with running(tmp_path, gather_s=0.3) as cache:
        gate = Gate(cache._store, "write_many")
        gate.open.set()
        began = trio.current_time()
        for n in range(20):
            cache.put(digest_of(block(n)), block(n))
            await trio.sleep(0.002)
        assert gate.calls == 0
        await written(cache)
        assert (gate.calls, len(value_files(tmp_path))) == (1, 20)
        assert trio.current_time() - began >= 0.3
        cache.put(digest_of(block(20)), block(20))
        await trio.testing.wait_all_tasks_blocked()
        assert gate.calls == 1, "what comes next gathers anew"


async def test_more_blocks_than_may_be_cached_leave_the_last_of_them(tmp_path):
    """Regression: what had gathered came in one batch, which no eviction could make room for."""
    async with running(tmp_path, gather_s=0.2, limit_bytes=MIB) as cache:
        for n in range(100):
            cache.put(digest_of(block(n)), block(n))
        await written(cache)
        assert 20 < len(value_files(tmp_path)) <= 51
        assert await cache.load([digest_of(block(99))])


async def test_a_queue_that_fills_is_written_at_once(tmp_path):
    async with running(tmp_path, gather_s=1000.0, queue_bytes=10 * len(block(0))) as cache:
        for n in range(7):
            cache.put(digest_of(block(n)), block(n))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(value_files(tmp_path)) == 0
        cache.put(digest_of(block(7)), block(7))
        await eventually(lambda: len(value_files(tmp_path)) == 8)


async def test_blocks_that_nobody_reads_soon_are_written_while_they_come(tmp_path):
    """Regression: bulk filled the queue while the disk was idle, then waited for it, in turns."""
    async with running(tmp_path, gather_s=1000.0, queue_bytes=16 * len(block(0))) as cache:
        for n in range(5):
            cache.put(digest_of(block(n)), block(n), unread=True)
        await eventually(lambda: len(value_files(tmp_path)) == 5)


async def test_whoever_waits_for_room_does_not_wait_for_blocks_to_gather(tmp_path):
    async with running(tmp_path, gather_s=1000.0, queue_bytes=10 * len(block(0))) as cache:
        cache.put(digest_of(block(0)), block(0))
        with trio.fail_after(10):
            await cache.wait_room(10 * len(block(0)))
        assert len(value_files(tmp_path)) == 1


async def test_a_flush_does_not_wait_for_blocks_to_gather(tmp_path):
    async with running(tmp_path, gather_s=1000.0) as cache:
        cache.put(digest_of(block(0)), block(0))
        with trio.fail_after(10):
            await cache.flush()
        assert len(value_files(tmp_path)) == 1


async def test_two_loads_of_one_block_read_it_once(tmp_path):
    async with running(tmp_path) as cache:
        (digest,) = await fill(cache, [block(1)])
        gate = Gate(cache._store, "read_many")
        results = []

        async def load():
            results.append(await cache.load([digest]))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(load)
            await trio.testing.wait_all_tasks_blocked()
            gate.open.set()
        assert results == [{digest: block(1)}] * 5
        assert gate.calls == 1


async def test_a_cancelled_reader_leaves_the_others_alone(tmp_path):
    async with running(tmp_path) as cache:
        (digest,) = await fill(cache, [block(1)])
        gate = Gate(cache._store, "read_many")
        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()

            async def give_up():
                with first:
                    await cache.load([digest])

            nursery.start_soon(give_up)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: eventually(gate.open.is_set))
            trio.lowlevel.current_trio_token().run_sync_soon(gate.open.set)
            assert await cache.load([digest]) == {digest: block(1)}
        assert gate.calls == 1


async def test_a_disk_that_does_not_answer_is_left_out_after_the_deadline(tmp_path):
    counters = Counters()
    async with running(tmp_path, counters, read_timeout_s=0.3) as cache:
        digests = await fill(cache, [block(n) for n in range(6)])
        gate = Gate(cache._store, "read_many")
        start = trio.current_time()
        for digest in digests:
            assert await cache.load([digest]) == {}
        assert trio.current_time() - start < 2
        assert cache.status().state is DiskState.DOWN
        assert counters.cache_read_errors >= 3
        assert gate.calls <= 2
        gate.open.set()
        await eventually(lambda: cache.status().state is DiskState.NORMAL)
        assert len(await cache.load(digests)) == 6


async def test_a_disk_that_fails_while_blocks_gather_is_asked_again(tmp_path):
    """Regression: what had gathered was let go, nothing was to be written any more, and nobody looked at the disk."""
    async with running(tmp_path, gather_s=1.0, read_timeout_s=0.3, first_pause_s=0.5) as cache:
        digests = await fill(cache, [block(n) for n in range(4)])
        gate = Gate(cache._store, "read_many")
        cache.put(digest_of(block(9)), block(9))
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert cache.waits(digest_of(block(9)))
        async with trio.open_nursery() as nursery:
            for digest in digests[:3]:
                nursery.start_soon(cache.load, [digest])
        assert cache.status().state is DiskState.DOWN
        gate.open.set()
        await eventually(lambda: cache.status().state is DiskState.NORMAL)
        assert len(await cache.load(digests)) == 4


async def test_a_full_queue_drops_and_counts_and_memory_still_has_it(tmp_path):
    counters = Counters()
    async with running(tmp_path, counters, memory_bytes=MIB, queue_bytes=50_000) as cache:
        gate = Gate(cache._store, "write_many")
        for n in range(10):
            cache.put(digest_of(block(n)), block(n))
        assert counters.cache_dropped_writes == 8
        assert all(cache.lookup(digest_of(block(n))) == block(n) for n in range(10))
        with trio.move_on_after(0.05) as scope:
            await cache.wait_room(20_000)
        assert scope.cancelled_caught
        gate.open.set()
        with trio.fail_after(5):
            await cache.wait_room(20_000)
        await written(cache)
        assert len(value_files(tmp_path)) == 2


async def test_a_hung_writer_frees_who_waits_for_room_and_bounds_memory(tmp_path):
    async with running(tmp_path, queue_bytes=50_000, write_timeout_s=0.05) as cache:
        gate = Gate(cache._store, "write_many")
        for n in range(10):
            cache.put(digest_of(block(n)), block(n))
        with trio.fail_after(5):
            await cache.wait_room(20_000)
        assert cache.status().state is not DiskState.NORMAL
        for n in range(100):
            cache.put(digest_of(block(n)), block(n))
        assert cache._queue.used_bytes <= 50_000
        gate.open.set()
        await eventually(lambda: cache.status().state is DiskState.NORMAL)


async def test_the_limit_holds_and_the_oldest_go_first(tmp_path):
    counters = Counters()
    limit = 3 * MIB
    highest = 0
    async with running(tmp_path, counters, limit_bytes=limit, batch_bytes=200_000) as cache:
        digests = []
        for n in range(30):
            digests += await fill(cache, [block(n * 10 + k) for k in range(10)])
            highest = max(highest, cache.status().used_bytes)
            assert digests[0] in await cache.load(digests[:1]), "what is used stays"
            await trio.sleep(0.03)
        there = [digest in await cache.load([digest]) for digest in digests]
    assert highest <= limit + 200_000
    assert counters.frames_evicted > 100
    oldest_kept = there.index(True, 1)
    assert there[0]
    assert all(there[oldest_kept:]), "no younger frame went before an older one"


async def test_pinned_blocks_stay(tmp_path):
    async with running(tmp_path, limit_bytes=2 * MIB, batch_bytes=200_000) as cache:
        pinned = await fill(cache, [block(1), block(2)], pinned=True)
        late = await fill(cache, [block(3)])
        cache.pin(late)
        await trio.sleep(0.1)
        await fill(cache, [block(n) for n in range(100, 400)])
        assert len(await cache.load([*pinned, *late])) == 3


async def test_a_limit_smaller_than_a_block_serves_uncached(tmp_path):
    counters = Counters()
    async with running(tmp_path, counters, limit_bytes=1000) as cache:
        cache.put(digest_of(block(1)), block(1))
        await written(cache)
        assert counters.cache_dropped_writes == 1
        assert cache.status().state is DiskState.NORMAL


async def test_a_limit_below_the_size_that_the_database_once_had_keeps_blocks(tmp_path):
    """The database never shrank and counted as evictable: nothing was kept, and nothing said so."""
    database, few = tmp_path / "frames-v1/cache.db", [block(n) for n in range(20)]
    async with running(tmp_path) as cache:
        await fill(cache, few)
    plant_frames(tmp_path, 70_000)
    before = database.stat().st_size
    assert before > 8 * MIB
    async with running(tmp_path, limit_bytes=8 * MIB) as cache:
        await eventually(lambda: database.stat().st_size < before // 4)
        digests = await fill(cache, few)
        assert await cache.load(digests) == dict(zip(digests, few, strict=True))
        assert cache.status().used_bytes <= 8 * MIB


async def test_a_large_eviction_goes_in_steps(tmp_path, monkeypatch):
    """All at once, a limit lowered by millions of frames took longer than a call may: the disk counted as silent."""
    monkeypatch.setattr("lazysif.cache.store.EVICTED_AT_ONCE", 50)
    monkeypatch.setattr("lazysif.cache.write_behind.EVICTED_AT_ONCE", 50)
    steps = []
    async with running(tmp_path) as cache:
        await fill(cache, [block(n) for n in range(300)])
    async with running(tmp_path, limit_bytes=2 * MIB, tick_s=0.01) as cache:
        inner = cache._store.evict
        monkeypatch.setattr(cache._store, "evict", lambda size: steps.append(inner(size)) or steps[-1])
        await eventually(lambda: cache.status().used_bytes <= 2 * MIB)
        (digest,) = await fill(cache, [block(500)])
        assert await cache.load([digest]) == {digest: block(500)}
    assert max(steps) <= 51
    assert sum(steps) > 150


async def test_no_more_room_than_the_floor_leaves_serves_uncached(tmp_path):
    counters = Counters()
    async with running(tmp_path, counters, min_free_bytes=2**60) as cache:
        cache.put(digest_of(block(1)), block(1))
        await written(cache)
        assert counters.cache_dropped_writes == 1
        assert not value_files(tmp_path)


async def test_a_disk_below_its_floor_is_full_until_there_is_room(tmp_path, monkeypatch):
    """Regression: blocks were passed over in silence, and whoever filled the cache went on fetching."""
    counters = Counters()
    free = {"bytes": 5 * MIB}
    monkeypatch.setattr(FrameStore, "free_bytes", lambda _: free["bytes"])
    async with running(
        tmp_path, counters, min_free_bytes=4 * MIB, batch_bytes=2 * MIB, longest_pause_s=0.05
    ) as cache:
        free["bytes"] = 3 * MIB
        cache.put(digest_of(block(1)), block(1))
        await eventually(lambda: cache.status().trouble == "full")
        assert counters.cache_write_errors == 0, "nothing was refused"
        await trio.sleep(0.3)
        assert cache.status().state is DiskState.UNSTABLE, "a probe of a page succeeds, and is not enough"
        free["bytes"] = 7 * MIB
        await eventually(lambda: cache.status().state is DiskState.NORMAL)
        (digest,) = await fill(cache, [block(2)])
        assert len(value_files(tmp_path)) == 1
        assert await cache.load([digest]) == {digest: block(2)}


async def test_a_second_cache_in_one_directory_is_refused(tmp_path):
    async with running(tmp_path):
        second = BlockCache(CacheSettings(tmp_path, MIB), Counters())
        async with trio.open_nursery() as nursery:
            with pytest.raises(LocalDirectoryError, match="is in use by process"):
                await nursery.start(second.run)


async def test_before_the_start_and_after_the_end_all_is_a_miss(tmp_path):
    cache = BlockCache(CacheSettings(tmp_path, 1024 * MIB), Counters())
    cache.put(digest_of(block(1)), block(1))
    assert cache.lookup(digest_of(block(1))) == block(1)
    assert await cache.load([digest_of(block(2))]) == {}
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        await cache.aclose()
    assert await cache.load([digest_of(block(2))]) == {}
    cache.put(digest_of(block(3)), block(3))
    await cache.wait_room(10**9)
    assert cache.status().state is DiskState.NORMAL


async def test_a_hung_disk_does_not_hold_up_closing(tmp_path):
    cache = BlockCache(CacheSettings(tmp_path, 1024 * MIB), Counters())
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        gate = Gate(cache._store, "write_many")
        cache.put(digest_of(block(1)), block(1))
        await eventually(lambda: gate.calls == 1)
        start = time.monotonic()
        await cache.aclose(timeout_s=0.1)
    assert time.monotonic() - start < 2
    gate.open.set()


async def test_status_can_be_asked_from_another_thread(tmp_path):
    async with running(tmp_path) as cache:
        await fill(cache, [block(1)])
        await eventually(lambda: cache.status().free_bytes > 0)
        status = await trio.to_thread.run_sync(cache.status)
        assert status.used_bytes >= 20_000
        assert status.limit_bytes == 1024 * MIB


async def test_a_small_part_of_a_large_answer_does_not_keep_the_answer(tmp_path):
    async with running(tmp_path, memory_bytes=MIB) as cache:
        answer = memoryview(block(1, 400_000))
        part = answer[:20_000]
        cache.put(digest_of(part), part)
        kept = cache.lookup(digest_of(part))
        assert kept == part
        assert isinstance(kept, bytes)


async def test_tables_are_shared_while_open_and_leave_memory_when_not(tmp_path):
    async with running(tmp_path) as cache:
        image = ImageId("c" * 32)
        first, second = await cache.open_table(image, 5), await cache.open_table(image, 5)
        assert first is second
        first.set(1, digest_of(block(1)))
        del first, second
        await eventually(lambda: not cache.tables._tables)
        assert (await cache.open_table(image, 5)).get(1) == digest_of(block(1))


def test_memory_tier_drops_what_came_first_and_nothing_too_large():
    """Regression: reading a block kept it from going, and blocks brought ahead of a start went in its place."""
    tier = MemoryTier(300)
    for n in (0, 1, 2, 0):
        tier.put(digest_of(bytes([n])), bytes([n]) * 100)
    assert tier.get(digest_of(b"\1")) == b"\1" * 100
    tier.put(digest_of(b"\3"), b"\3" * 100)
    tier.put(digest_of(b"\4"), b"\4" * 301)
    assert [tier.get(digest_of(bytes([n]))) is not None for n in range(5)] == [True, False, True, True, False]
    assert tier.used_bytes == 300


def test_write_queue_counts_what_is_being_written_and_pins_what_waits():
    queue = WriteQueue(300)
    names = [digest_of(bytes([n])) for n in range(4)]
    assert [queue.put(name, b"x" * 100, False) for name in names] == [True, True, True, False]
    batch = queue.take(200)
    assert [item.digest for item in batch] == names[:2]
    assert not queue.pin(names[0])
    assert queue.pin(names[2])
    assert queue.used_bytes == 300
    assert queue.drop_waiting() == 1
    queue.done(batch)
    assert (queue.used_bytes, queue.waiting) == (0, False)
