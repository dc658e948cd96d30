"""Traces: which blocks the starts of an image touched, in what order, and how recordings become paths. Pure.

A *path* is one kind of job: its blocks in the order of their first touch, with time offsets. A *trace* holds the
few paths of one image. A trace is a hint: whatever is in it, following it changes what is fetched early, never
what a read returns.

Trust ends at `check`: after it blocks are inside the image and stand in a path once, and all counts are bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from blake3 import blake3

from lazysif.errors import FormatError

MAX_PATHS = 16
MAX_BLOCKS = 16_384
"""Of one path: 2 GiB in blocks of 128 KiB."""
MAX_TOTAL_BLOCKS = 65_536
MIN_BLOCKS = 4
"""Less is `file image.sif`, not a start."""
HEAD_BYTES = 64 << 10
"""What a trace's key is made of: in a SIF the header with its UUID and times, and all descriptors."""

_SAME = 0.9
_LONGER = 1.5
_LACKING = 0.02
_FEW = 4
"""Recordings of one job differ by 0 or 1 blocks of 200 for a light import, by up to 6 of 1,431 for a heavy one."""
_LONGEST_MS = 24 * 3600 * 1000
_COPY_BLOCKS = 256
_COPY_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class TracePath:
    """One kind of job.

    Args:
        blocks: in the order of first touch, each once.
        times_ms: when each was touched first, from the first touch on; never falling.
        used_s: when such a start was last seen, in seconds since 1970.
    """

    blocks: tuple[int, ...]
    times_ms: tuple[int, ...]
    used_s: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """What is known of the starts of one image.

    Args:
        key: of the image's content (`trace_key`), the same whatever its URL.
        size_bytes: of the image.
        block_size: the grid that block numbers count in.
        paths: the one used last comes first.
        name: what a user types, for lists; empty in what is shared.
    """

    key: str
    size_bytes: int
    block_size: int
    paths: tuple[TracePath, ...] = ()
    name: str = ""

    @property
    def blocks(self) -> int:
        """Different blocks in all paths."""
        return len({block for path in self.paths for block in path.blocks})


def trace_key(size_bytes: int, head: bytes) -> str:
    """The key of an image: 32 hexadecimal digits of its size and its first `HEAD_BYTES`.

    Content and not URL: mirrors, registries and copies of one image share a trace.
    """
    return blake3(f"{size_bytes}\0".encode() + head[:HEAD_BYTES]).hexdigest(length=16)


def is_key(text: str) -> bool:
    return len(text) == 32 and not set(text) - set("0123456789abcdef")


