"""fetch.routes: which way requests go, what happens when one fails, lies or has another version, and who is told."""

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from lazysif.core.content_range import check_range_answer, http_date_s, same_version_headers
from lazysif.core.identity import image_id
from lazysif.core.rendezvous import STRIPE_BYTES, ranked
from lazysif.errors import AccessDenied, ImageChanged, SourceProtocolError, SourceTimeout, SourceUnavailable
from lazysif.fetch.contact import Contact, WatchedTransport
from lazysif.fetch.routes import Routes
from lazysif.fetch.way import Way
from lazysif.model import ByteRange, Image, Location, Request, Validator, ValidatorKind
from lazysif.telemetry import Counters
from tests.support.fake_transport import (
    MODIFIED,
    FakeTransport,
    File,
    Headers,
    Ok,
    Refused,
    ResetAfter,
    Stall,
    Status,
)

DATA = bytes(range(256)) * 4000
BASE = "http://origin/files/"
URL = BASE + "a.sif"
ETAG = Validator(ValidatorKind.ETAG, '"v1"')
IMAGE = Image(
    id=image_id(URL, ETAG, len(DATA)),
    remote="bio",
    path="a.sif",
    location=Location(URL, URL),
    size_bytes=len(DATA),
    validator=ETAG,
    modified_s=http_date_s(MODIFIED),
)


class Rig:
    """An origin and what stands before and beside it; each a fake of its own with the same file."""

    def __init__(self, *groups, image=IMAGE):
        self.fakes = {}
        self.counters = Counters()
        self.image = image
        self.ways = [[self._way(name) for name in group] for group in groups]
        self.routes = Routes(BASE, self.ways, self.counters)

    def _way(self, name):
        mirror = f"https://{name}/copy/" if name.startswith("mirror") else None
        path = "/copy/a.sif" if mirror else "/files/a.sif"
        fake = self.fakes[name] = FakeTransport({path: File(DATA)})
        return Way(name, fake, mirror, name.startswith("proxy"))

    def way(self, name):
        return next(way for group in self.ways for way in group if way.name == name)

    def asked(self):
        """How many requests each had since the last time."""
        counts = {name: len(fake.requests) for name, fake in self.fakes.items() if fake.requests}
        for fake in self.fakes.values():
            fake.requests.clear()
        return counts

    async def data(self, start=0, stop=5000, transport=None):
        """Bytes as the fetcher asks for and judges them."""
        asked = ByteRange(start, stop)
        request = Request(
            URL,
            same_version_headers(self.image.condition),
            asked,
            stall_s=1.0,
            total_s=10.0,
            image=self.image,
        )
        async with (transport or self.routes).send(request) as answer:
            check_range_answer(answer.head, asked, self.image)
            return b"".join([chunk async for chunk in answer.chunks()])

    async def name(self, headers=None):
        async with self.routes.send(Request(URL, headers or {}, ByteRange(0, 100), 1.0, 10.0)) as answer:
            body = b"".join([chunk async for chunk in answer.chunks()])
            return answer.head, body


def first_of(*names, start=0):
    """The one of a group that the stripe at `start` belongs to."""
    return names[ranked(f"{URL}\0{start // STRIPE_BYTES}", names)[0]]


# --- failover ---------------------------------------------------------------------------------------


async def test_the_first_group_serves_all_while_it_can(autojump_clock):
    rig = Rig(["proxy1"], ["direct"])
    assert await rig.data() == DATA[:5000]
    assert rig.asked() == {"proxy1": 1}
    assert rig.counters.failovers == 0


async def test_a_proxy_that_is_gone_is_left_alone_and_returned_to(autojump_clock):
    rig = Rig(["proxy1"], ["direct"])
    rig.fakes["proxy1"].everything = Refused()
    assert await rig.data() == DATA[:5000]
    assert rig.asked() == {"proxy1": 1, "direct": 1}
    assert rig.counters.failovers == 1
    assert await rig.data() == DATA[:5000]
    assert rig.asked() == {"direct": 1}, "it rests"
    await trio.sleep(2)
    assert await rig.data() == DATA[:5000]
    assert rig.asked() == {"proxy1": 1, "direct": 1}, "it is tried again"
    await trio.sleep(2)
    rests = []
    for _ in range(12):
        began = trio.current_time()
        while "proxy1" not in rig.asked():
            await trio.sleep(0.1)
            await rig.data()
        rests.append(trio.current_time() - began)
    assert rests[4] > 4 * rests[0], "its rest grows"
    assert max(rests) < 301, "within bounds"
    rig.fakes["proxy1"].everything = Ok()
    await trio.sleep(301)
    await rig.data()
    rig.asked()
    await rig.data()
    assert rig.asked() == {"proxy1": 1}, "the preferred group is returned to"
    assert rig.way("proxy1").failures == 0


