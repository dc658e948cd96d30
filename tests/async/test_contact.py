"""fetch.contact: when an origin is offline, who may try, and what that means for reads and names."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazysif.control.watchdog import Watchdog, iso_time, task_tree
from lazysif.errors import SourceTimeout, SourceUnavailable
from lazysif.fetch.contact import Contact, WatchedTransport
from lazysif.model import ByteRange, Request
from lazysif.telemetry import InHand
from tests.support.fake_transport import FakeTransport, File, Ok, Refused, Status
from tests.support.world import world

DATA = bytes(range(256)) * 4000
URL = "http://origin/a.sif"


def gone(contact, error=None):
    contact.failed(trio.current_time(), error or SourceTimeout("silent", origin=URL))


async def ask(transport):
    async with transport.send(Request(URL)) as answer:
        async for _ in answer.chunks():
            pass


async def test_one_timeout_or_two_refusals_are_offline_and_one_answer_is_back(autojump_clock):
    contact = Contact("bio")
    origin = FakeTransport({"/a.sif": File(DATA)}, script=[Refused(), Refused(), Status(503), Ok()])
    transport = WatchedTransport(origin, contact)
    for offline in (False, True):
        with pytest.raises(SourceUnavailable):
            await ask(transport)
        assert contact.offline is offline
    assert iso_time(contact.offline_since).endswith("+00:00")
    await ask(transport)
    assert not contact.offline, "503 is an answer"
    gone(contact)
    assert contact.offline
    await ask(transport)
    assert not contact.offline


async def test_a_request_that_stalls_while_others_are_answered_says_nothing(autojump_clock):
    contact = Contact()
    began = trio.current_time()
    await trio.sleep(1)
    contact.answered()
    contact.failed(began, SourceTimeout("silent"))
    assert not contact.offline


async def test_a_host_that_is_gone_says_nothing_while_another_answers(autojump_clock):
    contact = Contact()
    gone_host, there = SourceUnavailable("no such host"), "ghcr.example"
    contact.answered(there)
    await trio.sleep(1)
    for _ in range(5):
        contact.failed(trio.current_time(), gone_host, "gone.example")
    assert not contact.offline
    assert contact.last_error
    for _ in range(2):
        contact.failed(trio.current_time(), gone_host, there)
    assert contact.offline, "of the one that answered it is believed"
    contact.answered(there)
    await trio.sleep(100)
    for _ in range(2):
        contact.failed(trio.current_time(), gone_host, "gone.example")
    assert contact.offline, "nobody has answered lately"


async def test_an_origin_that_is_offline_is_tried_by_one_at_a_time(autojump_clock):
    contact = Contact()
    gone(contact)
    trying = most = tries = 0

    async def reader():
        nonlocal trying, most, tries
        async with contact.turn(60, 20):
            if not contact.offline:
                return
            trying, tries = trying + 1, tries + 1
            most = max(most, trying)
            await trio.sleep(0.5)
            if tries == 3:
                contact.answered()
            else:
                gone(contact)
            trying -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(reader)
    assert (most, tries) == (1, 3)


async def test_who_waits_in_vain_is_told_why(autojump_clock):
    contact = Contact()
    gone(contact)
    async with contact.turn(5, 20) as patience_s:
        assert patience_s < 20
        with pytest.raises(SourceTimeout, match=r"offline: silent"):
            async with contact.turn(5, 20):
                pass
        assert trio.current_time() >= 5


async def test_it_comes_back_by_itself(autojump_clock, nursery):
    contact = Contact()
    origin = FakeTransport({"/a.sif": File(DATA)}, script=[Refused()] * 4)
    transport = WatchedTransport(origin, contact)
    nursery.start_soon(transport.watch, 20.0)
    for _ in range(2):
        with pytest.raises(SourceUnavailable):
            await ask(transport)
    assert contact.offline
    with trio.fail_after(120):
        while contact.offline:  # noqa: ASYNC110
            await trio.sleep(1)
    assert len(origin.requests) == 5


async def test_what_is_counted_is_not_asked_again_to_see_whether_the_origin_is_back(autojump_clock, nursery):
    contact = Contact()
    origin = FakeTransport({"/a.sif": File(DATA)}, script=[Refused()] * 20)
    transport = WatchedTransport(origin, contact)
    nursery.start_soon(transport.watch, 20.0)
    for _ in range(2):
        with pytest.raises(SourceUnavailable):
            async with transport.send(Request(URL, once=True)):
                pass
    assert contact.offline
    await trio.sleep(120)
    assert len(origin.requests) == 2
    with pytest.raises(SourceUnavailable):
        await ask(transport)
    await trio.sleep(120)
    assert len(origin.requests) > 3, "what is not counted is asked"


async def test_offline_nothing_is_read_ahead_and_known_names_are_served_at_once(tmp_path):
    origin = FakeTransport({"/a.sif": File(DATA)})
    async with world(tmp_path, origin) as it:
        number = await it.open("a.sif")
        await it.read(number, 0, 4096)
        while origin.under_way:  # noqa: ASYNC110
            await trio.sleep(0.01)
        contact = it.remotes[""].contact
        gone(contact)
        before = len(origin.requests)
        opened = it.images.listed()[0]
        assert opened.asking.prefetch(ByteRange(500_000, 600_000)) == []
        assert len(origin.requests) == before
        assert await it.read(number, 0, 4096) == DATA[:4096]
        assert await it.read(number, 900_000, 100) == DATA[900_000:900_100], "a reader tries"
        assert not contact.offline


async def test_requests_in_hand_are_counted_by_kind_with_the_age_of_the_oldest():
    in_hand = InHand()
    first = in_hand.enter("read", 10.0)
    in_hand.enter("read", 12.0)
    in_hand.enter("lookup", 13.0)
    assert in_hand.by_kind() == {"read": 2, "lookup": 1}
    assert in_hand.oldest_s(20.0) == 10.0
    in_hand.leave(first)
    assert in_hand.oldest_s(20.0) == 8.0


async def test_the_watchdog_shows_the_tasks_once_a_minute(autojump_clock, caplog, monkeypatch):
    in_hand = InHand()
    monkeypatch.setattr("lazysif.control.watchdog.time.monotonic", trio.current_time)
    in_hand.enter("read", trio.current_time())
    with trio.move_on_after(100):
        await Watchdog(in_hand).run()
    shown = [r for r in caplog.records if "in hand for" in r.getMessage()]
    assert len(shown) == 2
    assert "test_the_watchdog" in shown[0].getMessage()


async def test_the_task_tree_is_bounded(nursery):
    for i in range(300):
        nursery.start_soon(trio.sleep_forever, name=f"one{i}")
    await wait_all_tasks_blocked()
    assert len(task_tree(trio.lowlevel.current_root_task(), most=50)) <= 51


async def test_a_refusal_of_long_ago_does_not_count_with_one_of_now(autojump_clock):
    origin = FakeTransport({"/a.sif": File(DATA)}, script=[Refused(), Ok(), Refused()])
    contact = Contact()
    transport = WatchedTransport(origin, contact)
    for answered in (False, True, False):
        if answered:
            await ask(transport)
        else:
            with pytest.raises(SourceUnavailable):
                await ask(transport)
        await trio.sleep(60)
    assert not contact.offline, "one found no connection since the last answer"


async def test_silence_while_nothing_is_asked_is_no_doubt(autojump_clock):
    contact = Contact()
    transport = WatchedTransport(FakeTransport({"/a.sif": File(DATA)}, script=[Ok(), Status(404)]), contact)
    for _ in range(2):
        await ask(transport)
        await trio.sleep(60)
        assert not contact.doubtful
