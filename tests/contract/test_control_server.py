"""The control socket's life."""

import logging
import os
import threading
import time

import pytest

from lazysif.control.client import fetch_status
from lazysif.control.server import ControlServer


def test_an_answer_under_way_is_finished_before_the_server_closes(tmp_path, caplog):
    """Its thread wrote to a descriptor that was closed: a traceback in the log, or a byte in another file."""
    asked, answers = threading.Event(), []

    def slow_status():
        asked.set()
        time.sleep(0.1)
        return {"pid": 1}

    path = tmp_path / "control.sock"
    server = ControlServer(path, slow_status)
    server.start()

    def ask():
        try:
            answers.append(fetch_status(path))
        except OSError as error:
            answers.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert asked.wait(5)
    with caplog.at_level(logging.ERROR):
        server.close()
        time.sleep(0.2)
    assert [record.getMessage() for record in caplog.records] == []
    assert not path.exists()
    asking.join(10)


@pytest.mark.parametrize("started", [True, False])
def test_descriptors_are_closed_by_the_thread_that_waits_for_them(tmp_path, monkeypatch, started):
    """Closed by another, they were waited for all the same: a traceback, or another file's events."""
    before = len(os.listdir("/proc/self/fd"))
    server = ControlServer(tmp_path / "control.sock", dict)
    close, closed_by = server._server.close, []
    monkeypatch.setattr(
        server._server, "close", lambda: (closed_by.append(threading.current_thread().name), close())
    )
    if started:
        server.start()
        fetch_status(tmp_path / "control.sock")
    server.close()
    assert closed_by == ["control" if started else "MainThread"]
    if started:
        server._thread.join(5)
    assert len(os.listdir("/proc/self/fd")) == before
