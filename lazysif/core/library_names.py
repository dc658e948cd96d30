"""Names of images in libraries: `entity/collection/name:tag.sif`, shorter ones, and hashes. Pure.

An image's hash may stand for its tag (`name:sha256.<hex>`) or for all of its name (`sha256.<hex>.sif`). What a
shorter name means (the entity, the collection) the library fills in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lazysif.core.digests import whole_file_digest
from lazysif.core.references import Reference, parse_reference
from lazysif.errors import NoSuchEntry
from lazysif.model import Validator

DEPTH = 3
"""Components of a whole name: nothing lies below an image."""
_PART = re.compile(r"[A-Za-z0-9_][-A-Za-z0-9_.+]{0,127}")
_HASH = re.compile(r"sha256\.[0-9a-f]{64}")


def is_part(text: object) -> bool:
    """Whether this may be an entity, a collection, a container or a tag."""
    return isinstance(text, str) and _PART.fullmatch(text) is not None


def is_hash(text: str) -> bool:
    """Whether this is an image by its hash."""
    return _HASH.fullmatch(text) is not None


def hash_of(digest: Validator) -> str:
    """As libraries write it: `sha256.<hex>`."""
    return digest.value.replace(":", ".", 1)


def parse_library_name(path: str) -> Reference | None:
    """What a path below the remote names; None for an entity or a collection. A hash is given as its digest.

    Raises: NoSuchEntry: no image and no directory can have that name.
    """
    if not path:
        return None
    depth = path.count("/") + 1
    try:
        reference = parse_reference(path, whole=depth == DEPTH or is_hash(path))
    except ValueError:
        raise _impossible() from None
    parts = (reference.repository if reference is not None else path).split("/")
    if depth > DEPTH or not all(map(is_part, parts)):
        raise _impossible()
    if reference is None:
        return None
    hashes = [reference.digest, *filter(is_hash, (reference.tag, reference.repository))]
    digest = whole_file_digest(next(filter(None, hashes), ""))
    if (reference.digest and digest is None) or not is_part(reference.tag):
        raise _impossible()
    return Reference(reference.repository, reference.tag, digest.value if digest is not None else "")


def _impossible() -> NoSuchEntry:
    return NoSuchEntry(
        "no image can have that name", hint="names are entity/collection/name:tag.sif", certain=True
    )


def api_name(reference: Reference) -> str:
    """How the library calls the image."""
    if is_hash(reference.repository):
        return reference.repository
    return f"{reference.repository}:{reference.version.replace(':', '.', 1)}"


def container_of(reference: Reference, data: Mapping[str, object]) -> str:
    """The image's name without a tag; the library's description says it where the reference is a bare hash."""
    parts = [data.get(key) for key in ("entityName", "collectionName", "containerName")]
    if is_hash(reference.repository) and all(map(is_part, parts)):
        return "/".join(map(str, parts))
    return reference.repository
