"""A short, fixed part of the chaos suite; `python -m tests.chaos` plays all of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.disturbances import TABLE
from tests.chaos.referee import REPLACED_S, Episode, Referee, extra_s
from tests.chaos.run import programme
from tests.chaos.worker import Outcome
from tests.support.mount import REPOSITORY, scrubbed_environment

SHORT = (
    *(
        "kill",
        "upgrade",
        "doze",
        "descriptors",
        "stall",
        "reset",
        "lie",
        "refuse",
        "another version's answers",
    ),
    *("replace", "DNS", "full disk", "flipped bits", "removed files", "read-only disk", "dead disk"),
)
"""Without those that outlast the timeouts."""


@pytest.fixture
def play(tmp_path: Path, fuse: None, tool: Callable[[str], str]) -> Callable[..., dict[str, Any]]:
    """One run with these arguments: its result; what it printed is shown where it fails."""
    for name in ("apptainer", "squashfuse_ll", "mksquashfs", "busybox", "unshare"):
        tool(name)
    if os.geteuid() != 0:
        pytest.skip("chaos needs root")

    def run(*arguments: str) -> dict[str, Any]:
        subprocess.run(
            [sys.executable, "-m", "tests.chaos", "--results", tmp_path, *arguments],
            cwd=REPOSITORY,
            env=scrubbed_environment(),
            check=False,
            timeout=280,
        )
        for log in tmp_path.glob("*.log"):
            shutil.copyfileobj(log.open(), sys.stderr)
        (result,) = tmp_path.glob("*.json")
        return dict(json.loads(result.read_text()))

    return run


@pytest.mark.mounted
@pytest.mark.timeout(300)
def test_readers_get_right_bytes_or_what_the_table_says(play: Callable[..., dict[str, Any]]) -> None:
    result = play("--seed", "20", "--only", *SHORT)
    assert result["complaints"] == []
    assert result["wrong"] == 0
    assert {episode["name"] for episode in result["episodes"]} == set(SHORT)
    assert result["reads"] > 500
    assert result["rounds"] > 10
    assert result["starts"] > 5


@pytest.mark.mounted
@pytest.mark.timeout(180)
def test_no_job_notices_kills_and_upgrades(play: Callable[..., dict[str, Any]]) -> None:
    """The pause is that of a daemon's start: 0.2 s alone, more where all tests share two cores."""
    result = play("--seed", "20", "--kills", "10", "--upgrades", "3")
    assert result["complaints"] == []
    assert (result["errors"], result["wrong"]) == (0, 0)
    assert result["pause_max_s"] < 5


def test_names_in_the_table_are_unique() -> None:
    assert len({disturbance.name for disturbance in TABLE}) == len(TABLE)


def test_a_seed_gives_the_same_programme() -> None:
    """Regression: what some disturbances drew depended on the disk, and so did all that came after them."""
    first, again, other = (list(islice(programme(seed, TABLE, 5), len(TABLE) + 9)) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(d.name for (d,) in first[: len(TABLE)]) == sorted(d.name for d in TABLE)
    assert [len(chosen) for chosen in first[len(TABLE) :]] == [2] * 5 + [1] * 4


class TestReferee:
    """It is no proof that nobody complains, unless somebody would."""

    def judge(self, outcome: Outcome, *episodes: Episode) -> list[str]:
        referee = Referee(read_timeout_s=8, revalidate_s=1)
        referee.saw(outcome)
        return referee.judge(episodes, [(0.0, 100), (50.0, 200)])

    def episode(self, **changes: Any) -> Episode:
        return Episode(**{"name": "stall", "began_s": 10, "undone_s": 20, "recovered_s": 21, **changes})

    def test_bytes_are_always_right(self) -> None:
        assert self.judge(Outcome("direct1", 12, 0.1, "read", "bytes"), self.episode()) == []

    def test_an_error_in_peace_is_a_complaint(self) -> None:
        assert "in peace" in self.judge(Outcome("direct1", 12, 0.1, "read", "EIO"))[0]

    def test_only_the_errors_of_the_table_are_met(self) -> None:
        stall = self.episode(reads=frozenset({"EIO"}))
        assert self.judge(Outcome("direct1", 12, 0.1, "read", "EIO"), stall) == []
        assert "in stall" in self.judge(Outcome("direct1", 12, 0.1, "read", "ENOENT"), stall)[0]
        assert "in peace" in self.judge(Outcome("direct1", 25, 0.1, "read", "EIO"), stall)[0]

    def test_jobs_may_fail_only_where_the_table_says_so(self) -> None:
        assert self.judge(Outcome("loop", 12, 0.1, "round", "EIO"), self.episode())
        assert self.judge(Outcome("loop", 12, 0.1, "round", "EIO"), self.episode(jobs=True)) == []

    def test_another_image_is_not_concerned(self) -> None:
        replace = self.episode(reads=frozenset({"ESTALE"}), only="moving.sif")
        assert self.judge(Outcome("direct1", 12, 0.1, "read", "ESTALE", "moving.sif"), replace) == []
        assert self.judge(Outcome("direct1", 12, 0.1, "read", "ESTALE", "steady.sif"), replace)

    def test_wrong_bytes_are_never_allowed(self) -> None:
        everything = self.episode(reads=frozenset({"wrong"}), jobs=True)
        assert "WRONG" in self.judge(Outcome("loop", 12, 0.1, "round", "wrong"), everything)[0]

    def test_a_read_beyond_its_deadline_is_a_complaint(self) -> None:
        late = Outcome("direct1", 12, 12.0, "read", "bytes")
        assert "took 12.0 s" in self.judge(late)[0]
        assert self.judge(late, self.episode(extra_s=4)) == []

    def test_a_daemon_that_dozes_excuses_nothing_and_a_frozen_one_little(self) -> None:
        assert extra_s(8.0, 4.0) == 0
        assert extra_s(8.0, 15.0) == REPLACED_S + 4 - 8
        assert extra_s(60.0, 15.0) == 0

    def test_a_version_that_was_replaced_is_not_opened_for_long(self) -> None:
        assert self.judge(Outcome("direct1", 52, 0.1, "open", "bytes", size_bytes=100)) == []
        old = Outcome("direct1", 60, 0.1, "open", "bytes", size_bytes=100)
        assert "too old" in self.judge(old)[0]
        silent = self.episode(began_s=45, undone_s=65, recovered_s=66, excuses_age=True)
        assert self.judge(old, silent) == []
