"""Small images of tests would come whole with the first miss; where that matters, a miss takes little along."""

from __future__ import annotations

import pytest

from lazysif.core.guesses import GuessLimits
from lazysif.image import open_image
from lazysif.image.asking import ExtentLimits


def guess_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the images that are opened from now on guess as little as they ever do."""
    limits = ExtentLimits(guesses=GuessLimits(most_bytes=GuessLimits().least_bytes, gap_bytes=0))
    monkeypatch.setattr(open_image, "ExtentLimits", lambda: limits)
