"""What facts about a node mean for a mount, and what to do about them. Pure: looking is done in `lazysif.doctor`.

A *problem* keeps a mount or its jobs from working, or will; a *note* is worth knowing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lazysif.sizes import format_size

RESEND_KERNEL = (6, 9)
LARGE_REQUESTS_KERNEL = (4, 20)
SKEW_NOTED_S, SKEW_BAD_S = 60.0, 900.0
"""Certificates and signed URLs are issued with a quarter of an hour of tolerance (AWS: 15 minutes), not more."""
SLOW_DISK_S = 1.0
"""For writing, syncing and reading 1 MiB: the cache writes behind the reads, but reads wait for its reads."""
FEW_INODES = 10_000
SMALL_ROOM_BYTES = 2 << 30
"""One image of ordinary size."""
_SHARED = frozenset(
    ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "afs", "panfs", "glusterfs")
)
_MEMORY = frozenset(("tmpfs", "ramfs"))
_LAYERED = frozenset(("overlay", "aufs"))
_SAFE_KILL_MODES = frozenset(("process", "none"))


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


# --- kernel and FUSE -------------------------------------------------------------------------------------------


def kernel(release: str) -> Finding:
    """Args: release: as uname(2) gives it."""
    match = re.match(r"(\d+)\.(\d+)", release)
    if match is None:
        return note("kernel", f"version {release!r} cannot be read")
    version = int(match[1]), int(match[2])
    if version >= RESEND_KERNEL:
        return ok("kernel", f"{release}: jobs survive a restart of the daemon")
    what = f"{release}: before 6.9 reads in hand fail when the daemon dies or is upgraded"
    if version < LARGE_REQUESTS_KERNEL:
        what += "; before 4.20 requests have 128 KiB at most, so reading is slower"
    return note("kernel", what, "upgrade when no jobs run, or use a kernel of 6.9 or later")


def request_timeouts(default_s: int, max_s: int, longest_wait_s: float) -> Finding:
    """fs.fuse.default_request_timeout and max_request_timeout; 0 is off."""
    check = "fuse time-outs"
    least = min((value for value in (default_s, max_s) if value), default=0)
    if not least:
        return ok(check, "the kernel ends no connection because a request takes long")
    found = (
        f"fs.fuse.default_request_timeout is {default_s}, max_request_timeout {max_s}: after {least} s of one "
        "request the kernel ends the whole connection"
    )
    if least > longest_wait_s:
        return note(check, found, "keep limits.read_timeout below it")
    return problem(check, found, f"set them to 0, or to more than limits.read_timeout ({longest_wait_s:g} s)")


def fuse_device(mode: int | None, open_error: str) -> Finding:
    """Args: mode: permission bits, None where it is missing. open_error: "" if this user can open it."""
    check = "/dev/fuse"
    if mode is None:
        return problem(check, "missing", "modprobe fuse; in a container start it with --device /dev/fuse")
    if mode & 0o006 != 0o006:
        return problem(
            check,
            f"mode {mode:04o}: closed to ordinary users, and so to their mounts and to unprivileged Apptainer",
            "chmod 0666 /dev/fuse, and see which udev rule closes it",
        )
    if open_error:
        return problem(check, f"mode {mode:04o}, but: {open_error}", "modprobe fuse; see the device cgroup")
    return ok(check, f"mode {mode:04o}, can be opened")


def fusermount(path: str, setuid_root: bool, as_root: bool) -> Finding:
    check = "fusermount3"
    if not path:
        found, advice = "not found", "install the package fuse3"
    elif not setuid_root:
        found, advice = f"{path} is not setuid root", f"chmod u+s {path}, or install the package fuse3 again"
    else:
        return ok(check, path)
    if as_root:
        return note(check, f"{found}: ordinary users cannot mount (root does not need it)", advice)
    return problem(check, f"{found}: you cannot mount", advice)


def fuse_conf(text: str, *, as_root: bool, wants_allow_other: bool, fuse_mounts: int) -> Finding:
    """/etc/fuse.conf; it binds everybody but root. Args: fuse_mounts: how many there are."""
    check = "/etc/fuse.conf"
    lines = [line.strip() for line in text.splitlines()]
    allows = "user_allow_other" in lines
    limits = [match for line in lines if (match := re.fullmatch(r"mount_max\s*=\s*(-?\d+)", line))]
    mount_max = int(limits[-1][1]) if limits else 1000
    if 0 <= mount_max <= fuse_mounts:
        found = f"mount_max is {mount_max}, and there are {fuse_mounts} FUSE mounts"
        return (note if as_root else problem)(check, found, "set a larger mount_max")
    if not allows and wants_allow_other and not as_root:
        return problem(
            check,
            "allow_other is asked for, and user_allow_other is not set",
            "add the line user_allow_other",
        )
    if not allows:
        found = "user_allow_other is not set: mounts of ordinary users are theirs alone (root's are not)"
        return ok(check, found) if as_root else note(check, found, "add it if others are to use your mount")
    return ok(check, f"user_allow_other is set, mount_max is {mount_max}")


def fusectl(mounted: bool) -> Finding:
    if mounted:
        return ok("fusectl", "/sys/fs/fuse/connections is there")
    return note(
        "fusectl",
        "/sys/fs/fuse/connections is not mounted: a stuck mount can be neither seen nor aborted there",
        "mount -t fusectl fusectl /sys/fs/fuse/connections",
    )


def open_files(soft: int, needed: int) -> Finding:
    """RLIMIT_NOFILE; a negative limit is none."""
    check = "open files"
    if soft < 0 or soft >= 2 * needed:
        return ok(check, f"limit {soft}" if soft >= 0 else "no limit")
    if soft >= needed:
        return note(check, f"limit {soft}, about {needed} are needed", "ulimit -n 4096, or LimitNOFILE=4096")
    return problem(check, f"limit {soft}, about {needed} are needed", "ulimit -n 4096, or LimitNOFILE=4096")


def bulk(libcurl: str) -> Finding:
    """Args: libcurl: its version, "" where it cannot be loaded."""
    if libcurl:
        return ok("bytes of images", f"come by libcurl {libcurl}")
    return note(
        "bytes of images",
        "come by httpx: pycurl is not installed or cannot be loaded",
        "pip install 'lazysif[curl]' makes bulk transfers cost the reads beside them less",
    )


def access_control(selinux: bool, apparmor: bool, userns_restricted: bool) -> Finding:
    check = "SELinux, AppArmor"
    if selinux:
        return note(
            check, "SELinux enforces", "where access is denied without a reason: ausearch -m avc -ts recent"
        )
    if userns_restricted:
        return note(
            check,
            "AppArmor restricts unprivileged user namespaces",
            "unprivileged Apptainer needs its profile: see its installation guide",
        )
    return ok(check, "AppArmor is on" if apparmor else "neither enforces")


# --- directories -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """What was seen of one directory. `missing` ones are judged by the parent that is there."""

    path: str
    missing: bool
    is_link: bool
    is_directory: bool
    uid: int
    mode: int
    file_system: str
    total_bytes: int
    free_bytes: int
    inodes: int
    inodes_free: int
    can_be_made: bool = True
    """Whether this user may make what is missing."""


def directory_owner(what: str, facts: DirectoryFacts, uid: int) -> Finding:
    """Whether the daemon of user `uid` would take it, as `cache.directory.prepare_directory` decides."""
    check = f"{what} directory"
    if facts.missing and not facts.can_be_made:
        return problem(
            check,
            f"{facts.path} is missing, and this user cannot make it",
            f"make it for this user, or choose another one with --{what}-dir",
        )
    if facts.missing:
        return ok(check, f"{facts.path} will be made by the first mount")
    if facts.is_link or not facts.is_directory:
        kind = "a symbolic link" if facts.is_link else "not a directory"
        return problem(check, f"{facts.path} is {kind}", "name the directory itself")
    if facts.uid != uid:
        return problem(
            check,
            f"{facts.path} belongs to user {facts.uid}, not to user {uid}",
            f"choose one that user {uid} owns, or ask as user {facts.uid}",
        )
    if facts.mode & 0o022:
        return problem(
            check,
            f"{facts.path} has mode {facts.mode:04o}: others can write there, and no daemon starts with it",
            f"chmod go-w {facts.path}",
        )
    return ok(check, f"{facts.path}, mode {facts.mode:04o}")


def file_system(what: str, facts: DirectoryFacts) -> Finding:
    check = f"{what} file system"
    kind, where = facts.file_system, facts.path
    if kind in _SHARED:
        return problem(
            check,
            f"{where} is on {kind}: file locks and SQLite do not work well there, and it may stall",
            "use a directory on a local disk of each node",
        )
    if kind in _MEMORY:
        return note(check, f"{where} is on {kind}: it takes memory and is gone after a reboot", "use a disk")
    if kind in _LAYERED:
        return note(
            check, f"{where} is on {kind}: slow, and gone with its container", "use a volume or a disk"
        )
    if kind.startswith("fuse"):
        return note(check, f"{where} is on {kind}: it depends on another daemon", "use a local disk")
    return ok(check, kind or "unknown")


def space(facts: DirectoryFacts, limit_bytes: int, floor_bytes: int, used_bytes: int | None) -> Finding:
    """Args: used_bytes: by the cache itself, None if no daemon tells."""
    check = "cache space"
    free, used = facts.free_bytes, used_bytes or 0
    room = min(limit_bytes, free + used - floor_bytes)
    found = (
        f"{format_size(free)} of {format_size(facts.total_bytes)} free, limit {format_size(limit_bytes)}, "
        f"floor {format_size(floor_bytes)}"
    )
    if facts.inodes and facts.inodes_free < FEW_INODES:
        return problem(check, f"only {facts.inodes_free} inodes are free", "delete files or use another disk")
    if free < floor_bytes and used < SMALL_ROOM_BYTES:
        return problem(
            check, f"{found}: below the floor nothing is kept", "free space, or lower cache.min_free"
        )
    if room < min(limit_bytes, SMALL_ROOM_BYTES):
        return note(check, f"{found}: room for {format_size(max(0, room))}", "free space on that disk")
    return ok(check, found)


def disk_probe(what: str, seconds: float | None, error: str) -> Finding:
    """Args: seconds: for writing, syncing and reading back 1 MiB; None with `error`."""
    check = f"{what} disk"
    if seconds is None:
        return problem(
            check, f"1 MiB cannot be written and read back: {error}", "see dmesg; use another disk"
        )
    found = f"1 MiB written, synced and read in {_time(seconds)}"
    if seconds > SLOW_DISK_S:
        return note(check, found, "a disk this slow may be sick or overloaded: see iostat -x and smartctl")
    return ok(check, found)


def on_own_mount(what: str, path: str) -> Finding:
    return problem(
        f"{what} directory", f"{path} lies on a mount of lazysif itself", "choose a directory on a disk"
    )


# --- origins ---------------------------------------------------------------------------------------------------


def clock(skew_s: float, host: str) -> Finding:
    """Args: skew_s: the origin's clock minus ours."""
    found = f"{abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} {host}"
    advice = "set the clock: systemctl restart chronyd (or systemd-timesyncd), then chronyc tracking"
    if abs(skew_s) > SKEW_BAD_S:
        return problem("clock", f"{found}: certificates and signed URLs may be refused", advice)
    if abs(skew_s) > SKEW_NOTED_S:
        return note("clock", found, advice)
    return ok("clock", f"agrees with {host}")


