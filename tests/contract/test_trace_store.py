"""traces.store: files that survive, stay within bounds, and never stop a daemon."""

import os
from dataclasses import replace

import pytest

from lazysif.core.trace import Trace, TracePath
from lazysif.errors import FormatError, LocalDirectoryError
from lazysif.traces import store as module
from lazysif.traces.store import TraceStore

KEY = "0" * 32
PATH = TracePath((0, 1, 5), (0, 1, 2), 10)
OTHER = TracePath((7, 8, 9), (0, 1, 2), 11)
TRACE = Trace(KEY, 100 * 4096, 4096, (PATH,), "shub/a.sif")


def test_what_is_added_is_merged_and_read_by_the_next_daemon(tmp_path):
    TraceStore(tmp_path).add(TRACE)
    TraceStore(tmp_path).add(replace(TRACE, paths=(OTHER,)))
    assert TraceStore(tmp_path).load(KEY) == replace(TRACE, paths=(OTHER, PATH))
    assert oct((tmp_path / "traces-v1").stat().st_mode)[-3:] == "700"


def test_a_trace_of_other_blocks_takes_the_place_of_the_old_one(tmp_path):
    store = TraceStore(tmp_path)
    store.add(TRACE)
    assert store.add(replace(TRACE, block_size=8192)).block_size == 8192
    assert store.load(KEY).block_size == 8192


def test_what_was_forgotten_stays_forgotten(tmp_path):
    store = TraceStore(tmp_path)
    store.add(TRACE)
    assert store.forget(KEY)
    assert not store.forget(KEY)
    assert (store.load(KEY), list(store.traces())) == (None, [])


def test_something_else_in_its_place_is_refused_once_and_gone(tmp_path):
    store = TraceStore(tmp_path)
    store.add(TRACE)
    (file,) = (tmp_path / "traces-v1").iterdir()
    file.write_bytes(b"something else")
    with pytest.raises(FormatError):
        store.load(KEY)
    assert store.load(KEY) is None


@pytest.mark.parametrize("bound", ["MOST_TRACES", "MOST_BYTES"])
def test_the_oldest_make_room(tmp_path, monkeypatch, bound):
    store = TraceStore(tmp_path)
    keys = [f"{n:032x}" for n in range(6)]
    for age, key in enumerate(keys):
        store.add(replace(TRACE, key=key))
        os.utime(store.directory / f"{key}.lazysif-trace", (1000 + age, 1000 + age))
    size = (store.directory / f"{keys[0]}.lazysif-trace").stat().st_size
    monkeypatch.setattr(module, bound, 3 if bound == "MOST_TRACES" else 3 * size + size // 2)
    store.add(replace(TRACE, key="f" * 32))
    assert [trace.key for trace in store.traces()] == ["f" * 32, keys[5], keys[4]]


def test_foreign_files_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_TRACES", 1)
    store = TraceStore(tmp_path)
    store.directory.mkdir()
    (store.directory / "README").write_text("mine")
    store.add(TRACE)
    assert (store.directory / "README").exists()
    assert len(list(store.traces())) == 1


def test_a_directory_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "traces-v1").write_text("a file")
    with pytest.raises(LocalDirectoryError, match=r"cannot write traces to .*traces-v1: "):
        TraceStore(tmp_path).add(TRACE)


def test_a_key_is_no_path(tmp_path):
    with pytest.raises(ValueError, match="key"):
        TraceStore(tmp_path).load("../../etc/passwd")