async def test_one_request_at_a_time_tries_a_way_that_failed(autojump_clock):
    rig = Rig(["proxy1"], ["direct"])
    rig.fakes["proxy1"].everything = Refused()
    await rig.data()
    await trio.sleep(2)
    rig.asked()
    rig.fakes["proxy1"].everything = Stall()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(quietly, rig)
    assert rig.asked()["proxy1"] == 1


async def quietly(rig):
    try:
        await rig.data()
    except SourceUnavailable:
        pass


async def test_twenty_requests_that_break_at_once_are_one_failure(autojump_clock):
    rig = Rig(["proxy1"], ["direct"])
    rig.fakes["proxy1"].everything = Refused()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(rig.data)
    assert rig.way("proxy1").failures == 1


async def test_a_body_that_breaks_is_the_way_s_failure_and_the_next_attempt_goes_elsewhere(autojump_clock):
    rig = Rig(["proxy1"], ["direct"])
    rig.fakes["proxy1"].everything = ResetAfter(1000)
    with pytest.raises(SourceUnavailable, match="reset"):
        await rig.data()
    assert await rig.data() == DATA[:5000]
    assert rig.asked() == {"proxy1": 1, "direct": 1}


async def test_silence_of_one_way_is_not_silence_of_the_origin(autojump_clock):
    rig = Rig(["proxy1"], ["direct"])
    contact = Contact("bio")
    watched = WatchedTransport(rig.routes, contact)
    rig.fakes["proxy1"].everything = Stall(2000)
    with pytest.raises(SourceUnavailable):
        await rig.data(transport=watched)
    assert not contact.offline
    rig.fakes["direct"].everything = Refused()
    rig.fakes["proxy1"].everything = Refused()
    for _ in range(2):
        with pytest.raises(SourceUnavailable, match=r"(proxy1|direct): "):
            await rig.data(transport=watched)
    assert contact.offline, "offline is when all ways fail"


async def test_where_all_ways_rest_they_are_tried_all_the_same(autojump_clock):
    rig = Rig(["proxy1"], ["direct"])
    for fake in rig.fakes.values():
        fake.script.append(Refused())
    with pytest.raises(SourceUnavailable):
        await rig.data()
    assert await rig.data() == DATA[:5000]


@pytest.mark.parametrize("status", [407, 429, 502, 503, 504])
async def test_a_proxy_in_trouble_is_told_from_an_origin_in_trouble(status, autojump_clock):
    rig = Rig(["proxy1"], ["direct"])
    rig.fakes["proxy1"].everything = Status(status)
    assert await rig.data() == DATA[:5000]
    assert rig.way("proxy1").failures == 1
    rig = Rig(["proxy1"], ["direct"])
    for fake in rig.fakes.values():
        fake.everything = Status(status)
    with pytest.raises((SourceUnavailable, AccessDenied)):
        await rig.data()
    assert rig.way("proxy1").failures == 0, "the same answer on all ways is the origin's"


@pytest.mark.parametrize("status", [403, 502, 503, 504])
async def test_a_name_that_a_proxy_in_trouble_does_not_tell_is_asked_of_the_next_way(status, autojump_clock):
    rig = Rig(["proxy1"], ["direct"])
    rig.fakes["proxy1"].everything = Status(status)
    head, body = await rig.name()
    assert (head.status, body) == (206, DATA[:100])
    rig.fakes["direct"].everything = Status(status)
    head, _ = await rig.name()
    assert head.status == status, "who is asked last is believed"


