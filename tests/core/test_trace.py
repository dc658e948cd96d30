"""core.trace and traces.trace_file: what a trace may be, and how jobs of one image keep paths of their own."""

from dataclasses import replace

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core import trace as core
from lazysif.core.trace import Recording, Trace, TracePath, check, check_fits, covers, merge, trace_key
from lazysif.errors import FormatError
from lazysif.traces.trace_file import decode, encode, read_trace, write_trace

KEY = trace_key(400 * 4096, b"head")
EMPTY = Trace(KEY, 400 * 4096, 4096)


def path(blocks, used_s=1):
    return TracePath(tuple(blocks), tuple(range(0, 10 * len(blocks), 10)), used_s)


PREFIX = range(0, 60, 3)
PYTHON = path([*PREFIX, *range(100, 200)], 1)
SHELL = path([*PREFIX, *range(300, 330)], 2)
PASS = path([*PREFIX, *range(100, 180)], 3)
TRUE = path([*PREFIX], 4)


def merged(*paths):
    trace = EMPTY
    for each in paths:
        trace = merge(trace, each)
    return trace


def test_jobs_of_one_image_keep_paths_of_their_own_the_last_used_first():
    assert merged(PYTHON, SHELL).paths == (SHELL, PYTHON)


def test_a_shorter_job_on_a_known_path_only_marks_it_as_used():
    assert merged(PYTHON, PASS).paths == (replace(PYTHON, used_s=3),)


def test_a_longer_job_takes_the_place_of_the_shorter_one():
    assert merged(replace(PASS, used_s=1), replace(PYTHON, used_s=2)).paths == (replace(PYTHON, used_s=2),)


def test_a_job_that_is_twice_as_long_is_another_one():
    """Regression: `/bin/true` was merged into `import numpy`, and fetched what only that needs."""
    half = path([*PREFIX, *range(100, 140)], 4)
    assert merged(PYTHON, half).paths == (half, PYTHON)
    assert merged(PYTHON, TRUE).paths == (TRUE, PYTHON)
    assert merged(TRUE, PYTHON).paths == (TRUE, PYTHON)


def test_a_reader_of_all_of_the_image_does_not_take_the_place_of_its_starts():
    everything = path([*range(1, 400, 2), *range(0, 400, 2)], 9)
    trace = merged(PASS, SHELL, everything)
    assert trace.paths == (everything, PASS, SHELL)
    assert merged(everything, PASS, SHELL).paths == trace.paths


def test_of_two_recordings_of_one_job_the_newer_stays():
    again = path([*reversed(PYTHON.blocks), 399], 9)
    assert merged(PYTHON, again).paths == (again,)
    assert merged(again, PYTHON).paths == (again,)


def test_the_path_used_least_lately_makes_room():
    jobs = [path(range(20 * n, 20 * n + 20), n) for n in range(1, core.MAX_PATHS + 3)]
    trace = merged(*jobs)
    assert len(trace.paths) == core.MAX_PATHS
    assert trace.paths[0] == jobs[-1]
    assert jobs[0] not in trace.paths
    check(trace)


def test_says_more_is_about_paths_and_not_about_dates():
    assert core.says_more(merged(PYTHON, SHELL), merged(PYTHON))
    assert not core.says_more(merged(replace(PASS, used_s=99)), merged(PYTHON, SHELL))


def test_a_recording_that_completes_a_path_is_told_at_once_and_takes_its_place():
    """Regression: a path that lacked up to a tenth of its job cost as many round trips for a day, and in a share
    for ever."""
    whole = path([*PREFIX, *range(100, 200)], 1)
    lacking = path([*PREFIX, *range(100, 190)], 9)
    assert core.says_more(merged(whole), merged(lacking))
    assert core.merge_all(merged(lacking), merged(whole)).paths == (replace(whole, used_s=9),)
    assert not core.says_more(merged(lacking), merged(whole))


def test_recordings_that_differ_as_they_always_do_tell_nothing():
    few = path([*PREFIX, *range(104, 200)], 9)
    assert not core.says_more(merged(PYTHON), merged(few))


def test_two_jobs_that_differ_by_as_much_do_not_take_turns():
    one = path([*PREFIX, *range(100, 200), *range(300, 308)])
    other = path([*PREFIX, *range(100, 200), *range(310, 320)])
    assert covers(one, other)
    assert not core.says_more(merged(one), merged(other))
    assert not core.says_more(merged(other), merged(one))


paths_of_one_job = st.sets(st.integers(0, 99), min_size=60).map(lambda blocks: path(sorted(blocks)))


@given(paths_of_one_job, paths_of_one_job, st.integers(1, 9))
def test_what_was_merged_tells_nothing_more(known, new, used_s):
    """Else it would be kept and offered at each start again."""
    new = merged(replace(new, used_s=used_s))
    both = core.merge_all(merged(replace(known, used_s=5)), new)
    assert core.says_more(new, merged(known)) <= (not core.says_more(new, both))


def test_the_key_is_of_content_and_size():
    assert trace_key(10, b"a" * core.HEAD_BYTES + b"x") == trace_key(10, b"a" * core.HEAD_BYTES + b"y")
    assert len({trace_key(10, b"a"), trace_key(11, b"a"), trace_key(10, b"b")}) == 3


