"""One run: episodes of the table in the order that the seed gives, alone and in pairs; or kills without end.

A run returns a document (JSON) that says what was done, what readers met, and all complaints.
"""

from __future__ import annotations

import os
import random
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import repeat
from typing import Any

from lazysif import __version__
from tests.chaos.disturbances import TABLE, Disturbance
from tests.chaos.referee import REPLACED_S, Episode, Referee, extra_s
from tests.chaos.stage import (
    READ_TIMEOUT_S,
    READERS,
    REVALIDATE_S,
    Stage,
    descriptors_of,
    other_processes,
    resident_bytes,
)
from tests.support.mount import children_of

Say = Callable[[str], None]
RECOVERY_S = 20.0
DAEMON_BYTES, KEEPER_BYTES = 200 << 20, 32 << 20
"""What is resident at the end, at most."""
SPARE_DESCRIPTORS = 30
"""Connections to the origin that may be kept alive, beside what a daemon has open when it begins."""


class Run:
    """The parts that every kind of run has."""

    def __init__(self, stage: Stage, referee: Referee, say: Say) -> None:
        self.stage = stage
        self.referee = referee
        self.say = say
        self.episodes: list[Episode] = []
        self.complaints: list[str] = []
        self.began_s = time.monotonic()
        self.loads = [os.getloadavg()[0]]
        self.keeper_descriptors = 0
        self.daemon_descriptors = 0

    def begin(self) -> None:
        self.keeper_descriptors = descriptors_of(self.stage.mount.keeper_pid)
        self.daemon_descriptors = descriptors_of(self.stage.pid())
        self.stage.start_readers()
        late = self.referee.wait_for_bytes(READERS, self.began_s, RECOVERY_S)
        self.complaints += [f"{name} does not begin to read" for name in sorted(late)]

    def finish(self, **figures: Any) -> dict[str, Any]:
        """Judge, and look for what leaked."""
        stage = self.stage
        self.complaints += stage.stop_readers()
        time.sleep(1.0)
        self.complaints += self._leaks_alive()
        unexpected = re.findall(r"Traceback.*?(?=\n\d{4}-|\Z)", stage.log(), re.DOTALL)
        self.complaints += [f"the log has a traceback: {text[-400:]}" for text in unexpected[:3]]
        self.complaints += stage.left_over()
        self.complaints += self.referee.judge(self.episodes, stage.published_s)
        outcomes = self.referee.outcomes
        for episode in self.episodes:
            episode.figures["outcomes"] = self.referee.count(episode)
            episode.figures["longest_read_s"] = round(
                self.referee.longest_s(episode.began_s, min(episode.recovered_s, time.monotonic())), 2
            )
        return {
            "seed": stage.seed,
            "version": __version__,
            "minutes": round((time.monotonic() - self.began_s) / 60, 1),
            "load_before": round(self.loads[0], 1),
            "load_median": round(statistics.median(self.loads), 1),
            "reads": sum(o.count for o in outcomes if o.what == "read"),
            "opens": sum(o.what == "open" for o in outcomes),
            "rounds": sum(o.what == "round" for o in outcomes),
            "starts": sum(o.what == "start" for o in outcomes),
            "wrong": sum(o.result == "wrong" for o in outcomes),
            "errors": sum(o.result not in ("bytes", "wrong") for o in outcomes),
            "job_errors": sum(
                o.result not in ("bytes", "wrong") for o in outcomes if not o.kind.startswith("direct")
            ),
            "read_p99_s": round(self.referee.read_percentile_s(0.99), 3),
            **figures,
            "episodes": [
                {
                    "name": e.name,
                    "lasted_s": round(e.undone_s - e.began_s, 1),
                    "recovered_s": round(e.recovered_s - e.undone_s, 1),
                    "complaints": e.complaints,
                    **e.figures,
                }
                for e in self.episodes
            ],
            "complaints": self.complaints,
            "log": stage.log() if self.complaints else "",
        }

    def _leaks_alive(self) -> list[str]:
        """Of the daemon and the keeper, when nobody reads any more."""
        status = self.stage.status()
        if status is None:
            return ["no daemon answers at the end"]
        pid, keeper = int(status["pid"]), int(status["keeper_pid"])
        found = []
        if handles := sum(image["open_handles"] for image in status["images"]):
            found.append(f"{handles} open handles")
        if status["counters"]["unexpected_errors"]:
            found.append(f"{status['counters']['unexpected_errors']} unexpected errors")
        if (count := descriptors_of(keeper)) > self.keeper_descriptors + 1:
            found.append(f"the keeper has {count} descriptors, {self.keeper_descriptors} at the start")
        if (count := descriptors_of(pid)) > self.daemon_descriptors + SPARE_DESCRIPTORS:
            found.append(f"the daemon has {count} descriptors, {self.daemon_descriptors} at the start")
        for name, process, most in (("daemon", pid, DAEMON_BYTES), ("keeper", keeper, KEEPER_BYTES)):
            if (resident := resident_bytes(process)) > most:
                found.append(f"the {name} has {resident >> 20} MiB resident")
        readers_ahead = children_of(pid)
        if len(readers_ahead) > 1:
            found.append(f"the daemon has {len(readers_ahead)} children")
        known = {str(number) for number in (pid, keeper, *readers_ahead)}
        found += [f"process {text}" for text in other_processes() if text.partition(":")[0] not in known]
        return found


