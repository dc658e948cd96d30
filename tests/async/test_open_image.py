"""image.open_image over a real block cache: exact bytes, one fetch, blocks of any length."""

import random
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazysif.core.block_map import GridMap, IndexedMap
from lazysif.core.guesses import GuessLimits
from lazysif.errors import ImageChanged, SourceProtocolError, SourceUnavailable
from lazysif.fetch.flights import FlightTable
from lazysif.image.asking import ExtentLimits
from lazysif.image.open_image import OpenImage
from lazysif.model import ByteRange, Image, ImageId, Location, Validator, ValidatorKind
from lazysif.telemetry import Counters
from tests.support.cache_damage import change_rows, running, value_files, written
from tests.support.fake_transport import FakeTransport, File, Hold, HoldHead, Status
from tests.support.world import make_remote

DATA = random.Random(2).randbytes(100_003)
EDGES = sorted({0, 1, *random.Random(3).sample(range(2, len(DATA)), 60)})
MAPS = [
    pytest.param(GridMap(len(DATA), 4096), id="grid"),
    pytest.param(IndexedMap(tuple(EDGES), len(DATA)), id="unequal"),
    pytest.param(IndexedMap((0,), len(DATA)), id="one block"),
]
GRID = GridMap(len(DATA), 4096)


class Bench:
    def __init__(self, nursery, cache, counters, block_map, file, script):
        self.origin = FakeTransport({"/a.sif": file}, script)
        self.cache = cache
        self.counters = counters
        self.block_map = block_map
        self.flights = FlightTable()
        self.remote = make_remote("", self.origin, nursery, self.flights, counters)
        validator = (
            Validator(ValidatorKind.ETAG, file.etag) if file.etag else self.remote.fetcher.new_download()
        )
        url = "http://origin/a.sif"
        self.image = Image(
            ImageId("0" * 32), "", "a.sif", Location(url, url), len(file.data), validator, ranges=file.ranges
        )

    async def open(self):
        table = await self.cache.open_table(self.image.id, self.block_map.count)
        limits = ExtentLimits(guesses=GuessLimits(least_bytes=4096, most_bytes=4096), gap_bytes=4096)
        return OpenImage(
            self.image, self.block_map, table, self.cache, self.remote.fetcher, self.counters, limits
        )

    @property
    def asked_bytes(self):
        return sum(stop - start for _, start, stop in self.origin.asked)


@asynccontextmanager
async def bench(directory, block_map=GRID, file=None, script=(), **cache):
    counters = Counters()
    settings = {"memory_bytes": 2**20, **cache}
    async with running(directory, counters, **settings) as blocks, trio.open_nursery() as nursery:
        yield Bench(nursery, blocks, counters, block_map, file or File(DATA), script)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("memory_bytes", [0, 2**20])
@pytest.mark.parametrize("block_map", MAPS)
async def test_every_read_is_exact(tmp_path, block_map, memory_bytes):
    async with bench(tmp_path, block_map, memory_bytes=memory_bytes) as it:
        opened = await it.open()
        rng = random.Random(4)
        offsets = [
            0,
            len(DATA) - 1,
            len(DATA),
            len(DATA) + 5,
            *(rng.randrange(len(DATA)) for _ in range(150)),
        ]
        for offset in offsets:
            size = rng.choice([1, 100, 4096, 20_000, 2 * len(DATA)])
            assert bytes(await opened.read(offset, size)) == DATA[offset : offset + size]
        assert it.asked_bytes <= len(DATA), "no byte was fetched twice"


@pytest.mark.parametrize("block_map", MAPS)
async def test_what_is_in_memory_is_read_without_a_checkpoint_and_only_within_a_block(tmp_path, block_map):
    async with bench(tmp_path, block_map) as it:
        opened = await it.open()
        assert opened.read_now(0, 10) is None
        await opened.read(0, len(DATA))
        for offset in range(0, len(DATA), 997):
            now = opened.read_now(offset, 50)
            same = block_map.index_at(offset) == block_map.index_at(min(offset + 49, len(DATA) - 1))
            assert (bytes(now) == DATA[offset : offset + 50]) if now is not None else not same
            assert (now is not None) == same


