"""transport.curl_bulk: how what libcurl brings is handed on."""

from __future__ import annotations

from typing import cast

import pytest
import trio
from blake3 import blake3

from lazysif.model import Hashed
from lazysif.transport.authorities import Authorities
from lazysif.transport.curl_bulk import BulkTransfer
from lazysif.transport.curl_order import CurlFailure, Order
from lazysif.transport.curl_transfer import Engine

KIB = 1 << 10
BLOCK = 128 * KIB


def transfer_of(block_bytes: int = BLOCK) -> BulkTransfer:
    order = Order("http://127.0.0.1/", b"/", [], 1.0, Authorities(), bulk=block_bytes)
    return BulkTransfer(cast("Engine", None), order, trio.lowlevel.current_trio_token())


def came(
    transfer: BulkTransfer, size_bytes: int, piece_bytes: int = 16 * KIB, first: int = 16 * KIB - 290
) -> bytes:
    """As libcurl brings it: what came with the head is shorter."""
    sent = bytes(n % 251 for n in range(size_bytes))
    transfer._pieces.append(sent[:first])
    for start in range(first, size_bytes, piece_bytes):
        transfer._pieces.append(sent[start : start + piece_bytes])
    return sent


def taken(transfer: BulkTransfer) -> list[bytes]:
    chunks = []
    while (chunk := transfer.take_now()) is not None:
        assert isinstance(chunk, Hashed)
        assert chunk.digest == blake3(bytes(chunk)).digest()
        chunks.append(chunk)
    return chunks


@pytest.mark.parametrize("block_bytes", [BLOCK, 5000, 16 * KIB - 290, 1, 3600 * KIB, 4 << 20])
@pytest.mark.parametrize("turns", [1, 7])
async def test_each_chunk_is_a_block_with_its_digest(block_bytes: int, turns: int) -> None:
    size_bytes = 3600 * KIB + 17 if block_bytes > 1 else 2000
    transfer = transfer_of(block_bytes)
    for _ in range(turns):
        sent = came(transfer, size_bytes)
        transfer.gather()
    transfer.end(None)
    chunks = taken(transfer)
    whole, rest = divmod(turns * size_bytes, block_bytes)
    assert [len(chunk) for chunk in chunks] == whole * [block_bytes] + [rest] * bool(rest)
    assert b"".join(chunks) == turns * sent


async def test_a_block_waits_for_others_a_moment_at_most() -> None:
    transfer = transfer_of()
    came(transfer, 130 * KIB)
    transfer.gather()
    assert transfer.due is not None
    assert not taken(transfer)
    await trio.sleep(0.02)
    transfer.gather()
    assert [len(chunk) for chunk in taken(transfer)] == [BLOCK]
    assert transfer.due is None, "2 KiB are no block yet"


async def test_what_came_before_a_failure_is_handed_on() -> None:
    transfer = transfer_of()
    sent = came(transfer, 200 * KIB)
    transfer.end(CurlFailure("reset"))
    assert b"".join(taken(transfer)) == sent
    with pytest.raises(CurlFailure):
        await transfer.take(1.0)


async def test_a_transfer_that_was_left_hands_nothing_on() -> None:
    transfer = transfer_of()
    came(transfer, 200 * KIB)
    transfer._left = True
    transfer.end(CurlFailure("left"))
    assert not taken(transfer)
