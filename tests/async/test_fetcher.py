"""fetch.fetcher: extents over an origin that misbehaves, on a clock that jumps."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazysif.core.block_map import BlockMap, GridMap, IndexedMap
from lazysif.errors import (
    AccessDenied,
    ImageChanged,
    LazysifError,
    SourceError,
    SourceProtocolError,
    SourceUnavailable,
)
from lazysif.fetch.fetcher import Fetcher, FetchLimits
from lazysif.fetch.flights import Flight, FlightTable
from lazysif.fetch.locations import Locations
from lazysif.model import Buffer, Image, ImageId, Location, Validator, ValidatorKind, VersionParameter
from lazysif.registries.http import HttpRegistry
from lazysif.telemetry import Counters
from tests.support.fake_transport import (
    Bug,
    FakeTransport,
    Fault,
    File,
    Headers,
    Hold,
    HoldHead,
    Longer,
    Refused,
    ResetAfter,
    Short,
    Stall,
    Status,
)

URL = "http://origin/a.sif"
DATA = random.Random(1).randbytes(10_000)
GRID = GridMap(len(DATA), 1000)
INDEXED = IndexedMap((0, 1, 700, 5000, 5001, 9000), len(DATA))
NAMELESS = File(DATA, None, None, ranges=False)
ETAG = Validator(ValidatorKind.ETAG, '"v1"')


@dataclass
class FakeSink:
    blocks: dict[int, bytes] = field(default_factory=dict)
    full: trio.Event | None = None

    def accept(self, index: int, data: Buffer) -> None:
        assert index not in self.blocks, "accepted twice"
        self.blocks[index] = bytes(data)

    async def room(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.full is not None:
            await self.full.wait()


class Bench:
    def __init__(
        self,
        nursery: trio.Nursery,
        script: Iterable[Fault] = (),
        *,
        file: File | None = None,
        block_map: BlockMap = GRID,
        limits: FetchLimits | None = None,
    ) -> None:
        file = file or File(DATA)
        self.origin = FakeTransport({"/a.sif": file}, script)
        self.flights = FlightTable()
        self.counters = Counters()
        self.locations = Locations(HttpRegistry("http://origin/", self.origin), self.counters)
        self.fetcher = Fetcher(
            nursery, self.origin, self.flights, limits or FetchLimits(), self.counters, self.locations
        )
        self.sink = FakeSink()
        self.block_map = block_map
        validator = ETAG if file.etag else self.fetcher.new_download()
        self.image = Image(
            ImageId("0" * 32), "r", "a.sif", Location(URL, URL), len(DATA), validator, ranges=file.ranges
        )

    def start(self, blocks: Sequence[int], *, demand: bool = True) -> list[Flight]:
        return self.fetcher.start(self.image, self.block_map, blocks, self.sink, demand=demand)

    def content(self, index: int) -> bytes:
        return DATA[self.block_map.start(index) : self.block_map.start(index + 1)]

    async def fetch(self, blocks: Sequence[int], *, demand: bool = True) -> None:
        """Bring blocks and check that they are right, in the sink, and leave nothing behind."""
        for flight in self.start(blocks, demand=demand):
            assert await flight.wait() == self.content(flight.index)
            assert self.sink.blocks[flight.index] == self.content(flight.index)
        assert len(self.flights) == 0

    async def fail(
        self, kind: type[LazysifError], blocks: Sequence[int] = range(3), *, demand: bool = True
    ) -> LazysifError:
        for flight in self.start(blocks, demand=demand):
            with pytest.raises(kind) as raised:
                await flight.wait()
            assert type(raised.value) is kind
        assert len(self.flights) == 0, "failed flights leave no entries behind"
        return raised.value

    @property
    def asked(self) -> list[tuple[int, int]]:
        return [(start, stop) for _, start, stop in self.origin.asked]


@pytest.mark.parametrize("block_map", [GRID, INDEXED, IndexedMap((0,), len(DATA))])
async def test_an_extent_is_one_request_for_exactly_its_blocks(nursery, autojump_clock, block_map):
    bench = Bench(nursery, block_map=block_map)
    await bench.fetch(range(block_map.count))
    assert bench.asked == [(0, len(DATA))]
    assert bench.counters.fetched_bytes == len(DATA)
    assert bench.counters.fetch_requests == 1
    assert bench.origin.requests[0].headers == {"If-Match": '"v1"'}


async def test_an_extent_in_the_middle_of_unequal_blocks(nursery, autojump_clock):
    bench = Bench(nursery, block_map=INDEXED)
    await bench.fetch(range(1, 4))
    assert bench.asked == [(1, 5001)]


async def test_blocks_land_before_the_extent_ends(nursery, autojump_clock):
    go = trio.Event()
    bench = Bench(nursery, [Hold(go, 2500)])
    flights = bench.start(range(5))
    assert await flights[0].wait() == bench.content(0)
    assert await flights[1].wait() == bench.content(1)
    await wait_all_tasks_blocked()
    assert sorted(bench.sink.blocks) == [0, 1]
    assert len(bench.flights) == 3
    go.set()
    assert await flights[4].wait() == bench.content(4)


@pytest.mark.parametrize("fault", [ResetAfter(2500), Short(2500), Stall(2500), ResetAfter(2000)])
async def test_what_came_is_kept_and_the_rest_alone_is_asked_for_again(nursery, autojump_clock, fault):
    bench = Bench(nursery, [fault])
    await bench.fetch(range(5))
    assert bench.asked == [(0, 5000), (2000, 5000)]
    assert bench.counters.retries == 1


async def test_each_piece_of_progress_is_a_new_beginning(nursery, autojump_clock):
    """Of 10 blocks each attempt brings one: more attempts than a background fetch has for one failure."""
    bench = Bench(nursery, [ResetAfter(1000)] * 9)
    await bench.fetch(range(10), demand=False)
    assert [start for start, _ in bench.asked] == [i * 1000 for i in range(10)]


@pytest.mark.parametrize(
    "faults",
    [
        [Refused()] * 5,
        [Status(503)] * 5,
        [Status(429, {"retry-after": "7"})],
        [ResetAfter(0)] * 5,
        [Stall()] * 2,
    ],
)
async def test_temporary_trouble_costs_time_only(nursery, autojump_clock, faults):
    bench = Bench(nursery, faults)
    began = trio.current_time()
    await bench.fetch(range(3))
    assert len(bench.origin.requests) == len(faults) + 1
    assert 0.05 <= trio.current_time() - began < FetchLimits().read_budget_s


async def test_retry_after_is_obeyed(nursery, autojump_clock):
    bench = Bench(nursery, [Status(429, {"retry-after": "7"})])
    began = trio.current_time()
    await bench.fetch([0])
    assert trio.current_time() - began >= 7


async def test_a_demand_fetch_gives_up_within_its_budget(nursery, autojump_clock):
    bench = Bench(nursery)
    bench.origin.everything = Status(503)
    began = trio.current_time()
    error = await bench.fail(SourceUnavailable)
    assert 30 < trio.current_time() - began <= FetchLimits().read_budget_s
    assert len(bench.origin.requests) <= FetchLimits().max_attempts
    assert "r/a.sif" in str(error)
    assert URL in str(error)


async def test_a_background_fetch_gives_up_early(nursery, autojump_clock):
    bench = Bench(nursery)
    bench.origin.everything = Refused()
    await bench.fail(SourceUnavailable, demand=False)
    assert len(bench.origin.requests) == 3


async def test_a_background_fetch_that_somebody_joins_is_retried_as_demand(nursery, autojump_clock):
    """Regression: the reader got EIO after three attempts in a third of a second."""
    bench = Bench(nursery, [Stall(), *[Refused()] * 6])
    [flight] = bench.start([0], demand=False)
    await wait_all_tasks_blocked()
    assert bench.fetcher.flight(bench.image, 0, demand=True) is flight
    assert await flight.wait() == bench.content(0)
    assert len(bench.origin.requests) == 8


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Status(403), AccessDenied),
        (Status(404), ImageChanged),
        (Status(412), ImageChanged),
        (Status(400), SourceProtocolError),
        (Headers({"etag": '"v2"'}), ImageChanged),
        (Headers({"etag": None}), ImageChanged),
        (Headers({"content-range": "bytes 0-2999/9999"}), ImageChanged),
        (Headers({"content-range": "bytes 1-3000/10000"}), SourceProtocolError),
        (Headers({"content-encoding": "gzip"}), SourceProtocolError),
        (Bug(), SourceError),
    ],
)
async def test_what_time_does_not_heal_fails_at_once(nursery, autojump_clock, fault, kind):
    bench = Bench(nursery, [fault])
    await bench.fail(kind)
    assert len(bench.origin.requests) == 1
    assert bench.sink.blocks == {}


async def test_a_fault_of_the_program_is_counted_and_ends_nothing_else(nursery, autojump_clock):
    bench = Bench(nursery, [Bug()])
    await bench.fail(SourceError)
    assert bench.counters.unexpected_errors == 1
    await bench.fetch(range(3))


async def test_a_changed_file_is_noticed_between_two_attempts(nursery, autojump_clock):
    bench = Bench(nursery, [ResetAfter(1500)])
    flights = bench.start(range(3))
    assert await flights[0].wait() == bench.content(0)
    bench.origin.files["/a.sif"] = File(DATA[::-1], etag='"v2"')
    for flight in flights[1:]:
        with pytest.raises(ImageChanged):
            await flight.wait()
    assert sorted(bench.sink.blocks) == [0]


async def test_an_answer_longer_than_its_head_is_noticed(nursery, autojump_clock):
    bench = Bench(nursery, [Longer()])
    await bench.fetch(range(2))
    assert bench.counters.retries == 0


async def test_a_200_for_a_range_is_never_read_as_if_it_began_there(nursery, autojump_clock):
    bench = Bench(nursery)
    bench.origin.files["/a.sif"] = File(DATA, ranges=False)
    await bench.fail(SourceProtocolError, range(2, 4))
    assert bench.sink.blocks == {}


# --- whole files ---------------------------------------------------------------------------------


async def test_a_file_without_ranges_comes_whole_and_only_what_lacks_is_kept(nursery, autojump_clock):
    bench = Bench(nursery, file=File(DATA, ranges=False))
    await bench.fetch([1, 3, 9])
    assert bench.asked == []
    assert len(bench.origin.requests) == 1
    assert sorted(bench.sink.blocks) == [1, 3, 9]


async def test_a_broken_download_begins_again_where_a_validator_joins_the_two(nursery, autojump_clock):
    bench = Bench(nursery, [ResetAfter(4500)], file=File(DATA, ranges=False))
    await bench.fetch(range(10))
    assert len(bench.origin.requests) == 2


async def test_a_broken_download_is_not_joined_with_another_one_without_a_validator(nursery, autojump_clock):
    bench = Bench(nursery, [ResetAfter(4500)], file=NAMELESS)
    flights = bench.start(range(10))
    for flight in flights[:4]:
        assert await flight.wait() == bench.content(flight.index)
    for flight in flights[4:]:
        with pytest.raises(ImageChanged):
            await flight.wait()
    assert len(bench.origin.requests) == 1


async def test_a_download_that_brought_nothing_may_be_asked_for_again(nursery, autojump_clock):
    """Regression: one 503 made a file without a validator unreadable."""
    bench = Bench(nursery, [Status(503), ResetAfter(500)], file=NAMELESS)
    await bench.fetch(range(10))
    assert len(bench.origin.requests) == 3


async def test_a_download_of_a_predecessor_is_not_gone_on_with(nursery, autojump_clock):
    """Regression: after a restart, blocks of today's file were joined with those cached of yesterday's."""
    bench = Bench(nursery, file=NAMELESS)
    bench.image = replace(bench.image, validator=Bench(nursery, file=NAMELESS).image.validator)
    await bench.fail(ImageChanged)
    assert bench.origin.requests == []


async def test_what_the_origin_counts_is_asked_for_twice_at_most(nursery, autojump_clock):
    bench = Bench(nursery, file=NAMELESS)
    bench.image = replace(bench.image, location=replace(bench.image.location, once=True))
    bench.origin.everything = Status(503)
    await bench.fail(SourceUnavailable)
    assert len(bench.origin.requests) == 2


@pytest.mark.parametrize("demand", [True, False])
async def test_what_somebody_waits_for_is_asked_for_again_when_it_is_late(nursery, autojump_clock, demand):
    bench, held = Bench(nursery), trio.Event()
    for _ in range(100):
        await bench.fetch(range(1))
        bench.sink.blocks.clear()
    bench.origin.requests.clear()
    bench.origin.script.append(HoldHead(held))
    (flight,) = bench.start(range(1), demand=demand)
    await trio.sleep(1)
    assert len(bench.origin.requests) == (2 if demand else 1)
    held.set()
    assert await flight.wait() == bench.content(0)


# --- together ------------------------------------------------------------------------------------


async def test_requests_at_once_are_bounded_even_while_all_of_them_are_retried(nursery, autojump_clock):
    limits = FetchLimits(connections=4, background_connections=2)
    bench = Bench(nursery, [Stall(500)] * 8, limits=limits)
    flights = [bench.start([i], demand=i % 2 == 0)[0] for i in range(10)]
    for flight in flights:
        assert await flight.wait() == bench.content(flight.index)
    assert bench.origin.most_under_way <= 4


async def test_demand_overtakes_background(nursery, autojump_clock):
    go = trio.Event()
    limits = FetchLimits(connections=1, background_connections=1)
    bench = Bench(nursery, [HoldHead(go)], limits=limits)
    for i in range(4):
        bench.start([i], demand=False)
        await wait_all_tasks_blocked()
    [wanted] = bench.start([9])
    await wait_all_tasks_blocked()
    bench.fetcher.flight(bench.image, 3, demand=True)
    await wait_all_tasks_blocked()
    go.set()
    await wanted.wait()
    await wait_all_tasks_blocked()
    assert [start // 1000 for start, _ in bench.asked] == [0, 9, 3, 1, 2]


async def test_a_cancelled_reader_does_not_cancel_the_request(nursery, autojump_clock):
    go = trio.Event()
    bench = Bench(nursery, [HoldHead(go)])
    [flight] = bench.start([0])
    with trio.move_on_after(1) as scope:
        await flight.wait()
    assert scope.cancelled_caught
    go.set()
    assert await flight.wait() == bench.content(0)
    assert len(bench.origin.requests) == 1


async def test_a_full_disk_queue_holds_the_flow_back(nursery, autojump_clock):
    bench = Bench(nursery)
    bench.sink.full = trio.Event()
    flights = bench.start(range(5))
    await wait_all_tasks_blocked()
    assert sorted(bench.sink.blocks) == [0], "one chunk of the answer, and no more of it"
    bench.sink.full.set()
    assert await flights[4].wait() == bench.content(4)


@pytest.mark.parametrize("before_the_first_step", [True, False])
async def test_shutdown_fails_who_waits(nursery, autojump_clock, before_the_first_step):
    table, outcomes = None, []
    async with trio.open_nursery() as daemon:
        bench = Bench(daemon, [HoldHead(trio.Event())])
        table = bench.flights
        [flight] = bench.start([0])

        async def reader() -> None:
            with pytest.raises(SourceUnavailable, match="shutting down") as raised:
                await flight.wait()
            outcomes.append(raised.value)

        nursery.start_soon(reader)
        if not before_the_first_step:
            await wait_all_tasks_blocked()
        daemon.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    assert len(outcomes) == 1
    assert len(table) == 0


class Renewing:
    """A registry of one location."""

    def __init__(self, location: Location) -> None:
        self._location = location

    async def locate(self, path: str) -> Location:
        return self._location

    async def renew(self, image: Image) -> Location:
        return self._location

    async def list(self, path: str) -> None:
        return None


async def test_a_generation_guards_after_a_restart_as_before_it(nursery, autojump_clock):
    """Out of the state directory an image comes without its URL, and with the ETag that its metadata had then."""
    generations = VersionParameter("x-generation", "generation", etag_tells=False)
    bench = Bench(nursery, [Headers({"x-generation": "7", "etag": '"of other metadata"'})])
    bench.fetcher.locations = Locations(Renewing(Location(URL, URL, version=generations)), bench.counters)
    generation = Validator(ValidatorKind.GENERATION, "7")
    bench.image = replace(bench.image, location=Location("", URL), validator=generation, guard=ETAG)
    await bench.fetch(range(3))
    assert bench.origin.requests[0].url == f"{URL}?generation=7"
    assert bench.origin.requests[0].headers == {}
    bench.origin.script.append(Headers({"x-generation": "8"}))
    await bench.fail(ImageChanged, range(3, 5))
