"""Which version of which file: image ids and inode numbers, both derived, so that they outlive the process. Pure."""

from __future__ import annotations

from blake3 import blake3

from lazysif.model import ImageId, InodeNumber, Validator

ROOT_INODE = InodeNumber(1)
_FIRST_DERIVED = 1 << 32
"""Below this lie the kernel's own numbers (root is 1) and nothing that we derive."""


def image_id(origin: str, validator: Validator, size_bytes: int) -> ImageId:
    """The id of one version: origin identity, validator and size (design section 4), as 32 hexadecimal digits."""
    parts = (origin, validator.kind.value, validator.value, str(size_bytes))
    return ImageId(blake3("\0".join(parts).encode()).hexdigest(length=16))


def inode_number(identity: str, attempt: int = 0) -> InodeNumber:
    """A number for what `identity` names, the same in every process.

    A collision (below 1e-10 for 40,000 names at 63 bits) is answered by asking again with the next `attempt`.
    The number of an image derives from its id, so it is never used again for other content: Apptainer may share
    loop devices by device and inode number.
    """
    number = int.from_bytes(blake3(f"{attempt}\0{identity}".encode()).digest(length=8)) >> 1
    return InodeNumber(max(number, _FIRST_DERIVED))
