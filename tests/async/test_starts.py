"""Starts are recorded, kept, followed and shared; traces that are not what they should be are refused."""

import os
import random
import shutil
import tempfile
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from lazysif.core import trace as core_trace
from lazysif.core.ahead import watch
from lazysif.core.trace import Trace, TracePath, trace_key
from lazysif.errors import FormatError, SourceTimeout, SourceUnavailable
from lazysif.model import AnswerHead
from lazysif.traces import sharing
from lazysif.traces.sharing import BesideImage, FolderShare, UrlShare
from lazysif.traces.store import TraceStore
from lazysif.traces.trace_file import SUFFIX, decode, encode
from tests.support.fake_transport import FakeTransport, File
from tests.support.world import world

BLOCK = 4096
COUNT = 600
DATA = random.Random(11).randbytes(COUNT * BLOCK - 100)
KEY = trace_key(len(DATA), DATA)
QUICK = {"quiet_s": 0.5, "jitter_s": 0.0}
HEAD = list(range(16))
"""Blocks that are read by whoever opens an image, to find out which one it is."""
JOB = [*HEAD, *random.Random(12).sample(range(40, COUNT), 120)]
OTHER = [*HEAD, *random.Random(13).sample(sorted(set(range(40, COUNT)) - set(JOB)), 100)]


