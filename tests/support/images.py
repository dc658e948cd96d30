"""The images that tests read, each built once a session (the real one once a machine) and never changed.

images = Images(tmp)
image = images.small("zstd")        # image.path, image.tree (the same files, unpacked), image.partition
real = images.real()                # a Debian with Python and numpy, by Apptainer where it is installed
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.images import Partition, default_directory, partition_of, real_sif, small_sif


@dataclass(frozen=True)
class BuiltImage:
    """A SIF on the local disk, and where known the tree that went into it."""

    path: Path
    tree: Path | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @cached_property
    def partition(self) -> Partition:
        return partition_of(self.path)


class Images:
    """Builds on first demand, below one directory.

    Args:
        directory: for the small ones; belongs to the test session.
        kept: for the real one, which is worth keeping between sessions.
    """

    def __init__(self, directory: Path, kept: Path | None = None) -> None:
        self.directory = directory
        self.kept = kept or default_directory()
        self._built: dict[str, BuiltImage] = {}

    def small(
        self,
        compression: str = "gzip",
        *,
        seed: int = 1,
        bulk_bytes: int = 4 * 1024 * 1024,
        small_files: int = 300,
    ) -> BuiltImage:
        """Raises: CannotBuild."""
        name = f"{compression}-{seed}-{bulk_bytes}-{small_files}"
        if name not in self._built:
            image = BuiltImage(self.directory / f"{name}.sif", self.directory / f"{name}.tree")
            small_sif(
                image.path,
                compression=compression,
                seed=seed,
                bulk_bytes=bulk_bytes,
                small_files=small_files,
                tree=image.tree,
            )
            self._built[name] = image
        return self._built[name]

    def real(self) -> BuiltImage:
        """Raises: CannotBuild."""
        if "real" not in self._built:
            self._built["real"] = BuiltImage(real_sif(self.kept))
        return self._built["real"]
