"""A mount of lazysif: whether its daemon answers, and if not, why and what brings it back."""

from __future__ import annotations

from dataclasses import dataclass

from lazysif.core.diagnosis.finding import Finding, note, ok, problem


@dataclass(frozen=True, slots=True)
class MountFacts:
    """One mount of lazysif, seen from /proc, /sys and its control socket.

    `waiting` is the kernel's count of unanswered requests, None if it cannot be read. `stopped` are the processes
    of it that a signal has stopped.
    """

    path: str
    owner_uid: int
    answers: bool
    waiting: int | None
    daemon_pid: int | None = None
    keeper_pid: int | None = None
    stopped: tuple[int, ...] = ()
    version: str = ""
    restarts: int = 0
    cache_state: str = ""
    errors: int = 0
    device_minor: str = ""
    has_socket: bool = True
    """Whether there is a control socket where this user's daemons have theirs."""


def mount(facts: MountFacts, uid: int, own_version: str) -> Finding:
    """How one mount is. Args: uid: who asks; own_version: of the command."""
    check = f"mount {facts.path}"
    waiting = f", {facts.waiting} requests wait" if facts.waiting else ""
    if facts.stopped:
        pids = " ".join(map(str, facts.stopped))
        return problem(
            check, f"stopped by a signal: process {pids}{waiting}", f"kill -CONT {pids}, or kill -9 {pids}"
        )
    if not facts.answers and facts.owner_uid != uid:
        return note(check, f"of user {facts.owner_uid}, who alone can ask it{waiting}")
    if not facts.answers and facts.keeper_pid is None and facts.daemon_pid is None:
        return problem(
            check,
            f"no process serves it{waiting}",
            f"lazysif umount --lazy {facts.path}, then mount again; the cache is kept",
        )
    if not facts.answers and facts.daemon_pid is not None and not facts.has_socket:
        return note(
            check,
            f"process {facts.daemon_pid} serves it, its control socket is elsewhere or gone{waiting}",
            "ask with the LAZYSIF_RUNTIME_DIR that it was mounted with",
        )
    if not facts.answers:
        abort = f"echo 1 > /sys/fs/fuse/connections/{facts.device_minor}/abort"
        if facts.daemon_pid is None:
            return problem(
                check,
                f"its daemon is gone, its keeper has not replaced it{waiting}",
                f"see the log; or {abort}",
            )
        return problem(
            check,
            f"its daemon (process {facts.daemon_pid}) does not answer{waiting}",
            f"kill -9 {facts.daemon_pid} (the keeper starts another, jobs go on); if that does not help, {abort}",
        )
    shown = f"answers, version {facts.version}{waiting}"
    if facts.cache_state not in ("normal", ""):
        return problem(
            check,
            f"{shown}, its cache is {facts.cache_state}",
            "see the disk and the log; it recovers by itself",
        )
    if facts.restarts or facts.errors:
        return note(
            check, f"{shown}, {facts.restarts} restarts, {facts.errors} errors", "see the log for why"
        )
    if facts.version != own_version:
        return note(check, f"{shown}; this command is {own_version}", f"lazysif upgrade {facts.path}")
    return ok(check, shown)
