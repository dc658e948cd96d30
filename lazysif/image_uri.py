"""Image URIs as Apptainer's users write them: `shub://user/name:tag`, `oras://host/repository:tag`, `https://…`."""

from __future__ import annotations

from dataclasses import dataclass, field

SCHEMES = ("http", "https", "s3", "gs", "swift", "shub", "library", "oras")
_NOT_SIF = ("docker", "docker-daemon", "docker-archive", "oci", "oci-archive")


@dataclass(frozen=True, slots=True)
class ImageUri:
    """`scheme://rest`; `rest` may hold a signature behind "?", and is never shown whole."""

    scheme: str
    rest: str = field(repr=False)

    @property
    def text(self) -> str:
        return f"{self.scheme}://{self.rest}"

    @property
    def shown(self) -> str:
        """For people: without query."""
        return self.text.partition("?")[0]

    @property
    def query(self) -> str:
        """What stands behind "?", a signature for one."""
        return self.text.partition("?")[2]


def is_uri(text: str) -> bool:
    """Whether `text` is meant as a URI and not as a path below a mountpoint."""
    return "://" in text


def parse_uri(text: str) -> ImageUri:
    """Raises: ValueError, with a text for people; it does not repeat the URI, which may hold a secret."""
    scheme, found, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme in _NOT_SIF:
        raise ValueError(
            f"{scheme}:// names layers and no SIF file: build a SIF of it and push that to an oras:// name"
        )
    if not found or scheme not in SCHEMES:
        known = ", ".join(f"{known}://" for known in SCHEMES)
        raise ValueError(f"not the URI of an image: it starts with one of {known}")
    rest = rest.lstrip("/") if scheme == "library" else rest
    if not rest or rest.startswith("/") or not rest.isprintable() or " " in rest:
        raise ValueError(f"not the URI of an image: {scheme}:// is followed by nothing that can be asked for")
    if scheme in ("http", "https") and "@" in rest.partition("/")[0]:
        raise ValueError("the URI holds a user name: configure a remote with username and password_file")
    return ImageUri(scheme, rest)
