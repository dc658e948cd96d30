"""Writes down what the daemon waits for, when a request of the kernel has been in hand for too long."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import CodeType

import trio

from lazysif.telemetry import InHand

log = logging.getLogger(__name__)

_OLD_S = 10.0
_AGAIN_S = 60.0
_MAX_LINES = 200
_LOOK_S = 1.0


def iso_time(seconds: float | None) -> str | None:
    """A wall-clock time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds is not None else None


class Watchdog:
    """Looks once a second; costs requests nothing.

    Args:
        old_s: age of a request in hand that is worth a dump.
        again_s: least time between two dumps.
    """

    def __init__(self, in_hand: InHand, *, old_s: float = _OLD_S, again_s: float = _AGAIN_S) -> None:
        self._in_hand = in_hand
        self._old_s = old_s
        self._again_s = again_s

    async def run(self) -> None:
        """Never returns, and never raises what would end the daemon's nursery."""
        while True:
            await trio.sleep(_LOOK_S)
            oldest_s = self._in_hand.oldest_s(time.monotonic())
            if oldest_s <= self._old_s:
                continue
            try:
                log.warning(
                    "a request of the kernel is in hand for %.0f s; in hand: %s; tasks:\n%s",
                    oldest_s,
                    self._in_hand.by_kind(),
                    "\n".join(task_tree(trio.lowlevel.current_root_task())),
                )
            except Exception:
                log.exception("the tasks cannot be shown")
            await trio.sleep(self._again_s)


def task_tree(root: trio.lowlevel.Task | None, most: int = _MAX_LINES) -> list[str]:
    """One line a task, with the functions that it waits in, innermost last; like tasks side by side are one line."""
    lines: list[str] = []
    for line in _lines(root, 0):
        if len(lines) == most:
            lines.append("... and more")
            break
        lines.append(line)
    return lines


def _lines(task: trio.lowlevel.Task | None, depth: int) -> Iterator[str]:
    if task is None:
        return
    yield f"{'  ' * depth}{task.name}: {_where(task)}"
    for nursery in task.child_nurseries:
        alike: dict[str, int] = {}
        for child in nursery.child_tasks:
            if child.child_nurseries:
                yield from _lines(child, depth + 1)
            else:
                name = child.name if len(nursery.child_tasks) < 20 else child.name.split(" ")[0]
                line = f"{'  ' * (depth + 1)}{name}: {_where(child)}"
                alike[line] = alike.get(line, 0) + 1
        for line, times in alike.items():
            yield line if times == 1 else f"{line} (x {times})"


def _where(task: trio.lowlevel.Task) -> str:
    """The last of our own functions on its stack, and where it stands."""
    ours: list[str] = []
    last = ""
    for frame, line in task.iter_await_frames():
        code: CodeType = frame.f_code
        if last and "/trio/" in code.co_filename:
            continue
        last = f"{code.co_filename.rpartition('/')[2]}:{line} {code.co_name}"
        if "/lazysif/" in code.co_filename:
            ours.append(last)
    return " > ".join(ours[-4:] or [last])
