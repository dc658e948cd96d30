"""One thing that was looked at, and how it is.

A *problem* keeps a mount or its jobs from working, or will; a *note* is worth knowing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table: what was looked at, how it is, what was found, what to do."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


def ok(check: str, found: str) -> Finding:
    return Finding(check, Verdict.OK, found)


def note(check: str, found: str, advice: str = "") -> Finding:
    return Finding(check, Verdict.NOTE, found, advice)


def problem(check: str, found: str, advice: str = "") -> Finding:
    return Finding(check, Verdict.PROBLEM, found, advice)


def problem_count(found: Iterable[Finding]) -> int:
    return sum(finding.verdict is Verdict.PROBLEM for finding in found)


def format_span(seconds: float) -> str:
    """Seconds for people: "10 ms", "3.0 s"."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