def check(trace: Trace) -> None:
    """Whether this can be a trace of an image. Raises: FormatError."""
    if not is_key(trace.key):
        raise FormatError("a trace without a key")
    if trace.size_bytes <= 0 or trace.block_size < 4096 or trace.block_size & (trace.block_size - 1):
        raise FormatError("a trace of no image")
    if len(trace.paths) > MAX_PATHS or sum(len(path.blocks) for path in trace.paths) > MAX_TOTAL_BLOCKS:
        raise FormatError("a trace with more paths or blocks than there may be")
    count = -(-trace.size_bytes // trace.block_size)
    for path in trace.paths:
        _check_path(path, count)


def _check_path(path: TracePath, count: int) -> None:
    blocks, times = path.blocks, path.times_ms
    if not 0 < len(blocks) <= MAX_BLOCKS or len(times) != len(blocks):
        raise FormatError("a path of no length, or too long")
    if min(blocks) < 0 or max(blocks) >= count:
        raise FormatError("a block outside the image")
    if len(set(blocks)) != len(blocks):
        raise FormatError("a block that is touched first twice")
    if times[0] < 0 or times[-1] > _LONGEST_MS or any(a > b for a, b in pairwise(times)):
        raise FormatError("times that run backwards")
    if path.used_s < 0:
        raise FormatError("a path from before 1970")


def check_fits(trace: Trace, key: str, size_bytes: int, block_size: int) -> None:
    """Whether a trace is of this image in these blocks. Raises: FormatError."""
    check(trace)
    if trace.key != key or trace.size_bytes != size_bytes:
        raise FormatError("a trace of another image")
    if trace.block_size != block_size:
        raise FormatError(f"a trace in blocks of {trace.block_size} bytes, and not of {block_size}")


def merge(trace: Trace, new: TracePath) -> Trace:
    """`trace` with what one more start, or another trace's path, says. Bounded as `check` demands.

    Of two paths of which one covers the other the longer stays, and of two that cover each other the newer, unless
    it would lack what the new one tells (`completes`): so nothing piles up that no single start touched. All else is
    a job of its own, and the path that was used least lately makes room.
    """
    kept: list[TracePath] = []
    for path in trace.paths:
        if covers(new, path) and (new.used_s >= path.used_s or not covers(path, new) or completes(new, path)):
            new = replace(new, used_s=max(new.used_s, path.used_s))
        elif covers(path, new):
            new = replace(path, used_s=max(new.used_s, path.used_s))
        else:
            kept.append(path)
    paths = sorted([new, *kept], key=lambda path: -path.used_s)[:MAX_PATHS]
    while sum(len(path.blocks) for path in paths) > MAX_TOTAL_BLOCKS:
        paths.pop()
    return replace(trace, paths=tuple(paths))


def merge_all(trace: Trace, other: Trace) -> Trace:
    """`trace` with all paths of another trace of the same image."""
    for path in reversed(other.paths):
        trace = merge(trace, path)
    return trace


def covers(longer: TracePath, shorter: TracePath) -> bool:
    """Whether nearly all of `shorter` stands in `longer`, and is a good part of it.

    A path half as long again is of another job, or of several at once: what is read of all of an image holds every
    start of it and leads none. What the paths of several jobs share any of them needs, at once (`core.follow`).
    """
    short, long = len(shorter.blocks), len(longer.blocks)
    if not _SAME * short <= long <= _LONGER * short:
        return False
    return _stands_in(shorter, longer)


def holder(trace: Trace, path: TracePath) -> TracePath | None:
    """The path of a trace in which nearly all of `path` stands, if there is one.

    A start that finds part of the image in the kernel's page cache touches the rest only: it tells nothing new.
    """
    return next((known for known in trace.paths if _stands_in(path, known)), None)


def _stands_in(path: TracePath, other: TracePath) -> bool:
    """Whether nearly all blocks of a path are among another's."""
    return len(set(other.blocks).intersection(path.blocks)) >= _SAME * len(path.blocks)


def completes(new: TracePath, old: TracePath) -> bool:
    """Whether a path tells more of a job than the one that covers it does: each block that it lacks is a round trip.

    Far more than it drops in turn: of two jobs that differ by so much, each would take the other's place for ever.
    """
    told, known = set(new.blocks), set(old.blocks)
    lacking = len(told - known)
    return lacking > max(_FEW, _LACKING * len(told)) and lacking > 2 * len(known - told)


def says_more(new: Trace, old: Trace) -> bool:
    """Whether `new` has a path that `old` does not cover, or covers and lacks much of: worth telling others."""
    return any(
        not any(covers(known, path) and not completes(path, known) for known in old.paths)
        for path in new.paths
    )


def is_start(blocks: Sequence[int]) -> bool:
    """Whether a recording is worth keeping: neither a glance nor a copy of the image from end to end, which
    readahead serves and which would stand in the way of real starts."""
    if len(blocks) < MIN_BLOCKS:
        return False
    steps = sum(after == before + 1 for before, after in pairwise(blocks))
    return len(blocks) < _COPY_BLOCKS or steps < _COPY_SHARE * len(blocks)


class Recording:
    """The first touches of one start, as they come.

    Args:
        began_s: the time of the first touch, on the clock that `add` uses.
        longest_s: later touches are no part of the start.
    """

    def __init__(self, began_s: float, longest_s: float = 300.0) -> None:
        self._began_s = began_s
        self._longest_s = longest_s
        self._blocks: list[int] = []
        self._times_ms: list[int] = []

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, block: int, at_s: float) -> None:
        """Note a block that was not touched before; ignored past the bounds."""
        if not self.is_full(at_s):
            self._blocks.append(block)
            self._times_ms.append(round(1000 * (at_s - self._began_s)))

    def is_full(self, now_s: float) -> bool:
        """Whether nothing more is noted."""
        return len(self._blocks) >= MAX_BLOCKS or now_s - self._began_s > self._longest_s

    @property
    def blocks(self) -> Sequence[int]:
        return self._blocks

    def path(self, used_s: int) -> TracePath | None:
        """What was recorded, or None if it is not worth keeping."""
        if not is_start(self._blocks):
            return None
        return TracePath(tuple(self._blocks), tuple(self._times_ms), used_s)
