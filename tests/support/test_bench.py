"""The benchmarks count and judge what they say: figures, goals, touched bytes, charts, and the shaped line."""

from __future__ import annotations

import http.client
import threading
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

from bench.charts import Bar, Group, bar_chart
from bench.coldwarm.figures import Figures, checks
from bench.coldwarm.ideal import replay_s
from bench.coldwarm.line import Profile
from bench.coldwarm.measure import Plan
from bench.coldwarm.report import bytes_chart, markdown, times_chart
from bench.coldwarm.results import Results
from bench.coldwarm.stage import twice_bytes
from bench.coldwarm.systems import Run
from bench.nginx import LoggedRequest
from bench.recorder import touched_bytes
from bench.shaper import Shaper
from tests.support.raw_origin import RawOrigin

RUN = Run(
    profile="campus", job="heavy", system="local-cold", round=1, herd=1, seconds=4.0, median_s=4.0,
    fetched_bytes=0, in_time_bytes=0, requests=0, twice_bytes=0,
)  # fmt: skip
TOUCHED = {"true": 1_000_000, "heavy": 100_000_000}


def runs_of(system: str, *seconds: float, **fields: object) -> list[Run]:
    numbered = enumerate(seconds, 1)
    return [replace(RUN, system=system, round=n, seconds=s, median_s=s, **fields) for n, s in numbered]  # type: ignore[arg-type]


def goals(*runs: list[Run]) -> dict[str, tuple[float, bool]]:
    found = checks(Figures(run for group in runs for run in group), TOUCHED)
    return {check.goal: (round(check.value, 3), check.met) for check in found}


def test_goals_compare_medians() -> None:
    local = runs_of("local-cold", 4.0, 9.0, 3.9)
    met = runs_of("cold-trace", 4.2, 4.1, 40.0, fetched_bytes=120_000_000)
    assert goals(local, met) == {
        "1 campus: heavy, cold with a trace / local cold": (1.05, True),
        "1 campus: heavy, cold with a trace, fetched / touched": (1.2, True),
    }
    missed = runs_of("cold-trace", 4.3, fetched_bytes=121_000_000)
    assert not any(was_met for _, was_met in goals(local, missed).values())


def test_goals_of_a_far_origin_allow_the_line_its_time() -> None:
    local = runs_of("local-cold", 2.0, profile="wan")
    traced = runs_of("cold-trace", 5.0, profile="wan", fetched_bytes=100_000_000)
    # 100 MB touched take 4 s at 200 Mbit/s, which is more than the 2 s of the local file
    found = goals(local, traced)
    assert found["1 wan: heavy, cold with a trace / max(local cold, line)"] == (1.25, True)


def test_goals_without_a_trace_need_rclone_to_be_slower_and_to_fetch_more() -> None:
    cold = runs_of("cold", 6.0, fetched_bytes=150_000_000)
    rclone = runs_of("rclone", 6.1, fetched_bytes=149_000_000)
    found = goals(runs_of("local-cold", 4.0), cold, rclone)
    assert found["2 campus: heavy, cold / local cold"] == (1.5, True)
    assert found["2 campus: heavy, cold / rclone, time"][1]
    assert not found["2 campus: heavy, cold / rclone, bytes"][1]


def test_a_herd_is_judged_by_its_last_start_and_may_fetch_nothing_twice() -> None:
    local = runs_of("local-cold", 40.0, herd=20)
    traced = runs_of("cold-trace", 44.0, herd=20, twice_bytes=1)
    assert goals(local, traced) == {
        "4 campus: 20 x heavy, cold with a trace / local cold": (1.1, True),
        "4 campus: 20 x heavy, fetched twice": (0.0, False),
    }


def test_rounds_are_interleaved_and_downloads_are_timed_once() -> None:
    plan = Plan(["lan"], ["true", "heavy"], ["local-cold", "download", "cold-heavy-trace"], 2, 0)
    assert [(job, system, number) for _, job, system, number, _ in plan.steps("lan")] == [
        ("true", "local-cold", 1), ("true", "download", 1), ("true", "cold-heavy-trace", 1),
        ("heavy", "local-cold", 1), ("heavy", "download", 1),
        ("true", "local-cold", 2), ("true", "cold-heavy-trace", 2), ("heavy", "local-cold", 2),
    ]  # fmt: skip