async def test_an_empty_image(tmp_path):
    async with bench(tmp_path, GridMap(0, 4096), File(b"")) as it:
        opened = await it.open()
        assert bytes(await opened.read(0, 4096)) == b""
        assert it.origin.requests == []
        assert opened.blocks.cached_bytes() == 0


async def test_twenty_readers_of_one_block_make_one_request(tmp_path):
    go = trio.Event()
    async with bench(tmp_path, script=[HoldHead(go)]) as it:
        one, other, got = await it.open(), await it.open(), []

        async def reader(opened):
            got.append(bytes(await opened.read(8192, 100)))

        async with trio.open_nursery() as readers:
            for i in range(20):
                readers.start_soon(reader, one if i % 2 else other)
            await wait_all_tasks_blocked()
            go.set()
        assert got == [DATA[8192:8292]] * 20
        assert len(it.origin.requests) == 1
        assert it.counters.joins == 19


async def test_a_cancelled_reader_costs_the_others_nothing(tmp_path):
    go, leader = trio.Event(), trio.CancelScope()
    async with bench(tmp_path, script=[HoldHead(go)]) as it:
        opened, got = await it.open(), []

        async def reader(scope):
            with scope:
                got.append(bytes(await opened.read(0, 10)))

        async with trio.open_nursery() as readers:
            readers.start_soon(reader, leader)
            await wait_all_tasks_blocked()
            readers.start_soon(reader, trio.CancelScope())
            await wait_all_tasks_blocked()
            leader.cancel()
            await wait_all_tasks_blocked()
            go.set()
        assert leader.cancelled_caught
        assert got == [DATA[:10]]
        assert len(it.origin.requests) == 1


async def test_a_reader_does_not_wait_for_the_rest_of_its_extent(tmp_path):
    async with bench(tmp_path, script=[Hold(trio.Event(), 4096)]) as it:
        opened = await it.open()
        with trio.fail_after(2):
            assert bytes(await opened.read(0, 4096)) == DATA[:4096]


async def test_an_error_reaches_the_reader_and_the_next_read_is_new(tmp_path):
    async with bench(tmp_path, script=[Status(400)]) as it:
        opened = await it.open()
        with pytest.raises(SourceProtocolError):
            await opened.read(0, 10)
        assert "400" in opened.last_error
        assert len(it.flights) == 0
        with trio.fail_after(5):
            while True:
                try:
                    data = await opened.read(0, 10)
                    break
                except SourceProtocolError:
                    await trio.sleep(0.1)
        assert bytes(data) == DATA[:10]
        assert len(it.origin.requests) == 2


async def test_another_version_is_never_mixed_in(tmp_path):
    async with bench(tmp_path, script=[]) as it:
        opened = await it.open()
        await opened.read(0, 4096)
        it.origin.files["/a.sif"] = File(DATA[::-1], etag='"v2"')
        with pytest.raises(ImageChanged):
            await opened.read(80_000, 4096)
        assert bytes(await opened.read(0, 4096)) == DATA[:4096], "what is cached is still served"


@pytest.mark.parametrize("careless", [False, True])
async def test_another_version_is_noticed_even_if_the_origin_looks_at_no_condition(tmp_path, careless):
    async with bench(tmp_path) as it:
        it.origin.careless = careless
        opened = await it.open()
        it.origin.files["/a.sif"] = File(DATA[::-1], etag='"v2"')
        with pytest.raises(ImageChanged):
            await opened.read(0, 10)


async def test_a_file_without_ranges_is_fetched_once_for_all_its_readers(tmp_path):
    async with bench(tmp_path, file=File(DATA, ranges=False)) as it:
        opened = await it.open()

        async def reader(offset):
            assert bytes(await opened.read(offset, 5000)) == DATA[offset : offset + 5000]

        async with trio.open_nursery() as readers:
            for offset in (99_000, 0, 50_000):
                readers.start_soon(reader, offset)
        assert len(it.origin.requests) == 1


