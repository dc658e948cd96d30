"""Options that name a directory."""

from __future__ import annotations

from pathlib import Path

import click

from lazysif.errors import ConfigError


def directory_given(context: click.Context, parameter: click.Parameter, given: str | None) -> Path | None:
    """A click callback. Nothing is what a script gives whose variable is not set: not the working directory.

    Raises: ConfigError.
    """
    if given == "":
        raise ConfigError(f"{parameter.opts[0]} is empty", hint="name a directory, or leave it out")
    return Path(given) if given is not None else None
