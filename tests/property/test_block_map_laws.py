"""Blocks of both kinds tile the image, and a span holds exactly the blocks that the bytes lie in."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.block_map import GridMap, IndexedMap, extent_range, length, span
from tests.support.block_maps import block_maps


@given(block_maps())
def test_blocks_tile_the_image(block_map):
    edges = [block_map.start(i) for i in range(block_map.count + 1)]
    assert edges[0] == 0
    assert edges[-1] == block_map.size_bytes
    assert all(a < b for a, b in pairwise(edges))
    assert sum(length(block_map, i) for i in range(block_map.count)) == block_map.size_bytes


@given(block_maps(min_size_bytes=1), st.data())
def test_a_byte_lies_in_its_block(block_map, data):
    offset = data.draw(st.integers(0, block_map.size_bytes - 1))
    index = block_map.index_at(offset)
    assert block_map.start(index) <= offset < block_map.start(index + 1)


@given(block_maps(), st.integers(0, 2500), st.integers(0, 2500))
def test_a_span_is_exactly_the_blocks_of_its_bytes(block_map, offset, size):
    stop = min(offset + size, block_map.size_bytes)
    expected = [
        i
        for i in range(block_map.count)
        if block_map.start(i) < stop and block_map.start(i + 1) > offset and offset < stop
    ]
    assert list(span(block_map, offset, size)) == expected


@given(block_maps(min_size_bytes=1), st.data())
def test_an_extent_is_the_sum_of_its_blocks(block_map, data):
    first = data.draw(st.integers(0, block_map.count - 1))
    stop = data.draw(st.integers(first + 1, block_map.count))
    extent = extent_range(block_map, range(first, stop))
    assert extent.length == sum(length(block_map, i) for i in range(first, stop))
    assert span(block_map, extent.start, extent.length) == range(first, stop)


@given(st.integers(0, 5000), st.integers(1, 300))
def test_a_grid_is_the_index_with_equal_lengths(size, block):
    grid, indexed = GridMap(size, block), IndexedMap(tuple(range(0, size, block)), size)
    assert grid.count == indexed.count
    assert [grid.start(i) for i in range(grid.count + 1)] == [indexed.start(i) for i in range(grid.count + 1)]
    assert all(grid.index_at(o) == indexed.index_at(o) for o in range(0, size, 7))