async def test_where_the_mirror_is_set_apart_an_origin_that_rests_is_asked_all_the_same(autojump_clock):
    rig = Rig(["mirror1"], ["direct"])
    rig.fakes["mirror1"].files["/copy/a.sif"] = File(DATA, etag='"v0"', modified=None)
    assert await rig.data() == DATA[:5000]
    rig.fakes["direct"].script.append(Refused())
    with pytest.raises(SourceUnavailable):
        await rig.data()
    assert [rig.way(name).ready for name in ("mirror1", "direct")] == [True, False]
    assert await rig.data() == DATA[:5000]


async def test_a_proxy_that_lies_is_set_apart_for_the_image(autojump_clock):
    """Whole files for ranges, other ranges, old versions: whatever check fails, another way is asked."""
    for lie in (
        Headers({"content-range": "bytes 0-4999/77"}),
        Headers({"etag": '"v0"'}),
        Status(412),
        Status(404),
        Status(403),
    ):
        rig = Rig(["proxy1"], ["direct"])
        rig.fakes["proxy1"].everything = lie
        assert await rig.data() == DATA[:5000]
        assert rig.counters.mirror_disagreements == 1
        rig.asked()
        await rig.data()
        assert rig.asked() == {"direct": 1}, lie
        await trio.sleep(61)
        await rig.data()
        assert "proxy1" in rig.asked()


async def test_what_the_origin_says_by_all_ways_is_said(autojump_clock):
    rig = Rig(["proxy1"], ["direct"])
    for fake in rig.fakes.values():
        fake.files["/files/a.sif"] = File(DATA, etag='"v2"')
    with pytest.raises(ImageChanged):
        await rig.data()
    assert rig.counters.mirror_disagreements == 0
    rig.fakes["direct"].everything = Refused()
    with pytest.raises(ImageChanged, match="proxy1"):
        await rig.data()


async def test_many_fail_while_one_is_left(autojump_clock):
    rig = Rig(["proxy1", "proxy2", "proxy3"], ["direct"])
    for name in ("proxy1", "proxy2", "proxy3"):
        rig.fakes[name].everything = Stall()
    got = b""
    for _ in range(4):
        try:
            got = await rig.data()
        except SourceUnavailable:
            continue
    assert got == DATA[:5000]


# --- sharing ----------------------------------------------------------------------------------------


async def test_equal_proxies_hold_a_share_each_and_one_takes_over(autojump_clock):
    rig = Rig(["proxy1", "proxy2"], ["direct"])
    places = [(n * STRIPE_BYTES, first_of("proxy1", "proxy2", start=n * STRIPE_BYTES)) for n in range(8)]
    assert {place for _, place in places} == {"proxy1", "proxy2"}
    big = replace(IMAGE, size_bytes=8 * STRIPE_BYTES)
    rig.image = big
    for fake in rig.fakes.values():
        fake.files["/files/a.sif"] = File(bytes(big.size_bytes))
    for start, place in places:
        for offset in (0, STRIPE_BYTES - 4096):
            await rig.data(start + offset, start + offset + 4096)
            assert rig.asked() == {place: 1}
    rig.fakes["proxy1"].everything = Refused()
    for start, _ in places:
        await rig.data(start, start + 4096)
    counts = rig.asked()
    assert counts["proxy1"] == 1
    assert counts["proxy2"] == 8
    assert "direct" not in counts
    assert rig.routes.stripe_bytes == STRIPE_BYTES
    assert Rig(["proxy1"], ["direct"]).routes.stripe_bytes == 0


# --- mirrors ----------------------------------------------------------------------------------------


async def test_names_are_asked_of_the_origin_and_bytes_of_the_mirror(autojump_clock):
    rig = Rig(["mirror1"], ["direct"])
    head, _ = await rig.name()
    assert head.url == URL
    assert rig.asked() == {"direct": 1}
    assert await rig.data(10, 5000) == DATA[10:5000]
    assert rig.fakes["mirror1"].requests[0].url == "https://mirror1/copy/a.sif"
    assert rig.asked() == {"mirror1": 1}


async def test_a_mirror_tells_new_names_while_the_origin_is_gone_but_no_versions(autojump_clock):
    rig = Rig(["mirror1"], ["direct"])
    rig.fakes["direct"].everything = Refused()
    head, body = await rig.name()
    assert (head.status, head.url, body) == (206, URL, DATA[:100])
    rig.asked()
    with pytest.raises(SourceUnavailable):
        await rig.name({"If-None-Match": '"v1"'})
    assert rig.asked() == {}, "nobody waits for an origin that failed just now"
    rig.fakes["mirror1"].files.clear()
    with pytest.raises(SourceUnavailable, match="refused"):
        await rig.name()


