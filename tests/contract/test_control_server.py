"""The control socket's life."""

import logging
import os
import subprocess
import sys
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


def test_closing_writes_no_byte_behind_the_close(tmp_path, monkeypatch):
    """Woken by another's byte, its thread closed the descriptor before ours was written: 25 closes of 1000."""
    server = ControlServer(tmp_path / "control.sock", dict)
    server.start()
    pull = server._server.trigger._physical_pull

    def pull_behind_another():
        pull()
        time.sleep(0.05)
        pull()

    monkeypatch.setattr(server._server.trigger, "_physical_pull", pull_behind_another)
    server.close()
    server._thread.join(5)
    assert not server._thread.is_alive()


def test_a_process_with_many_files_open_is_still_asked(tmp_path):
    """Its thread ended at the first connection with a number above 1023, with a traceback on the daemon's log."""
    script = """if True:
        import os, pathlib, resource, sys
        from lazysif.control.client import fetch_status
        from lazysif.control.server import ControlServer
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2048), most))
        path = pathlib.Path(sys.argv[1])
        server = ControlServer(path, lambda: {"pid": 1})
        server.start()
        files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
        print(fetch_status(path))
        server.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "control.sock"], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr, done.returncode) == ("{'pid': 1}\n", "", 0)


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
