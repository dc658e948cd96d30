"""Readahead asks inside the image, bounded, and never twice for a byte in one stream."""

from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.readahead import Readahead, ReadaheadLimits
from lazysif.model import ByteRange

SIZE = 20_000
LIMITS = st.builds(
    ReadaheadLimits,
    first_bytes=st.integers(1, 500),
    max_bytes=st.integers(1, 2000),
    slack_bytes=st.integers(0, 500),
)


@st.composite
def reads(draw):
    """Some streams, interleaved, with jumps."""
    positions = draw(st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=3))
    found = []
    for _ in range(draw(st.integers(1, 60))):
        which = draw(st.integers(0, len(positions) - 1))
        start = min(max(positions[which] + draw(st.integers(-200, 200)), 0), SIZE - 1)
        stop = min(start + draw(st.integers(1, 600)), SIZE)
        positions[which] = min(stop, SIZE - 1)
        found.append(ByteRange(start, stop))
    return found


@given(LIMITS, reads())
def test_inside_the_image_and_bounded(limits, reads):
    readahead = Readahead(limits)
    for read in reads:
        ahead = readahead.advance(read, SIZE)
        assert ahead is None or (read.stop <= ahead.stop <= SIZE and ahead.length <= limits.max_bytes)


@given(LIMITS, st.lists(st.integers(1, 400), max_size=60))
def test_one_stream_asks_for_each_byte_once(limits, steps):
    readahead = Readahead(limits)
    position, asked_until = 0, 0
    for step in steps:
        stop = min(position + step, SIZE)
        if stop == position:
            return
        ahead = readahead.advance(ByteRange(position, stop), SIZE)
        position = stop
        if ahead is not None:
            assert ahead.start >= max(asked_until, position)
            asked_until = ahead.stop


@given(LIMITS, st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 600)), max_size=300))
def test_random_reads_are_remembered_within_bounds(limits, scattered):
    readahead = Readahead(limits)
    for start, length in scattered:
        readahead.advance(ByteRange(start, start + length), 2 * 10**9)
    assert len(readahead._streams) <= 32
