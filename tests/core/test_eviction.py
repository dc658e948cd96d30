"""core.eviction: how much goes before something comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.eviction import EvictionPlan, low_mark, plan_eviction

PLENTY = 10**12


@pytest.mark.parametrize(
    ("used", "free", "floor", "incoming", "expected"),
    [
        pytest.param(0, PLENTY, 0, 100, EvictionPlan(0, True), id="empty store"),
        pytest.param(900, PLENTY, 0, 100, EvictionPlan(0, True), id="exactly at the limit"),
        pytest.param(950, PLENTY, 0, 100, EvictionPlan(100, True), id="over: down to the low mark"),
        pytest.param(
            100, 500, 450, 60, EvictionPlan(60, True), id="under the floor: what is missing and slack"
        ),
        pytest.param(100, 500, 440, 60, EvictionPlan(0, True), id="exactly at the floor"),
        pytest.param(
            100, 0, 500, 60, EvictionPlan(0, False, True), id="others filled the disk: nothing in vain"
        ),
        pytest.param(0, PLENTY, 0, 1001, EvictionPlan(0, False), id="larger than the limit"),
        pytest.param(1500, PLENTY, 0, 0, EvictionPlan(550, True), id="limit was lowered"),
        pytest.param(
            1500, PLENTY, 0, 5000, EvictionPlan(500, False), id="lowered limit, write that never fits"
        ),
    ],
)
def test_plan(used, free, floor, incoming, expected):
    plan = plan_eviction(
        frame_bytes=used,
        database_bytes=0,
        limit_bytes=1000,
        disk_free_bytes=free,
        floor_bytes=floor,
        incoming_bytes=incoming,
    )
    assert plan == expected


@pytest.mark.parametrize(
    ("frames", "database", "incoming", "expected"),
    [
        pytest.param(850, 100, 100, EvictionPlan(100, True), id="it counts"),
        pytest.param(300, 900, 100, EvictionPlan(300, True), id="all frames go for it"),
        pytest.param(300, 900, 101, EvictionPlan(200, False), id="evicting all would not make room"),
        pytest.param(300, 2000, 0, EvictionPlan(300, False), id="it is larger than the limit"),
        pytest.param(0, 2000, 10, EvictionPlan(0, False), id="nothing is left to evict"),
    ],
)
def test_a_database_is_never_taken_for_what_evicting_could_free(frames, database, incoming, expected):
    plan = plan_eviction(
        frame_bytes=frames,
        database_bytes=database,
        limit_bytes=1000,
        disk_free_bytes=PLENTY,
        floor_bytes=0,
        incoming_bytes=incoming,
    )
    assert plan == expected


sizes = st.integers(0, 2**50)


@given(frames=sizes, database=sizes, limit=sizes, free=sizes, floor=sizes, incoming=sizes, step=sizes)
def test_a_write_always_fits_afterwards_and_no_more_goes_than_there_is(
    frames, database, limit, free, floor, incoming, step
):
    used = frames + database
    plan = plan_eviction(
        frame_bytes=frames,
        database_bytes=database,
        limit_bytes=limit,
        disk_free_bytes=free,
        floor_bytes=floor,
        incoming_bytes=incoming,
        step_bytes=step,
    )
    assert 0 <= plan.free_bytes <= frames
    if plan.write:
        assert used - plan.free_bytes + incoming <= limit
        assert free + plan.free_bytes - incoming >= floor
    assert used - plan.free_bytes <= limit or plan.free_bytes == frames


def test_the_low_mark_lies_a_twentieth_below_the_limit():
    assert low_mark(1000) == 950
    assert low_mark(0) == 0
