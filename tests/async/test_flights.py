"""fetch.flights: one fetch for a block; a reader's cancellation is its own."""

import traceback

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazysif.errors import SourceUnavailable
from lazysif.fetch.flights import Flight, FlightTable
from lazysif.fetch.lanes import Ticket
from lazysif.model import ImageId

A, B = ImageId("a" * 32), ImageId("b" * 32)


def flight(index: int = 0) -> Flight:
    return Flight(index, Ticket(demand=True))


async def test_all_who_wait_get_the_bytes_and_so_does_who_comes_late(nursery, autojump_clock):
    one, got = flight(), []

    async def reader() -> None:
        got.append(await one.wait())

    for _ in range(20):
        nursery.start_soon(reader)
    await wait_all_tasks_blocked()
    one.land(b"block")
    await wait_all_tasks_blocked()
    assert got == [b"block"] * 20
    assert await one.wait() == b"block"


async def test_a_cancelled_reader_leaves_the_flight_to_the_others(nursery, autojump_clock):
    one, got = flight(), []

    async def reader(scope: trio.CancelScope) -> None:
        with scope:
            got.append(await one.wait())

    leader, follower = trio.CancelScope(), trio.CancelScope()
    nursery.start_soon(reader, leader)
    await wait_all_tasks_blocked()
    nursery.start_soon(reader, follower)
    await wait_all_tasks_blocked()
    leader.cancel()
    await wait_all_tasks_blocked()
    one.land(b"block")
    await wait_all_tasks_blocked()
    assert got == [b"block"]
    assert leader.cancelled_caught
    assert not follower.cancelled_caught


async def test_an_error_reaches_every_reader_with_a_traceback_of_its_own(nursery, autojump_clock):
    one = flight()
    one.fail(SourceUnavailable("down"))
    lengths = []
    for _ in range(5):
        with pytest.raises(SourceUnavailable, match="down") as raised:
            await one.wait()
        lengths.append(len(traceback.extract_tb(raised.value.__traceback__)))
    assert len(set(lengths)) == 1, "not longer with each reader"


async def test_the_table_knows_a_flight_by_image_and_block():
    table = FlightTable()
    one, two = flight(3), flight(3)
    table.add(A, one)
    table.add(B, two)
    assert table.get(A, 3) is one
    assert table.get(B, 3) is two
    assert table.get(A, 4) is None
    assert table.remove(A, 3) is one
    assert table.remove(A, 3) is None
    assert len(table) == 1


async def test_a_second_flight_for_a_block_is_a_fault_of_the_program():
    table = FlightTable()
    table.add(A, flight(3))
    with pytest.raises(AssertionError):
        table.add(A, flight(3))
