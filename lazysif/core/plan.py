"""Which blocks one request should bring: joining missing neighbours into extents. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lazysif.core.block_map import BlockMap


def plan_extents(
    block_map: BlockMap,
    wanted: Iterable[int],
    is_missing: Callable[[int], bool],
    *,
    max_bytes: int,
    gap_bytes: int = 0,
) -> list[range]:
    """Runs of blocks that cover every wanted missing block exactly once, in rising order.

    A gap between two wanted blocks is included if it holds only missing blocks and at most `gap_bytes`: one
    request more costs a round trip, a few bytes more cost less. Blocks that are not missing are never included,
    so no byte is fetched twice. A run is at most `max_bytes` long unless a single block is longer.
    """
    runs: list[range] = []
    for index in sorted({i for i in wanted if is_missing(i)}):
        if runs and _joins(block_map, runs[-1], index, is_missing, max_bytes, gap_bytes):
            runs[-1] = range(runs[-1].start, index + 1)
        else:
            runs.append(range(index, index + 1))
    return runs


def in_stripes(block_map: BlockMap, run: range, stripe_bytes: int) -> list[range]:
    """`run` cut where a stripe ends, so that no request asks one site cache for the share of another.

    A block belongs to the stripe that it starts in. 0 cuts nowhere.
    """
    if not stripe_bytes:
        return [run] if run else []
    parts: list[range] = []
    for index in run:
        if parts and block_map.start(index) // stripe_bytes == block_map.start(index - 1) // stripe_bytes:
            parts[-1] = range(parts[-1].start, index + 1)
        else:
            parts.append(range(index, index + 1))
    return parts


def _joins(
    block_map: BlockMap,
    run: range,
    index: int,
    is_missing: Callable[[int], bool],
    max_bytes: int,
    gap_bytes: int,
) -> bool:
    if block_map.start(index + 1) - block_map.start(run.start) > max_bytes:
        return False
    if block_map.start(index) - block_map.start(run.stop) > gap_bytes:
        return False
    return all(is_missing(i) for i in range(run.stop, index))
