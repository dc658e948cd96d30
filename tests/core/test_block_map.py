"""core.block_map: both kinds, the short last block, the empty image, and what is refused."""

import pytest

from lazysif.core.block_map import GridMap, IndexedMap, extent_range, length, span
from lazysif.model import ByteRange

GRID = GridMap(size_bytes=250, block_size=100)
INDEXED = IndexedMap(starts=(0, 10, 11, 200), size_bytes=250)


@pytest.mark.parametrize(
    ("block_map", "starts", "lengths"),
    [
        pytest.param(GRID, [0, 100, 200, 250], [100, 100, 50], id="grid with a short last block"),
        pytest.param(GridMap(200, 100), [0, 100, 200], [100, 100], id="grid that ends on a boundary"),
        pytest.param(GridMap(1, 100), [0, 1], [1], id="image smaller than a block"),
        pytest.param(GridMap(0, 100), [0], [], id="empty image"),
        pytest.param(INDEXED, [0, 10, 11, 200, 250], [10, 1, 189, 50], id="unequal blocks"),
        pytest.param(IndexedMap((), 0), [0], [], id="empty index"),
    ],
)
def test_starts_and_lengths(block_map, starts, lengths):
    assert block_map.count == len(lengths)
    assert [block_map.start(i) for i in range(block_map.count + 1)] == starts
    assert [length(block_map, i) for i in range(block_map.count)] == lengths


@pytest.mark.parametrize(
    ("block_map", "offset", "index"),
    [
        (GRID, 0, 0),
        (GRID, 99, 0),
        (GRID, 100, 1),
        (GRID, 249, 2),
        (INDEXED, 0, 0),
        (INDEXED, 9, 0),
        (INDEXED, 10, 1),
        (INDEXED, 11, 2),
        (INDEXED, 199, 2),
        (INDEXED, 249, 3),
    ],
)
def test_index_at(block_map, offset, index):
    assert block_map.index_at(offset) == index


@pytest.mark.parametrize("block_map", [GRID, INDEXED, GridMap(0, 1), IndexedMap((), 0)])
def test_outside_the_image_is_an_index_error(block_map):
    for offset in (-1, block_map.size_bytes, block_map.size_bytes + 1):
        with pytest.raises(IndexError):
            block_map.index_at(offset)
    for index in (-1, block_map.count + 1):
        with pytest.raises(IndexError):
            block_map.start(index)
    with pytest.raises(IndexError):
        length(block_map, block_map.count)


@pytest.mark.parametrize(
    ("block_map", "offset", "size", "blocks"),
    [
        (GRID, 0, 250, range(3)),
        (GRID, 99, 1, range(1)),
        (GRID, 99, 2, range(2)),
        (GRID, 200, 10**12, range(2, 3)),
        (GRID, 250, 1, range(0)),
        (GRID, 10**12, 1, range(0)),
        (GRID, 5, 0, range(0)),
        (GridMap(0, 100), 0, 4096, range(0)),
        (INDEXED, 9, 2, range(2)),
        (INDEXED, 10, 1, range(1, 2)),
        (INDEXED, 11, 189, range(2, 3)),
    ],
)
def test_span(block_map, offset, size, blocks):
    assert span(block_map, offset, size) == blocks


def test_extent_range_ends_with_the_image():
    assert extent_range(GRID, range(1, 3)) == ByteRange(100, 250)
    assert extent_range(INDEXED, range(1, 3)) == ByteRange(10, 200)


@pytest.mark.parametrize(("size_bytes", "block_size"), [(-1, 1), (1, 0), (1, -1)])
def test_what_is_no_grid(size_bytes, block_size):
    with pytest.raises(ValueError, match="not a grid"):
        GridMap(size_bytes, block_size)


@pytest.mark.parametrize(
    ("starts", "size_bytes"),
    [
        pytest.param((), 1, id="bytes and no block"),
        pytest.param((1,), 2, id="does not start at 0"),
        pytest.param((0, 5, 5), 9, id="an empty block"),
        pytest.param((0, 5, 4), 9, id="falling"),
        pytest.param((0, 9), 9, id="empty last block"),
        pytest.param((0,), 0, id="a block of an empty image"),
        pytest.param((0, 10), 9, id="past the end"),
    ],
)
def test_what_is_no_index(starts, size_bytes):
    with pytest.raises(ValueError, match="block starts"):
        IndexedMap(starts, size_bytes)