def test_results_are_kept_and_taken_up_again(tmp_path: Path) -> None:
    results = Results(tmp_path / "made.json")
    results.touched = {job: {"bytes": count} for job, count in TOUCHED.items()}
    for run in (*runs_of("local-cold", 4.0), *runs_of("cold", 7.0, fetched_bytes=150_000_000)):
        results.add(run)
    again = Results(tmp_path / "made.json")
    again.load()
    assert again.keys == results.keys
    assert "| heavy | lazysif, cold, no trace | 7.00 s (7.00 to 7.00) | 150.0 MB | 1.50 |" in again.publish()
    assert {path.name for path in tmp_path.iterdir()} == {
        "made.json", "made.md", "made-campus-times.svg", "made-campus-bytes.svg",
    }  # fmt: skip


def test_a_replay_ends_with_the_line_or_with_the_job_whichever_is_later() -> None:
    line = Profile("line", round_trip_s=0.1, bits_per_s=8e6)
    at_once = [0.0] * 10
    assert round(replay_s(at_once, 100_000, line), 6) == 0.3 + 10 * 0.1
    late_at_the_end = [0.0] * 9 + [5.0]
    assert round(replay_s(late_at_the_end, 100_000, line), 6) == 0.3 + 9 * 0.1 + 5.0
    slow = [0.2 * number for number in range(10)]
    assert round(replay_s(slow, 100_000, line), 6) == 0.4 + 1.8


def test_charts_are_well_formed_and_to_scale() -> None:
    chart = bar_chart(
        "a < b", [Group("job", [Bar("one", 1.0, "#111111"), Bar("two", 2.0, "#222222")], 1.5)], unit="s"
    )
    bars = [
        r for r in ET.fromstring(chart).iter("{http://www.w3.org/2000/svg}rect") if r.get("fill") != "#ffffff"
    ]
    widths = [float(bar.get("width", "0")) for bar in bars]
    assert widths[1] == 2 * widths[0]
    figures = Figures(runs_of("cold", 1.0))
    for made in (times_chart(figures, "campus"), bytes_chart(figures, "campus", TOUCHED)):
        ET.fromstring(made)
    assert "**no**" in markdown(
        figures, {"heavy": 1}, checks(Figures(runs_of("cold", 1.0, fetched_bytes=2)), {"heavy": 1})
    )


def test_touched_bytes_are_those_of_pages_each_once() -> None:
    assert touched_bytes([(0.0, 0, 1), (0.1, 4095, 2), (0.2, 8192, 4096)]) == 3 * 4096


def test_bytes_sent_twice_are_counted_wherever_ranges_overlap() -> None:
    def request(start: int, stop: int) -> LoggedRequest:
        return LoggedRequest("GET", "/a", 206, "", f"bytes {start}-{stop - 1}/100", stop - start, "", 1, 0, 0)

    assert twice_bytes([request(0, 10), request(20, 30)]) == 0
    assert twice_bytes([request(20, 30), request(0, 25), request(22, 24)]) == 5 + 2


def test_the_line_is_shared_in_turns_and_counted_by_what_is_delivered() -> None:
    """A small answer does not wait until a large one, asked for before it, is through."""
    with (
        RawOrigin({"/large": bytes(5_000_000), "/small": bytes(1000)}) as origin,
        Shaper(origin.port, round_trip_s=0.01, bits_per_s=20e6) as shaper,
    ):
        before = shaper.delivered_bytes()
        ended_s: dict[str, float] = {}
        reader = threading.Thread(target=read, args=(shaper.port, "/large", ended_s))
        reader.start()
        time.sleep(0.1)
        read(shaper.port, "/small", ended_s)
        reader.join()
        assert ended_s["/small"] < ended_s["/large"]
        assert 5_001_000 <= shaper.delivered_bytes() - before < 5_003_000


def read(port: int, path: str, ended_s: dict[str, float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    connection.getresponse().read()
    connection.close()
    ended_s[path] = time.monotonic()
