"""The daemon: the one place that builds the objects, joins them, and starts and stops them in order.

Start: directories and locks, state, cache, remotes, tree, kernel, control socket. Stop (umount, SIGTERM, SIGINT):
kernel, control socket, cache, fetches, state.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import shutil
import signal
import time
from contextlib import ExitStack
from typing import Any

import trio

from lazysif import __version__
from lazysif.cache.block_cache import BlockCache
from lazysif.cache.cache_settings import CacheSettings
from lazysif.cache.directory import DirectoryLock, prepare_directory
from lazysif.cache.fsck_online import OnlineFsck
from lazysif.config.kinds import HttpRemote
from lazysif.config.remote import RemoteConfig
from lazysif.config.tables import Config
from lazysif.control.address import make_runtime_directory, socket_path
from lazysif.control.server import ControlServer
from lazysif.control.watchdog import Watchdog, iso_time
from lazysif.core.asked import words_of
from lazysif.core.names import join_url, origin_of
from lazysif.errors import LazysifError
from lazysif.fetch.contact import Contact, WatchedTransport
from lazysif.fetch.fetcher import Fetcher, FetchLimits
from lazysif.fetch.flights import FlightTable
from lazysif.fetch.locations import Locations
from lazysif.fetch.remote import Remote, RemotePolicy
from lazysif.fetch.routes import Routes
from lazysif.fuse import session
from lazysif.fuse.operations import Operations
from lazysif.fuse.pages import Pages
from lazysif.image.open_image import OpenImage
from lazysif.image.starts import Starts
from lazysif.image_names import ImageNames
from lazysif.model import Image, Transport
from lazysif.remotes import make_transport, routes_of, source_of
from lazysif.telemetry import Counters
from lazysif.traces.configured import shares_of
from lazysif.traces.sharing import BesideImage
from lazysif.traces.store import TraceStore
from lazysif.transport.split import make_engine
from lazysif.tree.fixed_names import FixedNames
from lazysif.tree.idle_fill import FillSettings, IdleFill
from lazysif.tree.open_images import OpenImages
from lazysif.tree.state import StateStore
from lazysif.tree.tree import Tree
from lazysif.tree.warming import Warming

log = logging.getLogger(__name__)

READ_AHEAD_KB = 32
"""The kernel's guesses, kept small: ours know what is cached and what a request costs. With 32 it asks for what
squashfs and squashfuse read (up to 128 KiB at a time) and little more: a Python start touched 18.5 MB of an image
of 110 MB, 20.4 MB with the kernel's default of 128 and 32 MB with 1024, in the same time. A sequential reader of
cached blocks gets 1.0 GB/s, with 1024 it gets 1.1."""

_LAST_ANSWERS_S = 0.1
_M_ARENA_MAX = -8
"""mallopt(3)"""


def run(config: Config, mountpoint: str, connection: session.KeptConnection) -> None:
    """Serve `mountpoint` (absolute) over `connection` until it is unmounted or a signal asks for the end.

    Raises:
        ConfigError, LocalDirectoryError, MountError: it never served.
    """
    _limit_malloc_arenas()
    # what is loaded stays: to look through it for garbage takes 41 ms, in the middle of a first start
    gc.freeze()
    with ExitStack() as stack:
        prepare_directory(config.state.dir, "state")
        prepare_directory(config.cache.dir, "cache")
        lock = DirectoryLock(config.state.dir, "state")
        lock.acquire()
        stack.callback(lock.release)
        make_runtime_directory()
        state = StateStore(config.state.dir)
        stack.callback(state.close)
        daemon = Daemon(config, mountpoint, state)
        try:
            trio.run(daemon.main, connection)
        except BaseExceptionGroup as group:
            raise _ours(group) from group


def _limit_malloc_arenas() -> None:
    """glibc gives each thread an arena and returns little of it: 181 MB resident after five readers of 20 open
    images, 133 MB with two arenas."""
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
    except (OSError, AttributeError):
        log.debug("another C library than glibc")


def _ours(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of ours in a nursery's group, else the group."""
    found: BaseException | None = group.subgroup(LazysifError)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found or group