def test_a_recording_is_bounded_in_blocks_and_time(monkeypatch):
    monkeypatch.setattr(core, "MAX_BLOCKS", 50)
    recording = Recording(100.0, longest_s=60.0)
    for block in range(0, 200, 2):
        recording.add(block, 100.0 + block / 4)
    assert recording.path(7) == TracePath(
        tuple(range(0, 100, 2)), tuple(500 * n // 2 for n in range(0, 100, 2)), 7
    )
    recording = Recording(100.0, longest_s=5.0)
    for block in range(0, 200, 2):
        recording.add(block, 100.0 + block)
    assert len(recording) == 3
    assert recording.path(7) is None, "a glance"


BAD = {
    "no key": replace(EMPTY, key="x" * 32),
    "no image": replace(EMPTY, size_bytes=0),
    "odd blocks": replace(EMPTY, block_size=5000),
    "tiny blocks": replace(EMPTY, block_size=1),
    "an empty path": replace(EMPTY, paths=(TracePath((), ()),)),
    "a block outside": replace(EMPTY, paths=(TracePath((400,), (0,)),)),
    "a block twice": replace(EMPTY, paths=(TracePath((4, 4), (0, 1)),)),
    "times backwards": replace(EMPTY, paths=(TracePath((4, 5), (1, 0)),)),
    "no times": replace(EMPTY, paths=(TracePath((4, 5), (1,)),)),
    "a year": replace(EMPTY, paths=(TracePath((4,), (10**11,)),)),
    "many paths": replace(EMPTY, paths=(PYTHON,) * (core.MAX_PATHS + 1)),
    "many blocks": Trace(
        KEY, core.MAX_BLOCKS * 4096, 4096, (path(range(core.MAX_BLOCKS)),) * 4 + (path(range(4)),)
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_a_trace_is_refused(what):
    with pytest.raises(FormatError):
        check(BAD[what])
    with pytest.raises(FormatError):
        encode(BAD[what])


def test_what_is_of_another_image_is_refused():
    trace = merged(PYTHON)
    check_fits(trace, KEY, 400 * 4096, 4096)
    for key, size, block in ((KEY[::-1], 400 * 4096, 4096), (KEY, 401 * 4096, 4096), (KEY, 400 * 4096, 8192)):
        with pytest.raises(FormatError):
            check_fits(trace, key, size, block)


PATHS = st.lists(
    st.lists(st.integers(0, 399), min_size=1, max_size=60, unique=True).map(path), max_size=core.MAX_PATHS
)


@given(PATHS, st.text(max_size=30).filter(str.isprintable))
def test_a_file_holds_what_was_written(paths, name):
    trace = replace(EMPTY, paths=tuple(paths), name=name)
    assert decode(encode(trace)) == trace


@given(st.binary(max_size=400))
def test_garbage_is_refused(garbage):
    with pytest.raises(FormatError):
        decode(garbage)


@given(st.data())
def test_a_damaged_file_is_refused_or_harmless(data):
    content = bytearray(encode(merged(PYTHON, SHELL)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        trace = decode(bytes(content))
    except FormatError:
        return
    check(trace)


def packed(document, **settings):
    return zstandard.ZstdCompressor(**settings).compress(msgspec.json.encode(document))


GOOD = {
    "lazysif_trace": 1,
    "key": KEY,
    "size_bytes": 400 * 4096,
    "block_size": 4096,
    "paths": [{"used_s": 1, "blocks": [1, 2], "times_ms": [0, 5]}],
}
HOSTILE = {
    "another version": packed({**GOOD, "lazysif_trace": 2}),
    "a number for a list": packed({**GOOD, "paths": 7}),
    "a negative block": packed({**GOOD, "paths": [{"used_s": 1, "blocks": [-1], "times_ms": [0]}]}),
    "a fraction": packed({**GOOD, "paths": [{"used_s": 1, "blocks": [1.5], "times_ms": [0]}]}),
    "a huge number": packed({**GOOD, "size_bytes": 10**30}),
    "a path too long": packed(
        {**GOOD, "paths": [{"used_s": 1, "blocks": list(range(20_000)), "times_ms": [0] * 20_000}]}
    ),
    "a bomb": packed({**GOOD, "name": "a" * 50_000_000}),
    "a bomb of unsaid size": packed({**GOOD, "name": "a" * 50_000_000}, write_content_size=False),
    "a name that draws on terminals": packed({**GOOD, "name": "\x1b[2J"}),
    "nested deeply": zstandard.ZstdCompressor().compress(b"[" * 100_000),
    "an unknown key": packed({**GOOD, "more": 1}),
    "twice": packed(GOOD) * 2,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused(what):
    assert len(HOSTILE[what]) < 1 << 20
    with pytest.raises(FormatError):
        decode(HOSTILE[what])


def test_good_files_of_other_writers_are_read():
    assert decode(packed(GOOD)).paths == (TracePath((1, 2), (0, 5), 1),)


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path):
    write_trace(tmp_path / "real", merged(PYTHON))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="symbolic links"):
        read_trace(tmp_path / "link")


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "trace"
    write_trace(file, merged(PYTHON))
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(OSError, match="No space"):
        write_trace(file, merged(SHELL))
    assert read_trace(file) == merged(PYTHON)
    assert [each.name for each in tmp_path.iterdir()] == ["trace"]


def test_the_longest_trace_fits_its_bounds():
    big = Trace(KEY, core.MAX_TOTAL_BLOCKS * 4096, 4096)
    per_path = core.MAX_TOTAL_BLOCKS // core.MAX_PATHS
    scattered = [(n * 48_271) % core.MAX_TOTAL_BLOCKS for n in range(core.MAX_TOTAL_BLOCKS)]
    for n in range(core.MAX_PATHS):
        big = merge(big, path(scattered[n * per_path : (n + 1) * per_path], n))
    assert decode(encode(big)) == big
    assert covers(big.paths[0], path(scattered[-per_path:]))