async def test_another_etag_with_the_same_size_and_time_is_the_same_version(autojump_clock):
    rig = Rig(["mirror1"], ["direct"])
    rig.fakes["mirror1"].files["/copy/a.sif"] = File(DATA, etag='"written-otherwise"')
    assert await rig.data() == DATA[:5000]
    assert rig.asked() == {"mirror1": 2}, "412 once, then without a condition"
    assert await rig.data(5000, 9000) == DATA[5000:9000]
    assert rig.fakes["mirror1"].requests[0].headers == {"If-Match": '"written-otherwise"'}
    assert rig.asked() == {"mirror1": 1}
    rig.fakes["mirror1"].files["/copy/a.sif"] = File(DATA[::-1], etag='"changed"')
    for rounds in range(2):
        assert await rig.data() == DATA[:5000], "the mirror is held to its own version"
        assert rig.counters.mirror_disagreements == rounds + 1
        await trio.sleep(61)


async def test_a_mirror_that_refuses_its_own_etag_is_judged_by_its_answers(autojump_clock):
    rig = Rig(["mirror1"], ["direct"])
    mirror = rig.fakes["mirror1"]
    mirror.files["/copy/a.sif"] = File(DATA, etag='"its-own"')
    right = mirror.send

    @asynccontextmanager
    async def refusing(request):
        if request.headers:
            mirror.script.append(Status(412))
        async with right(request) as answer:
            yield answer

    mirror.send = refusing
    for expected in (2, 2, 1, 1):
        assert await rig.data() == DATA[:5000]
        assert rig.asked() == {"mirror1": expected}
    mirror.files["/copy/a.sif"] = File(DATA[::-1], etag='"changed"')
    assert await rig.data() == DATA[:5000]
    assert rig.asked() == {"mirror1": 1, "direct": 1}


@pytest.mark.parametrize(
    "other",
    [
        File(DATA, etag='"x"', modified="Wed, 31 Dec 2025 12:00:01 GMT"),
        File(DATA + b"more", etag='"x"'),
        File(DATA, etag='"x"', modified=None),
        File(DATA, etag=None, modified=None),
        File(DATA, ranges=False),
        None,
    ],
)
async def test_a_mirror_of_another_version_is_not_used(other, autojump_clock):
    rig = Rig(["mirror1"], ["direct"])
    rig.fakes["mirror1"].files = {"/copy/a.sif": other} if other else {}
    rig.fakes["mirror1"].careless = True
    assert await rig.data() == DATA[:5000]
    assert rig.counters.mirror_disagreements == 1
    assert rig.way("mirror1").failures == 0, "it serves other images"


async def test_a_careless_mirror_that_says_the_same_time_only_is_not_believed_by_its_etag(autojump_clock):
    """It ignores If-Match and answers 206 with its own ETag: the same file, but it was not asked so."""
    rig = Rig(["mirror1"], ["direct"])
    rig.fakes["mirror1"].files["/copy/a.sif"] = File(DATA, etag='"x"')
    rig.fakes["mirror1"].careless = True
    assert await rig.data() == DATA[:5000]
    assert rig.asked() == {"mirror1": 1, "direct": 1}


async def test_what_no_validator_holds_together_comes_from_the_origin(autojump_clock):
    rig = Rig(["mirror1"], ["direct"])
    rig.image = replace(IMAGE, validator=Validator(ValidatorKind.NONE, "x"))
    await rig.data()
    assert rig.asked() == {"direct": 1}


async def test_what_lies_elsewhere_and_signatures_do_not_go_to_mirrors(autojump_clock):
    rig = Rig(["mirror1"], ["direct"])
    signed = replace(IMAGE, location=Location(URL + "?X-Amz-Signature=secret", URL))
    request = Request(signed.location.url, {}, ByteRange(0, 10), 1.0, 10.0, image=signed)
    async with rig.routes.send(request) as answer:
        assert answer.head.status == 206
    assert rig.fakes["mirror1"].requests[0].url == "https://mirror1/copy/a.sif"
    rig.asked()
    async with rig.routes.send(replace(request, url="http://elsewhere/files/a.sif")):
        pass
    assert rig.asked() == {"direct": 1}


