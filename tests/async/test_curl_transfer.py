"""transport.curl_transfer: what is hard to bring about with a server."""

from __future__ import annotations

import time
from typing import cast

import pytest
import trio

from lazysif.transport.curl_order import Order
from lazysif.transport.curl_transfer import Engine, Transfer


async def test_patience_that_is_over_is_a_timeout_and_no_fault() -> None:
    """Regression: a transfer that was woken after its time was up was an unexpected error."""
    transfer = Transfer(cast("Engine", None), cast("Order", None), trio.lowlevel.current_trio_token())
    transfer.connected_at = time.monotonic() - 10
    with pytest.raises(trio.TooSlowError):
        await transfer.head(0.0)
