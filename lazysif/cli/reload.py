"""`lazysif reload`: the configuration and its secrets are read anew; jobs go on."""

from __future__ import annotations

import click
import msgspec

from lazysif.cli.mount import Mounted, daemon_command, daemon_order
from lazysif.cli.upgrade import hand_over
from lazysif.config.tables import Config
from lazysif.control.address import absolute_mountpoint
from lazysif.errors import ConfigError, MountError
from lazysif.image_names import ImageNames
from lazysif.remotes.sources import source_of

_FIXED = ("cache.dir", "state.dir", "mount.options", "log.file")
"""What a daemon that takes over a live mount cannot have otherwise than the one before it."""


@click.command("reload")
@click.argument("mountpoint")
def reload_command(mountpoint: str) -> int:
    """Read the configuration of MOUNTPOINT anew, its secrets too, without unmounting it.

    It is checked first, and where anything is wrong with it the old one stays in force. Open files, loop devices and
    squashfuse go on; reads pause for a moment.
    """
    path = absolute_mountpoint(mountpoint)
    mounted = Mounted.read(path)
    if mounted is None:
        raise MountError(f"nothing is mounted at {path} whose configuration could be read anew")
    config = mounted.request.config()
    _refuse_changes(mounted.in_force(), config)
    for remote in (*config.remotes, *ImageNames(config).hidden):
        source_of(remote)
    order = {"command": daemon_command(path), "config": daemon_order(config, foreground=mounted.foreground)}
    hand_over(path, order)
    mounted.with_config(config).write(path)
    click.echo(f"{path}: the configuration is read anew, {len(config.remotes)} remotes")
    return 0


def _refuse_changes(old: Config, new: Config) -> None:
    """Raises: ConfigError."""
    before, after = msgspec.structs.asdict(old), msgspec.structs.asdict(new)
    for key in _FIXED:
        table, name = key.split(".")
        if getattr(before[table], name) != getattr(after[table], name):
            raise ConfigError(f"{key} cannot change while it is mounted", hint="unmount, and mount again")
    if old.source_mode != new.source_mode:
        raise ConfigError(
            "one URL cannot become remotes, or the other way round", hint="unmount, and mount again"
        )
