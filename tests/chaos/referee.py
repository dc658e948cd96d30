"""Collects every outcome of every reader and judges them against the table of disturbances."""

from __future__ import annotations

import bisect
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lazysif.core.asked import left_s
from tests.chaos.worker import BYTES, WRONG, Outcome

GRACE_S = 2.0
"""After a disturbance is undone: failures are remembered for a second, and a request may have been under way."""
WINDOW_BYTES = 32 << 10
"""The kernel's readahead on a mount (`lazysif.fuse.serving.READ_AHEAD_KB`)."""
REPLACED_S = 11.0
"""A silent daemon is replaced after 10 s (`lazysif.keeper.SILENT_S`), and the next one needs a moment to begin."""
OFFLINE_GRACE_S = 7.5
"""The same for an origin that was away for so long that it is only asked every 5 s."""


@dataclass(slots=True)
class Episode:
    """A stretch of time in which the readers may meet other outcomes than bytes.

    Args:
        name: of the disturbance.
        reads: the errnos that opens and reads may end in.
        jobs: whether loop mounts, squashfuse and Apptainer may meet errors.
        only: the image that may be concerned; "" for all.
        extra_s: how much longer than its timeout a read may take.
        excuses_age: whether the origin cannot be asked for its versions.
    """

    name: str
    began_s: float
    reads: frozenset[str] = frozenset()
    jobs: bool = False
    only: str = ""
    extra_s: float = 0.0
    excuses_age: bool = False
    grace_s: float = GRACE_S
    undone_s: float = float("inf")
    recovered_s: float = float("inf")
    complaints: list[str] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)

    def touches(self, outcome: Outcome) -> bool:
        return outcome.began_s < self.undone_s + self.grace_s and outcome.ended_s > self.began_s

    def allows(self, outcome: Outcome) -> bool:
        if self.only and outcome.name != self.only:
            return False
        if outcome.kind.startswith("direct"):
            return outcome.result in self.reads
        return self.jobs


def extra_s(read_timeout_s: float, stopped_s: float) -> float:
    """How much longer than its timeout a read may take whose daemon was stopped for so long, or until its end."""
    waited_s = min(stopped_s, REPLACED_S)
    return max(0.0, waited_s + left_s(read_timeout_s, waited_s) - read_timeout_s)


def _clock(moment_s: float) -> str:
    """As logs show it."""
    return time.strftime("%H:%M:%S", time.localtime(time.time() - time.monotonic() + moment_s))


class Referee:
    """Outcomes come from several threads, while the run goes on."""

    def __init__(self, read_timeout_s: float, revalidate_s: float) -> None:
        self._read_timeout_s = read_timeout_s
        self._revalidate_s = revalidate_s
        self._lock = threading.Lock()
        self._outcomes: list[Outcome] = []

    def saw(self, outcome: Outcome) -> None:
        with self._lock:
            self._outcomes.append(outcome)

    @property
    def outcomes(self) -> list[Outcome]:
        with self._lock:
            return list(self._outcomes)

    def wait_for_bytes(self, kinds: Iterable[str], since_s: float, within_s: float) -> set[str]:
        """Wait until each of these readers got bytes by an attempt begun after `since_s`; who has not."""
        waiting, seen = set(kinds), 0
        deadline_s = time.monotonic() + within_s
        while waiting and time.monotonic() < deadline_s:
            with self._lock:
                new, seen = self._outcomes[seen:], len(self._outcomes)
            waiting -= {o.kind for o in new if o.result == BYTES and o.began_s > since_s}
            time.sleep(0.05)
        return waiting

    def judge(self, episodes: Sequence[Episode], published_s: Sequence[tuple[float, int]]) -> list[str]:
        """Complaints about outcomes; those within an episode are noted there, too."""
        complaints = []
        for outcome in self.outcomes:
            touched = [episode for episode in episodes if episode.touches(outcome)]
            why = self._complaint(outcome, touched) or self._too_old(outcome, episodes, published_s)
            if why:
                text = (
                    f"{_clock(outcome.began_s)} {outcome.kind} {outcome.what} {outcome.name} {outcome.result}"
                    f" after {outcome.took_s:.2f} s: {why} {outcome.detail}"
                )
                complaints.append(text)
                for episode in touched:
                    episode.complaints.append(text)
        return complaints

    def _complaint(self, outcome: Outcome, touched: list[Episode]) -> str:
        if outcome.result == WRONG:
            return "WRONG BYTES"
        if outcome.result != BYTES and not any(episode.allows(outcome) for episode in touched):
            return "not to be met " + ("in " + ", ".join(e.name for e in touched) if touched else "in peace")
        # the kernel may ask for each readahead window by itself, and each request has a deadline of its own
        windows = 1 + outcome.size_bytes // WINDOW_BYTES if outcome.what == "read" else 1
        limit_s = self._read_timeout_s * windows + 1.5 + max((e.extra_s for e in touched), default=0.0)
        if outcome.kind.startswith("direct") and outcome.took_s > limit_s:
            return f"took {outcome.took_s:.1f} s"
        return ""

    def _too_old(
        self, outcome: Outcome, episodes: Sequence[Episode], published_s: Sequence[tuple[float, int]]
    ) -> str:
        """An open that gave a version replaced too long ago, while the origin could be asked."""
        sizes = [size for _, size in published_s]
        if outcome.what != "open" or outcome.result != BYTES or outcome.size_bytes not in sizes[:-1]:
            return ""
        replaced_s = published_s[sizes.index(outcome.size_bytes) + 1][0]
        late_s = outcome.began_s - replaced_s - self._revalidate_s - 2.0
        excused = any(
            e.excuses_age and e.began_s < outcome.ended_s and e.recovered_s + e.grace_s > replaced_s
            for e in episodes
        )
        return f"{late_s:.1f} s too old" if late_s > 0 and not excused else ""

    def count(self, episode: Episode) -> dict[str, int]:
        """How often readers met what meanwhile."""
        found: Counter[str] = Counter()
        for outcome in self.outcomes:
            if episode.touches(outcome):
                who = "" if outcome.kind.startswith("direct") else "job: "
                found[who + outcome.result] += outcome.count
        return dict(sorted(found.items()))

    def longest_s(self, began_s: float, ended_s: float) -> float:
        """The longest single read between two moments."""
        return max(
            (
                o.took_s
                for o in self.outcomes
                if o.what == "read" and o.began_s < ended_s and o.ended_s > began_s
            ),
            default=0.0,
        )

    def read_percentile_s(self, share: float) -> float:
        """Of all single reads; those summed up count as long as the longest of them."""
        weighted = sorted((o.took_s, o.count) for o in self.outcomes if o.what == "read")
        sums, total = [], 0
        for _, count in weighted:
            total += count
            sums.append(total)
        return weighted[bisect.bisect_left(sums, share * total)][0] if weighted else 0.0
