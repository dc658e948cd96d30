"""fetch.hedge: the late request, its second, and what becomes of the one that loses."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import trio

from lazysif.errors import SourceUnavailable
from lazysif.fetch.hedge import Hedge
from lazysif.model import ByteRange, Request
from lazysif.telemetry import Counters
from tests.support.fake_transport import (
    Bug,
    FakeTransport,
    File,
    HoldHead,
    Ok,
    Refused,
    ResetAfter,
    Stall,
)

DATA = bytes(range(256)) * 400
REQUEST = Request("http://origin/a", byte_range=ByteRange(1000, 5000), stall_s=20.0)


class Bench:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.origin = FakeTransport({"/a": File(DATA)})
        self.counters = Counters()
        self.hedge = Hedge(nursery, self.origin, self.counters)

    async def get(self, *, in_haste: bool = True) -> bytes:
        async with self.hedge.send(REQUEST, in_haste=in_haste) as answer, aclosing(answer.chunks()) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def learn(self) -> None:
        """A hundred answers at once: from 5 ms on a request is late."""
        for _ in range(100):
            assert await self.get() == DATA[1000:5000]
        assert self.counters.hedged_requests == 0
        self.origin.requests.clear()


async def test_a_late_request_is_sent_again_and_the_first_answer_counts(nursery, autojump_clock):
    bench, held = Bench(nursery), trio.Event()
    await bench.learn()
    bench.origin.script.extend([HoldHead(held), Ok()])
    began = trio.current_time()
    assert await bench.get() == DATA[1000:5000]
    assert trio.current_time() - began < 0.1
    assert len(bench.origin.requests) == 2
    assert (bench.counters.hedged_requests, bench.counters.hedges_won) == (1, 1)
    await trio.testing.wait_all_tasks_blocked()
    assert bench.origin.under_way == 1, "nobody cancels a request"
    held.set()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.origin.under_way == 0, "and it is let go of when it is answered"


async def test_a_process_that_is_late_itself_sends_nothing_again(nursery, autojump_clock):
    """Regression: where many starts left the daemon no processor, its own lateness counted as the origin's."""
    bench, held = Bench(nursery), trio.Event()
    await bench.learn()
    bench.origin.script.extend([HoldHead(held), Ok()])
    async with trio.open_nursery() as readers:
        readers.start_soon(bench.get)
        await trio.testing.wait_all_tasks_blocked()
        autojump_clock.jump(0.5)
        await trio.testing.wait_all_tasks_blocked()
        assert bench.counters.hedged_requests == 0
        await trio.sleep(1)
        assert bench.counters.hedged_requests == 1, "from then on it was the origin"
        held.set()


async def test_the_first_may_still_win(nursery, autojump_clock):
    bench, first, second = Bench(nursery), trio.Event(), trio.Event()
    await bench.learn()
    bench.origin.script.extend([HoldHead(first), HoldHead(second)])
    async with trio.open_nursery() as readers:
        readers.start_soon(bench.get)
        await trio.sleep(1)
        first.set()
    assert (bench.counters.hedged_requests, bench.counters.hedges_won) == (1, 0)
    second.set()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.origin.under_way == 0


async def test_where_nobody_waits_nothing_is_sent_twice(nursery, autojump_clock):
    bench, held = Bench(nursery), trio.Event()
    await bench.learn()
    bench.origin.script.append(HoldHead(held))
    async with trio.open_nursery() as readers:
        readers.start_soon(lambda: bench.get(in_haste=False))
        await trio.sleep(5)
        assert len(bench.origin.requests) == 1
        held.set()


async def test_one_that_fails_leaves_the_race_to_the_other(nursery, autojump_clock):
    bench, held = Bench(nursery), trio.Event()
    await bench.learn()
    bench.origin.script.extend([HoldHead(held), Refused()])
    async with trio.open_nursery() as readers:
        readers.start_soon(bench.get)
        await trio.sleep(1)
        assert bench.counters.hedged_requests == 1
        held.set()
    bench.origin.script.append(Refused())
    with pytest.raises(SourceUnavailable, match="refused by the test"):
        await bench.get()
    assert len(bench.origin.requests) == 3, "what fails at once is not late"


async def test_a_body_that_breaks_off_is_the_readers_to_retry(nursery, autojump_clock):
    bench = Bench(nursery)
    await bench.learn()
    for fault in (ResetAfter(2000), Stall(2000)):
        bench.origin.script.append(fault)
        with pytest.raises(SourceUnavailable):
            await bench.get()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.origin.under_way == 0


async def test_a_reader_that_leaves_ends_the_race(nursery, autojump_clock):
    bench, held = Bench(nursery), trio.Event()
    await bench.learn()
    bench.origin.script.extend([HoldHead(held), HoldHead(held)])
    with trio.move_on_after(1):
        await bench.get()
    held.set()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.origin.under_way == 0
    assert await bench.get() == DATA[1000:5000]


async def test_the_price_is_bounded(nursery, autojump_clock):
    """An origin that has become slow altogether is not asked twice for everything."""
    bench = Bench(nursery)
    await bench.learn()
    held = trio.Event()
    bench.origin.everything = HoldHead(held)
    async with trio.open_nursery() as readers:
        for _ in range(1000):
            readers.start_soon(bench.get)
        await trio.sleep(5)
        extra = (len(bench.origin.requests) - 1000) * 4000
        assert 0 < extra <= 0.02 * 1100 * 4000
        held.set()


async def test_what_is_answered_in_time_is_sent_once(nursery, autojump_clock):
    bench = Bench(nursery)
    await bench.learn()
    assert await bench.get() == DATA[1000:5000]
    bench.origin.script.append(Refused())
    with pytest.raises(SourceUnavailable):
        await bench.get()
    await trio.testing.wait_all_tasks_blocked()
    assert (len(bench.origin.requests), bench.counters.hedged_requests) == (2, 0)


async def test_a_fault_of_the_program_keeps_nobody_waiting(nursery, autojump_clock):
    bench = Bench(nursery)
    await bench.learn()
    bench.origin.script.extend([Bug(), Bug()])
    with trio.fail_after(1), pytest.raises(RuntimeError):
        await bench.get()
