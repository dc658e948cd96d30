"""Spellings of whole-file digests."""

from __future__ import annotations

import pytest

from lazysif.core.digests import whole_file_digest
from lazysif.model import Validator, ValidatorKind

MD5, SHA256 = "0123456789abcdef" * 2, "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"sha256:{SHA256}", f"sha256:{SHA256}"),
        (f"sha256.{SHA256}", f"sha256:{SHA256}"),
        (SHA256.upper(), f"sha256:{SHA256}"),
        (f"md5:{MD5}", f"md5:{MD5}"),
        (f"md5.{MD5}", f"md5:{MD5}"),
        (MD5, f"md5:{MD5}"),
    ],
)
def test_every_spelling_is_one_validator(text: str, value: str) -> None:
    assert whole_file_digest(text) == Validator(ValidatorKind.DIGEST, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        f"sha256:{MD5}",
        f"md5:{SHA256}",
        f"sha512:{SHA256}",
        "0" * 40,
        f"{MD5}\n",
        f" {MD5}",
        None,
        7,
    ],
)
def test_what_is_no_whole_file_digest(text: object) -> None:
    assert whole_file_digest(text) is None
