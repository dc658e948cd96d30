"""Caches of a site between nodes and an origin: real nginx, Squid and Varnish from the shipped configurations.

Each node is a daemon with a cache of its own. What the origin sent is read from its own log.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random

import pytest
import trio

from bench.nginx import Nginx
from lazysif.core.rendezvous import STRIPE_BYTES, ranked
from lazysif.fetch.fetcher import FetchLimits
from lazysif.fetch.routes import Routes
from lazysif.fetch.way import Way
from lazysif.model import Answer, Request, Transport
from lazysif.telemetry import Counters
from lazysif.transport.httpx_transport import HttpxTransport
from lazysif.transport.proxy import Proxy
from tests.registries.scenarios import sha256
from tests.support.images import BuiltImage
from tests.support.loopback import Log
from tests.support.mount import Mount, scrubbed_environment
from tests.support.nginx import covered_bytes
from tests.support.site_caches import NginxCache, SigningCache, SiteCache, SquidCache, VarnishCache
from tests.support.world import BASE, QUICK, world

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(180)]

MakeMount = Callable[..., Mount]
NODES = 10
JOB = ("python3", "-c", "import json, email.message, sqlite3; print(json.dumps(6 * 7))")


@pytest.fixture
def make_cache(
    nginx: Nginx, request: pytest.FixtureRequest
) -> Iterator[Callable[[type[SiteCache]], SiteCache]]:
    """`make_cache(NginxCache)`: one before the fixture `nginx`, started."""
    caches: list[SiteCache] = []
    with ExitStack() as stack:

        def make(kind: type[SiteCache]) -> SiteCache:
            try:
                cache = stack.enter_context(kind(nginx.url))
            except FileNotFoundError as error:
                pytest.skip(str(error))
            caches.append(cache)
            return cache

        yield make
        for cache in caches:
            request.node.add_report_section("teardown", f"log of {cache.url}", cache.log()[-5000:])


def remote(nginx: Nginx, *caches: SiteCache) -> str:
    """The table of a remote that is reached through these caches alone."""
    urls = [cache.url for cache in caches]
    if caches[0].forward:
        return f'[remote.r]\nkind = "http"\nurl = "{nginx.url}"\nproxies = [{urls}]\n'
    if len(caches) == 1:
        return f'[remote.r]\nkind = "http"\nurl = "{urls[0]}"\n'
    return f'[remote.r]\nkind = "http"\nurl = "{nginx.url}"\nmirrors = [{[url + "/" for url in urls]}]\n'


def nodes(count: int, table: str, tmp_path: Path, lazysif: MakeMount) -> list[Mount]:
    configuration = tmp_path / "lazysif.toml"
    configuration.write_text(table)
    mounts = [lazysif(config=configuration, start=False) for _ in range(count)]
    with ThreadPoolExecutor(4) as starters:
        list(starters.map(Mount.start, mounts))
    return mounts


def start_job(image: Path) -> str:
    """One task: `apptainer exec` of a Python job."""
    done = subprocess.run(
        ["apptainer", "exec", "--no-privs", str(image), *JOB],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=scrubbed_environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def umount_all(mounts: Sequence[Mount]) -> None:
    with ThreadPoolExecutor(4) as hands:
        list(hands.map(Mount.umount, mounts))


def assert_each_byte_once(nginx: Nginx, uri: str, fetched: int) -> None:
    log = nginx.requests(uri)
    sent, different = nginx.bytes_sent(uri), covered_bytes(log, uri)
    print(f"origin {len(log)} requests, {sent / 1e6:.1f} MB; {NODES} nodes {fetched / 1e6:.1f} MB")
    assert sent <= 1.05 * different
    assert sent < fetched, "the nodes were served by the cache"


def test_ten_nodes_cost_the_origin_each_byte_once(
    tool: Callable[[str], str],
    nginx: Nginx,
    real_image: BuiltImage,
    make_cache: Callable[[type[SiteCache]], SiteCache],
    lazysif: MakeMount,
    tmp_path: Path,
) -> None:
    """Ten mounts and ten jobs, through nginx. The test below has ten caches in one process, and all three servers."""
    tool("apptainer")
    (nginx.root / "job.sif").symlink_to(real_image.path)
    mounts = nodes(NODES, remote(nginx, make_cache(NginxCache)), tmp_path, lazysif)
    with ThreadPoolExecutor(NODES) as tasks:
        assert list(tasks.map(start_job, [m.path / "r/job.sif" for m in mounts])) == ["42\n"] * NODES
    counters = [mount.counters() for mount in mounts]
    assert_each_byte_once(nginx, "/job.sif", sum(counted["fetched_bytes"] for counted in counters))
    assert not any(counted["errors"] for counted in counters)
    umount_all(mounts)


class Rebased:
    """The origin of `tests.support.world` is at this URL."""

    def __init__(self, transport: Transport, url: str) -> None:
        self._transport, self._url = transport, url

    def send(self, request: Request) -> AbstractAsyncContextManager[Answer]:
        return self._transport.send(replace(request, url=request.url.replace(BASE, f"{self._url}/", 1)))

    async def aclose(self) -> None:
        await self._transport.aclose()


def through(cache: SiteCache, nginx: Nginx) -> Transport:
    if not cache.forward:
        return Rebased(HttpxTransport(cache.url), cache.url)
    by_proxy = Way(cache.url, HttpxTransport(nginx.url, proxy=Proxy(cache.url)), forwarded=True)
    return Rebased(Routes("", [[by_proxy]], Counters()), nginx.url)


@pytest.mark.parametrize("kind", [NginxCache, SquidCache, VarnishCache])
async def test_ten_caches_cost_the_origin_each_byte_once(
    kind: type[SiteCache],
    nginx: Nginx,
    make_cache: Callable[[type[SiteCache]], SiteCache],
    tmp_path: Path,
) -> None:
    data = os.urandom(48 << 20)
    (nginx.root / "job.sif").write_bytes(data)
    os.utime(nginx.root / "job.sif", (1e9, 1e9))
    cache = make_cache(kind)
    patient = FetchLimits(stall_s=20.0)
    fetched = []

    async def start(number: int) -> None:
        """Nearly what the others read, in nearly their order."""
        same, own = Random(1), Random(number)
        directory = tmp_path / f"node{number}"
        directory.mkdir()
        transport = through(cache, nginx)
        policy = replace(QUICK, probe_bytes=128 << 10, stall_s=10.0, listing=False, lookup_budget_s=20.0)
        async with world(directory, transport, block_size=128 << 10, policy=policy, limits=patient) as node:
            image = await node.open("job.sif")
            for _ in range(60):
                offset = same.randrange(len(data) - (300 << 10)) + own.randrange(60 << 10)
                size = same.randrange(4096, 200 << 10)
                assert await node.read(image, offset, size) == data[offset : offset + size]
            fetched.append(node.counters.fetched_bytes)
            await transport.aclose()

    async with trio.open_nursery() as tasks:
        for number in range(NODES):
            tasks.start_soon(start, number)
    assert_each_byte_once(nginx, "/job.sif", sum(fetched))


def shares(mount: Mount) -> dict[str, int]:
    """Bytes that came by each way."""
    (status,) = mount.status()["remotes"]
    return {way["name"]: way["received_bytes"] for way in status["ways"]}


def expected_shares(url: str, size: int, names: Sequence[str]) -> list[int]:
    """Bytes of an image by the way that they belong to."""
    expected = [0] * len(names)
    for stripe, start in enumerate(range(0, size, STRIPE_BYTES)):
        expected[ranked(f"{url}\x00{stripe}", names)[0]] += min(STRIPE_BYTES, size - start)
    return expected


def test_two_caches_hold_a_half_each_and_one_may_die(
    tool: Callable[[str], str],
    nginx: Nginx,
    real_image: BuiltImage,
    make_cache: Callable[[type[SiteCache]], SiteCache],
    lazysif: MakeMount,
    tmp_path: Path,
) -> None:
    tool("apptainer")
    (nginx.root / "job.sif").symlink_to(real_image.path)
    size = os.path.getsize(real_image.path)
    caches = [make_cache(NginxCache), make_cache(NginxCache)]
    names = [f"{cache.url}/" for cache in caches]
    of_caches = expected_shares(f"{nginx.url}/job.sif", size, names)
    first, second = nodes(2, remote(nginx, *caches), tmp_path, lazysif)

    image = first.path / "r/job.sif"
    assert sha256(image.read_bytes()) == sha256(real_image.path.read_bytes())
    assert [shares(first)[name] for name in names] == of_caches, (
        "each has its share, and nothing came past them"
    )
    print(f"shares of {size} bytes: {of_caches}")
    # 27 stripes fall as 27 coins do; over all images of a site it is a half (tests/property/test_rendezvous_laws.py)
    assert min(of_caches) > 0.1 * size
    assert sum(request.bytes for request in nginx.requests("/job.sif") if request.if_match) == size

    nginx.clear_log()
    dying = caches[0]
    begun = threading.Event()

    def disturb() -> None:
        begun.wait()
        wait_for(lambda: shares(second)[f"{dying.url}/"] > 0)
        dying.kill()
        wait_for(lambda: second.counters()["failovers"] > 0)
        dying.start()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    with ThreadPoolExecutor(20) as tasks:
        begun.set()
        assert list(tasks.map(start_job, [second.path / "r/job.sif"] * 20)) == ["42\n"] * 20
    # what the jobs did not touch: a cache that died behind their last request is missed here
    assert sha256((second.path / "r/job.sif").read_bytes()) == sha256(real_image.path.read_bytes())
    disturber.join()
    counters = second.counters()
    assert counters["errors"] == 0
    assert counters["failovers"] > 0
    again = [request.sent for request in nginx.requests("/job.sif") if request.if_match]
    for sent in again:
        assert sent is not None
        stripe = sent[0] // STRIPE_BYTES
        assert ranked(f"{nginx.url}/job.sif\x00{stripe}", names)[0] == 0, (
            "only the dead one's share is asked for again"
        )
    assert sum(stop - start for start, stop in filter(None, again)) <= of_caches[0]

    used = shares(second)[names[0]]
    of_its_share = (n for n in count() if ranked(f"{nginx.url}/{n}.sif\x000", names)[0] == 0)
    deadline_s = time.monotonic() + 60
    while shares(second)[names[0]] == used:
        assert time.monotonic() < deadline_s, "the revived one is not returned to"
        name = f"{next(of_its_share)}.sif"
        (nginx.root / name).write_bytes(bytes(4096))
        os.utime(nginx.root / name, (1e9, 1e9))
        assert (second.path / "r" / name).read_bytes() == bytes(4096)
        time.sleep(0.5)
    umount_all([first, second])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_a_cache_signs_for_nodes_without_credentials(
    nginx: Nginx, lazysif: MakeMount, tmp_path: Path, known_secrets: list[str]
) -> None:
    """moto checks each signature; the name holds what servers and signers spell differently."""
    from tests.support.s3_servers import BUCKET, REGION, MotoServer

    data = os.urandom(3 << 20)
    name = "it's a (test)+x~é@1:2,3.sif"
    with MotoServer() as s3:
        s3.s3.put_object(Bucket=BUCKET, Key=f"sif/{name}", Body=data)
        known_secrets.append(s3.user[1])
        cache = SigningCache(s3.url)
        cache.region, cache.credentials = REGION, s3.user
        try:
            with cache:
                table = f'[remote.r]\nkind = "http"\nurl = "{cache.url}/{BUCKET}/sif/"\n'
                first, second = nodes(2, table, tmp_path, lazysif)
                assert (first.path / "r" / name).read_bytes() == data
                sent = len(image_requests(s3.log))
                assert (second.path / "r" / name).read_bytes() == data
                assert len(image_requests(s3.log)) - sent <= 1, "only what the name means may be asked again"
                s3.revoke()
                with pytest.raises(PermissionError):
                    (second.path / "r" / "other.sif").stat()
        except FileNotFoundError as error:
            pytest.skip(str(error))
    umount_all([first, second])


def image_requests(log: Log) -> list[tuple[str, bool]]:
    """Without those for a trace beside the image, which a node sends when it comes to it, and nobody waits for."""
    return [line for line in log.lines if ".lazysif-trace" not in line[0]]


async def test_two_proxies_share_the_images_and_stand_in_for_each_other(
    nginx: Nginx, make_cache: Callable[[type[SiteCache]], SiteCache], tmp_path: Path
) -> None:
    data = os.urandom(5 << 20)
    caches = [make_cache(SquidCache), make_cache(SquidCache)]
    urls = [cache.url for cache in caches]
    names = []
    for owner in (0, 1):
        mine = (f"{n}.sif" for n in count() if ranked(f"{nginx.url}/{n}.sif\x000", urls)[0] == owner)
        names += [next(mine) for _ in range(3)]
    for name in names:
        (nginx.root / name).write_bytes(data)
        os.utime(nginx.root / name, (1e9, 1e9))
    for life in ("one", "two", "three"):
        (tmp_path / life).mkdir()
    group = [Way(c.url, HttpxTransport(nginx.url, proxy=Proxy(c.url)), forwarded=True) for c in caches]
    direct = Way("direct", HttpxTransport(nginx.url))
    routes = Routes("", [group, [direct]], Counters(), pieces=False)
    policy = replace(QUICK, probe_bytes=128 << 10, stall_s=10.0, listing=False, lookup_budget_s=20.0)
    patient = FetchLimits(stall_s=20.0)

    async def read_all(directory: Path) -> int:
        there = Rebased(routes, nginx.url)
        async with world(directory, there, block_size=128 << 10, policy=policy, limits=patient) as node:
            for name in names:
                assert await node.read(await node.open(name), 0, len(data)) == data
            return node.counters.retries

    await read_all(tmp_path / "one")
    assert [way.received_bytes for way in group] == [3 * len(data)] * 2
    assert sum(request.status == 200 for request in nginx.requests()) == len(names), "each image once"
    caches[0].kill()
    assert await read_all(tmp_path / "two") == 0
    assert group[0].failures > 0
    assert direct.requests == 0, "nothing goes past the caches while one is up"
    caches[0].start()
    await trio.sleep(group[0].failures * 2.5)
    await read_all(tmp_path / "three")
    assert group[0].failures == 0, "it is returned to"
    await routes.aclose()


class Client:
    """Requests as a node sends them, to see what a cache keeps."""

    def __init__(self, cache: SiteCache, origin: Nginx) -> None:
        self._cache, self._origin = cache, origin

    def get(self, asked: str, **headers: str) -> tuple[int, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        before = self._origin.url if self._cache.forward else ""
        connection = http.client.HTTPConnection("127.0.0.1", self._cache.port, timeout=30)
        try:
            host = self._cache.origin if self._cache.forward else "cache.site"
            connection.request(
                "GET", f"{before}/a.sif", headers={"Host": host, "Range": f"bytes={asked}", **named}
            )
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def name(self, **headers: str) -> tuple[int, bytes]:
        return self.get("0-99", Cache_Control="max-age=1", **headers)


def put(nginx: Nginx, data: bytes, stamp: int) -> str:
    """Publish; the ETag is nginx's."""
    (nginx.root / "new").write_bytes(data)
    os.utime(nginx.root / "new", (stamp, stamp))
    (nginx.root / "new").rename(nginx.root / "a.sif")
    return f'"{stamp:x}-{len(data):x}"'


