"""References of registries as file names: `user/name:tag.sif`, `host/repository@sha256:....sif`. Pure.

`.sif` may be left out where a tag or a digest says that this is an image; a name with none of the three is a
directory on the way, unless the registry knows by its depth that nothing can be below it (`whole`). A repository
whose own name ends in ".sif" is written with its tag, or as `name.sif.sif`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lazysif.core.names import is_name

_SUFFIX = ".sif"
_DEFAULT_TAG = "latest"


@dataclass(frozen=True, slots=True)
class Reference:
    """What a name says.

    Args:
        repository: names joined by "/", without tag and digest.
        tag: "latest" where none is written.
        digest: what follows "@", "" where nothing does; it goes before the tag.
    """

    repository: str
    tag: str
    digest: str = ""

    @property
    def version(self) -> str:
        """The digest, or the tag where there is none."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}" + (f"@{self.digest}" if self.digest else "")


def parse_reference(path: str, *, whole: bool = False) -> Reference | None:
    """The reference that a path stands for; None for a directory on the way.

    Args:
        whole: the path has all the components that its registry's names have: it is an image in any case.

    Raises:
        ValueError: an empty repository, tag or digest, or a component that is no name.
    """
    directory, slash, last = path.rpartition("/")
    marked = last.endswith(_SUFFIX)
    name, at, digest = last.removesuffix(_SUFFIX).partition("@")
    name, colon, tag = name.partition(":")
    if not (marked or at or colon or whole):
        return None
    if not name or (colon and not tag) or (at and not digest):
        raise ValueError(f"not a reference: {path!r}")
    repository = directory + slash + name
    if not all(is_name(part) for part in repository.split("/")) or not is_name(tag or _DEFAULT_TAG):
        raise ValueError(f"not a reference: {path!r}")
    return Reference(repository, tag or _DEFAULT_TAG, digest)
