"""fetch.lanes: demand before background, promotion, places that are never lost or made up."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazysif.fetch.lanes import Lanes, Ticket


class Bench:
    """Users of lanes that hold their place until told to go."""

    def __init__(self, nursery: trio.Nursery, places: int, background: int) -> None:
        self.lanes = Lanes(places, background)
        self.nursery = nursery
        self.inside: list[str] = []
        self.tickets: dict[str, Ticket] = {}
        self.scopes: dict[str, trio.CancelScope] = {}
        self._go: dict[str, trio.Event] = {}

    async def enter(self, name: str, *, demand: bool, ticket: Ticket | None = None) -> None:
        self.tickets[name] = ticket or Ticket(demand)
        self.nursery.start_soon(self._hold, name)
        await wait_all_tasks_blocked()

    async def leave(self, name: str) -> None:
        self._go[name].set()
        await wait_all_tasks_blocked()

    async def cancel(self, name: str) -> None:
        self.scopes[name].cancel()
        await wait_all_tasks_blocked()

    async def promote(self, name: str) -> None:
        self.lanes.promote(self.tickets[name])
        await wait_all_tasks_blocked()

    async def _hold(self, name: str) -> None:
        self._go[name] = trio.Event()
        with trio.CancelScope() as self.scopes[name]:
            async with self.lanes.place(self.tickets[name]):
                self.inside.append(name)
                try:
                    await self._go[name].wait()
                finally:
                    self.inside.remove(name)


async def test_demand_goes_before_background(nursery, autojump_clock):
    bench = Bench(nursery, 1, 1)
    await bench.enter("first", demand=True)
    await bench.enter("background", demand=False)
    await bench.enter("demand 1", demand=True)
    await bench.enter("demand 2", demand=True)
    order = []
    while bench.inside:
        order += bench.inside
        await bench.leave(bench.inside[0])
    assert order == ["first", "demand 1", "demand 2", "background"]


async def test_background_never_takes_all_places(nursery, autojump_clock):
    bench = Bench(nursery, 3, 2)
    for name in "abc":
        await bench.enter(name, demand=False)
    assert bench.inside == ["a", "b"]
    await bench.enter("demand", demand=True)
    assert bench.inside == ["a", "b", "demand"]
    await bench.leave("demand")
    assert bench.inside == ["a", "b"]
    await bench.leave("a")
    assert bench.inside == ["b", "c"]


async def test_a_promoted_ticket_goes_before_older_background(nursery, autojump_clock):
    bench = Bench(nursery, 1, 1)
    for name in ("holder", "old", "young"):
        await bench.enter(name, demand=False)
    await bench.promote("young")
    await bench.leave("holder")
    assert bench.inside == ["young"]


async def test_promotion_takes_a_place_that_background_may_not(nursery, autojump_clock):
    bench = Bench(nursery, 2, 1)
    await bench.enter("a", demand=False)
    await bench.enter("b", demand=False)
    assert bench.inside == ["a"]
    await bench.promote("b")
    assert bench.inside == ["a", "b"]


async def test_a_place_promoted_while_held_is_given_back_to_the_lane_it_came_from(nursery, autojump_clock):
    bench = Bench(nursery, 2, 1)
    await bench.enter("a", demand=False)
    await bench.promote("a")
    assert bench.tickets["a"].demand
    await bench.leave("a")
    await bench.enter("b", demand=False)
    await bench.enter("c", demand=False)
    assert bench.inside == ["b"], "background holds one place, not two and not none"
    await bench.enter("d", demand=True)
    await bench.enter("e", demand=True)
    assert bench.inside == ["b", "d"]


@pytest.mark.parametrize("demand", [True, False])
async def test_whoever_stops_waiting_leaves_the_queue(nursery, autojump_clock, demand):
    bench = Bench(nursery, 1, 1)
    await bench.enter("holder", demand=True)
    await bench.enter("gone", demand=demand)
    await bench.enter("next", demand=demand)
    await bench.cancel("gone")
    await bench.leave("holder")
    assert bench.inside == ["next"]


async def test_whoever_is_cancelled_inside_gives_its_place_back(nursery, autojump_clock):
    bench = Bench(nursery, 1, 1)
    await bench.enter("holder", demand=False)
    await bench.enter("next", demand=False)
    await bench.cancel("holder")
    assert bench.inside == ["next"]


async def test_cancelled_between_the_call_and_the_entry(nursery, autojump_clock):
    bench = Bench(nursery, 1, 1)
    await bench.enter("holder", demand=True)
    await bench.enter("called", demand=True)
    bench._go["holder"].set()
    bench.scopes["called"].cancel()
    await wait_all_tasks_blocked()
    await bench.enter("next", demand=True)
    assert bench.inside == ["next"]


async def test_a_ticket_that_comes_again_waits_again(nursery, autojump_clock):
    """Regression: a retry passed straight through, however many held places."""
    bench = Bench(nursery, 1, 1)
    ticket = Ticket(demand=True)
    await bench.enter("first go", demand=True, ticket=ticket)
    await bench.leave("first go")
    await bench.enter("other", demand=True)
    await bench.enter("second go", demand=True, ticket=ticket)
    assert bench.inside == ["other"]
    await bench.leave("other")
    assert bench.inside == ["second go"]
    await bench.enter("late", demand=True)
    assert bench.inside == ["second go"]


async def test_a_ticket_promoted_between_two_goes_waits_with_demand(nursery, autojump_clock):
    """Regression: a reader who joined a background fetch under way left it in the background."""
    bench = Bench(nursery, 1, 1)
    ticket = Ticket(demand=False)
    await bench.enter("first go", demand=False, ticket=ticket)
    bench.lanes.promote(ticket)
    await bench.leave("first go")
    await bench.enter("other", demand=True)
    await bench.enter("older", demand=False)
    await bench.enter("second go", demand=False, ticket=ticket)
    await bench.leave("other")
    assert bench.inside == ["second go"]


# --- bulk -------------------------------------------------------------------------------------------------


async def test_bulk_goes_behind_all_others_and_has_half_of_the_background(nursery, autojump_clock):
    bench = Bench(nursery, 8, 4)
    for name in "abc":
        await bench.enter(name, demand=False, ticket=Ticket(False, bulk=True))
    assert bench.inside == ["a", "b"]
    await bench.enter("background", demand=False)
    await bench.enter("demand", demand=True)
    assert bench.inside == ["a", "b", "background", "demand"]
    await bench.leave("a")
    assert bench.inside[-1] == "c"


async def test_bulk_that_somebody_waits_for_is_demand(nursery, autojump_clock):
    bench = Bench(nursery, 2, 2)
    for name in "ab":
        await bench.enter(name, demand=False, ticket=Ticket(False, bulk=True))
    assert bench.inside == ["a"]
    await bench.promote("b")
    assert bench.inside == ["a", "b"]


async def test_bulk_stands_still_while_demand_is_under_way_and_crawls_where_that_does_not_end(
    nursery, autojump_clock
):
    bench = Bench(nursery, 4, 4)
    lanes, bulk, prefetch = bench.lanes, Ticket(False, bulk=True), Ticket(False)
    began = trio.current_time()
    await lanes.give_way(bulk)
    await bench.enter("demand", demand=True)
    await lanes.give_way(prefetch)
    assert trio.current_time() == began, "nothing to give way to, or nothing that gives way"
    await lanes.give_way(bulk)
    assert 0 < trio.current_time() - began < 1, "for a moment"

    done = trio.Event()

    async def give_way() -> None:
        await lanes.give_way(bulk)
        done.set()

    began = trio.current_time()
    nursery.start_soon(give_way)
    await wait_all_tasks_blocked()
    await bench.leave("demand")
    assert done.is_set()
    assert trio.current_time() == began


async def test_bulk_that_is_promoted_no_longer_gives_way(nursery, autojump_clock):
    bench = Bench(nursery, 4, 4)
    await bench.enter("demand", demand=True)
    ticket = Ticket(False, bulk=True)
    began = trio.current_time()
    nursery.start_soon(bench.lanes.give_way, ticket)
    await wait_all_tasks_blocked()
    bench.lanes.promote(ticket)
    await wait_all_tasks_blocked()
    await bench.lanes.give_way(ticket)
    assert trio.current_time() == began


async def test_bulk_that_somebody_comes_to_wait_for_gives_way_no_longer(nursery, autojump_clock):
    bench = Bench(nursery, 2, 2)
    await bench.enter("demand", demand=True)
    await bench.enter("bulk", demand=False, ticket=Ticket(False, bulk=True))
    began = trio.current_time()
    async with trio.open_nursery() as readers:
        readers.start_soon(bench.lanes.give_way, bench.tickets["bulk"])
        await wait_all_tasks_blocked()
        bench.lanes.promote(bench.tickets["bulk"])
    assert trio.current_time() == began
