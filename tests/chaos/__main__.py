"""Disturb a mount in every way of the table while readers compare each byte.

    python -m tests.chaos --seed 1 2 3      # the whole table, once a seed
    python -m tests.chaos --kills           # 100 times kill -9, 20 upgrades
    python -m tests.chaos --seed 2 --only "kill" "full disk" --minutes 5
    python -m tests.chaos --only "doze" "descriptors for long" --together

As root. The results go to DIRECTORY as JSON, one file a run; `--document` puts them into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from tests.chaos import report
from tests.chaos.disturbances import BY_NAME, TABLE
from tests.chaos.run import chaos, kills
from tests.support.mount import REPOSITORY

NAMESPACES = (
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation",
    "private",
)
"""Of our own: /etc/hosts can be replaced, and no process or mount outlives the run, whatever happens."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seed", type=int, nargs="+", default=[1])
    parser.add_argument("--only", nargs="+", choices=BY_NAME, metavar="NAME", help="of the table")
    parser.add_argument("--together", action="store_true", help="those of --only at once")
    parser.add_argument("--pairs", type=int, default=5, help="episodes of two disturbances at once")
    parser.add_argument("--minutes", type=float, default=0, help="repeat episodes for so long")
    parser.add_argument("--kills", type=int, nargs="?", const=100, help="only kills, so many")
    parser.add_argument("--upgrades", type=int, help="among the kills; a fifth of them unless told")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "bench/results")
    parser.add_argument("--document", action="store_true", help="write docs/reliability.md from all results")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        sys.stdout.flush()
        os.execvp(
            NAMESPACES[0], [*NAMESPACES, sys.executable, "-m", "tests.chaos", *sys.argv[1:], "--inside"]
        )
    if code := reap_orphans():
        return code - 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if options.document:
        report.write_document(options.results)
        return 0
    began_s = time.monotonic()
    bad = 0
    options.results.mkdir(parents=True, exist_ok=True)
    for seed in options.seed:

        def say(text: str, seed: int = seed) -> None:
            print(f"{time.monotonic() - began_s:6.1f} s  seed {seed}  {text}", flush=True)

        if options.kills:
            upgrades = options.kills // 5 if options.upgrades is None else options.upgrades
            result = kills(seed, options.kills, upgrades, say)
            name = f"chaos-kills-{seed}.json"
        else:
            only = [BY_NAME[name] for name in options.only] if options.only else TABLE
            pairs = 0 if options.only else options.pairs
            result = chaos(seed, only, pairs, options.minutes, say, together=options.together)
            name = f"chaos-{seed}.json"
        if log := result.pop("log"):
            (options.results / name).with_suffix(".log").write_text(log)
        (options.results / name).write_text(json.dumps(result, indent=1) + "\n")
        print(report.summary(result), flush=True)
        bad += bool(result["complaints"])
    return 1 if bad else 0


def reap_orphans() -> int:
    """As the first process of a namespace must: 0 in a child that goes on, its exit code and 1 when it has ended."""
    child = os.fork()
    if not child:
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the child
    while True:
        pid, status = os.wait()
        if pid == child:
            return 1 + (os.waitstatus_to_exitcode(status) & 255)


if __name__ == "__main__":
    sys.exit(main())