class Episodes(Run):
    """What the table says, one after the other."""

    def play(self, chosen: Sequence[Disturbance], chance: random.Random) -> None:
        """One episode of one disturbance, or of several at once."""
        stage = self.stage
        if chosen[0].disk:
            stage.upgrade()
        before, log_start = stage.status(), stage.log_bytes()
        span_s = max(chance.uniform(*d.span_s) for d in chosen)
        episode = Episode(
            " + ".join(d.name for d in chosen),
            time.monotonic(),
            reads=frozenset().union(*(d.reads for d in chosen)),
            jobs=any(d.jobs for d in chosen),
            only=chosen[0].only if len({d.only for d in chosen}) == 1 else "",
            extra_s=max(
                # what is done beside it may wait for a daemon that answers, and so for the next one
                extra_s(READ_TIMEOUT_S, span_s if len(chosen) == 1 else REPLACED_S) if d.stops else 0.0
                for d in chosen
            ),
            excuses_age=any(d.excuses_age for d in chosen),
            grace_s=max(d.grace_s for d in chosen),
        )
        self.episodes.append(episode)
        try:
            with ExitStack() as stack:
                for disturbance in chosen:
                    stack.enter_context(disturbance.play(stage, chance))
                time.sleep(span_s)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            episode.complaints.append(f"could not be played: {error}")
            self.complaints.append(f"{episode.name}: {episode.complaints[-1]}")
        episode.undone_s = time.monotonic()
        late = self.referee.wait_for_bytes(READERS, episode.undone_s, RECOVERY_S)
        episode.recovered_s = time.monotonic()
        if episode.reads:
            # what is met in the next episode is to be the next one's
            time.sleep(max(0.0, episode.undone_s + episode.grace_s - episode.recovered_s))
        found = [f"{name} got no bytes within {RECOVERY_S:.0f} s after it" for name in sorted(late)]
        if any(d.disk for d in chosen) and not stage.disk_is_well():
            found.append("the cache is not in use again")
        after = stage.status()
        if before is None or after is None:
            found.append("no daemon answers")
        elif len(chosen) == 1:
            found += self._unexplained(chosen[0], before, after, stage.log(log_start))
        episode.complaints += found
        self.complaints += [f"{episode.name}: {text}" for text in found]
        self.loads.append(os.getloadavg()[0])
        stage.origin.clear_log()
        self.say(
            f"{episode.name}: {episode.undone_s - episode.began_s:.1f} s{': ' if found else ''}"
            + "; ".join(found)
        )

    @staticmethod
    def _unexplained(
        disturbance: Disturbance, before: dict[str, Any], after: dict[str, Any], log: str
    ) -> list[str]:
        """What counters and log do not tell of it."""
        found = []
        restarts = after["restarts"] - before["restarts"]
        if restarts != disturbance.restarts:
            found.append(f"{restarts} restarts")
        elif not restarts and disturbance.counters:
            grown = {
                name: after["counters"][name] - before["counters"][name] for name in disturbance.counters
            }
            if not any(grown.values()):
                found.append(f"none of {', '.join(grown)} has grown")
        if disturbance.says and not re.search(disturbance.says, log):
            found.append(f"the log does not say {disturbance.says!r}")
        return found


