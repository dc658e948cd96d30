"""From runs to figures: medians, spread, and whether each goal is met. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.coldwarm.jobs import LIGHT_JOBS
from bench.coldwarm.line import PROFILES
from bench.coldwarm.systems import Run

COMPARED_WITH = {"warm": "local-cold", "hot": "local-hot"}


@dataclass(frozen=True, slots=True)
class Figure:
    """All rounds of one system, job and profile; medians."""

    profile: str
    job: str
    system: str
    herd: int
    rounds: int
    seconds: float
    least_s: float
    most_s: float
    fetched_bytes: int
    in_time_bytes: int
    requests: int
    twice_bytes: int


@dataclass(frozen=True, slots=True)
class Check:
    """One goal: `value` has to be at most, or at least, `limit`."""

    goal: str
    value: float
    limit: float
    at_least: bool = False
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Figures:
    """The figures of all runs, by profile, job, system and herd."""

    def __init__(self, runs: Iterable[Run]) -> None:
        groups: dict[tuple[str, str, str, int], list[Run]] = {}
        for run in runs:
            groups.setdefault((run.profile, run.job, run.system, run.herd), []).append(run)
        self._figures = {key: _figure(group) for key, group in groups.items()}

    def get(self, profile: str, job: str, system: str, herd: int = 1) -> Figure | None:
        return self._figures.get((profile, job, system, herd))

    def __iter__(self) -> Iterator[Figure]:
        return iter(self._figures.values())

    def ratio(self, profile: str, job: str, system: str, other: str, herd: int = 1) -> float | None:
        """Of the medians of the times of two systems; None where one was not measured."""
        one, two = self.get(profile, job, system, herd), self.get(profile, job, other, herd)
        return one.seconds / two.seconds if one and two else None


def _figure(runs: list[Run]) -> Figure:
    def median(values: Iterable[float]) -> float:
        return statistics.median(values)

    seconds = [run.seconds for run in runs]
    first = runs[0]
    return Figure(
        first.profile,
        first.job,
        first.system,
        first.herd,
        len(runs),
        round(median(seconds), 4),
        min(seconds),
        max(seconds),
        round(median(run.fetched_bytes for run in runs)),
        round(median(run.in_time_bytes for run in runs)),
        round(median(run.requests for run in runs)),
        max(run.twice_bytes for run in runs),
    )


def checks(figures: Figures, touched: dict[str, int]) -> list[Check]:
    """Each goal that the runs say something about.

    Args:
        touched: bytes of the image that each job touches.
    """
    profiles = dict.fromkeys(figure.profile for figure in figures)
    herds = dict.fromkeys((figure.profile, figure.job, figure.herd) for figure in figures if figure.herd > 1)
    return [
        *(check for profile in profiles for check in _with_trace(figures, touched, profile)),
        *(check for profile in profiles for check in _without_trace(figures, touched, profile)),
        *(check for profile in profiles for check in _cached(figures, profile)),
        *(check for herd in herds for check in _herd(figures, *herd)),
    ]


TRACED = {
    "cold-trace": (1, "cold with a trace"),
    "cold-folder": (6, "cold with a trace from a folder"),
    "cold-put": (6, "cold with a trace from a server"),
}
"""Systems that follow a trace from the first start: the number of their goal, and what they are called in it."""


def _with_trace(figures: Figures, touched: dict[str, int], profile: str) -> Iterator[Check]:
    for system in TRACED:
        yield from _traced(figures, touched, profile, system)
    if foreign := figures.get(profile, "true", "cold-heavy-trace"):
        goal = f"1 {profile}: true, cold with only the heavy job's trace, fetched"
        yield Check(goal, foreign.fetched_bytes / 1e6, 12, unit=" MB")


def _traced(figures: Figures, touched: dict[str, int], profile: str, system: str) -> Iterator[Check]:
    number, name = TRACED[system]
    goal = f"{number} {profile}"
    local, traced = (figures.get(profile, "heavy", one) for one in ("local-cold", system))
    if local and traced and profile == "campus":
        yield Check(f"{goal}: heavy, {name} / local cold", traced.seconds / local.seconds, 1.05)
    if local and traced and profile == "wan" and "heavy" in touched:
        floor_s = max(local.seconds, touched["heavy"] * 8 / PROFILES[profile].bits_per_s)
        yield Check(f"{goal}: heavy, {name} / max(local cold, line)", traced.seconds / floor_s, 1.25)
    for job in LIGHT_JOBS if profile == "campus" else ():
        local, light = (figures.get(profile, job, one) for one in ("local-cold", system))
        if local and light:
            trips = (light.seconds - local.seconds) / PROFILES[profile].round_trip_s
            yield Check(f"{goal}: {job}, {name} - local cold", trips, 3, unit=" round trips")
    if traced and "heavy" in touched:
        yield Check(f"{goal}: heavy, {name}, fetched / touched", traced.fetched_bytes / touched["heavy"], 1.2)


def _without_trace(figures: Figures, touched: dict[str, int], profile: str) -> Iterator[Check]:
    cold, rclone = (figures.get(profile, "heavy", system) for system in ("cold", "rclone"))
    over_local = figures.ratio(profile, "heavy", "cold", "local-cold")
    if over_local and profile == "campus":
        yield Check("2 campus: heavy, cold / local cold", over_local, 1.5)
    if cold and rclone and profile == "campus":
        yield Check("2 campus: heavy, cold / rclone, time", cold.seconds / rclone.seconds, 1)
        yield Check("2 campus: heavy, cold / rclone, bytes", cold.fetched_bytes / rclone.fetched_bytes, 1)
    if cold and rclone and profile == "wan":
        yield Check("2 wan: heavy, rclone / cold, time", rclone.seconds / cold.seconds, 1.5, at_least=True)
    if cold and "heavy" in touched:
        yield Check(
            f"2 {profile}: heavy, cold, fetched / touched", cold.fetched_bytes / touched["heavy"], 1.6
        )


def _cached(figures: Figures, profile: str) -> Iterator[Check]:
    for system, limit in (("warm", 1.05), ("hot", 1.02)):
        other = COMPARED_WITH[system]
        for job in dict.fromkeys(figure.job for figure in figures):
            if ratio := figures.ratio(profile, job, system, other):
                yield Check(f"3 {profile}: {job}, {system} / {other.replace('-', ' ')}", ratio, limit)


def _herd(figures: Figures, profile: str, job: str, herd: int) -> Iterator[Check]:
    if ratio := figures.ratio(profile, job, "cold-trace", "local-cold", herd):
        yield Check(f"4 {profile}: {herd} x {job}, cold with a trace / local cold", ratio, 1.1)
    if traced := figures.get(profile, job, "cold-trace", herd):
        yield Check(f"4 {profile}: {herd} x {job}, fetched twice", traced.twice_bytes / 1e6, 0, unit=" MB")
