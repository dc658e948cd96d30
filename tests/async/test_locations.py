"""fetch.locations and what the fetcher does with it: URLs that expire are renewed under a reader."""

import random
import time
from dataclasses import replace

import pytest
import trio

from lazysif.core.block_map import GridMap
from lazysif.errors import AccessDenied, ImageChanged, SourceUnavailable
from lazysif.fetch.fetcher import Fetcher, FetchLimits
from lazysif.fetch.flights import FlightTable
from lazysif.fetch.locations import Locations
from lazysif.model import Image, ImageId, Location, Validator, ValidatorKind
from lazysif.telemetry import Counters
from tests.support.fake_transport import FakeTransport, File, Status

DATA = random.Random(5).randbytes(40_000)
DIGEST = Validator(ValidatorKind.DIGEST, "sha256:" + "a" * 64)
OTHER = Validator(ValidatorKind.DIGEST, "sha256:" + "b" * 64)
ORIGIN = "shub://hub/user/a"


class Hub:
    """A registry whose URLs are numbered."""

    def __init__(self, validator=DIGEST):
        self.validator = validator
        self.asked = 0
        self.error = None
        self.expires_at_s = None

    async def locate(self, path):
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        url = f"http://origin/{self.asked}"
        return Location(url, ORIGIN, validator=self.validator, expires_at_s=self.expires_at_s)

    async def renew(self, image):
        return await self.locate(image.path)

    async def list(self, path):
        return None


class Sink:
    def __init__(self):
        self.blocks = {}

    def accept(self, index, data):
        self.blocks[index] = bytes(data)

    async def room(self):
        pass


class Bench:
    def __init__(self, nursery, files, url="http://origin/0"):
        self.hub = Hub()
        self.counters = Counters()
        self.origin = FakeTransport(files)
        self.locations = Locations(self.hub, self.counters)
        self.fetcher = Fetcher(
            nursery, self.origin, FlightTable(), FetchLimits(), self.counters, self.locations
        )
        self.sink = Sink()
        self.image = Image(
            ImageId("0" * 32),
            "hub",
            "user/a",
            Location(url, ORIGIN, validator=DIGEST),
            len(DATA),
            DIGEST,
            guard=Validator(ValidatorKind.ETAG, '"v1"'),
        )

    async def fetch(self, *blocks):
        grid = GridMap(len(DATA), 4096)
        for flight in self.fetcher.start(self.image, grid, blocks, self.sink, demand=True):
            await flight.wait()


async def test_a_url_that_is_refused_is_renewed_once_for_all(nursery):
    it = Bench(nursery, {"/1": File(DATA)})
    it.origin.files["/0"] = File(b"")
    it.origin.script.extend([Status(403), Status(403), Status(401)])
    async with trio.open_nursery() as readers:
        for block in (0, 3, 6):
            readers.start_soon(it.fetch, block)
    assert it.sink.blocks == {i: DATA[i * 4096 : i * 4096 + 4096] for i in (0, 3, 6)}
    assert (it.hub.asked, it.counters.renewals) == (1, 1)


async def test_a_url_out_of_the_state_directory_is_asked_for_when_bytes_are_needed(nursery):
    it = Bench(nursery, {"/1": File(DATA)}, url="")
    await it.fetch(0)
    await it.fetch(1)
    assert it.hub.asked == 1


async def test_a_url_that_expires_is_not_used_any_more(nursery):
    it = Bench(nursery, {"/1": File(DATA), "/2": File(DATA)}, url="")
    it.hub.expires_at_s = time.time() + 300
    await it.fetch(0)
    assert it.hub.asked == 1
    it.locations._known[it.image.id].location = Location(
        "http://origin/0", ORIGIN, validator=DIGEST, expires_at_s=time.time() + 5
    )
    it.locations._known[it.image.id].asked_at = float("-inf")
    await it.fetch(1)
    assert it.hub.asked == 2
    assert [path for path, _, _ in it.origin.asked] == ["/1", "/2"]


async def test_another_version_under_the_name_ends_in_an_error_and_no_mix(nursery):
    it = Bench(nursery, {"/1": File(DATA)})
    it.hub.validator = OTHER
    it.origin.script.append(Status(403))
    with pytest.raises(ImageChanged, match="another version"):
        await it.fetch(0)
    assert it.sink.blocks == {}


async def test_a_new_url_with_other_bytes_behind_it_is_not_believed(nursery):
    it = Bench(nursery, {"/1": File(DATA, etag='"v2"')})
    it.origin.script.append(Status(410))
    with pytest.raises(ImageChanged):
        await it.fetch(0)
    assert it.sink.blocks == {}


async def test_a_refusal_that_no_new_url_helps_costs_one_question(nursery):
    it = Bench(nursery, {})
    it.origin.everything = Status(403)
    for block in range(5):
        with pytest.raises(AccessDenied):
            await it.fetch(block)
    assert it.hub.asked == 1


async def test_a_registry_that_fails_is_not_asked_by_each_reader(nursery):
    it = Bench(nursery, {}, url="")
    it.hub.error = AccessDenied("no such user", asks_credentials=True)
    for block in range(5):
        with pytest.raises(AccessDenied, match="no such user"):
            await it.fetch(block)
    assert it.hub.asked == 1


async def test_a_registry_that_comes_back_is_asked_again(nursery, autojump_clock):
    it = Bench(nursery, {"/2": File(DATA), "/3": File(DATA)}, url="")
    it.hub.error = SourceUnavailable("down")

    async def mend():
        await trio.sleep(11)
        it.hub.error = None

    nursery.start_soon(mend)
    await it.fetch(0)
    assert it.hub.asked in (2, 3)  # by the jitter of the pauses once more before it is mended, or not


class Blobs(Hub):
    """A registry whose URLs hold the digest: what it renews is a token."""

    async def locate(self, path):
        self.asked += 1
        await trio.lowlevel.checkpoint()
        return Location("http://origin/blob", ORIGIN, validator=DIGEST, content_addressed=True)


async def test_a_url_that_names_the_digest_is_asked_once_more_with_a_new_token(nursery):
    it = Bench(nursery, {"/blob": File(DATA, etag=None)}, url="http://origin/blob")
    it.image = replace(it.image, location=replace(it.image.location, content_addressed=True), guard=None)
    it.locations._registry = blobs = Blobs()
    it.origin.script.append(Status(401))
    await it.fetch(0)
    assert (blobs.asked, len(it.origin.requests)) == (1, 2)
    it.origin.script.extend([Status(401)] * 3)
    with pytest.raises(AccessDenied):
        await it.fetch(3)
    assert (blobs.asked, len(it.origin.requests)) == (1, 3)  # renewed just now: it would not help
