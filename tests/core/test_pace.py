"""core.pace: a rate is kept over any sequence of pieces, and a pause is no credit."""

from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.pace import Pace

SIZES = st.lists(st.integers(1, 10**7), min_size=1, max_size=50)


@given(SIZES, st.integers(1, 10**9))
def test_no_more_than_the_rate_goes_however_it_is_cut(sizes, rate):
    pace, now = Pace(rate), 100.0
    for size in sizes:
        now += pace.take(size, now)
    assert sum(sizes[:-1]) <= (now - 100.0) * rate * (1 + 1e-9) + 1e-3


def test_a_pause_is_not_made_up_for():
    pace = Pace(1000)
    assert pace.take(1000, 0.0) == 0.0
    assert pace.take(1000, 60.0) == 0.0
    assert pace.take(1000, 60.0) == 1.0


def test_without_a_rate_nothing_waits():
    pace = Pace(None)
    assert [pace.take(10**12, 0.0) for _ in range(3)] == [0.0] * 3
    assert pace.piece_bytes(4096) == 4096


def test_a_slow_flow_goes_in_small_pieces():
    assert Pace(1000).piece_bytes(4096) == 250
    assert Pace(1).piece_bytes(4096) == 1
    assert Pace(10**9).piece_bytes(4096) == 4096


def test_a_rate_may_change_on_the_way():
    pace = Pace(1000)
    pace.take(1000, 0.0)
    pace.bytes_per_s = 10
    assert pace.take(10, 0.5) == 0.5
    assert pace.take(10, 1.0) == 1.0
