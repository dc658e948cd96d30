"""What a run of the benchmark says: Markdown tables for docs/benchmarks.md, and charts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bench.charts import Bar, Group, bar_chart
from bench.coldwarm.figures import Check, Figure, Figures
from bench.coldwarm.jobs import JOBS
from bench.coldwarm.line import PROFILES

SYSTEMS = {
    "local-cold": "local file, page cache dropped",
    "local-hot": "local file, hot",
    "local-beside": "local file, page cache dropped, its bytes coming over the line beside",
    "local-fuse": "local file, page cache dropped, through fuse-overlayfs",
    "download": "whole download, then the job",
    "rclone": "rclone mount",
    "cold": "lazysif, cold, no trace",
    "cold-trace": "lazysif, cold, with a trace",
    "cold-trace-plain": "lazysif, cold, with a trace, without `give_pages`",
    "cold-heavy-trace": "lazysif, cold, with another job's trace",
    "cold-folder": "lazysif, cold, with a trace from a shared folder",
    "cold-put": "lazysif, cold, with a trace from a web server",
    "warm": "lazysif, warm, page cache dropped",
    "warm-plain": "lazysif, warm, page cache dropped, without `give_pages`",
    "hot": "lazysif, hot",
}
COLOURS = {
    "local-cold": "#9aa5b1",
    "local-hot": "#c5ccd3",
    "local-beside": "#7b8794",
    "local-fuse": "#616e7c",
    "download": "#b08968",
    "rclone": "#d4a373",
    "cold": "#4c8bb5",
    "cold-trace": "#1f5f8b",
    "cold-trace-plain": "#153f5c",
    "cold-heavy-trace": "#7fb3d5",
    "cold-folder": "#a5c8dd",
    "cold-put": "#c3dbe9",
    "warm": "#3a7d44",
    "warm-plain": "#28572f",
    "hot": "#7cb083",
}
REMOTE = (
    "download",
    "rclone",
    "cold",
    "cold-trace",
    "cold-trace-plain",
    "cold-heavy-trace",
    "cold-folder",
    "cold-put",
)
"""Systems that fetch."""


def markdown(figures: Figures, touched: dict[str, int], found: list[Check]) -> str:
    """The tables: one for each profile, one of herds if there were any, one of goals."""
    lines = []
    for profile in dict.fromkeys(figure.profile for figure in figures):
        lines += [*_table([f for f in figures if f.profile == profile and f.herd == 1], profile, touched), ""]
    herds = [figure for figure in figures if figure.herd > 1]
    if herds:
        lines += [*_herds(herds), ""]
    return "\n".join([*lines, *_goals(found)])


def _title(profile: str) -> str:
    path = PROFILES[profile]
    speed = (
        f"{path.bits_per_s / 1e9:g} Gbit/s" if path.bits_per_s >= 1e9 else f"{path.bits_per_s / 1e6:g} Mbit/s"
    )
    return f"{profile}: {path.round_trip_s * 1000:g} ms, {speed}"


def _table(figures: list[Figure], profile: str, touched: dict[str, int]) -> list[str]:
    lines = [
        f"| {_title(profile)} | started from | time (least to most) | fetched | of touched | requests |",
        "|---|---|---|---|---|---|",
    ]
    for figure in sorted(figures, key=lambda figure: (list(JOBS).index(figure.job), _rank(figure))):
        spread = f"{figure.seconds:.2f} s ({figure.least_s:.2f} to {figure.most_s:.2f})"
        row = [figure.job, SYSTEMS[figure.system], spread]
        if figure.system in REMOTE:
            share = figure.fetched_bytes / touched[figure.job]
            row += [f"{figure.fetched_bytes / 1e6:,.1f} MB", f"{share:.2f}", f"{figure.requests:,}"]
        else:
            row += ["", "", ""]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _herds(figures: list[Figure]) -> list[str]:
    lines = ["| starts at once | | last one ended after | fetched | twice |", "|---|---|---|---|---|"]
    lines.extend(
        f"| {figure.profile}, {figure.herd} x {figure.job} | {SYSTEMS[figure.system]} | {figure.seconds:.1f} s "
        f"| {figure.fetched_bytes / 1e6:,.1f} MB | {figure.twice_bytes / 1e6:,.1f} MB |"
        for figure in sorted(figures, key=_rank)
    )
    return lines


def _goals(found: Iterable[Check]) -> list[str]:
    lines = ["| goal | limit | measured | met |", "|---|---|---|---|"]
    for check in found:
        limit = f"{'at least' if check.at_least else 'at most'} {check.limit:g}{check.unit}"
        lines.append(
            f"| {check.goal} | {limit} | {check.value:.2f}{check.unit} | {'yes' if check.met else '**no**'} |"
        )
    return lines


def _rank(figure: Figure) -> tuple[str, int]:
    return figure.profile, list(SYSTEMS).index(figure.system)


# --- charts ------------------------------------------------------------------------------------------------


def times_chart(figures: Figures, profile: str) -> str:
    """SVG: the time of each system, a group of bars for each job; whiskers from the least to the most."""
    return bar_chart(
        f"Time from start to end of the job ({_title(profile)})",
        _groups(
            figures,
            profile,
            lambda f: Bar(SYSTEMS[f.system], f.seconds, COLOURS[f.system], f.least_s, f.most_s),
        ),
        unit="s",
    )


def bytes_chart(figures: Figures, profile: str, touched: dict[str, int]) -> str:
    """SVG: what each system fetched; a line across each group marks what the job touched."""
    groups = _groups(
        figures,
        profile,
        lambda f: (
            Bar(SYSTEMS[f.system], f.fetched_bytes / 1e6, COLOURS[f.system])
            if f.system in REMOTE and f.system != "download"
            else None
        ),
    )
    marked = [Group(group.name, group.bars, touched[group.name] / 1e6) for group in groups]
    return bar_chart(f"Fetched ({_title(profile)}); the line marks what the job touched", marked, unit="MB")


def _groups(figures: Figures, profile: str, bar: Callable[[Figure], Bar | None]) -> list[Group]:
    """One for each job, in the order of the systems."""
    mine = sorted((f for f in figures if f.profile == profile and f.herd == 1), key=_rank)
    jobs = [job for job in JOBS if any(figure.job == job for figure in mine)]
    return [Group(job, [made for f in mine if f.job == job and (made := bar(f))]) for job in jobs]
