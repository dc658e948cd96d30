"""core.readahead: what a sequence of reads asks for."""

import pytest

from lazysif.core.readahead import Readahead, ReadaheadLimits
from lazysif.model import ByteRange

SIZE = 10_000
LIMITS = ReadaheadLimits(first_bytes=100, max_bytes=800, slack_bytes=50)


def asked(reads, size=SIZE):
    readahead = Readahead(LIMITS)
    answers = [readahead.advance(ByteRange(start, stop), size) for start, stop in reads]
    return [(answer.start, answer.stop) if answer else None for answer in answers]


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        pytest.param([(0, 10)], [None], id="a lone read"),
        pytest.param([(0, 10), (10, 20)], [None, (20, 120)], id="the second in a row"),
        pytest.param([(0, 10), (60, 70)], [None, (70, 170)], id="a jump within the slack"),
        pytest.param([(0, 10), (61, 70)], [None, None], id="a jump beyond the slack"),
        pytest.param([(100, 200), (50, 200)], [None, None], id="nothing new in it"),
        pytest.param([(100, 200), (160, 210)], [None, (210, 310)], id="out of order, but further"),
        pytest.param([(0, 150), (150, 300)], [None, (300, 450)], id="a first window as large as the read"),
        pytest.param(
            [(0, 10), (5000, 5010), (10, 20), (5010, 5020)],
            [None, None, (20, 120), (5020, 5120)],
            id="two streams at once",
        ),
    ],
)
def test_windows(reads, expected):
    assert asked(reads) == expected


def test_it_stops_at_the_end_of_the_image():
    assert asked([(0, 50), (50, 100)], size=130) == [None, (100, 130)]
    assert asked([(0, 50), (50, 100)], size=100) == [None, None]
    assert asked([(0, 50), (50, 100), (100, 120), (120, 130)], size=130) == [None, (100, 130), None, None]


def test_the_window_grows_with_the_stream_up_to_its_bound():
    readahead = Readahead(LIMITS)
    answers = [readahead.advance(ByteRange(i * 100, i * 100 + 100), 10**6) for i in range(200)]
    windows = [answer.stop - (i * 100 + 100) for i, answer in enumerate(answers) if answer]
    assert windows == sorted(windows)
    assert windows[0] == 100
    assert windows[-1] == 800


def test_small_steps_do_not_make_small_requests():
    readahead = Readahead(LIMITS)
    answers = [readahead.advance(ByteRange(i * 10, i * 10 + 10), 10**6) for i in range(1000)]
    lengths = [answer.length for answer in answers if answer]
    assert min(lengths) >= 50, "half of the smallest window"
    assert sum(lengths) >= 10_000 - 20, "and all of it was asked for"
    assert len(lengths) < 100


def test_the_least_recently_used_stream_goes_first():
    readahead = Readahead(LIMITS)
    for i in range(33):
        readahead.advance(ByteRange(i * 1000, i * 1000 + 10), 10**6)
    assert readahead.advance(ByteRange(10, 20), 10**6) is None, "the first of 33 is no stream any more"
    assert readahead.advance(ByteRange(2010, 2020), 10**6) == ByteRange(2020, 2120)
