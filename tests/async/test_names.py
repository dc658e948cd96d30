"""tree.names, name_cache and listings: one question at a time, remembered answers, and what an origin that is down
may not change.

Time is a mock clock that is moved by hand: threads (the state database) are at work.
"""

from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazysif.core.confirmation import Moment
from lazysif.errors import AccessDenied, NoSuchEntry, SourceProtocolError, SourceUnavailable
from lazysif.fetch.flights import FlightTable
from lazysif.fetch.policy import RemotePolicy
from lazysif.model import DirectoryEntry, EntryKind
from lazysif.telemetry import Counters
from lazysif.tree.listings import Listings
from lazysif.tree.name_cache import NameCache
from lazysif.tree.names import Names
from lazysif.tree.state import StateStore
from tests.support.cache_damage import eventually
from tests.support.fake_transport import Directory, FakeTransport, File, HoldHead, Status
from tests.support.world import make_remote

IMAGE = File(b"x" * 10_000)
DOWN = Status(501)  # fails at once, without retries
POLICY = RemotePolicy(revalidate_s=60.0, negative_s=5.0, probe_bytes=4096, lookup_budget_s=0.01)


class Clocks:
    """Of a node: `boot_s` goes with the mock clock of trio; the wall clock, too, until it is set."""

    def __init__(self):
        self.began_s = trio.current_time()
        self.set_by_s = 0.0
        self.boot = "first"

    def __call__(self):
        passed_s = trio.current_time() - self.began_s
        return Moment(1.8e9 + passed_s + self.set_by_s, 1000.0 + passed_s, self.boot)


class Bench:
    def __init__(self, nursery, directory, origin, policy=POLICY, clocks=None):
        self.origin = origin
        self.kept = []
        self.state = StateStore(directory)
        self.counters = Counters()
        self.remote = make_remote("r", origin, nursery, FlightTable(), self.counters, policy)
        self.known = NameCache()
        self.listings = Listings(nursery, self.known)
        self.names = Names(nursery, self.state, self.known, self.listings, self._keep, clocks or Clocks())

    async def _keep(self, found):
        self.kept.append(found.first_bytes)

    async def resolve(self, path="a.sif"):
        return await self.names.resolve(self.remote, path)


@pytest.fixture
def bench(nursery, tmp_path, mock_clock):
    made = []

    def make(files=None, script=(), policy=POLICY, clocks=None):
        origin = FakeTransport(files or {"/a.sif": IMAGE}, script)
        made.append(Bench(nursery, tmp_path, origin, policy, clocks))
        return made[-1]

    yield make
    for one in made:
        one.state.close()


async def test_a_name_is_asked_for_once_at_a_time(bench, nursery):
    go, found = trio.Event(), []
    it = bench(script=[HoldHead(go)])

    async def reader():
        found.append(await it.resolve())

    async with trio.open_nursery() as readers:
        for _ in range(20):
            readers.start_soon(reader)
        while not it.origin.requests:
            await trio.lowlevel.checkpoint()
        go.set()
    assert len({meaning.number for meaning in found}) == 1
    assert len(it.origin.requests) == 1
    assert it.kept == [IMAGE.data[:4096]], "the probe's bytes are kept"


async def test_an_asker_that_gives_up_hands_nothing_to_the_others(bench):
    go, leader, found = trio.Event(), trio.CancelScope(), []
    it = bench(script=[HoldHead(go)])

    async def reader(scope):
        with scope:
            found.append(await it.resolve())

    async with trio.open_nursery() as readers:
        readers.start_soon(reader, leader)
        while not it.origin.requests:
            await trio.lowlevel.checkpoint()
        readers.start_soon(reader, trio.CancelScope())
        await wait_all_tasks_blocked()
        leader.cancel()
        await wait_all_tasks_blocked()
        go.set()
    assert leader.cancelled_caught
    assert len(found) == 1
    assert len(it.origin.requests) == 1


