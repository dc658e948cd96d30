"""Hypothesis strategies for block maps of both kinds."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import strategies as st

from lazysif.core.block_map import BlockMap, GridMap, IndexedMap


def _indexed(lengths: list[int]) -> IndexedMap:
    edges = [0, *accumulate(lengths)]
    return IndexedMap(tuple(edges[:-1]), edges[-1])


def block_maps(min_size_bytes: int = 0) -> st.SearchStrategy[BlockMap]:
    """Grids and unequal blocks, small enough to be looked at block by block."""
    grids = st.builds(GridMap, st.integers(min_size_bytes, 2000), st.integers(1, 300))
    lengths = st.lists(st.integers(1, 300), min_size=min(min_size_bytes, 1), max_size=30)
    return st.one_of(
        grids.filter(lambda grid: grid.count <= 200),
        lengths.map(_indexed).filter(lambda indexed: indexed.size_bytes >= min_size_bytes),
    )