class Daemon:
    """One mount. See the module for the order of things."""

    def __init__(self, config: Config, mountpoint: str, state: StateStore) -> None:
        self._config = config
        self._mountpoint = mountpoint
        self._state = state
        self._counters = Counters()
        self._image_names = ImageNames(config)
        self._all_remotes = (*config.remotes, *self._image_names.hidden)
        self._started_s = time.time()
        self._images: OpenImages | None = None
        self._cache: BlockCache | None = None
        self._tree: Tree | None = None
        self._contacts: dict[str, Contact] = {}
        self._engine = make_engine()
        self._routes: dict[str, Routes] = {}
        self._transports: dict[str, Transport] = {}

    async def main(self, connection: session.KeptConnection) -> None:
        config = self._config
        cache = self._cache = BlockCache(self._cache_settings(), self._counters)
        pages = Pages(self._mountpoint, connection.fuse_fd)
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            if self._engine is not None:
                self._engine.start()
            flights = FlightTable()
            remotes = {r.name: self._remote(r, nursery, flights) for r in self._all_remotes}
            starts = self._starts(nursery)
            images = self._images = OpenImages(
                nursery,
                remotes.__getitem__,
                cache,
                config.cache.block_size,
                self._counters,
                starts,
                verdicts=self._state,
            )
            if images.verifier is not None:
                nursery.start_soon(images.verifier.run, name="verifier")
            tree = Tree(
                nursery,
                remotes,
                images,
                self._state,
                self._counters,
                lookup_timeout_s=config.limits.lookup_timeout,
                read_timeout_s=config.limits.read_timeout,
                whole_file_timeout_s=max(r.whole_file_timeout for r in self._all_remotes),
                fixed=FixedNames(self._image_names.fixed),
                asked=connection.asked,
                pages=pages if self._gives_pages else None,
            )
            if images.verifier is not None:
                images.verifier.on_refused = lambda image_id: pages.drop(tree.numbers_of(image_id))
            operations = Operations(tree, self._counters, config.cache.block_size, pages.is_reader)
            self._tree = tree
            self._contacts = {name: remote.contact for name, remote in remotes.items()}
            nursery.start_soon(Watchdog(tree.in_hand).run, name="watchdog")
            fsck = OnlineFsck(cache, nursery, self._counters)
            if config.fill.enabled:
                settings = FillSettings(config.fill.quiet, float(config.fill.rate))
                filling = IdleFill(images, cache, self._counters, settings)
                nursery.start_soon(filling.run, name="fill of idle times")
            warming = self._warming(nursery, tree, images, cache, starts)
            nursery.start_soon(warming.go_on, name="warming")
            if self._gives_pages:
                nursery.start_soon(self._fill_pages, pages, connection)
            await self._serve(operations, nursery, connection, fsck, warming)
            if starts is not None:
                await starts.aclose()
            await cache.aclose()
            nursery.cancel_scope.cancel()
        pages.close()
        if self._engine is not None:
            await self._engine.aclose()

    async def _serve(
        self,
        operations: Operations,
        nursery: trio.Nursery,
        connection: session.KeptConnection,
        fsck: OnlineFsck,
        warming: Warming,
    ) -> None:
        control = ControlServer(
            socket_path(self._mountpoint),
            self.status,
            views={"/fsck": fsck.document, "/warm": warming.document},
            verbs={
                "/fsck": lambda query: fsck.begin(dry_run=query.get("dry_run") == "1"),
                "/warm": warming.command,
            },
        )
        connection.attach(operations)
        control.start()
        try:
            with trio.CancelScope() as serving:
                nursery.start_soon(self._end_on_signal, serving)
                nursery.start_soon(self._tune, connection)
                nursery.start_soon(self._show_life, connection)
                await session.serve()
            log.info("no longer serving %s", self._mountpoint)
        finally:
            control.close()
            session.close()

    async def _tune(self, connection: session.KeptConnection) -> None:
        """Set up the mount once it can answer."""
        await connection.taken_over.wait()
        session.tune(self._mountpoint, READ_AHEAD_KB)
        log.info("%s is served by version %s", self._mountpoint, __version__)

    @property
    def _gives_pages(self) -> bool:
        return self._config.traces.enabled and self._config.traces.give_pages

    async def _fill_pages(self, pages: Pages, connection: session.KeptConnection) -> None:
        await connection.taken_over.wait()
        await trio.to_thread.run_sync(pages.begin)

    async def _show_life(self, connection: session.KeptConnection) -> None:
        """The keeper replaces a daemon that says nothing, and tells the next one what this one had in hand."""
        while True:
            await trio.sleep(1.0)
            connection.asked.awake(time.monotonic())
            in_hand = self._tree.in_hand.listed() if self._tree is not None else []
            connection.say(b"alive " + json.dumps(words_of(in_hand)).encode())

    async def _end_on_signal(self, serving: trio.CancelScope) -> None:
        """Take no more requests; those that are not answered soon are asked again of the next daemon."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("ending on signal %d", number)
                session.stop()
                serving.deadline = trio.current_time() + _LAST_ANSWERS_S

    def _source(self) -> str:
        config = self._config
        return config.remotes[0].shown_url if config.source_mode else "lazysif"

    def _starts(self, nursery: trio.Nursery) -> Starts | None:
        """What records and follows the starts of images, where that is wanted."""
        config = self._config
        if not config.traces.enabled:
            return None
        beside = {r.name: r for r in self._all_remotes if config.traces.beside and isinstance(r, HttpRemote)}

        def beside_image(image: Image) -> BesideImage | None:
            remote = beside.get(image.remote)
            if remote is None:
                return None
            # an image out of the state directory has no URL yet
            below = f"{remote.prefix}/{image.path}" if remote.prefix else image.path
            url = image.location.url or join_url(remote.url, below)
            return BesideImage(url, self._transports[image.remote])

        return Starts(
            nursery,
            TraceStore(config.state.dir),
            config.cache.block_size,
            self._counters,
            shares=shares_of(config.traces),
            beside=beside_image,
            jitter_s=config.traces.offer_within,
        )

    def _warming(
        self, nursery: trio.Nursery, tree: Tree, images: OpenImages, cache: BlockCache, starts: Starts | None
    ) -> Warming:
        async def traced(opened: OpenImage) -> list[int]:
            return await starts.touched(opened) if starts is not None else []

        return Warming(
            nursery,
            self._image_names.target,
            tree.find_image,
            traced,
            images,
            cache,
            self._counters,
            self._config.state.dir / "warm-v1.json",
        )

    def _cache_settings(self) -> CacheSettings:
        cache = self._config.cache
        total_bytes = shutil.disk_usage(cache.dir).total
        return CacheSettings(
            directory=cache.dir,
            limit_bytes=cache.size.resolve(total_bytes),
            min_free_bytes=cache.min_free.resolve(total_bytes),
            memory_bytes=cache.memory,
        )

    def _remote(self, remote: RemoteConfig, nursery: trio.Nursery, flights: FlightTable) -> Remote:
        limits = self._config.limits
        contact = Contact(remote.name)
        source = source_of(remote)
        # probes and listings have no lane: they must not wait behind the flow of data
        connections = limits.connections + 8
        routes = routes_of(remote, source, connections, self._counters, self._engine)
        if routes is not None:
            self._routes[remote.name] = routes
        sender = make_transport(remote, source, connections, routes, self._engine)
        transport = WatchedTransport(sender, contact)
        self._transports[remote.name] = transport
        registry = source.make_registry(transport)
        nursery.start_soon(transport.watch, remote.stall_timeout, name=f"watch of {remote.name}")
        fetcher = Fetcher(
            nursery,
            transport,
            flights,
            FetchLimits(
                connections=limits.connections,
                background_connections=max(1, limits.connections * 3 // 4),
                read_budget_s=limits.read_timeout,
                stall_s=remote.stall_timeout,
                whole_file_budget_s=remote.whole_file_timeout,
                stripe_bytes=routes.stripe_bytes if routes is not None else 0,
            ),
            self._counters,
            Locations(registry, self._counters),
            contact,
        )
        policy = RemotePolicy(
            revalidate_s=remote.revalidate,
            negative_s=remote.negative,
            spool_whole=remote.whole_file == "spool",
            listing=remote.listing == "auto",
            origin=origin_of(source.base_url) if source.base_url else remote.kind,
            asked_of=remote.mark(source.base_url),
            # a mirror's bytes are not taken from the origin: that one is only asked for the version
            probe_bytes=1 if routes is not None and routes.has_mirrors else self._config.cache.block_size,
            lookup_budget_s=limits.lookup_timeout,
            stall_s=remote.stall_timeout,
            uid=remote.uid,
            gid=remote.gid,
            mode=remote.mode,
        )
        return Remote(remote.name, registry, transport, fetcher, policy, self._counters)

    def status(self) -> dict[str, Any]:
        """The status document; safe on any thread, asks neither the mount nor the trio thread."""
        images = []
        for opened in self._images.listed() if self._images is not None else []:
            image = opened.image
            images.append(
                {
                    "name": image.name,
                    "origin": origin_of(image.location.origin),
                    "size_bytes": image.size_bytes,
                    "cached_bytes": opened.blocks.cached_bytes(),
                    "open_handles": self._images.handles(image.id) if self._images is not None else 0,
                    "last_error": opened.last_error,
                    "verified": opened.verdict or None,
                }
            )
        cache = self._cache.status() if self._cache is not None else None
        keeper, restarts = (int(field) for field in os.environ.get("LAZYSIF_KEEPER", "0 0").split())
        return {
            "mountpoint": self._mountpoint,
            "pid": os.getpid(),
            "keeper_pid": keeper,
            "restarts": restarts,
            "version": __version__,
            "bulk_by": "libcurl" if self._engine is not None else "httpx",
            "uptime_s": round(time.time() - self._started_s, 1),
            "source": self._source(),
            "images": images,
            "remotes": [
                {
                    "name": name,
                    "offline_since": iso_time(contact.offline_since),
                    "last_error": contact.last_error,
                    "ways": self._routes[name].status() if name in self._routes else [],
                }
                for name, contact in self._contacts.items()
            ],
            "requests": {
                "in_hand": self._tree.in_hand.by_kind() if self._tree else {},
                "oldest_s": round(self._tree.in_hand.oldest_s(time.monotonic()), 3) if self._tree else 0.0,
                "waiting_reads": self._tree.waiting_reads if self._tree else 0,
            },
            "counters": self._counters.snapshot(),
            "cache": {
                "directory": str(self._config.cache.dir),
                "used_bytes": cache.used_bytes if cache else 0,
                "limit_bytes": cache.limit_bytes if cache else 0,
                "free_bytes": cache.free_bytes if cache else 0,
                "state": cache.state if cache else "starting",
            },
        }