def connection(check: str, dns_s: float, tcp_s: float, tls_s: float | None) -> Finding:
    times = f"DNS {_time(dns_s)}, TCP {_time(tcp_s)}" + (f", TLS {_time(tls_s)}" if tls_s is not None else "")
    slow = max(dns_s, tcp_s, tls_s or 0.0) > 1.0
    return note(check, times, "slow: see the resolver and the path to it") if slow else ok(check, times)


def image_answer(check: str, name: str, seconds: float, *, ranges: bool, validator: str) -> Finding:
    """What a ranged GET of an image showed. Args: validator: its kind, "none" if the answer had none."""
    found = f"first bytes of {name} in {_time(seconds)}"
    if validator == "none":
        return note(
            check,
            f"{found}; no strong ETag and no Last-Modified: each image is downloaded whole",
            "have the server send one of them",
        )
    if not ranges:
        return note(
            check,
            f"{found}; it answers no ranges: each image is downloaded whole",
            "switch range requests on at the server",
        )
    return ok(check, f"{found}; ranges work, versions are told by {validator}")


def proxies(names: Sequence[str]) -> Finding:
    """Args: names: of the variables; their values may hold passwords."""
    if not names:
        return ok("proxies", "none in the environment")
    return note(
        "proxies",
        f"{', '.join(names)} set, and not used: lazysif asks origins directly",
        "give the address of a site cache as the remote's url instead",
    )


