"""transport.follow: the target of a redirect is used without asking until it refuses or breaks."""

from dataclasses import dataclass, field

import pytest

from lazysif.errors import SourceUnavailable
from lazysif.model import AnswerHead, ByteRange, Request
from lazysif.transport.follow import Redirects

URL = "http://192.0.2.1/a.sif"
ONE, OTHER = "http://192.0.2.2/a.sif", "http://192.0.2.3/a.sif"
REQUEST = Request(URL, byte_range=ByteRange(0, 10))


@dataclass
class Hop:
    head: AnswerHead

    async def aclose(self):
        pass


@dataclass
class Net:
    """A redirector, and what it sends on to; a status of 0 is no connection."""

    target: str = ONE
    status: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def send_once(self, url, request):
        self.asked.append(url)
        if url == URL:
            return Hop(AnswerHead(302, {"location": self.target}, url))
        status = self.status.get(url, 206)
        if not status:
            raise SourceUnavailable("no connection")
        return Hop(AnswerHead(status, {}, url))


async def test_a_target_is_asked_without_its_redirector():
    net, redirects = Net(), Redirects(URL)
    for _ in range(3):
        assert (await redirects.follow(REQUEST, net.send_once)).head.status == 206
    assert net.asked == [URL, ONE, ONE, ONE]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_target_that_refuses_is_asked_for_anew(status):
    net, redirects = Net(), Redirects(URL)
    await redirects.follow(REQUEST, net.send_once)
    net.target, net.status = OTHER, {ONE: status}
    for _ in range(2):
        assert (await redirects.follow(REQUEST, net.send_once)).head.status == 206
    assert net.asked[2:] == [ONE, URL, OTHER, OTHER]


async def test_a_target_that_cannot_be_reached_is_forgotten():
    net, redirects = Net(), Redirects(URL)
    await redirects.follow(REQUEST, net.send_once)
    net.target, net.status = OTHER, {ONE: 0}
    with pytest.raises(SourceUnavailable):
        await redirects.follow(REQUEST, net.send_once)
    assert (await redirects.follow(REQUEST, net.send_once)).head.status == 206
    assert net.asked[-2:] == [URL, OTHER]
