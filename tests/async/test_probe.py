"""fetch.probe: what the first request of a name is given, and what the image is known by from there on."""

import trio

from lazysif.core.content_range import same_version_headers
from lazysif.fetch.flights import FlightTable
from lazysif.fetch.policy import RemotePolicy
from lazysif.model import Location, Validator, ValidatorKind
from lazysif.telemetry import Counters
from tests.support.fake_transport import FakeTransport, File
from tests.support.world import make_remote

URL = "http://origin/a.sif"
DATA = b"x" * 10_000
POLICY = RemotePolicy(probe_bytes=4096, lookup_budget_s=8.0)


async def probed(nursery, location):
    origin = FakeTransport({"/a.sif": File(DATA)})
    remote = make_remote("", origin, nursery, FlightTable(), Counters(), POLICY)
    found = await remote._probe.found("a.sif", location, None, 7.0, 20.0)
    return origin.requests, found


async def test_a_probe_may_take_what_is_left_of_its_look_up(nursery: trio.Nursery) -> None:
    requests, _ = await probed(nursery, Location(URL, URL))
    assert [request.total_s for request in requests] == [7.0]


async def test_what_its_url_names_by_digest_is_held_to_no_etag_of_the_store(nursery: trio.Nursery) -> None:
    """Stores behind a registry give one blob different ETags."""
    digest = Validator(ValidatorKind.DIGEST, "sha256:" + "1" * 64)
    _, found = await probed(nursery, Location(URL, URL, validator=digest, content_addressed=True))
    assert found.image.validator == digest
    assert same_version_headers(found.image.condition) == {}
