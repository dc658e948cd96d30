"""`lazysif bugreport`: one file to send to who helps."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from lazysif.cli.doctor import asked_for
from lazysif.errors import LazysifError


@click.command("bugreport")
@click.argument("arguments", nargs=-1, metavar="[SOURCE] [MOUNTPOINT]")
@click.option("--config", "config_file", type=Path, help="TOML file with the remotes.")
@click.option("--cache-dir", help="Directory of the block cache.")
@click.option("--state-dir", help="Directory of what must outlive the daemon; the log is there.")
@click.option("--output", type=Path, help="The file to write, a .tar.gz; must not exist.")
def bugreport_command(
    arguments: tuple[str, ...],
    config_file: Path | None,
    cache_dir: str | None,
    state_dir: str | None,
    output: Path | None,
) -> int:
    """Write what lazysif and this node look like into one .tar.gz, without secrets.

    It has what `lazysif doctor` says, status, configuration, logs, and where threads wait. Touches no mount, and
    ends within 15 seconds whatever hangs. Names of images and hosts are in it: look before you send it.
    """
    from lazysif.doctor.report import gather, may_write, write  # 50 ms that no other command pays

    asked = asked_for(arguments, config_file, cache_dir, state_dir)
    path = output or Path(f"lazysif-bugreport-{os.uname().nodename}-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    if not may_write(path):
        raise LazysifError(f"{path} would lie on a mount of lazysif", hint="name another place with --output")
    texts = gather(asked)
    try:
        write(texts, path)
    except OSError as error:
        raise LazysifError(f"{path} cannot be written: {error.strerror}") from error
    click.echo(f"{path}: {', '.join(texts)}")
    click.echo("no secrets were left in that could be found; names of images and hosts are in it: look first")
    return 0
