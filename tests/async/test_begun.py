"""Whole downloads that a look-up begins and a reader goes on with: one GET where each is counted."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import trio
from trio.testing import MockClock

from lazysif.errors import SourceUnavailable
from lazysif.fetch.begun import Begun
from lazysif.model import Answer, ImageId, Request
from tests.support.fake_transport import Bug, FakeTransport, File, HoldHead, Refused

URL = "http://origin/x.sif"
DATA = bytes(range(256)) * 100
FIRST, OTHER = ImageId("1" * 32), ImageId("2" * 32)


async def begin(begun: Begun, image_id: ImageId | None) -> int:
    async with begun.begin(Request(URL)) as answer:
        answer.keep_for = image_id
        return answer.head.status


async def body(answer: Answer) -> bytes:
    async with aclosing(answer.chunks()) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_the_first_who_comes_takes_it_and_others_ask_anew(nursery: trio.Nursery) -> None:
    transport = FakeTransport({"/x.sif": File(DATA)})
    begun = Begun(nursery, transport)
    assert await begin(begun, FIRST) == 200
    async with begun.take(OTHER) as answer:
        assert answer is None
    async with begun.take(FIRST) as answer:
        assert answer is not None
        async with begun.take(FIRST) as second:
            assert second is None
        assert await body(answer) == DATA
    await trio.testing.wait_all_tasks_blocked()
    assert (len(transport.requests), transport.under_way) == (1, 0)


async def test_what_nobody_takes_is_let_go(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    transport = FakeTransport({"/x.sif": File(DATA)})
    begun = Begun(nursery, transport)
    await begin(begun, FIRST)
    assert transport.under_way == 1
    await trio.sleep(31)
    assert transport.under_way == 0
    async with begun.take(FIRST) as answer:
        assert answer is None


async def test_a_reader_may_take_longer_than_it_is_kept(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = FakeTransport({"/x.sif": File(DATA)})
    begun = Begun(nursery, transport)
    await begin(begun, FIRST)
    async with begun.take(FIRST) as answer:
        assert answer is not None
        await trio.sleep(300)
        assert transport.under_way == 1
        assert await body(answer) == DATA


async def test_one_that_is_not_kept_or_is_replaced_is_let_go(nursery: trio.Nursery) -> None:
    transport = FakeTransport({"/x.sif": File(DATA)})
    begun = Begun(nursery, transport)
    await begin(begun, None)
    await trio.testing.wait_all_tasks_blocked()
    assert transport.under_way == 0
    await begin(begun, FIRST)
    await begin(begun, FIRST)
    await trio.testing.wait_all_tasks_blocked()
    assert transport.under_way == 1


async def test_a_look_up_that_gives_up_cancels_no_request(nursery: trio.Nursery) -> None:
    came = trio.Event()
    transport = FakeTransport({"/x.sif": File(DATA)}, script=[HoldHead(came)])
    begun = Begun(nursery, transport)
    with trio.move_on_after(0.01):
        await begin(begun, FIRST)
    assert transport.under_way == 1
    came.set()
    await trio.testing.wait_all_tasks_blocked()
    assert transport.under_way == 0


async def test_failures_are_the_look_ups_and_not_the_daemons(nursery: trio.Nursery) -> None:
    transport = FakeTransport({"/x.sif": File(DATA)}, script=[Refused(), Bug()])
    begun = Begun(nursery, transport)
    with pytest.raises(SourceUnavailable):
        await begin(begun, FIRST)
    with pytest.raises(Exception, match="internal error"):
        await begin(begun, FIRST)
    assert await begin(begun, FIRST) == 200
