"""The results as files: JSON that grows with each run, and what is made of it at the end."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.coldwarm.figures import Figures, checks
from bench.coldwarm.report import bytes_chart, markdown, times_chart
from bench.coldwarm.systems import Run


class Results:
    """What was measured so far.

    Args:
        path: of the JSON; the other files go beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.about: dict[str, Any] = {}
        self.profiles: dict[str, dict[str, float]] = {}
        self.touched: dict[str, dict[str, int]] = {}
        self.runs: list[Run] = []

    def load(self) -> None:
        """Take up what an earlier call measured, if there is any."""
        if self._path.exists():
            document = json.loads(self._path.read_text())
            self.about, self.profiles, self.touched = (
                document[key] for key in ("about", "profiles", "touched")
            )
            self.runs = [Run(**run) for run in document["runs"]]

    @property
    def keys(self) -> set[tuple[str, str, str, int, int]]:
        return {run.key for run in self.runs}

    def add(self, run: Run) -> None:
        self.runs.append(run)
        self.save()

    def save(self) -> None:
        figures = Figures(self.runs)
        document = {
            "about": self.about,
            "profiles": self.profiles,
            "touched": self.touched,
            "figures": [asdict(figure) for figure in figures],
            "goals": [{**asdict(check), "met": check.met} for check in checks(figures, self.touched_bytes())],
            "runs": [asdict(run) for run in self.runs],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(document, indent=1) + "\n")
        unfinished.replace(self._path)

    def touched_bytes(self) -> dict[str, int]:
        return {job: found["bytes"] for job, found in self.touched.items()}

    def publish(self) -> str:
        """Write everything; returns the tables."""
        self.save()
        figures, touched = Figures(self.runs), self.touched_bytes()
        tables = markdown(figures, touched, checks(figures, touched))
        self._path.with_suffix(".md").write_text(tables + "\n")
        for profile in dict.fromkeys(figure.profile for figure in figures if figure.herd == 1):
            for kind, chart in (
                ("times", times_chart(figures, profile)),
                ("bytes", bytes_chart(figures, profile, touched)),
            ):
                self._path.with_name(f"{self._path.stem}-{profile}-{kind}.svg").write_text(chart)
        return tables
