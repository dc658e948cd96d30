"""`lazysif config`: what is wrong with a file, and what is in force."""

from __future__ import annotations

from pathlib import Path

import click

from lazysif.config.load import check_config, config_for_source, load_config
from lazysif.config.render import render
from lazysif.config.tables import Config
from lazysif.errors import ConfigError
from lazysif.image_names import ImageNames


@click.group("config")
def config_group() -> None:
    """Check and show the configuration."""


@config_group.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def check_command(file: Path) -> int:
    """Say all that is wrong with FILE and where, a line each; exit code 2 if anything is."""
    problems = check_config(file) or _unserved(file)
    for problem in problems:
        click.echo(problem, err=True)
    if not problems:
        click.echo(f"{file}: fine")
    return 2 if problems else 0


def _unserved(file: Path) -> list[str]:
    """Chosen images that no kind of remote can serve; only to be told of a file that is right otherwise."""
    try:
        ImageNames(load_config(file))
    except ConfigError as error:
        return [f"{file}: {error}"]
    return []


@config_group.command("show")
@click.argument("source", required=False)
@click.option("--config", "file", type=click.Path(path_type=Path), help="TOML file with the remotes.")
def show_command(source: str | None, file: Path | None) -> int:
    """Print what is in force: with FILE, for `lazysif mount SOURCE`, or the defaults alone."""
    if file is not None:
        config = load_config(file)
    elif source is not None:
        config = config_for_source(source)
    else:
        config = Config()
    click.echo(render(config))
    return 0
