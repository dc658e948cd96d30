"""`lazysif warm` inside the daemon: whole images, or what their starts touch, brought into the cache on request.

The list of what is under way is kept in the state directory, so that the next daemon goes on where this one ended,
however it ended. An image is warmed by one job at a time; asking again changes the rate of the one under way.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import trio

from lazysif.cache.block_cache import BlockCache
from lazysif.core.pace import Pace
from lazysif.errors import ConfigError, LazysifError, NoSuchEntry, SourceError
from lazysif.image.bulk import Fill, Progress
from lazysif.image.open_image import OpenImage
from lazysif.model import Image
from lazysif.telemetry import Counters
from lazysif.tree.open_images import OpenImages

log = logging.getLogger(__name__)

Target = tuple[str, str]
Document = dict[str, Any]

_AT_ONCE = 2
_MOST_WAITING = 1000
_KEPT_FINISHED = 100
_MOST_LIVES = 5
"""A job that so many daemons began and none ended is given up: it may be what ends them."""
_OLD_S = 24 * 3600


class What(StrEnum):
    ALL = "all"
    TRACE = "trace"


class State(StrEnum):
    RESOLVING = "resolving"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


_ENDED = (State.DONE, State.FAILED, State.CANCELLED)


@dataclass(slots=True, eq=False)
class Job:
    """One image being warmed. Written on the trio thread, read from any."""

    image: str
    target: Target
    what: What
    pace: Pace
    asked_s: float
    lives: int = 0
    state: State = State.RESOLVING
    error: str = ""
    began_s: float = 0.0
    ended_s: float = 0.0
    progress: Progress = field(default_factory=Progress)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def ended(self) -> bool:
        return self.state in _ENDED

    def document(self) -> Document:
        progress = self.progress
        return {
            "image": self.image,
            "what": self.what,
            "state": self.state,
            "error": self.error,
            "trouble": progress.trouble,
            "rate": self.pace.bytes_per_s,
            "total_bytes": progress.total_bytes,
            "done_bytes": progress.done_bytes,
            "fetched_bytes": progress.fetched_bytes,
            "seconds": round((self.ended_s or time.time()) - self.began_s, 3) if self.began_s else 0.0,
        }


class Warming:
    """The jobs of one daemon.

    Args:
        nursery: of the daemon; jobs run in it.
        target: what an image's name or URI stands for; raises ConfigError.
        find: the present version of a target; raises LazysifError.
        traced: blocks that starts of an image are known to touch, in order.
        file: where jobs that have not ended are kept.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        target: Callable[[str], Target],
        find: Callable[[str, str], Awaitable[Image]],
        traced: Callable[[OpenImage], Awaitable[Sequence[int]]],
        images: OpenImages,
        cache: BlockCache,
        counters: Counters,
        file: Path,
    ) -> None:
        self._nursery = nursery
        self._target = target
        self._find = find
        self._traced = traced
        self._images = images
        self._cache = cache
        self._counters = counters
        self._file = file
        self._jobs: OrderedDict[Target, Job] = OrderedDict()
        self._guard = threading.Lock()
        self._token = trio.lowlevel.current_trio_token()
        self._places = trio.CapacityLimiter(_AT_ONCE)
        self._disk = trio.CapacityLimiter(1)

    # --- verbs, from any thread -------------------------------------------------------------------

    def command(self, query: Mapping[str, str]) -> Document:
        """What POST /warm does: begin a job (`image`, `what`, `rate` in bytes/s), or with `cancel` end it.

        Raises: ConfigError, NoSuchEntry.
        """
        text = query.get("image", "")
        if query.get("cancel"):
            return self.cancel(text)
        try:
            what, rate = What(query.get("what", What.ALL)), int(query.get("rate", 0)) or None
            if rate is not None and rate < 0:
                raise ValueError(f"a rate of {rate}")
        except ValueError as error:
            raise ConfigError(f"not a request to warm an image: {error}") from error
        return self.begin(text, what, rate)

    def begin(self, text: str, what: What, bytes_per_s: float | None) -> Document:
        """Begin a job, or change the rate of the one under way.

        Raises: ConfigError: not a name that any remote serves, or too many wait.
        """
        target = self._target(text)
        with self._guard:
            job = self._jobs.get(target)
            if job is not None and not job.ended and (job.what is what or job.what is What.ALL):
                job.pace.bytes_per_s = bytes_per_s
                return job.document()
            if sum(not job.ended for job in self._jobs.values()) >= _MOST_WAITING:
                raise ConfigError(f"{_MOST_WAITING} images are waiting to be warmed already")
            before, job = job, Job(_shown(target), target, what, Pace(bytes_per_s), time.time())
            self._add(job)
        self._token.run_sync_soon(self._start, job, before)
        return job.document()

    def cancel(self, text: str) -> Document:
        """End the job of an image; what it brought stays. Raises: ConfigError, NoSuchEntry."""
        target = self._target(text)
        with self._guard:
            job = self._jobs.get(target)
        if job is None or job.ended:
            raise NoSuchEntry(f"{_shown(target)} is not being warmed")
        self._token.run_sync_soon(job.scope.cancel)
        return job.document()

    def document(self) -> Document:
        """All jobs that have not ended, and the last ones that have."""
        with self._guard:
            return {"jobs": [job.document() for job in self._jobs.values()]}

    def _add(self, job: Job) -> None:
        self._jobs[job.target] = job
        self._jobs.move_to_end(job.target)
        ended = [target for target, job in self._jobs.items() if job.ended]
        for target in ended[:-_KEPT_FINISHED]:
            del self._jobs[target]

    # --- jobs, on the trio thread -----------------------------------------------------------------

    async def go_on(self) -> None:
        """Begin again what a daemon before this one did not end. Never raises."""
        try:
            kept = await trio.to_thread.run_sync(_read, self._file, limiter=self._disk)
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("what was being warmed is not known any more: %s", error)
            return
        for job in kept:
            if job.lives >= _MOST_LIVES or time.time() - job.asked_s > _OLD_S:
                log.warning("%s is not warmed any further: it was begun %d times", job.image, job.lives)
                continue
            with self._guard:
                if job.target in self._jobs:
                    continue
                self._add(job)
            self._start(job, None)

    def _start(self, job: Job, before: Job | None) -> None:
        if before is not None and not before.ended:
            before.scope.cancel()
        try:
            self._nursery.start_soon(self._run, job, name=f"warm {job.image}")
        except RuntimeError:  # the nursery is closed already
            job.error, job.state = "the daemon ends", State.FAILED

    async def _run(self, job: Job) -> None:
        """Never raises an Exception."""
        ended = State.CANCELLED
        with job.scope:
            await self._keep()
            try:
                await self._warm(job)
                ended = State.DONE
            except LazysifError as error:
                error.about(image=job.image)
                ended, job.error = State.FAILED, str(error)
                log.warning("not warmed: %s", error)
            except Exception:
                ended, job.error = State.FAILED, "unexpected error; the daemon's log has it"
                log.exception("warming %s failed in an unexpected way", job.image)
                self._counters.unexpected_errors += 1
        job.ended_s, job.state = time.time(), ended
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await self._keep()

    async def _warm(self, job: Job) -> None:
        image = await self._find(*job.target)
        opened = await self._images.open(image)
        try:
            blocks = await self._blocks(job, opened)
            job.state = State.WAITING
            async with self._places:
                job.began_s, job.state = time.time(), State.RUNNING
                await Fill(opened, self._cache, blocks, job.pace, job.progress).run()
            log.info(
                "warmed %s: %d bytes, %d of them fetched, in %.1f s",
                job.image,
                job.progress.total_bytes,
                job.progress.fetched_bytes,
                time.time() - job.began_s,
            )
        finally:
            self._images.release(image)

    async def _blocks(self, job: Job, opened: OpenImage) -> Sequence[int]:
        if job.what is What.ALL:
            return range(opened.block_map.count)
        blocks = await self._traced(opened)
        if not blocks:
            raise SourceError("nothing is known of its starts", hint="--all warms the whole image")
        return blocks

    async def _keep(self) -> None:
        """Write down what has not ended."""
        with self._guard:
            kept = [job for job in self._jobs.values() if not job.ended]
        try:
            await trio.to_thread.run_sync(_write, self._file, kept, limiter=self._disk)
        except OSError as error:
            log.warning("what is being warmed cannot be written down: %s", error)


def _shown(target: Target) -> str:
    return "/".join(part for part in target if part)


def _read(file: Path) -> list[Job]:
    try:
        text = file.read_text()
    except FileNotFoundError:
        return []
    return [
        Job(
            image=str(kept["image"]),
            target=(str(kept["target"][0]), str(kept["target"][1])),
            what=What(kept["what"]),
            pace=Pace(float(kept["rate"]) if kept["rate"] else None),
            asked_s=float(kept["asked_s"]),
            lives=int(kept["lives"]) + 1,
        )
        for kept in json.loads(text)
    ]


def _write(file: Path, jobs: Sequence[Job]) -> None:
    kept = [
        {
            "image": job.image,
            "target": job.target,
            "what": job.what,
            "rate": job.pace.bytes_per_s,
            "asked_s": job.asked_s,
            "lives": job.lives,
        }
        for job in jobs
    ]
    unfinished = file.with_suffix(".new")
    unfinished.write_text(json.dumps(kept))
    unfinished.replace(file)