# --- Apptainer -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ApptainerFacts:
    version: str
    setuid: bool
    user_namespaces: bool
    squashfuse: str
    conf: str
    """The text of apptainer.conf, "" where it cannot be read."""


def conf_values(text: str, key: str) -> list[str]:
    """Values of `key = a, b` lines of apptainer.conf that mean something."""
    found: list[str] = []
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator and name.strip() == key:
            found += [part.strip() for part in value.split(",")]
    return [value for value in found if value and value.upper() != "NULL"]


def apptainer(facts: ApptainerFacts | None, mountpoints: Sequence[str]) -> list[Finding]:
    """Args: facts: None where neither Apptainer nor Singularity was found. mountpoints: to be reached by it."""
    if facts is None:
        return [note("Apptainer", "neither apptainer nor singularity found", "install it where jobs run")]
    way = "setuid" if facts.setuid else "user namespaces"
    findings = [ok("Apptainer", f"{facts.version}, starts by {way}")]
    if not facts.setuid and not facts.user_namespaces:
        findings = [
            problem(
                "Apptainer",
                f"{facts.version} is not setuid, and user namespaces are off",
                "sysctl user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1, or apptainer-suid",
            )
        ]
    if facts.squashfuse:
        findings.append(ok("squashfuse_ll", facts.squashfuse))
    else:
        findings.append(
            note(
                "squashfuse_ll",
                "not found: ordinary users' starts may unpack (and so fetch) whole images",
                "install the package squashfuse",
            )
        )
    return findings + _apptainer_conf(facts, mountpoints)