async def test_the_caller_s_errors_are_the_caller_s(autojump_clock):
    rig = Rig(["proxy1"], ["direct"])
    with pytest.raises(SourceProtocolError, match="mine"):
        async with rig.routes.send(Request(URL, image=IMAGE, byte_range=ByteRange(0, 10))):
            raise SourceProtocolError("mine")
    assert rig.asked() == {"proxy1": 1}
    assert rig.way("proxy1").failures == 0


async def test_names_through_a_proxy_are_asked_afresh(autojump_clock):
    rig = Rig(["proxy1"], ["direct"])
    await rig.name()
    assert rig.fakes["proxy1"].requests[0].headers["Cache-Control"] == "max-age=1"
    await rig.data()
    assert "Cache-Control" not in rig.fakes["proxy1"].requests[1].headers


async def test_patience_is_shared_among_the_ways(autojump_clock):
    rig = Rig(["proxy1"], ["direct"])

    @asynccontextmanager
    async def silent(request):
        await trio.sleep(request.stall_s)
        raise SourceUnavailable("nothing")
        yield

    rig.fakes["proxy1"].send = silent
    began = trio.current_time()
    async with rig.routes.send(Request(URL, byte_range=ByteRange(0, 10), stall_s=18, total_s=18)) as answer:
        assert answer.head.status == 206
    assert trio.current_time() - began == pytest.approx(9)


async def test_status_names_each_way(autojump_clock):
    rig = Rig(["proxy1", "proxy2"], ["direct"])
    for name in ("proxy1", "proxy2"):
        rig.fakes[name].everything = Refused()
    await rig.data()
    status = rig.routes.status()
    assert [(way["name"], way["group"], way["state"]) for way in status] == [
        ("proxy1", 0, "resting"),
        ("proxy2", 0, "resting"),
        ("direct", 1, "ready"),
    ]
    assert status[2]["received_bytes"] == 5000
    assert "refused" in status[0]["last_error"]


async def test_what_is_late_is_asked_again_by_another_way(autojump_clock):
    rig = Rig(["proxy1", "proxy2"], ["direct"])
    first = first_of("proxy1", "proxy2")
    second = "proxy2" if first == "proxy1" else "proxy1"
    asked = ByteRange(0, 10)
    for again, expected in ((False, first), (True, second)):
        async with rig.routes.send(Request(URL, {}, asked, image=IMAGE, again=again)) as answer:
            assert answer.head.status == 206
        assert rig.asked() == {expected: 1}
    alone = Rig(["direct"])
    async with alone.routes.send(Request(URL, {}, asked, image=IMAGE, again=True)) as answer:
        assert answer.head.status == 206


async def test_an_origin_that_is_gone_is_not_offline_while_mirrors_serve(autojump_clock):
    """Regression: each name that was asked about again made one after the other of all reads."""
    rig = Rig(["mirror1"], ["direct"])
    contact = Contact("bio")
    watched = WatchedTransport(rig.routes, contact)
    request = Request(URL, {"If-None-Match": '"v1"'}, ByteRange(0, 1), stall_s=10, total_s=10)
    waited = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.fakes["direct"], "send", black_hole)
        for _ in range(3):
            began = trio.current_time()
            with pytest.raises(SourceUnavailable):
                async with watched.send(request):
                    pass
            waited.append(trio.current_time() - began)
            assert not contact.offline
        assert await rig.data(transport=watched) == DATA[:5000]
    assert waited == [3, 0, 0], "the first finds out, the others do not wait for it"
    await trio.sleep(31)
    async with watched.send(request) as answer:
        assert answer.head.status == 304, "it is asked again soon"
    rig.fakes["mirror1"].everything = Refused()
    rig.fakes["direct"].everything = Refused()
    for _ in range(3):
        with pytest.raises(SourceUnavailable):
            await rig.data(transport=watched)
        await trio.sleep(1)
    assert contact.offline


@asynccontextmanager
async def black_hole(request):
    """No answer to SYN."""
    await trio.sleep(request.connect_s)
    raise SourceTimeout("no connection from the origin in time")
    yield
