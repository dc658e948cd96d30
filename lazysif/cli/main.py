"""The command line: what people type, and how errors reach them: one line, and a code that says which kind."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from lazysif import __version__
from lazysif.cli.output import guard_standard_output
from lazysif.errors import ConfigError, LazysifError, LocalDirectoryError, MountError

EXIT_CODES: dict[type[LazysifError], int] = {ConfigError: 2, MountError: 3, LocalDirectoryError: 4}
"""1 is everything else; 2 is usage, too, as click has it."""


def exit_code(error: LazysifError) -> int:
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


_COMMANDS = {
    "bugreport": "bugreport:bugreport_command",
    "config": "config:config_group",
    "doctor": "doctor:doctor_command",
    "fsck": "fsck:fsck_command",
    "mount": "mount:mount_command",
    "reload": "reload:reload_command",
    "status": "status:status_command",
    "trace": "trace:trace_group",
    "umount": "umount:umount_command",
    "upgrade": "upgrade:upgrade_command",
    "warm": "warm:warm_command",
}


class _Commands(click.Group):
    """Imports a command when it is wanted: all of them take 0.4 s, `status` alone 0.1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"lazysif.cli.{module}"), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Mount remote Singularity/Apptainer images: complete at once, read on demand."""


def run() -> int:
    """The command's exit code."""
    guard_standard_output()
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
    except FileNotFoundError:
        if not _working_directory_is_gone():
            raise
        print("lazysif: the working directory is gone; change to another one", file=sys.stderr)
        return 1


def _working_directory_is_gone() -> bool:
    """As of a job whose scratch directory was deleted; whatever names a relative path fails then."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