@pytest.mark.parametrize("kind", [NginxCache, SquidCache, VarnishCache])
def test_a_cache_keeps_versions_apart_and_believes_no_old_name(
    kind: type[SiteCache], nginx: Nginx, make_cache: Callable[[type[SiteCache]], SiteCache]
) -> None:
    old, new = os.urandom(3 << 20), os.urandom(3 << 20)
    first = put(nginx, old, 1_000_000_000)
    ask = Client(make_cache(kind), nginx)
    assert ask.name() == (206, old[:100])
    assert ask.get("1000000-2500000", If_Match=first) == (206, old[1000000:2500001])
    assert ask.get("0-99", If_Match='"of-another"')[0] == 412
    assert ask.get("3000000-9999999", If_Match=first) == (206, old[3000000:])
    sent = nginx.bytes_sent("/a.sif")
    assert ask.get("1000000-2500000", If_Match=first) == (206, old[1000000:2500001])
    assert nginx.bytes_sent("/a.sif") == sent, "what is kept is not asked for again"
    second = put(nginx, new, 1_100_000_000)
    time.sleep(2.1)
    assert ask.name(If_None_Match=first) == (206, new[:100])
    assert ask.name() == (206, new[:100])
    assert ask.get("1000000-2500000", If_Match=second) == (206, new[1000000:2500001])
    status, body = ask.get("1000000-2500000", If_Match=first)
    assert (status, body) == (206, old[1000000:2500001]) or status == 412, (
        "never the new bytes for the old version"
    )


@pytest.mark.parametrize("kind", [NginxCache, SquidCache, VarnishCache])
def test_a_cache_keeps_nothing_that_credentials_gave(
    kind: type[SiteCache], nginx: Nginx, make_cache: Callable[[type[SiteCache]], SiteCache]
) -> None:
    data = os.urandom(1 << 20)
    etag = put(nginx, data, 1_000_000_000)
    ask = Client(make_cache(kind), nginx)
    for number in range(2):
        assert ask.get("0-99", If_Match=etag, Authorization=f"Bearer {number}") == (206, data[:100])
    asked = [request for request in nginx.requests("/a.sif") if request.status in (200, 206)]
    assert len(asked) == 2, "each is asked of the origin, which alone knows what they open"
