"""The house's rules are kept, can be broken, and what it counts is written down."""

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lazysif.control.metrics import render
from lazysif.telemetry import Counters

ROOT = Path(__file__).parents[2]
ORDER = "The way of a read runs in one direction"
METRICS = (ROOT / "docs/metrics.md").read_text()


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=directory, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The package in a directory of its own, to be broken."""
    directory = tmp_path_factory.mktemp("layers")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lazysif", directory / "lazysif", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", directory)
    return directory


def test_the_contracts_are_kept(copy):
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout)


@pytest.mark.parametrize(
    ("module", "line", "contract", "evidence"),
    [
        ("fetch/lanes.py", "from lazysif.cache import memory", ORDER, "lazysif.fetch.lanes -> lazysif.cache"),
        (
            "core/plan.py",
            "import lazysif.image.metadata",
            ORDER,
            "lazysif.core.plan -> lazysif.image.metadata",
        ),
        ("new_room.py", "", ORDER, "- lazysif.new_room"),
        ("core/plan.py", "import time", "Decisions have no I/O and no clock", "lazysif.core.plan -> time"),
        ("image/metadata.py", "import httpx", "httpx lives in transport", "lazysif.image.metadata -> httpx"),
        (
            "keeper_child.py",
            "import lazysif.errors",
            "The keeper stands on the standard library alone",
            "lazysif.keeper_child -> lazysif.errors",
        ),
        (
            "keeper.py",
            "import trio",
            "The keeper stands on the standard library alone",
            "lazysif.keeper -> trio",
        ),
        ("tree/tree.py", "import pyfuse3", "pyfuse3 lives in fuse", "lazysif.tree.tree -> pyfuse3"),
        (
            "cache/store.py",
            "import diskcache",
            "diskcache lives in cache.frame_disk and frame_database",
            "lazysif.cache.store -> diskcache",
        ),
    ],
)
def test_a_violation_breaks_its_contract(copy, module, line, contract, evidence):
    path = copy / "lazysif" / module
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        done = lint_imports(copy)
    finally:
        path.write_text(before) if before is not None else path.unlink()
    assert done.returncode != 0
    assert f"{contract} BROKEN" in done.stdout
    assert evidence in done.stdout


# --- metrics -------------------------------------------------------------------------------------

STATUS = {
    "requests": {"in_hand": {"read": 2}, "oldest_s": 1.5, "waiting_reads": 2},
    "remotes": [
        {
            "name": "bio",
            "offline_since": "2026-01-01T00:00:00+00:00",
            "last_error": "no connection",
            "ways": [
                {"name": "http://cache1:3128", "state": "resting"},
                {"name": "direct", "state": "ready"},
            ],
        }
    ],
    "counters": {field.name: i for i, field in enumerate(dataclasses.fields(Counters))},
    "cache": {"used_bytes": 5, "limit_bytes": 6, "free_bytes": 7, "state": "normal"},
    "images": [{"open_handles": 2}, {"open_handles": 3}],
}


def documented(heading: str) -> list[str]:
    section = METRICS.partition(f"## {heading}")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \| \S.* \| \S.* \|$", section, re.MULTILINE)


def test_every_counter_is_written_down_with_unit_and_meaning():
    assert documented("Counters") == [field.name for field in dataclasses.fields(Counters)]


def test_metrics_parse_and_are_those_that_are_written_down():
    families = {family.name: family for family in text_string_to_metric_families(render(STATUS).decode())}
    counters = {name for name, family in families.items() if family.type == "counter"}
    assert counters == {f"lazysif_{name}" for name in documented("Counters")}
    assert families.keys() - counters == {f"lazysif_{name}" for name in documented("Gauges")}
    [sample] = families["lazysif_served_bytes"].samples
    assert (sample.name, sample.value) == ("lazysif_served_bytes_total", STATUS["counters"]["served_bytes"])
    [state] = families["lazysif_cache_state"].samples
    assert (state.labels, state.value) == ({"state": "normal"}, 1)
    assert families["lazysif_open_handles"].samples[0].value == 5
    ways = {sample.labels["way"]: sample.value for sample in families["lazysif_way_ready"].samples}
    assert ways == {"http://cache1:3128": 0, "direct": 1}
