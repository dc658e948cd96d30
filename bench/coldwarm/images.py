"""The images that jobs are started from."""

from __future__ import annotations

from pathlib import Path

from bench.big_image import numeric_sif
from bench.images import default_directory, real_sif

IMAGES = {"small": real_sif, "big": numeric_sif}


def image_of(name: str) -> Path:
    """The image of this name, built where it is not there yet. Raises: CannotBuild."""
    return IMAGES[name](default_directory(), say)


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, flush=True)
