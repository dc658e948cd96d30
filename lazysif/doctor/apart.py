"""Looks at things that may hang, each in a process of its own.

A thread would not do: one that waits in the kernel for a stuck file system keeps its process from ending, whatever
signal it gets, and whoever waits for the command with it. A child that does not come back is killed and left to
init. It holds none of the caller's descriptors, so nobody waits for the end of its output either.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

Look = Callable[[], Iterable[object]]
"""Gives what it sees piece by piece, in things that JSON can say: what came before it hung is not lost."""


@dataclass(slots=True)
class Seen:
    """What a look gave. `error` says why it did not come to its end, "" if it did."""

    items: list[object] = field(default_factory=list)
    error: str = ""


class _Child:
    def __init__(self, look: Look) -> None:
        self.reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(look, writer)
        os.close(writer)
        self.received = bytearray()
        self.ended = False

    def receive(self) -> None:
        piece = os.read(self.reader, 1 << 20)
        self.received += piece
        self.ended = not piece

    def finish(self) -> None:
        """End it, without waiting where it cannot be ended."""
        os.close(self.reader)
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, os.WNOHANG)


def look(looks: Mapping[str, Look], timeout_s: float) -> dict[str, Seen]:
    """Run all at once and return after `timeout_s` at the latest. The caller must have no other threads."""
    children = {name: _Child(function) for name, function in looks.items()}
    deadline_s = time.monotonic() + timeout_s
    while waiting := {child.reader: child for child in children.values() if not child.ended}:
        ready = select.select(list(waiting), [], [], max(0.0, deadline_s - time.monotonic()))[0]
        if not ready:
            break
        for reader in ready:
            waiting[reader].receive()
    for child in children.values():
        child.finish()
    return {name: _seen(child, timeout_s) for name, child in children.items()}


def _seen(child: _Child, timeout_s: float) -> Seen:
    *lines, _unfinished = bytes(child.received).split(b"\n")
    seen = Seen()
    for line in lines:
        kind, value = json.loads(line)
        if kind == "item":
            seen.items.append(value)
        else:
            seen.error = str(value)
            return seen
    seen.error = "it ended in the middle" if child.ended else f"no answer within {timeout_s:g} s"
    return seen


def _be_child(look: Look, writer: int) -> None:
    """Does not return."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        with os.fdopen(writer, "wb") as out:

            def say(kind: str, value: object) -> None:
                # not msgspec's encoder, which refuses names of files that are no UTF-8
                out.write(json.dumps((kind, msgspec.to_builtins(value))).encode() + b"\n")
                out.flush()

            try:
                for item in look():
                    say("item", item)
                say("end", "")
            except Exception as error:  # noqa: BLE001 - whatever it is, the other looks go on
                say("end", f"{type(error).__name__}: {error}")
    finally:
        os._exit(0)
