"""`lazysif umount`: ends a mount, and the daemon with it."""

from __future__ import annotations

import os
import subprocess
import time

import click

from lazysif.control.address import absolute_mountpoint, mounted_file, socket_path
from lazysif.control.client import fetch_status
from lazysif.errors import MountError
from lazysif.fuse.mountinfo import find_mount

_GONE_S = 15.0
_BUSY_S = 0.3


@click.command("umount")
@click.argument("mountpoint")
@click.option("--lazy", is_flag=True, help="Detach now; the daemon ends when the last user is gone.")
def umount_command(mountpoint: str, lazy: bool) -> int:
    """Unmount MOUNTPOINT; returns when the daemon is gone. Exit code 3 if it is busy or not mounted."""
    path = absolute_mountpoint(mountpoint)
    mounted = find_mount(path)
    if mounted is None or mounted.kind != "fuse.lazysif":
        raise MountError(f"no lazysif is mounted at {path}")
    processes = _processes(path)
    command = ["umount", "-i"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    command += ["-l" if os.geteuid() == 0 else "-z"] if lazy else []
    done = _unmount([*command, "--", path])
    if done.returncode != 0:
        hint = "end the jobs that use it, or use --lazy" if "busy" in done.stderr else ""
        raise MountError(f"cannot unmount {path}: {done.stderr.strip() or 'refused'}", hint=hint)
    mounted_file(path).unlink(missing_ok=True)
    if not processes:
        socket_path(path).unlink(missing_ok=True)  # left behind by a daemon that was killed
    elif not lazy and not _wait_until_gone(processes):
        click.echo(
            f"lazysif: {path} is unmounted; process {processes[0]} goes on for users of it elsewhere, "
            "as in containers that were started meanwhile",
            err=True,
        )
    return 0


def _unmount(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Tried again for a moment where the mount is busy: what reads ahead of jobs closes an image some milliseconds
    behind the last of them. Raises: MountError."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise MountError(f"{command[0]} cannot be run: {error.strerror}", hint="see PATH") from error
        if done.returncode == 0 or "busy" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(0.02)


def _processes(path: str) -> list[int]:
    """The daemon that serves the mount and its keeper; none if none answers."""
    try:
        document = fetch_status(socket_path(path))
        return [int(document["pid"]), int(document["keeper_pid"])]
    except (OSError, KeyError):
        return []


def _wait_until_gone(processes: list[int]) -> bool:
    """When they have ended the cache is written and its locks are free."""
    deadline = time.monotonic() + _GONE_S
    while any(map(_runs, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _runs(pid: int) -> bool:
    """False for a process that has ended, even where nobody has asked for its exit code."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except FileNotFoundError:
        return False
    except OSError:
        return True  # somebody else's
    return True
