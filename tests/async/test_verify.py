"""image.verify: whole images against the digest of their registry."""

import hashlib
import random
from contextlib import asynccontextmanager

import pytest
import trio

from lazysif.core.block_map import GridMap
from lazysif.errors import SourceProtocolError
from lazysif.fetch.flights import FlightTable
from lazysif.image.open_image import OpenImage
from lazysif.image.verify import BAD, VERIFIED, Verifier
from lazysif.model import Image, ImageId, Location, Validator, ValidatorKind
from lazysif.telemetry import Counters
from lazysif.tree.state import StateStore
from tests.support.cache_damage import eventually, running, value_files, written
from tests.support.fake_transport import FakeTransport, File
from tests.support.world import make_remote

DATA = random.Random(4).randbytes(100_003)
URL = "http://origin/a.sif"
RIGHT = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


class Bench:
    def __init__(self, nursery, cache, counters, state, digest):
        self.origin = FakeTransport({"/a.sif": File(DATA)})
        self.cache = cache
        self.state = state
        self.counters = counters
        self.image = Image(
            ImageId("1" * 32),
            "",
            "a.sif",
            Location(URL, URL),
            len(DATA),
            Validator(ValidatorKind.DIGEST, digest),
            guard=Validator(ValidatorKind.ETAG, '"v1"'),
        )
        self.remote = make_remote("", self.origin, nursery, FlightTable(), counters)
        self.opened = []
        self.verifier = Verifier(cache, state, lambda: self.opened, counters)

    async def open(self):
        grid = GridMap(len(DATA), 4096)
        table = await self.cache.open_table(self.image.id, grid.count)
        opened = OpenImage(self.image, grid, table, self.cache, self.remote.fetcher, self.counters)
        await self.verifier.recall(opened)
        self.opened.append(opened)
        return opened


@asynccontextmanager
async def bench(directory, digest=RIGHT):
    counters = Counters()
    (directory / "state").mkdir(exist_ok=True)
    state = StateStore(directory / "state")
    async with running(directory, counters) as cache, trio.open_nursery() as nursery:
        yield Bench(nursery, cache, counters, state, digest)
        nursery.cancel_scope.cancel()
    state.close()


@pytest.mark.parametrize(
    "digest", [RIGHT, f"md5:{hashlib.md5(DATA).hexdigest()}", RIGHT.upper().replace("SHA256", "sha256")]
)
async def test_right_bytes_are_verified_once_and_remembered(tmp_path, digest):
    async with bench(tmp_path, digest) as it:
        opened = await it.open()
        assert (opened.verdict, opened.blocks.complete) == ("not yet", False)
        assert await it.verifier.matches(opened) is None
        await opened.read(0, len(DATA))
        assert opened.blocks.complete
        assert await it.verifier.matches(opened) is True
        await it.verifier._check(opened)
        assert (opened.verdict, it.counters.images_verified) == (VERIFIED, 1)
        again = await it.open()
        assert again.verdict == VERIFIED


async def test_wrong_bytes_are_discarded_and_reads_fail_until_later(tmp_path, monkeypatch):
    async with bench(tmp_path, "sha256:" + "0" * 64) as it:
        opened = await it.open()
        await opened.read(0, len(DATA))
        await it.verifier._check(opened)
        assert (opened.verdict, opened.blocks.cached_bytes(), it.counters.images_refused) == (BAD, 0, 1)
        assert opened.read_now(0, 100) is None
        for _ in range(2):
            with pytest.raises(SourceProtocolError, match="do not fit the digest"):
                await opened.read(0, 100)
        opened.keep(0, DATA)
        assert opened.blocks.cached_bytes() == 0
        with pytest.raises(SourceProtocolError, match="do not fit the digest"):
            await (await it.open()).read(0, 100)
        later = it.state.verdict_of(it.image.id)[1] + 3601
        monkeypatch.setattr("lazysif.image.verify.time.time", lambda: later)
        anew = await it.open()
        assert bytes(await anew.read(0, 100)) == DATA[:100]
        assert anew.verdict == "not yet", "what is fetched anew is proved anew"


async def test_what_went_to_make_room_is_no_verdict(tmp_path):
    async with bench(tmp_path) as it:
        opened = await it.open()
        await opened.read(0, len(DATA))
        await written(it.cache)
    for file in list(value_files(tmp_path))[:1]:
        file.unlink()
    async with bench(tmp_path) as it:
        opened = await it.open()
        assert opened.blocks.complete
        await it.verifier._check(opened)
        assert opened.verdict == "not yet"
        assert it.state.verdict_of(it.image.id) is None


async def test_the_round_finds_images_that_have_become_complete(tmp_path, monkeypatch):
    monkeypatch.setattr("lazysif.image.verify._ROUND_S", 0.01)
    async with bench(tmp_path) as it, trio.open_nursery() as nursery:
        opened = await it.open()
        nursery.start_soon(it.verifier.run)
        await opened.read(0, len(DATA))
        await eventually(lambda: opened.verdict == VERIFIED)
        nursery.cancel_scope.cancel()


async def test_images_known_by_an_etag_have_nothing_to_be_checked_against(tmp_path):
    async with bench(tmp_path) as it:
        it.image = Image(
            ImageId("2" * 32),
            "",
            "a.sif",
            Location(URL, URL),
            len(DATA),
            Validator(ValidatorKind.ETAG, '"v1"'),
        )
        opened = await it.open()
        assert opened.verdict == ""
