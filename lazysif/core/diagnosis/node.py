"""The node itself: kernel, FUSE, limits, what surrounds a daemon, and the units that start one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lazysif.core.diagnosis.finding import Finding, note, ok, problem

RESEND_KERNEL = (6, 9)
LARGE_REQUESTS_KERNEL = (4, 20)
_SAFE_KILL_MODES = frozenset(("process", "none"))


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


def proxies(names: Sequence[str]) -> Finding:
    """Args: names: of the variables; their values may hold passwords."""
    if not names:
        return ok("proxies", "none in the environment")
    return note(
        "proxies",
        f"{', '.join(names)} set, and not used: lazysif asks origins directly",
        "give the address of a site cache as the remote's url instead",
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