async def test_an_answer_holds_for_its_time_and_is_then_asked_about(bench, mock_clock):
    it = bench()
    first = await it.resolve()
    mock_clock.jump(59)
    assert await it.resolve() == first
    assert len(it.origin.requests) == 1
    mock_clock.jump(2)
    assert await it.resolve() == first
    assert it.origin.requests[1].headers == {"If-None-Match": '"v1"'}
    assert len(it.kept) == 1, "304: no bytes came"


async def test_a_changed_file_is_another_inode(bench, mock_clock):
    it = bench()
    first = await it.resolve()
    it.origin.files["/a.sif"] = File(b"y" * 10_000, '"v2"')
    mock_clock.jump(61)
    second = await it.resolve()
    assert second.number != first.number
    it.origin.files["/a.sif"] = IMAGE
    mock_clock.jump(61)
    assert (await it.resolve()).number == first.number, "the same version is the same inode, also later"


async def test_doubt_asks_again_at_once(bench):
    it = bench()
    await it.resolve()
    it.origin.files["/a.sif"] = File(b"y" * 10_000, '"v2"')
    it.names.doubt("r", "a.sif")
    it.names.doubt("r", "never heard of.sif")
    assert (await it.resolve()).image.validator.value == '"v2"'


async def test_negatives_are_remembered_for_a_short_while(bench, mock_clock):
    it = bench()
    for _ in range(50):
        with pytest.raises(NoSuchEntry):
            await it.resolve("missing.sif")
    assert len(it.origin.requests) == 1
    it.origin.files["/missing.sif"] = IMAGE
    mock_clock.jump(6)
    assert (await it.resolve("missing.sif")).image is not None


@pytest.mark.parametrize(
    ("fault", "kind"), [(Status(501), SourceProtocolError), (Status(503), SourceUnavailable)]
)
async def test_a_storm_on_an_origin_that_is_down_is_one_request_a_second(bench, mock_clock, fault, kind):
    it = bench()
    it.origin.everything = fault
    for _ in range(50):
        with pytest.raises(kind, match=r"r/a\.sif"):
            await it.resolve()
    assert len(it.origin.requests) == 1
    mock_clock.jump(1.1)
    with pytest.raises(kind):
        await it.resolve()
    assert len(it.origin.requests) == 2


async def test_the_version_known_before_is_served_while_the_origin_is_down(bench, mock_clock):
    it = bench()
    first = await it.resolve()
    it.origin.everything = Status(503)
    mock_clock.jump(61)
    assert await it.resolve() == first
    again = bench()
    again.origin.everything = Status(503)
    assert (await again.resolve()).number == first.number, "also by the next daemon"
    assert again.origin.requests, "which asks: nobody confirmed it"


@pytest.mark.parametrize(("fault", "kind"), [(Status(404), NoSuchEntry), (Status(403), AccessDenied)])
async def test_what_the_origin_has_refused_does_not_come_back_when_it_is_down(bench, mock_clock, fault, kind):
    """Regression: a deleted or closed image was served again from the state of before."""
    it = bench(
        policy=RemotePolicy(
            revalidate_s=60, negative_s=5, probe_bytes=4096, lookup_budget_s=0.01, listing=False
        )
    )
    await it.resolve()
    it.origin.everything = fault
    mock_clock.jump(61)
    with pytest.raises(kind):
        await it.resolve()
    it.origin.everything = Status(503)
    mock_clock.jump(6)
    with pytest.raises(SourceUnavailable):
        await it.resolve()


@pytest.mark.parametrize("status", [400, 501])
async def test_an_origin_that_answers_nonsense_does_not_pass_for_one_that_is_down(bench, mock_clock, status):
    it = bench()
    await it.resolve()
    it.origin.everything = Status(status)
    mock_clock.jump(61)
    with pytest.raises(SourceProtocolError):
        await it.resolve()


# --- the next daemon ------------------------------------------------------------------------------


