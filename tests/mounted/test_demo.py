"""The demonstration shows what it promises, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import BuiltImage
from tests.support.mount import REPOSITORY, mounted_below, processes_naming, scrubbed_environment

pytestmark = pytest.mark.mounted


@pytest.fixture
def demo(tmp_path: Path, fuse: None, real_image: BuiltImage) -> Iterator[subprocess.Popen[str]]:
    """The running demonstration, with its temporary files below `tmp_path`."""
    environment = scrubbed_environment(
        TMPDIR=str(tmp_path),
        LAZYSIF_TEST_IMAGES=str(real_image.path.parent),
        LAZYSIF_RUNTIME_DIR=str(tmp_path / "run"),
        PYTHONUNBUFFERED="1",
    )
    with subprocess.Popen(
        [sys.executable, "-m", "bench.demo"],
        cwd=REPOSITORY,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # tests that a shell started in its background ignore SIGINT, and so would what they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        yield process
        process.kill()
    assert mounted_below(tmp_path) == []
    assert processes_naming(tmp_path) == []
    assert list(tmp_path.glob("lazysif-*")) == []


def test_it_shows_a_table(demo: subprocess.Popen[str]) -> None:
    said, _ = demo.communicate(timeout=90)
    assert demo.returncode == 0, said
    shares = [float(share) for share in re.findall(r"MB +([0-9.]+) %", said)]
    whole, first, second, remounted = shares
    assert whole == 100
    assert first < 70
    assert (second, remounted < 5) == (0, True), said


def test_ctrl_c_ends_it(demo: subprocess.Popen[str]) -> None:
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("serving"):
            break
    demo.send_signal(signal.SIGINT)
    said, _ = demo.communicate(timeout=30)
    assert (demo.returncode, said) == (130, "\nstopping\n")
