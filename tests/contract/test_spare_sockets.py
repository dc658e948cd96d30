"""transport.spare_sockets: connections made ahead, and what libcurl does with them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import aclosing

import pytest
import trio

from lazysif.core.names import host_and_port
from lazysif.model import ByteRange, Request
from lazysif.transport.curl_engine import CurlEngine
from lazysif.transport.curl_transport import CurlTransport
from lazysif.transport.spare_sockets import KEPT_S, MOST, Address, SpareSockets
from tests.support import faults
from tests.support.mount import wait_until
from tests.support.raw_origin import RawOrigin

DATA = os.urandom(50_000)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=MOST) as one:
        yield one


@pytest.fixture
def spare() -> Iterator[SpareSockets]:
    one = SpareSockets(Clock())
    yield one
    one.close()


def address_of(listener: socket.socket) -> Address:
    host, port = listener.getsockname()
    return host, port


def test_a_connection_that_stands_is_given_once(listener: socket.socket, spare: SpareSockets) -> None:
    spare.open(address_of(listener), 1)
    taken = spare.take(address_of(listener))
    assert taken is not None
    assert taken.getpeername() == listener.getsockname()
    taken.close()
    assert spare.take(address_of(listener)) is None


def test_spare_ones_are_filled_up_and_bounded(listener: socket.socket, spare: SpareSockets) -> None:
    spare.open(address_of(listener), 3)
    spare.open(address_of(listener), 4)
    assert len(spare) == 4
    spare.open(address_of(listener), 1000)
    assert len(spare) == MOST


def test_another_address_gets_none(listener: socket.socket, spare: SpareSockets) -> None:
    spare.open(address_of(listener), 1)
    host, port = address_of(listener)
    assert spare.take((host, port + 1)) is None
    assert len(spare) == 1


def test_one_that_its_peer_closed_is_not_given(listener: socket.socket, spare: SpareSockets) -> None:
    spare.open(address_of(listener), 1)
    listener.accept()[0].close()
    wait_until(lambda: spare.take(address_of(listener)) is None and not len(spare), "still spare")


def test_nobody_there_is_found_out_by_the_request(spare: SpareSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = address_of(gone)
    spare.open(address, 2)
    assert spare.take(address) is None


def test_what_nobody_came_for_is_closed(listener: socket.socket) -> None:
    clock = Clock()
    spare = SpareSockets(clock)
    spare.open(address_of(listener), 1)
    accepted = listener.accept()[0]
    assert spare.expire() == clock.now_s + KEPT_S
    clock.now_s += KEPT_S
    assert spare.expire() is None
    assert accepted.recv(1) == b""
    accepted.close()


async def fetch(transport: CurlTransport, url: str, wanted: ByteRange, followed_by: int = 0) -> bytes:
    """As a look-up asks."""
    request = Request(url, byte_range=wanted, stall_s=5.0, total_s=10.0, anew=True, followed_by=followed_by)
    async with transport.send(request) as answer, aclosing(answer.chunks()) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_a_request_that_was_expected_finds_its_connection(engine: CurlEngine) -> None:
    with RawOrigin({"/a": DATA}) as origin:
        await engine.expect(*host_and_port(origin.url))
        with trio.fail_after(5):
            while origin.connection_count < 1:  # noqa: ASYNC110 - no event tells of it
                await trio.sleep(0.01)
        transport = CurlTransport(origin.url, engine)
        assert await fetch(transport, origin.url + "/a", ByteRange(0, 100)) == DATA[:100]
        assert origin.connection_count == 1


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70 + ".org"])
async def test_who_cannot_be_found_is_not_expected(engine: CurlEngine, host: str) -> None:
    await engine.expect(host, 80)
    assert engine.alive
    assert len(engine.spare) == 0


async def test_requests_that_follow_use_connections_made_beside_the_first(engine: CurlEngine) -> None:
    with RawOrigin({"/a": DATA}) as origin:
        transport = CurlTransport(origin.url, engine)
        assert await fetch(transport, origin.url + "/a", ByteRange(0, 100), followed_by=3) == DATA[:100]
        with trio.fail_after(5):
            while origin.connection_count < 4:  # noqa: ASYNC110 - no event tells of it
                await trio.sleep(0.01)
        answers: dict[int, bytes] = {}

        async def one(number: int) -> None:
            answers[number] = await fetch(
                transport, origin.url + "/a", ByteRange(1000 * number, 1000 * number + 1000)
            )

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(one, number)
        assert answers == {n: DATA[1000 * n : 1000 * n + 1000] for n in range(4)}
        assert origin.connection_count == 4


async def test_spare_connections_end_with_the_engine() -> None:
    engine = CurlEngine()
    engine.start()
    with RawOrigin({"/a": DATA}) as origin:
        await fetch(CurlTransport(origin.url, engine), origin.url + "/a", ByteRange(0, 1), followed_by=2)
        await engine.aclose()
    assert not len(engine.spare)


async def test_sockets_made_ahead_are_not_inherited(engine: CurlEngine) -> None:
    """libcurl keeps a copy of what it is given, and copies are inherited unless told otherwise (dup(2))."""
    with RawOrigin({"/a": DATA}) as origin:
        transport = CurlTransport(origin.url, engine)
        await fetch(transport, origin.url + "/a", ByteRange(0, 100), followed_by=2)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fetch, transport, origin.url + "/a", ByteRange(0, 40_000))
        assert not [descriptor for descriptor in _sockets() if os.get_inheritable(descriptor)]


def _sockets() -> list[int]:
    """Those that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.append(int(name))
        except FileNotFoundError:
            continue  # the directory itself
    return found


async def test_none_are_made_to_a_host_that_sends_requests_on(engine: CurlEngine) -> None:
    with (
        RawOrigin({"/a": DATA}) as storage,
        RawOrigin(default=faults.Redirect(storage.url + "/a")) as registry,
    ):
        transport = CurlTransport(registry.url, engine)
        await fetch(transport, registry.url + "/a", ByteRange(0, 1))
        await fetch(transport, registry.url + "/a", ByteRange(0, 1), followed_by=2)
        with trio.fail_after(5):
            while storage.connection_count < 3:  # noqa: ASYNC110 - no event tells of it
                await trio.sleep(0.01)
        assert registry.connection_count == 1