async def test_the_next_daemon_believes_for_the_rest_of_the_time(bench, mock_clock):
    """Regression: each upgrade or crash on a thousand nodes asked about each name, and starts waited for it."""
    clocks = Clocks()
    first = await bench({"/d": Directory(), "/d/a.sif": IMAGE}, clocks=clocks).resolve("d/a.sif")
    mock_clock.jump(40)
    second = bench({"/d/a.sif": File(b"y" * 10_000, '"v2"')}, clocks=clocks)
    found = await second.resolve("d/a.sif")
    assert (found.number, found.image.validator) == (first.number, first.image.validator)
    mock_clock.jump(19)
    assert await second.resolve("d/a.sif") == found
    assert second.origin.requests == []
    mock_clock.jump(2)
    assert (await second.resolve("d/a.sif")).number != first.number, "60 s in all"


async def test_directories_are_believed_too(bench, mock_clock):
    clocks = Clocks()
    first = await bench({"/d": Directory()}, clocks=clocks).resolve("d")
    mock_clock.jump(59)
    second = bench(clocks=clocks)
    assert await second.resolve("d") == first
    assert second.origin.requests == []
    mock_clock.jump(2)
    second.origin.files["/d"] = IMAGE
    assert (await second.resolve("d")).image is not None


async def test_a_revalidation_renews_the_time_for_the_next_daemon(bench, mock_clock):
    clocks = Clocks()
    it = bench(clocks=clocks)
    first = await it.resolve()
    mock_clock.jump(61)
    await it.resolve()
    assert it.counters.revalidations == 1
    mock_clock.jump(59)
    second = bench(clocks=clocks)
    assert (await second.resolve()).number == first.number
    assert second.origin.requests == []


@pytest.mark.parametrize("revalidate_s", [0.0, 30.0])
async def test_what_the_configuration_says_now_counts(bench, mock_clock, revalidate_s):
    clocks = Clocks()
    await bench(clocks=clocks).resolve()
    mock_clock.jump(30)
    policy = RemotePolicy(revalidate_s=revalidate_s, probe_bytes=4096, lookup_budget_s=0.01)
    second = bench(policy=policy, clocks=clocks)
    await second.resolve()
    assert len(second.origin.requests) == 1
    if not revalidate_s:
        await second.resolve()
        assert len(second.origin.requests) == 2


async def test_a_name_that_may_lead_elsewhere_now_is_asked_about(bench):
    clocks = Clocks()
    first = await bench(clocks=clocks).resolve()
    other = RemotePolicy(probe_bytes=4096, lookup_budget_s=0.01, asked_of="another URL")
    second = bench({"/a.sif": File(b"y" * 10_000, '"v2"')}, policy=other, clocks=clocks)
    assert (await second.resolve()).number != first.number


@pytest.mark.parametrize(
    ("passed_s", "set_by_s", "boot", "asks"),
    [
        pytest.param(10, 0, "first", False, id="no clock was set"),
        pytest.param(10, -20, "first", True, id="set back: it was confirmed in the future"),
        pytest.param(50, -20, "first", False, id="set back by less: the time since the boot counts"),
        pytest.param(70, -20, "first", True, id="set back by less, and the time is over all the same"),
        pytest.param(10, 3600, "first", True, id="set forward: it is asked too early"),
        pytest.param(10, 0, "second", False, id="another boot: the wall clock counts"),
        pytest.param(10, -20, "second", True, id="another boot, set back"),
        pytest.param(10, 0, "", False, id="a boot that is not known"),
    ],
)
async def test_a_clock_that_was_set_makes_no_belief_longer(bench, mock_clock, passed_s, set_by_s, boot, asks):
    clocks = Clocks()
    await bench(clocks=clocks).resolve()
    mock_clock.jump(passed_s)
    clocks.set_by_s, clocks.boot = set_by_s, boot
    second = bench(clocks=clocks)
    await second.resolve()
    assert bool(second.origin.requests) == asks


