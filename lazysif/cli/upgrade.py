"""`lazysif upgrade`: this installation's daemon takes over a live mount; jobs go on."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import click

from lazysif.cli.mount import daemon_command
from lazysif.control.address import absolute_mountpoint, socket_path, upgrade_file, write_runtime_file
from lazysif.control.client import fetch_status
from lazysif.errors import MountError

_TAKEN_OVER_S = 60.0


@click.command("upgrade")
@click.argument("mountpoint")
def upgrade_command(mountpoint: str) -> int:
    """Hand MOUNTPOINT over to a daemon of this installation, without unmounting it.

    Open files, loop devices and squashfuse go on; reads pause for a moment. The configuration stays as it was at
    the mount. The keeper is not replaced: it is part of the mount.
    """
    path = absolute_mountpoint(mountpoint)
    before, after = hand_over(path, {"command": daemon_command(path)})
    click.echo(f"{path}: version {before['version']}, process {before['pid']} handed over to ", nl=False)
    click.echo(f"version {after['version']}, process {after['pid']}")
    return 0


def hand_over(path: str, order: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let the keeper of a mount start another daemon and put it in the place of the present one.

    Args:
        order: `command`, and `config` where it is another one (see `cli.mount.daemon_order`).

    Returns: the status documents of the daemon before and of the one after.

    Raises:
        MountError: no daemon answers, or it was not replaced and goes on.
    """
    before = _status(path)
    if before is None:
        raise MountError(f"no daemon answers for {path}")
    file = upgrade_file(path)
    write_runtime_file(file, json.dumps(order).encode())
    try:
        os.kill(int(before["keeper_pid"]), signal.SIGHUP)
        after = _wait_for_another(path, int(before["pid"]))
    except ProcessLookupError as error:
        raise MountError(f"the keeper of {path} is gone", hint="unmount it and mount it again") from error
    finally:
        file.unlink(missing_ok=True)
    return before, after


def _status(path: str) -> dict[str, Any] | None:
    try:
        return fetch_status(socket_path(path))
    except OSError:
        return None


def _wait_for_another(path: str, old_pid: int) -> dict[str, Any]:
    deadline = time.monotonic() + _TAKEN_OVER_S
    while time.monotonic() < deadline:
        status = _status(path)
        if status is not None and status["pid"] != old_pid:
            return status
        time.sleep(0.05)
    raise MountError(f"the daemon of {path} was not replaced; it goes on", hint="its log says why")
