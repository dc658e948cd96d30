"""core.block_cutter: however an answer is cut into chunks, the same blocks come out."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.block_cutter import BlockCutter
from lazysif.core.block_map import GridMap
from lazysif.errors import SourceProtocolError

DATA = bytes(range(250))
GRID = GridMap(len(DATA), 16)


@given(st.lists(st.integers(0, len(DATA)), max_size=30))
def test_all_blocks_come_once_and_in_order(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(DATA)]
    cutter = BlockCutter(GRID, range(GRID.count))
    came = [block for start, stop in pairwise(edges) for block in cutter.feed(DATA[start:stop])]
    assert [index for index, _ in came] == list(range(GRID.count))
    assert b"".join(data for _, data in came) == DATA
    assert cutter.complete


def test_an_answer_that_ends_early_is_not_complete() -> None:
    cutter = BlockCutter(GRID, range(2, 4))
    assert [index for index, _ in cutter.feed(DATA[32:60])] == [2]
    assert not cutter.complete


def test_more_than_was_asked_for_is_refused() -> None:
    cutter = BlockCutter(GRID, range(2, 4))
    with pytest.raises(SourceProtocolError, match="more bytes"):
        cutter.feed(DATA[32:65])


def test_a_block_that_lies_in_one_chunk_is_not_copied() -> None:
    chunk = DATA[32:48]
    [(_, data)] = BlockCutter(GRID, range(2, 4)).feed(chunk)
    assert data is chunk
