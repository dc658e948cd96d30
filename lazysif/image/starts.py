"""How starts are learned: recordings go into the node's store and to the shares, and what is known comes back.

Nothing here is ever waited for by a reader, and nothing here may end the daemon: a trace is only for speed.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar, TypeVarTuple

import trio

from lazysif.core.block_map import length, span
from lazysif.core.trace import (
    HEAD_BYTES,
    Recording,
    Trace,
    check_fits,
    holder,
    merge_all,
    says_more,
    trace_key,
)
from lazysif.errors import FormatError, LazysifError
from lazysif.image.open_image import OpenImage
from lazysif.image.tracing import QUIET_S, ImageTracing
from lazysif.model import Image, ImageId
from lazysif.telemetry import Counters
from lazysif.traces.sharing import Share
from lazysif.traces.store import TraceStore

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")

_ASKED_AGAIN_S = 3600.0
"""Where nothing was found, and nothing recorded since."""
_KNOWN_ASKED_AGAIN_S = 24 * 3600
_REFRESHED_S = 24 * 3600
"""A start that tells nothing new renews the mark of its last use at most this often."""
_MOST_ASKED = 1000
_MERGED_AT_ONCE = 8000
"""Blocks that are merged on the event loop, in 2 ms; the largest traces take 80 ms."""
_LAST_S = 2.0


class Starts:
    """Records, keeps and shares the starts of all images of a daemon.

    Args:
        nursery: of the daemon.
        shares: where traces are shared; all are asked, and those that take traces are given new ones.
        beside: the share that is beside an image, if its remote can have one.
        block_size: the grid that recordings count in.
        quiet_s: see `image.tracing`.
        jitter_s: an offer is made within this span, so that the nodes of an array do not all write at once.
        succeeds: another daemon has served this mount before.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        store: TraceStore,
        block_size: int,
        counters: Counters,
        *,
        shares: Sequence[Share] = (),
        beside: Callable[[Image], Share | None] = lambda image: None,
        quiet_s: float = QUIET_S,
        jitter_s: float = 30.0,
        succeeds: bool = False,
    ) -> None:
        self._nursery = nursery
        self._store = store
        self._block_size = block_size
        self._counters = counters
        self._shares = shares
        self._beside = beside
        self._quiet_s = quiet_s
        self._jitter_s = jitter_s
        self._succeeds = succeeds
        self._let_go: set[ImageId] = set()
        self._keys: dict[ImageId, str] = {}
        self._prepared: set[ImageId] = set()
        self._asked_s: dict[str, float] = {}
        self._under_way: dict[ImageId, OpenImage] = {}
        self._disk = trio.CapacityLimiter(1)
        self._learning = trio.Lock()

    def attach(self, opened: OpenImage) -> None:
        """Record and follow the starts of an image just made."""
        if not opened.image.ranges or not opened.image.size_bytes:
            return
        opened.trace_with(
            ImageTracing(
                lambda block: length(opened.block_map, block),
                lambda: self._begin(opened),
                read_before=self._succeeds or opened.image.id in self._let_go,
            )
        )

    # --- a start ----------------------------------------------------------------------------------

    def _begin(self, opened: OpenImage) -> None:
        """A first touch: watch for the end of the phase. After a restart this comes without an open."""
        self.prepare(opened)
        self._under_way[opened.image.id] = opened
        self._nursery.start_soon(self._guarded, self._watch, opened, name=f"start of {opened.image.name}")

    async def _guarded(self, work: Callable[[*_Arguments], Awaitable[None]], *arguments: *_Arguments) -> None:
        """A fault in what is only done for speed must not end the daemon's nursery, and every mount with it."""
        try:
            await work(*arguments)
        except LazysifError as error:
            log.info("traces: %s", error)
        except Exception:
            log.exception("traces: failed in an unexpected way")
            self._counters.unexpected_errors += 1

    async def _watch(self, opened: OpenImage) -> None:
        """Wait until nothing new is touched, and keep what was recorded."""
        tracing = opened.tracing
        assert tracing is not None
        key = self._keys.get(opened.image.id)
        if key is not None:  # what was imported or forgotten since the last start
            self._use(opened, await self._known(opened, key))
        # one look in a while: an event for each block would cost its readers more
        while (rest_s := self._quiet_s - tracing.quiet_s(trio.current_time())) > 0:
            await trio.sleep(rest_s)
            await self._keep(opened, tracing.take_full(trio.current_time()))
        self._under_way.pop(opened.image.id, None)
        await self._keep(opened, tracing.end())

    async def _keep(self, opened: OpenImage, recording: Recording | None) -> None:
        key = self._keys.get(opened.image.id)
        path = recording.path(int(time.time())) if recording is not None else None
        if key is None or path is None:
            return
        known = await self._known(opened, key)
        if opened.tracing is not None and opened.tracing.partial and (whole := holder(known, path)):
            path = replace(whole, used_s=path.used_s)
        new = replace(self._empty(opened, key), paths=(path,))
        if says_more(new, known) or path.used_s - known.paths[0].used_s > _REFRESHED_S:
            merged = await self._in_thread(self._store.add, new)
            self._counters.traces_recorded += 1
            log.info("%s: recorded a start of %d blocks", opened.image.name, len(path.blocks))
            self._use(opened, merged)
        if says_more(new, known):
            self._nursery.start_soon(self._guarded, self._offer, merged, name="offer of a trace")

    # --- what is known ----------------------------------------------------------------------------

    def prepare(self, opened: OpenImage) -> None:
        """Behind an open: find what this node and the shares know of the image's starts."""
        if opened.tracing is not None and opened.image.id not in self._prepared:
            self._prepared.add(opened.image.id)
            decided = opened.tracing.look_up()
            name = f"trace of {opened.image.name}"
            self._nursery.start_soon(self._guarded, self._prepare, opened, opened.tracing, decided, name=name)

    async def _prepare(self, opened: OpenImage, tracing: ImageTracing, decided: trio.Event) -> None:
        try:
            head = bytes(await opened.read(0, HEAD_BYTES))
            for block in span(opened.block_map, 0, HEAD_BYTES):
                # it came with the look-up, and what lies in memory begins no start: the open does
                tracing.touch(block, trio.current_time())
            key = trace_key(opened.image.size_bytes, head)
            self._keys[opened.image.id] = key
            known = await self._known(opened, key)
            self._use(opened, known)
        except LazysifError:
            self._prepared.discard(opened.image.id)
            raise
        finally:
            decided.set()
        if not await self._may_ask(known):
            return
        beside = self._beside(opened.image)
        for share in (*self._shares, *([beside] if beside is not None else [])):
            self._nursery.start_soon(self._guarded, self._learn, opened, key, share, name="trace of a share")

    async def touched(self, opened: OpenImage) -> list[int]:
        """The blocks that known starts of an image touch, this node's and those of the shares, path by path.

        Raises: LazysifError: the image cannot be read.
        """
        head = bytes(await opened.read(0, HEAD_BYTES))
        key = trace_key(opened.image.size_bytes, head)
        beside = self._beside(opened.image)
        if not (await self._known(opened, key)).paths:
            for share in (*self._shares, *([beside] if beside is not None else [])):
                await self._guarded(self._learn, opened, key, share)
        known = await self._known(opened, key)
        return list(dict.fromkeys(block for path in known.paths for block in path.blocks))

    async def _may_ask(self, known: Trace) -> bool:
        """Whether it is time to ask the shares for this image; notes that it is done."""
        key, now_s = known.key, trio.current_time()
        if now_s - self._asked_s.get(key, float("-inf")) < _ASKED_AGAIN_S:
            return False
        self._asked_s[key] = now_s
        while len(self._asked_s) > _MOST_ASKED:
            del self._asked_s[next(iter(self._asked_s))]
        if not known.paths:
            return True
        if time.time() - await self._in_thread(self._store.asked_s, key) < _KNOWN_ASKED_AGAIN_S:
            return False
        await self._in_thread(self._store.note_asked, key)
        return True

    async def _known(self, opened: OpenImage, key: str) -> Trace:
        """What the node's own store has; a trace of no paths if nothing."""
        empty = self._empty(opened, key)
        try:
            trace = await self._in_thread(self._store.load, key)
            if trace is None:
                return empty
            self._check(opened, key, trace)
        except FormatError as error:
            self._refuse(opened, "the state directory", error)
            return empty
        return trace

    async def _learn(self, opened: OpenImage, key: str, share: Share) -> None:
        """Take what a share has, if it says more than is known."""
        try:
            trace = await share.get(key)
            if trace is None:
                return
            self._check(opened, key, trace)
        except FormatError as error:
            self._refuse(opened, share.name, error)
            return
        except LazysifError as error:
            self._counters.trace_errors += 1
            log.info("%s: no trace from %s: %s", opened.image.name, share.name, error)
            return
        async with self._learning:  # what one share said must be there when the next is added
            known = await self._known(opened, key)
            if not says_more(trace, known):
                return
            self._counters.traces_learned += 1
            log.info("%s: %d paths of starts from %s", opened.image.name, len(trace.paths), share.name)
            large = trace.blocks + known.blocks > _MERGED_AT_ONCE
            self._use(
                opened, await self._in_thread(merge_all, known, trace) if large else merge_all(known, trace)
            )
            await self._in_thread(self._store.add, replace(trace, name=opened.image.name))

    async def _offer(self, trace: Trace) -> None:
        """Give what was learned to the shares that take it, once; what another node said meanwhile stays."""
        await trio.sleep(self._jitter_s * random.random())
        trace = replace(trace, name="")
        for share in self._shares:
            try:
                if await share.offer(trace):
                    self._counters.traces_offered += 1
            except LazysifError as error:
                self._counters.trace_errors += 1
                log.warning("traces: nothing offered to %s: %s", share.name, error)

    # --- small parts ------------------------------------------------------------------------------

    def _empty(self, opened: OpenImage, key: str) -> Trace:
        return Trace(key, opened.image.size_bytes, self._block_size, name=opened.image.name)

    def _check(self, opened: OpenImage, key: str, trace: Trace) -> None:
        check_fits(trace, key, opened.image.size_bytes, self._block_size)

    def _refuse(self, opened: OpenImage, where: str, error: FormatError) -> None:
        self._counters.traces_refused += 1
        log.warning("%s: its trace from %s is not used: %s", opened.image.name, where, error.why)

    def _use(self, opened: OpenImage, trace: Trace) -> None:
        if opened.tracing is not None:
            opened.tracing.set_paths(trace.paths)
            opened.follow()

    async def _in_thread(self, call: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> _T:
        return await trio.to_thread.run_sync(call, *arguments, limiter=self._disk)

    def forget(self, image_id: ImageId) -> None:
        """An image was let go of."""
        if self._keys.pop(image_id, None) is not None:
            self._let_go.add(image_id)
        self._prepared.discard(image_id)

    async def aclose(self) -> None:
        """Keep what was recorded of starts that are still under way; gives up soon."""
        with trio.move_on_after(_LAST_S):
            for opened in list(self._under_way.values()):
                if opened.tracing is not None:
                    await self._guarded(self._keep, opened, opened.tracing.end())
