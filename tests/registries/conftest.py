"""No secret that a test of a kind uses is in any log of its daemons, at debug level.

Secrets are known from the test's `stand` (`Stand.secrets`), and from `known_secrets` where it has none.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

SHORTEST = 6
"""Less is found in any text by chance."""


@pytest.fixture
def known_secrets() -> list[str]:
    """To be filled by a test that makes secrets itself."""
    return []


@pytest.fixture(autouse=True)
def no_secret_in_a_log(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    known_secrets: list[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[None]:
    """Looks when all of the test's daemons have ended: what they say last counts, too."""
    yield
    secrets = [*known_secrets, *getattr(request.node.funcargs.get("stand"), "secrets", ())]
    texts = {str(file): file.read_text(errors="replace") for file in daemon_logs(tmp_path)}
    texts["the test's own process"] = caplog.text
    assert all(len(secret) >= SHORTEST for secret in secrets), "too short to be looked for"
    for place, text in texts.items():
        found = [secret for secret in secrets if any(form in text for form in spellings(secret))]
        assert not found, f"{place} tells {len(found)} of the test's secrets, the first is {found[0]!r}"


def daemon_logs(directory: Path) -> list[Path]:
    """All that daemons below a directory have logged, rotated files included."""
    return [file for file in directory.glob("**/state/*.log*") if file.is_file()]


def spellings(secret: str) -> set[str]:
    """As it is, in a URL, and in base64 (whole, as in a header; for `name:password` give that)."""
    return {secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()}
