"""The command: `python -m bench.coldwarm`."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.coldwarm.images import IMAGES, image_of, say
from bench.coldwarm.jobs import JOBS, JobFailed
from bench.coldwarm.line import PROFILES
from bench.coldwarm.measure import HERD_SYSTEMS, Plan, measure
from bench.coldwarm.report import SYSTEMS
from bench.coldwarm.results import Results
from bench.images import CannotBuild

RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = parsed()
    if options.image == "small":  # it has nothing heavy to import
        options.jobs = [job for job in options.jobs if job != "heavy"]
        options.systems = [system for system in options.systems if system != "cold-heavy-trace"]
    plan = Plan(options.profile, options.jobs, options.systems, options.rounds, options.herd)
    results = Results(options.output / f"{options.name}.json")
    if options.resume or options.report:
        results.load()
    try:
        if not options.report:
            measure(plan, image_of(options.image), results, say)
    except (
        CannotBuild,
        JobFailed,
        AssertionError,
        OSError,
        RuntimeError,
        subprocess.CalledProcessError,
    ) as error:
        # a mount's helper says by AssertionError that it did not start or end as it should
        print(f"coldwarm: {error}; --resume goes on from here", file=sys.stderr)
        return 1
    print(results.publish())
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.coldwarm",
        description="Time starts of an image by where it comes from. Needs root, nginx, Apptainer, curl and rclone; "
        "the first run builds the image.",
    )
    parser.add_argument("--profile", type=listed(PROFILES), default="campus,wan", help=", ".join(PROFILES))
    parser.add_argument("--jobs", type=listed(JOBS), default=",".join(JOBS), help=", ".join(JOBS))
    parser.add_argument("--systems", type=listed(SYSTEMS), default=",".join(SYSTEMS), help=", ".join(SYSTEMS))
    parser.add_argument("--image", choices=IMAGES, default="big")
    parser.add_argument("--rounds", type=int, default=3, help="0: herds only")
    parser.add_argument(
        "--herd",
        type=int,
        default=0,
        metavar="N",
        help=f"also start the heaviest of the jobs N times at once, from {', '.join(HERD_SYSTEMS)}",
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory of the results")
    parser.add_argument("--name", default="coldwarm", help="of the files there, without ending")
    parser.add_argument(
        "--resume", action="store_true", help="keep the runs that are in the results, add what is missing"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing, write tables and charts anew")
    return parser.parse_args()


def listed(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A type of argument: some of these names, separated by commas, in the order in which they are known."""

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
        return [name for name in known if name in chosen]

    return names


if __name__ == "__main__":
    sys.exit(main())
