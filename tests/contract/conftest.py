"""What several contracts need."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lazysif.transport.curl_engine import CurlEngine


@pytest.fixture
async def engine() -> AsyncIterator[CurlEngine]:
    """libcurl's thread, which is gone afterwards."""
    engine = CurlEngine()
    engine.start()
    yield engine
    await engine.aclose()
    assert not engine.alive
