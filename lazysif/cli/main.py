"""The command line: what people type, and how errors reach them: one line, and a code that says which kind."""

from __future__ import annotations

import sys

import click

from lazysif import __version__
from lazysif.cli.bugreport import bugreport_command
from lazysif.cli.config import config_group
from lazysif.cli.doctor import doctor_command
from lazysif.cli.fsck import fsck_command
from lazysif.cli.mount import mount_command
from lazysif.cli.reload import reload_command
from lazysif.cli.status import status_command
from lazysif.cli.trace import trace_group
from lazysif.cli.umount import umount_command
from lazysif.cli.upgrade import upgrade_command
from lazysif.cli.warm import warm_command
from lazysif.errors import ConfigError, LazysifError, LocalDirectoryError, MountError

EXIT_CODES: dict[type[LazysifError], int] = {ConfigError: 2, MountError: 3, LocalDirectoryError: 4}
"""1 is everything else; 2 is usage, too, as click has it."""


def exit_code(error: LazysifError) -> int:
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Mount remote Singularity/Apptainer images: complete at once, read on demand."""


cli.add_command(mount_command)
cli.add_command(umount_command)
cli.add_command(upgrade_command)
cli.add_command(reload_command)
cli.add_command(status_command)
cli.add_command(warm_command)
cli.add_command(fsck_command)
cli.add_command(doctor_command)
cli.add_command(bugreport_command)
cli.add_command(trace_group)
cli.add_command(config_group)


def run() -> int:
    """The command's exit code."""
    try:
        result = cli.main(prog_name="lazysif", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except LazysifError as error:
        print(f"lazysif: {error}", file=sys.stderr)
        return exit_code(error)
