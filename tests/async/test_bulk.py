"""image.bulk and tree.warming: what is asked for, in what order, and what becomes of it when things break."""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from lazysif.core.pace import Pace
from lazysif.errors import AccessDenied, ConfigError, LocalDirectoryError, NoSuchEntry, SourceUnavailable
from lazysif.fetch.fetcher import FetchLimits
from lazysif.image import bulk
from lazysif.image.bulk import Fill
from lazysif.image.open_image import OpenImage
from lazysif.model import Digest
from lazysif.tree.idle_fill import FillSettings, IdleFill
from lazysif.tree.warming import Warming, What
from tests.support.cache_damage import eventually
from tests.support.fake_transport import FakeTransport, File, HoldHead, Ok, Refused, Status
from tests.support.guesses import guess_little
from tests.support.world import World, quiet_log, world

BLOCK = 4096
COUNT = 64
DATA = random.Random(5).randbytes(COUNT * BLOCK - 100)
LIMITS = FetchLimits(connections=4, background_connections=2, stall_s=0.05)


@pytest.fixture(autouse=True)
def small_extents(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(bulk, "EXTENT_BYTES", 8 * BLOCK)
    with quiet_log():
        yield


@pytest.fixture
def origin() -> FakeTransport:
    return FakeTransport({"/a.sif": File(DATA), "/dir/b.sif": File(DATA[: 10 * BLOCK], etag='"b"')})


@asynccontextmanager
async def opened(life: World, path: str = "a.sif") -> AsyncIterator[OpenImage]:
    """Without what an open brings of its own."""
    yield await life.images.get(await life.tree.find_image("", path))


async def fill(life: World, one: OpenImage, blocks: Sequence[int] | None = None, **words: float) -> Fill:
    filling = Fill(one, life.cache, blocks or range(COUNT), Pace(None), first_pause_s=0.01, **words)
    await filling.run()
    return filling


def asked_blocks(origin: FakeTransport) -> list[int]:
    return [i for _, start, stop in origin.asked for i in range(start // BLOCK, -(-stop // BLOCK))]


# --- fills ------------------------------------------------------------------------------------------------


async def test_each_block_is_asked_for_once_in_large_extents(tmp_path: Path, origin: FakeTransport) -> None:
    async with world(tmp_path, origin, limits=LIMITS) as life, opened(life) as one:
        filling = await fill(life, one)
        assert sorted(asked_blocks(origin)) == list(range(COUNT))
        assert len(origin.asked) == 1 + 8, "the probe, and then extents of eight blocks"
        assert filling.progress.done_bytes == filling.progress.total_bytes == len(DATA)
        before = len(origin.requests)
        assert (await fill(life, one)).progress.fetched_bytes == 0
        number = await life.open("a.sif")
        assert await life.read(number, 0, len(DATA)) == DATA
        assert len(origin.requests) <= before + 1, "the version is asked for"


async def test_the_next_life_asks_only_for_what_is_missing(tmp_path: Path, origin: FakeTransport) -> None:
    async with world(tmp_path, origin, limits=LIMITS) as life, opened(life) as one:
        await fill(life, one, range(40))
    origin.requests.clear()
    async with world(tmp_path, origin, limits=LIMITS) as life, opened(life) as one:
        origin.requests.clear()
        filling = await fill(life, one)
        assert sorted(asked_blocks(origin)) == list(range(40, COUNT))
        assert filling.progress.fetched_bytes == len(DATA) - 40 * BLOCK


async def test_what_was_evicted_is_fetched_again(tmp_path: Path, origin: FakeTransport) -> None:
    """The table still knows its digest: only the disk can say that it is gone."""
    async with world(tmp_path, origin, limits=LIMITS) as life, opened(life) as one:
        await fill(life, one)
        gone = [Digest(blake3(DATA[i * BLOCK : (i + 1) * BLOCK]).digest()) for i in (7, 8, 30)]
        await life.cache.repair(lambda store: store.delete_many(gone))
        origin.requests.clear()
        await fill(life, one)
        assert sorted(asked_blocks(origin)) == [7, 8, 30]


async def test_blocks_come_in_the_order_that_was_given(tmp_path: Path, origin: FakeTransport) -> None:
    async with world(tmp_path, origin, limits=LIMITS) as life, opened(life) as one:
        origin.requests.clear()
        await fill(life, one, [50, 51, 20, 52, 40])
        assert [(start // BLOCK, stop // BLOCK) for _, start, stop in origin.asked] == [
            (50, 53),
            (20, 21),
            (40, 41),
        ]


async def test_what_nobody_reads_drives_nothing_out_of_memory(
    tmp_path: Path, origin: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    guess_little(monkeypatch)
    settings = {"memory_bytes": 40 * BLOCK}
    async with world(tmp_path, origin, limits=LIMITS, cache=settings) as life, opened(life) as one:
        assert await one.read(10 * BLOCK, 100) == DATA[10 * BLOCK :][:100]
        await fill(life, one)
        assert one.read_now(10 * BLOCK, 100) is not None


async def test_demand_passes_bulk(tmp_path: Path, origin: FakeTransport) -> None:
    """While bulk's requests stand still, what is read is asked for at once; bulk holds half of the background."""
    held = trio.Event()
    limits = FetchLimits(connections=4, background_connections=4, stall_s=5.0)
    async with world(tmp_path, origin, limits=limits) as life, opened(life) as one:
        origin.requests.clear()
        origin.script.extend([HoldHead(held), HoldHead(held)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill, life, one)
            await eventually(lambda: len(origin.asked) == 2)
            with trio.fail_after(5):
                assert await one.read(60 * BLOCK, 10) == DATA[60 * BLOCK :][:10]
            assert [start // BLOCK for _, start, _ in origin.asked][2] == 60
            held.set()
        assert len(asked_blocks(origin)) == len(set(asked_blocks(origin)))


async def test_a_slow_rate_is_cut_into_small_requests(tmp_path: Path, origin: FakeTransport) -> None:
    async with world(tmp_path, origin, limits=LIMITS) as life, opened(life) as one:
        origin.requests.clear()
        await Fill(one, life.cache, range(20, 28), Pace(8 * BLOCK * 4)).run()
        assert {stop - start for _, start, stop in origin.asked} == {8 * BLOCK}
        origin.requests.clear()
        await Fill(one, life.cache, range(30, 34), Pace(2 * BLOCK * 4)).run()
        assert {stop - start for _, start, stop in origin.asked} == {2 * BLOCK}


async def test_an_origin_that_is_away_for_a_while_is_waited_for(
    tmp_path: Path, origin: FakeTransport
) -> None:
    async with world(tmp_path, origin, limits=LIMITS) as life, opened(life) as one:
        origin.everything = Refused()
        async with trio.open_nursery() as nursery:
            filling = Fill(one, life.cache, range(COUNT), Pace(None), first_pause_s=0.01)
            nursery.start_soon(filling.run)
            await eventually(lambda: "no connection" in filling.progress.trouble)
            origin.everything = Ok()
            await one.read(60 * BLOCK, 10)  # the daemon has a watch that asks whether it is back
        assert filling.progress.trouble == ""
        assert filling.progress.done_bytes == len(DATA)


async def test_an_origin_that_stays_away_ends_it(tmp_path: Path, origin: FakeTransport) -> None:
    async with world(tmp_path, origin, limits=LIMITS) as life, opened(life) as one:
        origin.everything = Refused()
        with pytest.raises(SourceUnavailable):
            await fill(life, one, patience_s=0.05)


async def test_an_origin_that_refuses_ends_it_at_once(tmp_path: Path, origin: FakeTransport) -> None:
    async with world(tmp_path, origin, limits=LIMITS) as life, opened(life) as one:
        origin.everything = Status(403)
        with pytest.raises(AccessDenied):
            await fill(life, one)


async def test_more_than_the_cache_may_hold_is_not_begun(tmp_path: Path, origin: FakeTransport) -> None:
    async with (
        world(tmp_path, origin, limits=LIMITS, cache={"limit_bytes": 100_000}) as life,
        opened(life) as one,
    ):
        origin.requests.clear()
        with pytest.raises(LocalDirectoryError, match="the cache may hold 100000"):
            await fill(life, one)
        assert origin.requests == []


async def test_a_disk_without_room_is_not_fetched_for(tmp_path: Path, origin: FakeTransport) -> None:
    """Regression: all of it was brought three times, and none of it kept."""
    async with (
        world(tmp_path, origin, limits=LIMITS, cache={"min_free_bytes": 2**60}) as life,
        opened(life) as one,
    ):
        with pytest.raises(LocalDirectoryError, match=r"the cache is unstable \(full\)"):
            await fill(life, one)
        assert len(asked_blocks(origin)) <= COUNT


async def test_what_does_not_stay_in_the_cache_is_not_said_to_be_there(
    tmp_path: Path, origin: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, origin, limits=LIMITS) as life, opened(life) as one:

        async def lacking(_: object) -> list[int]:
            return [3, 4]

        monkeypatch.setattr(Fill, "_lacking", lacking)
        with pytest.raises(LocalDirectoryError, match="2 blocks did not stay"):
            await fill(life, one)


async def test_a_sick_cache_takes_nothing(tmp_path: Path, origin: FakeTransport) -> None:
    async with world(tmp_path, origin, limits=LIMITS) as life, opened(life) as one:

        def refuse(*_: object) -> None:
            raise OSError(5, "sick")

        life.cache._store._database._current = refuse  # type: ignore[assignment,method-assign]
        with pytest.raises(LocalDirectoryError):
            await fill(life, one)


async def test_a_file_that_comes_only_whole_is_brought_whole(tmp_path: Path) -> None:
    origin = FakeTransport({"/a.sif": File(DATA, ranges=False)})
    async with world(tmp_path, origin, limits=LIMITS) as life:
        one = await life.images.open(await life.tree.find_image("", "a.sif"))
        filling = await fill(life, one)
        assert filling.progress.done_bytes == len(DATA)
        assert len([request for request in origin.requests if request.byte_range is None]) == 1


# --- jobs -------------------------------------------------------------------------------------------------


def target(text: str) -> tuple[str, str]:
    if text.startswith("no/"):
        raise ConfigError(f"{text}: no remote is called 'no'")
    return "", text


async def no_trace(_: OpenImage) -> list[int]:
    return []


async def start(life: World, directory: Path, traced=no_trace) -> Warming:  # type: ignore[no-untyped-def]
    warming = Warming(
        life.nursery, target, life.tree.find_image, traced, life.images, life.cache, life.counters,
        directory / "warm.json",
    )  # fmt: skip
    await warming.go_on()
    return warming


async def ended(warming: Warming, image: str) -> dict[str, object]:
    def job() -> dict[str, object]:
        return next(job for job in warming.document()["jobs"] if job["image"] == image)

    await eventually(lambda: job()["state"] in ("done", "failed", "cancelled"))
    return job()


async def test_a_job_is_done_and_forgotten(tmp_path: Path, origin: FakeTransport) -> None:
    async with world(tmp_path, origin, limits=LIMITS) as life:
        warming = await start(life, tmp_path)
        assert warming.command({"image": "a.sif"})["state"] == "resolving"
        job = await ended(warming, "a.sif")
        assert (job["state"], job["done_bytes"], job["error"]) == ("done", len(DATA), "")
        await eventually(lambda: json.loads((tmp_path / "warm.json").read_text()) == [])


async def test_what_is_not_there_fails_in_one_line(tmp_path: Path, origin: FakeTransport) -> None:
    async with world(tmp_path, origin, limits=LIMITS) as life:
        warming = await start(life, tmp_path)
        for image in ("none.sif", "dir", "../a.sif", "x/../a.sif", "a\nb"):
            warming.command({"image": image})
            job = await ended(warming, image)
            assert job["state"] == "failed"
            assert str(job["error"]).startswith(f"{image}: ")
        with pytest.raises(ConfigError, match="no remote"):
            warming.command({"image": "no/x.sif"})
        with pytest.raises(ConfigError, match="not a request"):
            warming.command({"image": "a.sif", "what": "everything"})
        with pytest.raises(ConfigError, match="not a request"):
            warming.command({"image": "a.sif", "rate": "fast"})
        with pytest.raises(ConfigError, match="not a request"):
            warming.command({"image": "a.sif", "rate": "-1"})


async def test_only_what_starts_touch(tmp_path: Path, origin: FakeTransport) -> None:
    async def traced(_: OpenImage) -> list[int]:
        return [40, 41, 9]

    async with world(tmp_path, origin, limits=LIMITS) as life:
        warming = await start(life, tmp_path, traced)
        warming.begin("a.sif", What.TRACE, None)
        job = await ended(warming, "a.sif")
        assert (job["state"], job["total_bytes"]) == ("done", 3 * BLOCK)
        warming = await start(life, tmp_path)
        warming.begin("dir/b.sif", What.TRACE, None)
        assert "nothing is known of its starts" in str((await ended(warming, "dir/b.sif"))["error"])


async def test_asking_twice_is_one_job_whose_rate_changes(tmp_path: Path, origin: FakeTransport) -> None:
    held = trio.Event()
    async with world(tmp_path, origin, limits=LIMITS) as life:
        warming = await start(life, tmp_path)
        await life.tree.find_image("", "a.sif")
        origin.everything = HoldHead(held)
        warming.begin("a.sif", What.ALL, None)
        await eventually(lambda: warming.document()["jobs"][0]["state"] == "running")
        assert warming.begin("a.sif", What.ALL, 10**9)["rate"] == 10**9
        assert warming.begin("a.sif", What.TRACE, 10**8)["what"] == "all"
        assert len(warming.document()["jobs"]) == 1
        held.set()
        assert (await ended(warming, "a.sif"))["state"] == "done"
        assert sorted(asked_blocks(origin))[1:] == list(range(1, COUNT))


async def test_a_job_can_be_ended(tmp_path: Path, origin: FakeTransport) -> None:
    held = trio.Event()
    async with world(tmp_path, origin, limits=LIMITS) as life:
        warming = await start(life, tmp_path)
        await life.tree.find_image("", "a.sif")
        origin.everything = HoldHead(held)
        warming.command({"image": "a.sif"})
        await eventually(lambda: warming.document()["jobs"][0]["state"] == "running")
        warming.command({"image": "a.sif", "cancel": "1"})
        assert (await ended(warming, "a.sif"))["state"] == "cancelled"
        with pytest.raises(NoSuchEntry):
            warming.command({"image": "a.sif", "cancel": "1"})
        held.set()
        assert life.images.handles(next(iter(life.images.listed())).image.id) == 0


async def test_the_next_daemon_goes_on(tmp_path: Path, origin: FakeTransport) -> None:
    held = trio.Event()
    async with world(tmp_path, origin, limits=LIMITS) as life:
        warming = await start(life, tmp_path)
        await life.tree.find_image("", "a.sif")
        warming.begin("a.sif", What.ALL, 10**9)
        await eventually(lambda: (tmp_path / "warm.json").exists())
        kept = (tmp_path / "warm.json").read_text()
        await ended(warming, "a.sif")
    (tmp_path / "warm.json").write_text(kept)  # as kill -9 leaves it
    held.set()
    async with world(tmp_path, origin, limits=LIMITS) as life:
        warming = await start(life, tmp_path)
        job = await ended(warming, "a.sif")
        assert (job["state"], job["fetched_bytes"], job["rate"]) == ("done", 0, 10**9)


async def test_what_kills_daemons_is_given_up_and_a_damaged_list_is_no_list(
    tmp_path: Path, origin: FakeTransport
) -> None:
    async with world(tmp_path, origin, limits=LIMITS) as life:
        entry = {"image": "a.sif", "target": ["", "a.sif"], "what": "all", "rate": None}
        now = {"asked_s": time.time()}
        (tmp_path / "warm.json").write_text(json.dumps([{**entry, **now, "lives": 5}]))
        assert (await start(life, tmp_path)).document() == {"jobs": []}
        (tmp_path / "warm.json").write_text(json.dumps([{**entry, "asked_s": 1.0, "lives": 0}]))
        assert (await start(life, tmp_path)).document() == {"jobs": []}, "of long ago"
        for text in ("", "{", "[1]", '[{"image": 1}]', "\0\0\0"):
            (tmp_path / "warm.json").write_text(text)
            assert (await start(life, tmp_path)).document() == {"jobs": []}


# --- idle times -------------------------------------------------------------------------------------------


async def test_open_images_are_filled_in_quiet_times_and_readers_end_it(
    tmp_path: Path, origin: FakeTransport
) -> None:
    held, now = trio.Event(), 0.0
    async with world(tmp_path, origin, limits=FetchLimits(4, 4, stall_s=5.0)) as life:
        image = await life.tree.find_image("", "a.sif")
        one = await life.images.get(image)
        life.images._handles[image.id] += 1
        settings = FillSettings(quiet_s=60.0, bytes_per_s=1e9)
        filling = IdleFill(life.images, life.cache, life.counters, settings, look_s=0.01, clock=lambda: now)
        life.nursery.start_soon(filling.run)
        before = len(origin.asked)
        await trio.sleep(0.1)
        assert len(origin.asked) == before, "it is not quiet for long enough"
        origin.script.extend([HoldHead(held)] * 2)
        now = 61.0
        await eventually(lambda: len(origin.asked) == before + 2)
        await one.read(60 * BLOCK, 10)
        await trio.sleep(0.1)
        held.set()
        await eventually(lambda: not life.remotes[""].fetcher._flights)
        await trio.sleep(0.1)
        assert not life.remotes[""].fetcher._flights
        assert one.blocks.cached_bytes() < len(DATA), "a reader had to wait: it is not quiet any more"
        now = 130.0
        await eventually(lambda: one.blocks.cached_bytes() == len(DATA))
        assert sorted(asked_blocks(origin)) == list(range(COUNT))


async def test_what_is_closed_or_would_fill_the_cache_is_left_alone(
    tmp_path: Path, origin: FakeTransport
) -> None:
    settings = {"limit_bytes": len(DATA)}
    async with world(tmp_path, origin, limits=LIMITS, cache=settings) as life:
        images = [await life.tree.find_image("", path) for path in ("a.sif", "dir/b.sif")]
        for image in images:
            await life.images.get(image)
        life.images._handles[images[0].id] += 1
        filling = IdleFill(life.images, life.cache, life.counters, FillSettings(0.001, 1e9), look_s=0.01)
        before = len(origin.asked)
        life.nursery.start_soon(filling.run)
        await trio.sleep(0.2)
        assert len(origin.asked) == before