def _apptainer_conf(facts: ApptainerFacts, mountpoints: Sequence[str]) -> list[Finding]:
    check = "apptainer.conf"
    findings = []
    paths = conf_values(facts.conf, "limit container paths")
    outside = [m for m in mountpoints if paths and not any(_below(m, path) for path in paths)]
    if outside:
        findings.append(
            problem(
                check,
                f"limit container paths does not contain {', '.join(outside)}",
                f"add it: limit container paths = {', '.join([*paths, *outside])}",
            )
        )
    findings += [
        note(
            check, f"{key} = {', '.join(names)}", f"set {key.split()[-1][:-1]} of each remote to one of them"
        )
        for key in ("limit container owners", "limit container groups")
        if (names := conf_values(facts.conf, key))
    ]
    loops = conf_values(facts.conf, "max loop devices")
    if loops and loops[-1].isdigit() and int(loops[-1]) < 64:
        findings.append(note(check, f"max loop devices = {loops[-1]}", "256 is the default"))
    ways = conf_values(facts.conf, "allow setuid-mount squashfs")
    if ways == ["no"] and facts.setuid and not facts.squashfuse:
        findings.append(
            problem(
                check, "allow setuid-mount squashfs = no, and there is no squashfuse_ll", "install squashfuse"
            )
        )
    shown = (
        f"max loop devices {loops[-1] if loops else 256}, setuid squashfs {ways[-1] if ways else 'iflimited'}"
    )
    return findings or [ok(check, shown if facts.conf else "not readable")]


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


# --- mounts ----------------------------------------------------------------------------------------------------


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


def kill_mode(unit: str, mode: str) -> Finding:
    """A systemd unit whose control group a daemon lives in. Args: mode: its KillMode, "" if not set."""
    check = f"unit {unit}"
    if mode in _SAFE_KILL_MODES:
        return ok(check, f"KillMode={mode}")
    return problem(
        check,
        f"KillMode={mode or 'control-group'}: restarting it kills the daemon under running jobs",
        f"a drop-in with KillMode=process, as in mount-helpers/: systemctl edit {unit}",
    )


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