def programme(seed: int, only: Sequence[Disturbance], pairs: int) -> Iterator[list[Disturbance]]:
    """Each of `only` once, then so many pairs of the table, then any of `only` without end."""
    chance = random.Random(seed)
    for disturbance in chance.sample(only, len(only)):
        yield [disturbance]
    for _ in range(pairs):
        yield _two_of(TABLE, chance)
    while True:
        yield [chance.choice(only)]


def chaos(
    seed: int, only: Sequence[Disturbance], pairs: int, minutes: float, say: Say, *, together: bool = False
) -> dict[str, Any]:
    """The programme once, then on until the minutes are over; or all of `only` at once, in their order."""
    referee = Referee(READ_TIMEOUT_S, REVALIDATE_S)
    episodes = repeat(list(only)) if together else programme(seed, only, pairs)
    least = 1 if together else len(only) + pairs
    with Stage(seed, referee) as stage:
        run = Episodes(stage, referee, say)
        run.begin()
        for number, chosen in enumerate(episodes):
            if number >= least and time.monotonic() - run.began_s >= minutes * 60:
                break
            # what one of them draws depends on what is on the disk at that moment; the others draw as ever
            run.play(chosen, random.Random(f"{seed} {number}"))
        return run.finish()


def kills(seed: int, kill_count: int, upgrade_count: int, say: Say) -> dict[str, Any]:
    """`kill -9` 0.5 to 2.5 s after each daemon answers, and upgrades in between: readers get nothing but bytes."""
    chance = random.Random(seed)
    referee = Referee(READ_TIMEOUT_S, REVALIDATE_S)
    with Stage(seed, referee) as stage:
        run = Run(stage, referee, say)
        run.begin()
        events = chance.sample(
            ["kill"] * kill_count + ["upgrade"] * upgrade_count, kill_count + upgrade_count
        )
        pauses_s: dict[str, list[tuple[float, float]]] = {"kill": [], "upgrade": []}
        for number, event in enumerate(events):
            time.sleep(chance.uniform(0.5, 2.5))
            began_s = time.monotonic()
            stage.kill_daemon() if event == "kill" else stage.upgrade()
            pauses_s[event].append((began_s, time.monotonic()))
            run.loads.append(os.getloadavg()[0])
            if number % 20 == 19:
                say(f"{number + 1} of {len(events)}")
        time.sleep(2.0)
        restarts = (stage.status() or {}).get("restarts")
        if restarts != len(events):
            run.complaints.append(f"{restarts} restarts after {len(events)} events")
        longest = {
            event: sorted(referee.longest_s(*span) for span in spans) for event, spans in pauses_s.items()
        }
        everything = sorted(longest["kill"] + longest["upgrade"])
        return run.finish(
            kills=kill_count,
            upgrades=upgrade_count,
            pause_p50_s=_at(everything, 0.50),
            pause_p99_s=_at(everything, 0.99),
            pause_max_s=_at(everything, 1.0),
            kill_pauses_s=[round(s, 3) for s in longest["kill"]],
            upgrade_pauses_s=[round(s, 3) for s in longest["upgrade"]],
        )


def _two_of(table: Sequence[Disturbance], chance: random.Random) -> list[Disturbance]:
    """Not two of the same disk: what is done to it would meet what was done to it."""
    while True:
        chosen = chance.sample(table, 2)
        if not all(disturbance.disk for disturbance in chosen):
            return chosen


def _at(values: Sequence[float], share: float) -> float:
    """Nearest rank."""
    return round(values[max(0, -int(-share * len(values) // 1) - 1)], 3) if values else 0.0
