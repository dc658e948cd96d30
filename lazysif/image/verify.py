"""Whole images against the digest that their registry gives: in the background, once all blocks are here.

Each block is bound to its own digest when it comes, which proves that it is what came, and not that it is what was
published. Registries that know the digest of the whole file (oras, library, shub, static) allow that proof, but only
at the end; it is made without being asked for, at half of a core's speed, and remembered. An image that fails it is
discarded, and its reads fail for a while; then it may be fetched and proved anew.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import trio

from lazysif.cache.block_cache import BlockCache
from lazysif.errors import SourceProtocolError
from lazysif.image.open_image import OpenImage
from lazysif.model import Buffer, ImageId, ValidatorKind
from lazysif.telemetry import Counters

log = logging.getLogger(__name__)

VERIFIED, BAD = "verified", "bad"
_ROUND_S = 5.0
_BATCH_BYTES = 4 << 20
_BAD_FOR_S = 3600.0
_ALGORITHMS = ("sha256", "sha512", "md5")


class VerdictStore(Protocol):
    """Where verdicts outlive the daemon; called in a thread."""

    def verdict_of(self, image_id: ImageId) -> tuple[str, float] | None:
        """A verdict and when it was reached (seconds since 1970)."""
        ...

    def remember_verdict(self, image_id: ImageId, verdict: str, at_s: float) -> None: ...


class Verifier:
    """Args: listed: the images that are open.

    Whoever keeps copies of an image's bytes sets `on_refused`; it is called in a thread.
    """

    def __init__(
        self,
        cache: BlockCache,
        verdicts: VerdictStore,
        listed: Callable[[], Iterable[OpenImage]],
        counters: Counters,
    ) -> None:
        self._cache = cache
        self._verdicts = verdicts
        self._listed = listed
        self._counters = counters
        self._threads = trio.CapacityLimiter(1)
        self.on_refused: Callable[[ImageId], None] = lambda _: None

    async def recall(self, opened: OpenImage) -> None:
        """What was found of this version before, by this daemon or one before it."""
        if algorithm_of(opened) is None:
            return
        found = await trio.to_thread.run_sync(
            self._verdicts.verdict_of, opened.image.id, limiter=self._threads
        )
        if found is None:
            opened.verdict = "not yet"
        elif found[0] == VERIFIED:
            opened.verdict = VERIFIED
        elif time.time() - found[1] < _BAD_FOR_S:
            self._refuse(opened)
        else:
            opened.verdict = "not yet"

    async def run(self) -> None:
        """Look at the open images from time to time, for as long as the daemon lives."""
        while True:
            await trio.sleep(_ROUND_S)
            for opened in list(self._listed()):
                if opened.verdict == "not yet" and opened.blocks.complete:
                    try:
                        await self._check(opened)
                    except Exception:
                        log.exception("%s: the check failed in an unexpected way", opened.image.name)
                        self._counters.unexpected_errors += 1

    async def _check(self, opened: OpenImage) -> None:
        began_s = trio.current_time()
        right = await self.matches(opened)
        if right is None:
            return  # some of it went to make room: another time
        verdict = VERIFIED if right else BAD
        await trio.to_thread.run_sync(
            self._verdicts.remember_verdict, opened.image.id, verdict, time.time(), limiter=self._threads
        )
        if right:
            opened.verdict = VERIFIED
            self._counters.images_verified += 1
            log.info(
                "%s: all bytes fit its digest (%.1f s)", opened.image.name, trio.current_time() - began_s
            )
        else:
            self._counters.images_refused += 1
            self._refuse(opened)
            log.error("%s", opened.refusal)
            # the kernel has pages of it, and would go on serving them
            await trio.to_thread.run_sync(self.on_refused, opened.image.id, limiter=self._threads)

    async def matches(self, opened: OpenImage) -> bool | None:
        """Whether all bytes fit the digest; None where not all of them are in the cache."""
        algorithm = algorithm_of(opened)
        if algorithm is None:
            return None
        hasher = hashlib.new(algorithm, usedforsecurity=False)
        for blocks in opened.batches(_BATCH_BYTES):
            began_s = trio.current_time()
            data = await opened.blocks.peek(blocks)
            if data is None:
                return None
            await trio.to_thread.run_sync(_feed, hasher.update, data, limiter=self._threads)
            await trio.sleep(trio.current_time() - began_s)
        return hasher.hexdigest() == opened.image.validator.value.partition(":")[2].lower()

    def _refuse(self, opened: OpenImage) -> None:
        opened.verdict = BAD
        opened.refuse(
            SourceProtocolError(
                f"its bytes do not fit the digest that its registry gives ({opened.image.validator.value})",
                image=opened.image.name,
                origin=opened.image.location.origin,
                hint="it is not served, and is fetched anew in an hour: tell the registry's keeper",
            )
        )


def _feed(update: Callable[[Buffer], None], pieces: Iterable[Buffer]) -> None:
    for piece in pieces:
        update(piece)


def algorithm_of(opened: OpenImage) -> str | None:
    """The hash of an image's digest, None where its version is known by something else."""
    validator = opened.image.validator
    name = validator.value.partition(":")[0]
    return name if validator.kind is ValidatorKind.DIGEST and name in _ALGORITHMS else None