async def test_a_doubt_reaches_the_next_daemon(bench):
    clocks = Clocks()
    it = bench(clocks=clocks)
    await it.resolve()
    it.names.doubt("r", "a.sif")
    await eventually(lambda: it.state.remembered("r", "a.sif").confirmed is None)
    second = bench({"/a.sif": File(b"y" * 10_000, '"v2"')}, clocks=clocks)
    assert (await second.resolve()).image.validator.value == '"v2"'


async def test_a_daemon_doubts_what_its_predecessor_believed(bench, monkeypatch):
    """A handle of the predecessor's meets another version before the name was looked up here."""
    clocks = Clocks()
    await bench(clocks=clocks).resolve()
    second = bench({"/a.sif": File(b"y" * 10_000, '"v2"')}, clocks=clocks)
    monkeypatch.setattr(second.state, "doubt", lambda *_: None)  # the disk has not heard of it yet
    second.names.doubt("r", "a.sif")
    assert (await second.resolve()).image.validator.value == '"v2"'


async def test_a_doubt_is_written_even_at_the_end(tmp_path):
    async with trio.open_nursery() as nursery:
        it = Bench(nursery, tmp_path, FakeTransport({"/a.sif": IMAGE}))
        await it.resolve()
        it.names.doubt("r", "a.sif")
        nursery.cancel_scope.cancel()
    assert it.state.remembered("r", "a.sif").confirmed is None
    it.state.close()


@pytest.mark.parametrize("status", [404, 403])
async def test_what_the_origin_has_refused_is_not_believed_by_the_next_daemon(bench, mock_clock, status):
    """Not even where that one believes for longer."""
    clocks = Clocks()
    it = bench({"/d": Directory()}, clocks=clocks)
    await it.resolve("d")
    mock_clock.jump(61)
    it.origin.files["/d"] = it.origin.everything = Status(status)
    it.remote.policy = RemotePolicy(probe_bytes=4096, lookup_budget_s=0.01, listing=False)
    it.names._implies_directory = no_directory
    with pytest.raises((NoSuchEntry, AccessDenied)):
        await it.resolve("d")
    long = RemotePolicy(revalidate_s=3600, probe_bytes=4096, lookup_budget_s=0.01)
    second = bench({"/d": IMAGE}, policy=long, clocks=clocks)
    assert (await second.resolve("d")).image is not None


async def no_directory(remote, path):
    return False


async def test_a_download_that_nothing_can_be_told_of_is_asked_for_anew(bench):
    clocks = Clocks()
    nameless = File(b"x" * 10_000, None, None, ranges=False)
    await bench({"/a.sif": nameless}, clocks=clocks).resolve()
    second = bench({"/a.sif": nameless}, clocks=clocks)
    await second.resolve()
    assert len(second.origin.requests) == 1


# --- directories ---------------------------------------------------------------------------------


async def test_a_slash_added_makes_a_directory(bench):
    it = bench({"/d": Directory()})
    assert (await it.resolve("d")).image is None


@pytest.mark.parametrize(
    ("root", "path", "is_directory"),
    [
        pytest.param(None, "d", True, id="no listing: any name may be on the way to one"),
        pytest.param(None, "d.sif", False, id="no listing, but it looks like an image"),
        pytest.param(None, ".hidden", False, id="no listing, hidden"),
        pytest.param(Directory(directories=("d",)), "d", True, id="listed as a directory"),
        pytest.param(Directory(files=("d",)), "d", False, id="listed as a file"),
        pytest.param(Directory(), "d", False, id="not listed"),
    ],
)
async def test_a_listing_decides_over_names_that_answer_404(bench, root, path, is_directory):
    it = bench({} if root is None else {"": root})
    if is_directory:
        assert (await it.resolve(path)).image is None
        return
    with pytest.raises(NoSuchEntry):
        await it.resolve(path)


async def test_a_listing_is_asked_for_once_in_its_time(bench, mock_clock):
    it = bench({"": Directory(files=("a.sif",), directories=("d",))})
    expected = {DirectoryEntry("a.sif", EntryKind.FILE), DirectoryEntry("d", EntryKind.DIRECTORY)}
    for _ in range(3):
        assert set(await it.listings.entries(it.remote, "")) == expected
    assert len(it.origin.requests) == 1
    mock_clock.jump(61)
    await it.listings.entries(it.remote, "")
    assert len(it.origin.requests) == 2