@pytest.fixture
def tmp_path():
    """In memory: a disk that other tests keep busy makes pauses in a start, and a pause is its end."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as directory:
        yield Path(directory)


async def start(it, blocks, name="a.sif"):
    """Read one piece of each of these blocks, as a job does that computes a while before each."""
    number = await it.open(name)
    for block in blocks:
        await trio.sleep(0.001)
        assert await it.read(number, block * BLOCK, 100) == DATA[block * BLOCK : block * BLOCK + 100]
    await it.tree.files.release(number)
    return number


async def begin(it, give):
    """Open the image and touch it first; what a trace names then goes to `give`."""
    number = await it.open("a.sif")
    (opened,) = it.images.listed()
    opened.give_to(give)
    await it.read(number, 0, 100)
    return number, opened


async def until(condition):
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def settle(it):
    """Until the phase has ended and what was learned is kept and offered."""
    await until(lambda: all(i.tracing is None or i.tracing.touched is None for i in it.images.listed()))
    await trio.sleep(0.05)


def asked_blocks(origin, path="/a.sif"):
    return {
        block
        for name, start, stop in origin.asked
        if name == path
        for block in range(start // BLOCK, -(-stop // BLOCK))
    }


def in_order(trace):
    """The blocks of its only path; those at the head of the image, which is read in one go, sorted."""
    (path,) = trace.paths
    assert sorted(path.blocks[: len(HEAD)]) == HEAD
    return HEAD + list(path.blocks[len(HEAD) :])


def empty_cache(directory):
    shutil.rmtree(directory / "cache")


def origin_of_job():
    return FakeTransport({"/a.sif": File(DATA)}, chunk_bytes=64 * 1024)


async def learn(tmp_path, blocks=JOB, *, recorded=1, offers=0, **starts):
    """One life of a daemon with one start; `offers` are those that it makes of it, taken or not."""
    async with world(tmp_path, origin_of_job(), starts={**QUICK, **starts}) as it:
        await start(it, blocks)
        await settle(it)
        await until(lambda: it.counters.traces_recorded == recorded)
        await until(lambda: it.counters.traces_offered + it.counters.trace_errors >= offers)
        return it.counters


async def test_a_start_is_recorded_in_the_order_of_first_touch_and_survives_the_daemon(tmp_path):
    counters = await learn(tmp_path)
    assert counters.traces_recorded == 1
    kept = TraceStore(tmp_path / "state").load(KEY)
    assert in_order(kept) == JOB
    assert kept.name == "a.sif"


async def test_a_start_under_way_is_kept_when_the_daemon_ends(tmp_path):
    async with world(tmp_path, origin_of_job(), starts={"quiet_s": 1000.0}) as it:
        await start(it, JOB)
    assert in_order(TraceStore(tmp_path / "state").load(KEY)) == JOB


async def test_a_start_that_never_comes_to_rest_is_kept_when_its_recording_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(core_trace, "MAX_BLOCKS", 60)
    async with world(tmp_path, origin_of_job(), starts=QUICK) as it:
        number = await it.open("a.sif")
        for block in JOB:
            await it.read(number, block * BLOCK, 100)
            await trio.sleep(0.01)
        await until(lambda: it.counters.traces_recorded == 1)
    assert in_order(TraceStore(tmp_path / "state").load(KEY)) == JOB[:60]


async def test_a_restarted_daemon_records_and_follows_what_is_read_of_handles_that_it_never_opened(tmp_path):
    async with world(tmp_path, origin_of_job(), starts=QUICK) as it:
        number = await it.open("a.sif")
    for prefetched in (False, True):
        empty_cache(tmp_path)
        async with world(tmp_path, origin_of_job(), starts=QUICK) as it:
            for block in JOB:
                await trio.sleep(0.001)
                await it.read(number, block * BLOCK, 100)
            await settle(it)
            await until(lambda: TraceStore(tmp_path / "state").load(KEY) is not None)
            assert (it.counters.prefetch_blocks > 0) == prefetched


async def test_following_covers_what_was_recorded_and_fetches_little_else(tmp_path):
    await learn(tmp_path)
    empty_cache(tmp_path)
    origin = origin_of_job()
    async with world(tmp_path, origin, starts=QUICK) as it:
        await start(it, JOB[:1])
        await until(
            lambda: it.images.listed()[0].tracing.following
        )  # real jobs take longer than to load a trace
        await start(it, JOB)
        assert asked_blocks(origin) == set(JOB)
        assert it.counters.misses < len(JOB) / 2 < it.counters.prefetch_blocks
    empty_cache(tmp_path)
    without = origin_of_job()
    async with world(tmp_path, without) as it:
        await start(it, JOB)
    assert len(asked_blocks(without)) > 2 * len(JOB), "guesses fetch what no start touched"


async def test_an_image_that_is_closed_stops_the_follower_of_its_trace(tmp_path):
    """A start that only looks wastes no more than the follower begins with."""
    await learn(tmp_path)
    empty_cache(tmp_path)
    origin = origin_of_job()
    async with world(tmp_path, origin, starts=QUICK) as it:
        for block in HEAD[:2]:
            await start(it, [block])
        await trio.sleep(0.02)
        in_vain = len(asked_blocks(origin)) * BLOCK
        assert in_vain <= (2 << 20) + len(HEAD) * BLOCK


async def test_jobs_of_one_image_keep_paths_of_their_own(tmp_path):
    await learn(tmp_path)
    await learn(tmp_path, OTHER)
    await learn(tmp_path, recorded=0)
    paths = TraceStore(tmp_path / "state").load(KEY).paths
    assert [set(path.blocks) for path in sorted(paths, key=lambda path: len(path.blocks))] == [
        set(OTHER),
        set(JOB),
    ]


async def test_a_later_start_whose_pages_the_kernel_still_has_in_part_makes_no_path_of_the_rest(tmp_path):
    """Regression: each start on a node that was short of memory recorded what the page cache had lost, as a job of
    its own, offered it to the shares, and 16 of them drove the whole path out."""
    small = {"memory_bytes": 8 * BLOCK}  # what lies in memory begins no start
    async with world(tmp_path, origin_of_job(), starts=QUICK, cache=small) as it:
        await start(it, JOB)
        await settle(it)
        number = await it.open("a.sif")  # held, as the kernel holds an image whose pages it keeps
        for every in (2, 3, 5):
            await start(it, JOB[::every])
            await settle(it)
        await start(it, OTHER[16:])
        await settle(it)
        await it.tree.files.release(number)
    paths = TraceStore(tmp_path / "state").load(KEY).paths
    other, job = sorted((set(path.blocks) for path in paths), key=len)
    assert job == set(JOB)
    assert other <= set(OTHER)
    assert len(other) > 80


async def test_a_daemon_that_succeeds_another_makes_no_path_of_what_the_kernel_has_lost(tmp_path):
    """Regression: its first start counted as whole, while the kernel had pages that its predecessor gave it."""
    await learn(tmp_path)
    await learn(tmp_path, JOB[::2], recorded=0, succeeds=True)
    (path,) = TraceStore(tmp_path / "state").load(KEY).paths
    assert set(path.blocks) == set(JOB)


async def test_an_image_let_go_of_makes_no_path_of_what_the_kernel_has_lost(tmp_path, monkeypatch):
    async with world(tmp_path, origin_of_job(), starts=QUICK) as it:
        for blocks in (JOB, JOB[::2]):
            await start(it, blocks)
            await settle(it)
            with monkeypatch.context() as patch:
                patch.setattr("lazysif.tree.open_images._KEPT_WITHOUT_HANDLES", 0)
                it.images._let_go()
            assert it.images.listed() == []
        assert it.counters.traces_recorded == 1
    (path,) = TraceStore(tmp_path / "state").load(KEY).paths
    assert set(path.blocks) == set(JOB)


async def test_what_is_imported_or_forgotten_counts_from_the_next_start_on(tmp_path):
    async with world(tmp_path, origin_of_job(), starts=QUICK) as it:
        await start(it, JOB[:2])
        await settle(it)
        store, (opened,) = TraceStore(tmp_path / "state"), it.images.listed()
        store.add(Trace(KEY, len(DATA), BLOCK, (TracePath(tuple(OTHER), tuple(range(len(OTHER)))),)))
        await it.read(await it.open("a.sif"), OTHER[20] * BLOCK, 100)
        await until(lambda: opened.tracing.names(OTHER[60]))
        await settle(it)
        store.forget(KEY)
        await it.read(await it.open("a.sif"), JOB[30] * BLOCK, 100)
        await until(lambda: not opened.tracing.names(OTHER[60]))


async def test_a_glance_and_a_copy_are_no_starts(tmp_path):
    counters = await learn(tmp_path, range(COUNT), recorded=0)
    assert counters.traces_recorded == 0
    assert TraceStore(tmp_path / "state").load(KEY) is None


async def test_what_lies_on_disk_is_brought_into_memory_ahead(tmp_path):
    await learn(tmp_path)
    origin = origin_of_job()
    async with world(tmp_path, origin, starts=QUICK, cache={"memory_bytes": 2**22}) as it:
        number = await it.open("a.sif")
        await it.read(number, 0, 100)
        await until(lambda: it.images.listed()[0].read_now(JOB[40] * BLOCK, 100) is not None)
        assert it.counters.prefetch_blocks == 0
        assert not origin.requests, "the daemon before was told a moment ago what the name means"


@pytest.mark.parametrize("cached", [True, False])
async def test_the_kernel_is_given_what_a_trace_names_and_the_recording_misses_nothing(tmp_path, cached):
    """Its page cache answers what it was given: those reads never come, and later ones show them."""
    await learn(tmp_path)
    if not cached:
        empty_cache(tmp_path)
    pages = []

    def give(offset, size):
        (image,) = it.images.listed()
        assert image.glance(offset, size) == DATA[offset : offset + size], "not in memory"
        pages.append(offset // BLOCK)
        return True

    async with world(tmp_path, origin_of_job(), starts=QUICK, cache={"memory_bytes": 2**22}) as it:
        number, opened = await begin(it, give)
        await until(lambda: len(pages) >= 8)
        for block in JOB:
            if block not in pages:
                await it.read(number, block * BLOCK, 100)
        assert len(pages) > 20
        assert opened.tracing.touched >= set(JOB[:-8])
        await it.tree.files.release(number)
        await settle(it)
        assert it.counters.given_blocks == len(pages)
    assert set(pages) < set(JOB)
    assert len(set(pages)) == len(pages)
    (path,) = TraceStore(tmp_path / "state").load(KEY).paths
    assert set(path.blocks) >= set(JOB[:-8])


async def test_what_came_in_doubt_is_given_when_the_start_has_left_the_other_path(tmp_path):
    await learn(tmp_path)
    await learn(tmp_path, OTHER)
    empty_cache(tmp_path)
    pages = []

    def give(offset, size):
        pages.append(offset // BLOCK)
        return True

    async with world(tmp_path, origin_of_job(), starts=QUICK, cache={"memory_bytes": 2**22}) as it:
        number, opened = await begin(it, give)
        await until(lambda: all(opened.glance(block * BLOCK, 100) for block in JOB[16:60]))
        assert pages == [], "the job is of one of two kinds"
        for block in JOB[16:30]:
            await it.read(number, block * BLOCK, 100)
        assert len(set(JOB[30:60]).intersection(pages)) > 10
        assert not set(OTHER[16:]).intersection(pages)


async def test_what_comes_while_the_image_is_closed_is_given_when_it_is_opened_again(tmp_path):
    """Apptainer looks into an image, closes it, and mounts it 60 ms later: short jobs were given nothing."""
    await learn(tmp_path)
    pages = RecordedPages()
    async with world(
        tmp_path, origin_of_job(), starts=QUICK, cache={"memory_bytes": 2**22}, pages=pages
    ) as it:
        number, opened = await begin(it, None)  # or some would come before `release` is through
        await it.tree.files.release(number)
        assert pages.let_go_of == [number]
        await until(lambda: all(opened.glance(block * BLOCK, 100) for block in JOB[16:28]))
        assert pages.given == []
        await it.tree.files.open(number)
        shown_at = watch(JOB)
        expected = [JOB[place] for place in range(16, 28) if shown_at[place] != place]
        assert len(expected) >= 6
        assert {(number, "a.sif", block * BLOCK, BLOCK) for block in expected} <= set(pages.given)
        assert len(set(pages.given)) == len(pages.given)


class RecordedPages:
    """Stands in for `fuse.pages`."""

    def __init__(self):
        self.given, self.let_go_of = [], []

    def give(self, number, path, offset, size):
        self.given.append((number, path, offset, size))
        return True

    def let_go(self, number):
        self.let_go_of.append(number)


async def test_the_kernel_is_given_nothing_of_an_image_that_was_refused(tmp_path):
    await learn(tmp_path)
    async with world(tmp_path, origin_of_job(), starts=QUICK) as it:
        number = await it.open("a.sif")
        (opened,) = it.images.listed()
        given = []
        opened.give_to(lambda offset, _: given.append(offset))
        await it.read(number, 0, 100)
        opened.refuse(SourceUnavailable("not what it should be"))
        given.clear()
        await trio.sleep(0.1)
        assert given == []


async def test_a_second_node_learns_from_a_folder(tmp_path):
    shared, one, two = (tmp_path / name for name in ("shared", "one", "two"))
    for directory in (shared, one, two):
        directory.mkdir()
    counters = await learn(one, offers=1, shares=[FolderShare(shared)])
    assert counters.traces_offered == 1
    assert [file.name for file in shared.iterdir()] == [f"{KEY}{SUFFIX}"]
    assert decode((shared / f"{KEY}{SUFFIX}").read_bytes()).name == "", "names stay on the node"
    origin = origin_of_job()
    # a pause of a quarter of a second happens on a busy machine, and would make two starts of one
    async with world(two, origin, starts={**QUICK, "quiet_s": 1.0, "shares": [FolderShare(shared)]}) as it:
        number = await it.open("a.sif")
        await until(lambda: it.counters.traces_learned == 1)
        await until(lambda: it.images.listed()[0].read_now(JOB[40] * BLOCK, 100) is not None)
        for block in JOB:
            await it.read(number, block * BLOCK, 100)
        beyond_the_head = set(range(len(HEAD), 2 * len(HEAD) + 32))
        assert asked_blocks(origin) - beyond_the_head == set(JOB) - beyond_the_head
        await settle(it)
        assert it.counters.traces_offered == 0, "nothing new was learned"
    assert TraceStore(two / "state").load(KEY) is not None


class Dav(FakeTransport):
    """A web server that takes files."""

    def __init__(self, refuse=0):
        super().__init__()
        self.refuse = refuse
        self.puts = []

    async def put(self, url, content, total_s):
        self.puts.append(url)
        path = url.removeprefix("http://traces")
        if not self.refuse:
            self.files[path] = File(content)
        return AnswerHead(self.refuse or 201, {}, "http://traces")


async def test_a_second_node_learns_by_http_and_adds_to_it(tmp_path):
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for directory in (one, two, three):
        directory.mkdir()
    server = Dav()
    share = UrlShare("http://traces/site?signature=secret", server, server)
    assert "secret" not in share.name
    assert (await learn(one, offers=1, shares=[share])).traces_offered == 1
    assert server.puts == [f"http://traces/site/{KEY}{SUFFIX}?signature=secret"]
    server.files = {f"/site/{KEY}{SUFFIX}": File(next(iter(server.files.values())).data)}
    counters = await learn(two, OTHER, offers=1, shares=[share])
    assert (counters.traces_learned, counters.traces_offered) == (1, 1)
    counters = await learn(three, recorded=0, shares=[UrlShare("http://traces/site", server)])
    assert counters.traces_learned == 1


async def test_a_trace_beside_the_image_is_followed(tmp_path):
    trace = Trace(KEY, len(DATA), BLOCK, (TracePath(tuple(JOB), tuple(range(len(JOB)))),))
    origin = origin_of_job()
    origin.files[f"/a.sif{SUFFIX}"] = File(encode(trace))

    def beside(image):
        return BesideImage(image.location.url, origin)

    async with world(tmp_path, origin, starts={**QUICK, "beside": beside}) as it:
        await start(it, JOB)
        await settle(it)
        assert it.counters.traces_learned == 1
        await start(it, JOB[:10])
        await settle(it)
    assert sum(request.url.endswith(SUFFIX) for request in origin.requests) == 1, "asked for once"


async def test_a_share_that_hangs_or_fails_keeps_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "_PATIENCE_S", 3.0)
    hanging = Hanging()

    class Broken:
        name = "broken"

        async def get(self, key):
            raise SourceUnavailable("no such folder")

        async def offer(self, trace):
            raise SourceUnavailable("no such folder")

    shares = [Broken(), UrlShare("http://traces/", hanging, hanging)]
    async with world(tmp_path, origin_of_job(), starts={**QUICK, "shares": shares}) as it:
        await start(it, JOB)
        assert it.counters.trace_errors <= 1, "the start did not wait for the one that hangs"
        await until(lambda: it.counters.trace_errors == 4 and it.counters.traces_recorded == 1)
        assert it.counters.unexpected_errors == 0


class Hanging(FakeTransport):
    """A server that takes connections and says nothing; patience ends in its transport."""

    @asynccontextmanager
    async def send(self, request):
        await trio.sleep(request.total_s)
        raise SourceTimeout("no answer in time")
        yield

    async def put(self, url, content, total_s):
        raise AssertionError("what cannot be read is not written")


TRACE = Trace(KEY, len(DATA), BLOCK, (TracePath((0, 5, 3, 9), (0, 1, 2, 3)),))
ANOTHER = replace(TRACE, key="f" * 32)
BIGGER = replace(TRACE, size_bytes=len(DATA) + 10**9, paths=(TracePath((COUNT + 7,), (0,)),))
BAD_FILES = {
    "empty": b"",
    "garbage": random.Random(14).randbytes(5000),
    "huge": bytes(2 << 20),
    "cut off": encode(TRACE)[:-3],
    "of another image": encode(ANOTHER),
    "of a bigger image": encode(BIGGER),
    "in other blocks": encode(replace(TRACE, block_size=2 * BLOCK)),
}


PLACES = [("folder", what) for what in BAD_FILES]
PLACES += [
    ("beside", "huge"),
    ("beside", "of a bigger image"),
    ("state", "garbage"),
    ("state", "of another image"),
]


@pytest.mark.parametrize(("where", "what"), PLACES)
async def test_a_bad_trace_is_refused_and_counted(tmp_path, where, what):
    origin, shared = origin_of_job(), tmp_path / "shared"
    shared.mkdir()
    starts = {
        **QUICK,
        "shares": [FolderShare(shared)],
        "beside": lambda i: BesideImage(i.location.url, origin),
    }
    file = shared / f"{KEY}{SUFFIX}"
    if where == "state":
        (tmp_path / "state/traces-v1").mkdir(parents=True)
        (tmp_path / "state").chmod(0o700)
        file = tmp_path / f"state/traces-v1/{KEY}{SUFFIX}"
    if where == "beside":
        origin.files[f"/a.sif{SUFFIX}"] = File(BAD_FILES[what])
    else:
        file.write_bytes(BAD_FILES[what])
    async with world(tmp_path, origin, starts=starts) as it:
        await start(it, JOB)
        await settle(it)
        await until(lambda: it.counters.traces_recorded == 1)
        assert it.counters.traces_refused >= 1
        assert it.counters.unexpected_errors == 0
    assert asked_blocks(origin) <= set(range(COUNT))
    assert in_order(TraceStore(tmp_path / "state").load(KEY)) == JOB


@pytest.mark.parametrize("status", [403, 409, 500, 507])
async def test_a_server_that_takes_no_traces_is_counted(tmp_path, status):
    server = Dav(refuse=status)
    counters = await learn(tmp_path, offers=1, shares=[UrlShare("http://traces/", server, server)])
    assert (counters.traces_offered, counters.trace_errors, len(server.puts)) == (0, 1, 1)


async def test_a_folder_that_hangs_is_given_up_and_its_threads_do_not_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "_PATIENCE_S", 0.1)
    back = threading.Event()
    entered = []

    def hang(path):
        entered.append(path)
        back.wait(10)

    monkeypatch.setattr(sharing, "read_trace", hang)
    share = FolderShare(tmp_path)
    try:
        for _ in range(4):
            with pytest.raises(SourceTimeout, match="did not answer"):
                await share.get(KEY)
        assert len(entered) == 2
    finally:
        back.set()


async def test_a_pipe_in_the_shared_folder_is_no_trap(tmp_path):
    os.mkfifo(tmp_path / f"{KEY}{SUFFIX}")
    with pytest.raises(FormatError), trio.fail_after(2):
        await FolderShare(tmp_path).get(KEY)


async def test_a_folder_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(SourceUnavailable, match="must be there, and writable"):
        await FolderShare(tmp_path / "gone").offer(TRACE)
