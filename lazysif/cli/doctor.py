"""`lazysif doctor`: whether this node can mount and read images, and what to do where it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lazysif.core.diagnosis.finding import Finding, Verdict, problem_count
from lazysif.doctor.asked import Asked
from lazysif.errors import ConfigError

_COLOURS = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.PROBLEM: "bold red"}


# type=Path and not click.Path, which asks the file system at once: the file may lie on a stuck mount
@click.command("doctor")
@click.argument("arguments", nargs=-1, metavar="[SOURCE] [MOUNTPOINT]")
@click.option("--config", "config_file", type=Path, help="TOML file with the remotes.")
@click.option("--cache-dir", help="Directory of the block cache.")
@click.option("--state-dir", help="Directory of what must outlive the daemon.")
@click.option(
    "--image", help="An image below the mountpoint, or a URI, to try ranges with; else a listed one."
)
@click.option("--json", "as_json", is_flag=True, help="The whole document, for programs.")
def doctor_command(
    arguments: tuple[str, ...],
    config_file: Path | None,
    cache_dir: str | None,
    state_dir: str | None,
    image: str | None,
    as_json: bool,
) -> int:
    """Check this node: kernel, FUSE, directories, clock, origins, Apptainer, mounts; and say what to do.

    Without SOURCE and --config, /etc/lazysif/config.toml if it is there. Touches no mount, and ends within 15
    seconds whatever hangs. Exit code 0 if there is no problem (notes are none), 1 if there is, 2 usage.
    """
    from lazysif.doctor.examination import document, examine  # 40 ms that no other command pays

    asked = asked_for(arguments, config_file, cache_dir, state_dir, image)
    found = examine(asked)
    if as_json:
        click.echo(json.dumps(document(found), indent=2))
    else:
        _show(found)
    return 1 if problem_count(found) else 0


def asked_for(
    arguments: tuple[str, ...],
    config_file: Path | None,
    cache_dir: str | None,
    state_dir: str | None,
    image: str | None = None,
) -> Asked:
    """The positional arguments told apart: a source is a URL. Raises: click.UsageError, ConfigError."""
    sources = [argument for argument in arguments if "://" in argument]
    mountpoints = [argument for argument in arguments if "://" not in argument]
    if len(sources) > 1 or len(mountpoints) > 1 or (sources and config_file is not None):
        raise click.UsageError("give SOURCE (a URL) or --config FILE, and MOUNTPOINT, each at most once")
    if "" in arguments:
        raise ConfigError("the name of the mountpoint is empty", hint="name a directory, or leave it out")
    settings = {"cache.dir": cache_dir, "state.dir": state_dir}
    return Asked(
        config_file=config_file,
        source=sources[0] if sources else None,
        settings={key: value for key, value in settings.items() if value is not None},
        mountpoint=mountpoints[0] if mountpoints else None,
        image=image,
    )


def _show(found: list[Finding]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for heading in ("", "check", "found", "what to do"):
        table.add_column(heading, overflow="fold", no_wrap=not heading)
    for finding in found:
        verdict = Text(finding.verdict.value, style=_COLOURS[finding.verdict])
        table.add_row(verdict, Text(finding.check), Text(finding.found), Text(finding.advice))
    console = Console(highlight=False)
    console.print(table)
    problems = problem_count(found)
    console.print("no problems" if not problems else f"{problems} problem{'s' if problems > 1 else ''}")