async def test_a_listing_is_asked_for_once_at_a_time_and_nobody_cancels_it(bench):
    """Regression: twenty `ls` were twenty requests, and a deadline cancelled one inside the transport."""
    go, leader, found = trio.Event(), trio.CancelScope(), []
    policy = replace(POLICY, lookup_budget_s=5.0)
    it = bench({"": Directory(files=("a.sif",))}, script=[HoldHead(go)], policy=policy)

    async def reader(scope):
        with scope:
            found.append(await it.listings.entries(it.remote, ""))

    async with trio.open_nursery() as readers:
        readers.start_soon(reader, leader)
        await eventually(lambda: it.origin.under_way == 1)
        for _ in range(19):
            readers.start_soon(reader, trio.CancelScope())
        await wait_all_tasks_blocked()
        leader.cancel()
        await wait_all_tasks_blocked()
        assert it.origin.under_way == 1
        go.set()
    assert len(found) == 19
    assert len(it.origin.requests) == 1


async def test_a_listing_that_fails_is_an_error_for_all_who_wait(bench):
    it = bench()
    it.origin.everything = Status(501)
    with pytest.raises(SourceProtocolError):
        await it.listings.entries(it.remote, "")


async def test_names_used_lately_stand_in_for_a_listing(bench):
    it = bench({"/a.sif": IMAGE, "/d/b.sif": IMAGE})
    await it.resolve("a.sif")
    await it.resolve("d/b.sif")
    with pytest.raises(NoSuchEntry):
        await it.resolve("c.sif")
    assert list(it.known.below("r", "")) == ["a.sif"]
    assert list(it.known.below("r", "d")) == ["b.sif"]
    assert it.known.below("other", "") == {}


async def storm(it, number, first=0):
    for i in range(first, first + number):
        with pytest.raises(NoSuchEntry):
            await it.resolve(f"missing-{i}.sif")


async def test_a_storm_of_missing_names_ends_at_a_listing_that_lacks_them(bench, mock_clock):
    it = bench({"": Directory(files=("a.sif",)), "/a.sif": IMAGE})
    await storm(it, 20_000)
    assert len(it.origin.requests) < 200
    assert len(it.known._misses) <= 10_000
    assert (await it.resolve("a.sif")).image is not None, "what is listed is asked for"
    mock_clock.jump(61)
    it.origin.files["/missing-5.sif"] = IMAGE
    assert (await it.resolve("missing-5.sif")).image is not None, "a listing is believed for its time"


async def test_a_listing_that_hides_names_is_not_believed_about_them(bench):
    it = bench({"": Directory(files=("a.sif",)), "/a.sif": IMAGE, "/hidden.sif": IMAGE})
    await it.resolve("hidden.sif")
    await storm(it, 300)
    assert len(it.origin.requests) >= 300


async def test_a_storm_without_a_listing_is_bounded_in_memory_and_drives_out_nothing(bench, monkeypatch):
    monkeypatch.setattr("lazysif.tree.name_cache._MAX_MISSES", 100)
    it = bench()
    image = await it.resolve()
    await storm(it, 500)
    assert len(it.known._misses) == 100
    asked = len(it.origin.requests)
    assert await it.resolve() == image
    assert len(it.origin.requests) == asked


@pytest.mark.parametrize(("status", "is_directory"), [(404, True), (410, True), (403, True), (401, False)])
async def test_only_a_refusal_that_can_mean_missing_may_imply_a_directory(bench, status, is_directory):
    """Regression: 401 on a name without an image's suffix was a directory, and a wrong password looked like one."""
    it = bench()
    it.origin.everything = Status(status)
    if is_directory:
        assert (await it.resolve("d")).image is None
        return
    with pytest.raises(AccessDenied):
        await it.resolve("d")
