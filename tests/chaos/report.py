"""Results as text: a summary for the terminal, and the tables of docs/reliability.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.disturbances import BY_NAME, TABLE, Disturbance
from tests.support.mount import REPOSITORY

DOCUMENT = REPOSITORY / "docs/reliability.md"
MARK = "<!-- written by `python -m tests.chaos --document` from here on -->"


def summary(result: dict[str, Any]) -> str:
    lines = [
        f"seed {result['seed']}: {result['minutes']} min, {result['reads']} reads, {result['opens']} opens, "
        f"{result['rounds']} attached, {result['starts']} started: {result['wrong']} wrong, "
        f"{result['errors']} errors, {len(result['complaints'])} complaints"
    ]
    if "kills" in result:
        lines.append(
            f"{result['kills']} kills, {result['upgrades']} upgrades: pause {result['pause_p50_s']} s in the middle, "
            f"p99 {result['pause_p99_s']} s, longest {result['pause_max_s']} s"
        )
    lines += [f"  {text}" for text in result["complaints"][:25]]
    return "\n".join(lines)


def write_document(results: Path) -> None:
    """Replace what lies behind `MARK`."""
    runs = [json.loads(path.read_text()) for path in sorted(results.glob("chaos-[0-9]*.json"))]
    kills = [json.loads(path.read_text()) for path in sorted(results.glob("chaos-kills-*.json"))]
    before = DOCUMENT.read_text().partition(MARK)[0]
    DOCUMENT.write_text(
        "\n".join([before + MARK, "", *_kills(kills), *_totals(runs), *_episodes(runs)]) + "\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines] + [""]


def _kills(runs: Sequence[dict[str, Any]]) -> list[str]:
    head = ["seed", "kills", "upgrades", "reads", "job errors", "wrong", "pause p50", "p99", "longest"]
    rows = [
        [
            *(run[key] for key in ("seed", "kills", "upgrades", "reads")),
            run["errors"],
            run["wrong"],
            *(f"{run[key]:.2f} s" for key in ("pause_p50_s", "pause_p99_s", "pause_max_s")),
        ]
        for run in runs
    ]
    return ["### Kills and upgrades", "", *_table(head, rows)]


def _totals(runs: Sequence[dict[str, Any]]) -> list[str]:
    keys = ("seed", "minutes", "reads", "opens", "rounds", "starts", "wrong")
    head = ["seed", "minutes", "reads", "opens", "images attached and hashed", "Apptainer starts", "wrong"]
    rows = [
        [
            *(run[key] for key in keys),
            len(run["complaints"]),
            f"{run['load_before']} and {run['load_median']}" if "load_before" in run else "-",
        ]
        for run in runs
    ]
    return ["### The whole table", "", *_table([*head, "complaints", "load before and in the median"], rows)]


def _episodes(runs: Sequence[dict[str, Any]]) -> list[str]:
    rows = []
    for disturbance in TABLE:
        rows.append([disturbance.name, disturbance.does, _allowed(disturbance)])
        for run in runs:
            rows[-1].append(
                _seen([e for e in run["episodes"] if e["name"] == disturbance.name], [disturbance])
            )
    seeds = [f"seed {run['seed']}" for run in runs]
    pairs = [
        [f"{run['seed']}", e["name"], _seen([e], [BY_NAME[name] for name in e["name"].split(" + ")])]
        for run in runs
        for e in run["episodes"]
        if " + " in e["name"]
    ]
    return [
        *_table(["disturbance", "what is done", "may be met", *seeds], rows),
        *(_table(["seed", "two at once", "met"], pairs) if pairs else []),
    ]


def _allowed(disturbance: Disturbance) -> str:
    where = f" of {disturbance.only}" if disturbance.only else ""
    errors = f", {', '.join(sorted(disturbance.reads))}{where}" if disturbance.reads else " alone"
    return f"bytes{errors}"


def _seen(episodes: Sequence[dict[str, Any]], played: Sequence[Disturbance]) -> str:
    """What readers met, jobs apart, and the longest read.

    Of errors those that may be met: others were met where the ends of two episodes overlap, and judged there.
    """
    if not episodes:
        return "-"
    outcomes: dict[str, int] = {}
    for episode in episodes:
        for name, count in episode["outcomes"].items():
            outcomes[name] = outcomes.get(name, 0) + count
    errors = [
        f"{count} {name}"
        for name, count in outcomes.items()
        if name not in ("bytes", "job: bytes")
        and any(d.jobs if name.startswith("job: ") else name in d.reads for d in played)
    ]
    longest_s = max(episode["longest_read_s"] for episode in episodes)
    bad = sum(len(episode["complaints"]) for episode in episodes)
    return (
        f"{outcomes.get('bytes', 0) + outcomes.get('job: bytes', 0)} bytes"
        + "".join(f", {text}" for text in errors)
        + f"; {longest_s:.1f} s"
        + (f"; **{bad} complaints**" if bad else "")
    )