async def test_what_was_read_once_is_not_fetched_in_the_next_life(tmp_path):
    for life in range(2):
        async with bench(tmp_path) as it:
            opened = await it.open()
            assert bytes(await opened.read(10_000, 60_000)) == DATA[10_000:70_000]
            await written(it.cache)
            assert bool(it.origin.requests) == (life == 0)
            assert opened.blocks.cached_bytes() >= 60_000


async def test_frames_that_are_gone_or_damaged_are_fetched_again(tmp_path):
    async with bench(tmp_path) as it:
        await (await it.open()).read(0, len(DATA))
        await written(it.cache)
    files = sorted(value_files(tmp_path))
    for i, path in enumerate(files):
        if i % 3 == 0:
            path.unlink()
        elif i % 3 == 1:
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    async with bench(tmp_path, memory_bytes=0) as it:
        opened = await it.open()
        assert bytes(await opened.read(0, len(DATA))) == DATA
        assert 0 < it.asked_bytes < len(DATA), "what is whole is not fetched"


async def test_a_frame_under_the_wrong_key_is_never_served(tmp_path):
    async with bench(tmp_path) as it:
        await (await it.open()).read(0, len(DATA))
        await written(it.cache)
    first = min(value_files(tmp_path)).relative_to(tmp_path / "frames-v1")
    change_rows(tmp_path, "UPDATE Cache SET filename = ?", str(first))
    async with bench(tmp_path, memory_bytes=0) as it:
        assert bytes(await (await it.open()).read(0, len(DATA))) == DATA


@pytest.mark.parametrize("block_map", MAPS[:2])
async def test_bytes_of_the_probe_are_kept_as_far_as_they_are_whole_blocks(tmp_path, block_map):
    async with bench(tmp_path, block_map) as it:
        opened = await it.open()
        opened.keep(0, DATA[:10_000])
        whole = block_map.start(block_map.index_at(10_000))
        assert bytes(await opened.read(0, whole)) == DATA[:whole]
        assert it.origin.requests == []
        assert bytes(await opened.read(0, 10_000)) == DATA[:10_000]
        assert min(start for _, start, _ in it.origin.asked) == whole


async def test_prefetch_asks_only_for_what_is_missing_and_a_reader_joins_it(tmp_path):
    go = trio.Event()
    async with bench(tmp_path) as it:
        opened = await it.open()
        await opened.read(8192, 1)
        await wait_all_tasks_blocked()
        before = set(it.origin.asked)
        it.origin.script.append(HoldHead(go))
        flights = opened.asking.prefetch(ByteRange(0, len(DATA)))
        assert flights
        assert opened.asking.prefetch(ByteRange(0, len(DATA))) == []
        await wait_all_tasks_blocked()
        go.set()
        assert bytes(await opened.read(0, len(DATA))) == DATA
        assert it.asked_bytes == len(DATA)
        assert before < set(it.origin.asked)


async def test_a_dead_origin_is_an_error_within_the_budget(tmp_path):
    async with bench(tmp_path) as it:
        it.origin.everything = Status(503, {"retry-after": "3600"})
        opened = await it.open()
        with trio.fail_after(2), pytest.raises(SourceUnavailable):
            await opened.read(0, 10)


async def test_a_steady_reader_waits_only_at_the_beginning(tmp_path):
    """What was asked for ahead of it, and is read, says that more is to be asked for."""
    data = random.Random(5).randbytes(600 * 4096)
    async with bench(tmp_path, GridMap(len(data), 4096), File(data)) as it:
        opened = await it.open()
        for offset in range(0, len(data), 4096):
            assert bytes(await opened.read(offset, 4096)) == data[offset : offset + 4096]
            await wait_all_tasks_blocked()
        assert it.counters.misses <= 2
