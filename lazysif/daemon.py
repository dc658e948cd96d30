"""The daemon: the one place that builds the objects, joins them, and starts and stops them in order.

Start: directories and locks, state, cache, remotes, tree, kernel, control socket. Stop (umount, SIGTERM, SIGINT):
kernel, control socket, cache, fetches, state.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack

import trio

from lazysif.cache.block_cache import BlockCache
from lazysif.cache.cache_settings import CacheSettings
from lazysif.cache.directory import DirectoryLock, prepare_directory
from lazysif.cache.fsck_online import OnlineFsck
from lazysif.config.kinds import HttpRemote
from lazysif.config.tables import Config
from lazysif.control.address import make_runtime_directory, socket_path
from lazysif.control.server import ControlServer
from lazysif.control.status import StatusDocument
from lazysif.control.watchdog import Watchdog
from lazysif.core.names import join_url
from lazysif.errors import LazysifError
from lazysif.fetch.remote import Remote
from lazysif.fuse import session
from lazysif.fuse.operations import Operations
from lazysif.fuse.pages import Pages
from lazysif.fuse.serving import Serving
from lazysif.image.open_image import OpenImage
from lazysif.image.starts import Starts
from lazysif.image_names import ImageNames
from lazysif.model import Image
from lazysif.remotes.build import BuiltRemote, RemoteBuilder
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
        self._engine = make_engine()

    async def main(self, connection: session.KeptConnection) -> None:
        config = self._config
        cache = BlockCache(self._cache_settings(), self._counters)
        pages = Pages(self._mountpoint, connection.fuse_fd)
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            if self._engine is not None:
                self._engine.start()
            builder = RemoteBuilder(config, nursery, self._counters, self._engine)
            built = {remote.name: builder.build(remote) for remote in self._all_remotes}
            remotes = {name: one.remote for name, one in built.items()}
            starts = self._starts(nursery, built, succeeds=not connection.asked.first)
            images = self._images(nursery, remotes, cache, starts)
            tree = self._tree(nursery, remotes, images, connection, pages)
            if images.verifier is not None:
                images.verifier.on_refused = lambda image_id: pages.drop(tree.numbers_of(image_id))
                nursery.start_soon(images.verifier.run, name="verifier")
            operations = Operations(tree, self._counters, config.cache.block_size, pages.is_reader)
            nursery.start_soon(Watchdog(tree.in_hand).run, name="watchdog")
            if config.fill.enabled:
                filling = self._idle_fill(images, cache)
                nursery.start_soon(filling.run, name="fill of idle times")
            warming = self._warming(nursery, tree, images, cache, starts)
            nursery.start_soon(warming.go_on, name="warming")
            if self._gives_pages:
                nursery.start_soon(self._fill_pages, pages, connection)
            status = self._status(tree, images, cache, built)
            control = self._control(status, OnlineFsck(cache, nursery, self._counters), warming)
            connection.attach(operations)
            control.start()
            try:
                await Serving(self._mountpoint, connection, tree.in_hand).run(nursery)
            finally:
                control.close()
                session.close()
            if starts is not None:
                await starts.aclose()
            await cache.aclose()
            nursery.cancel_scope.cancel()
        pages.close()
        if self._engine is not None:
            await self._engine.aclose()

    @property
    def _gives_pages(self) -> bool:
        return self._config.traces.enabled and self._config.traces.give_pages

    async def _fill_pages(self, pages: Pages, connection: session.KeptConnection) -> None:
        await connection.taken_over.wait()
        await trio.to_thread.run_sync(pages.begin)

    def _starts(
        self, nursery: trio.Nursery, remotes: Mapping[str, BuiltRemote], *, succeeds: bool
    ) -> Starts | None:
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
            return BesideImage(url, remotes[image.remote].transport)

        return Starts(
            nursery,
            TraceStore(config.state.dir),
            config.cache.block_size,
            self._counters,
            shares=shares_of(config.traces),
            beside=beside_image,
            jitter_s=config.traces.offer_within,
            succeeds=succeeds,
        )

    def _images(
        self, nursery: trio.Nursery, remotes: Mapping[str, Remote], cache: BlockCache, starts: Starts | None
    ) -> OpenImages:
        return OpenImages(
            nursery,
            remotes.__getitem__,
            cache,
            self._config.cache.block_size,
            self._counters,
            starts,
            verdicts=self._state,
        )

    def _tree(
        self,
        nursery: trio.Nursery,
        remotes: Mapping[str, Remote],
        images: OpenImages,
        connection: session.KeptConnection,
        pages: Pages,
    ) -> Tree:
        limits = self._config.limits
        return Tree(
            nursery,
            remotes,
            images,
            self._state,
            self._counters,
            lookup_timeout_s=limits.lookup_timeout,
            read_timeout_s=limits.read_timeout,
            whole_file_timeout_s=max(r.whole_file_timeout for r in self._all_remotes),
            fixed=FixedNames(self._image_names.fixed),
            asked=connection.asked,
            pages=pages if self._gives_pages else None,
        )

    def _idle_fill(self, images: OpenImages, cache: BlockCache) -> IdleFill:
        fill = self._config.fill
        return IdleFill(images, cache, self._counters, FillSettings(fill.quiet, float(fill.rate)))

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

    def _status(
        self, tree: Tree, images: OpenImages, cache: BlockCache, remotes: Mapping[str, BuiltRemote]
    ) -> StatusDocument:
        config = self._config
        return StatusDocument(
            self._mountpoint,
            config.remotes[0].shown_url if config.source_mode else "lazysif",
            started_s=self._started_s,
            bulk_by="libcurl" if self._engine is not None else "httpx",
            tree=tree,
            images=images,
            cache=cache,
            counters=self._counters,
            contacts={name: built.remote.contact for name, built in remotes.items()},
            routes={name: built.routes for name, built in remotes.items() if built.routes is not None},
        )

    def _control(self, status: StatusDocument, fsck: OnlineFsck, warming: Warming) -> ControlServer:
        return ControlServer(
            socket_path(self._mountpoint),
            status.document,
            views={"/fsck": fsck.document, "/warm": warming.document},
            verbs={
                "/fsck": lambda query: fsck.begin(dry_run=query.get("dry_run") == "1"),
                "/warm": warming.command,
            },
        )
