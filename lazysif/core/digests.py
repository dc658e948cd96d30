"""The digest of a whole file, in the spellings that registries have for it. Pure."""

from __future__ import annotations

import re

from lazysif.model import Validator, ValidatorKind

_LENGTHS = {32: "md5", 64: "sha256"}
_DIGEST = re.compile(r"(?:(md5|sha256)[:.])?([0-9a-fA-F]{32}|[0-9a-fA-F]{64})")


def whole_file_digest(text: object) -> Validator | None:
    """The validator that `text` stands for; None for anything else (a commit, an upload's number, no text).

    `sha256:<hex>` (OCI, static registries), `sha256.<hex>` (library, Singularity Registry Server), `md5:<hex>`, and
    32 or 64 bare hexadecimal digits (Singularity Hub) come out as "sha256:<hex>" and "md5:<hex>" in lower case.
    """
    match = _DIGEST.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    kind, digits = match.groups()
    if kind not in (None, _LENGTHS[len(digits)]):
        return None
    return Validator(ValidatorKind.DIGEST, f"{_LENGTHS[len(digits)]}:{digits.lower()}")
