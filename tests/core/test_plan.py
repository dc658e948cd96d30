"""core.plan: joining, gaps, bounds."""

import pytest

from lazysif.core.block_map import GridMap, IndexedMap
from lazysif.core.plan import plan_extents

GRID = GridMap(1000, 10)


@pytest.mark.parametrize(
    ("wanted", "present", "max_bytes", "gap_bytes", "runs"),
    [
        pytest.param([], [], 100, 0, [], id="nothing wanted"),
        pytest.param([3], [3], 100, 0, [], id="nothing missing"),
        pytest.param([5, 3, 4, 3], [], 100, 0, [range(3, 6)], id="any order, twice"),
        pytest.param([3, 5], [], 100, 0, [range(3, 4), range(5, 6)], id="no gap allowed"),
        pytest.param([3, 5], [], 100, 10, [range(3, 6)], id="gap of exactly the allowance"),
        pytest.param([3, 6], [], 100, 19, [range(3, 4), range(6, 7)], id="gap one byte over"),
        pytest.param([3, 5], [4], 100, 10, [range(3, 4), range(5, 6)], id="gap that is not missing"),
        pytest.param([3, 4, 5], [4], 100, 0, [range(3, 4), range(5, 6)], id="wanted, but not missing"),
        pytest.param(range(6), [], 30, 0, [range(3), range(3, 6)], id="cut at exactly max_bytes"),
        pytest.param(range(3), [], 29, 0, [range(2), range(2, 3)], id="cut one byte under"),
        pytest.param([1, 2], [], 1, 0, [range(1, 2), range(2, 3)], id="a block longer than max_bytes"),
        pytest.param([0, 2, 4], [], 30, 10, [range(3), range(4, 5)], id="the gap counts towards max_bytes"),
    ],
)
def test_runs(wanted, present, max_bytes, gap_bytes, runs):
    missing = set(range(GRID.count)) - set(present)
    assert plan_extents(GRID, wanted, missing.__contains__, max_bytes=max_bytes, gap_bytes=gap_bytes) == runs


def test_bytes_count_and_not_blocks():
    indexed = IndexedMap((0, 1, 2, 500, 501), 1000)
    assert plan_extents(indexed, [0, 1, 3], lambda i: True, max_bytes=600, gap_bytes=497) == [
        range(2),
        range(3, 4),
    ]
    assert plan_extents(indexed, [0, 1, 3], lambda i: True, max_bytes=600, gap_bytes=498) == [range(4)]
