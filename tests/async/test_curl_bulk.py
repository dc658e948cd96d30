"""transport.curl_bulk: how what libcurl brings is handed on."""

import pytest
import trio

from lazysif.transport.authorities import Authorities
from lazysif.transport.curl_bulk import BulkTransfer
from lazysif.transport.curl_order import Order

KIB = 1 << 10


@pytest.fixture
async def transfer():
    order = Order("http://127.0.0.1/", b"/", [], 1.0, Authorities())
    return BulkTransfer(None, order, trio.lowlevel.current_trio_token())


def came(transfer, size_bytes, piece_bytes=16 * KIB, first=16 * KIB - 290):
    """As libcurl brings it: what came with the head is shorter."""
    sent = bytes(n % 251 for n in range(size_bytes))
    transfer._pieces.append(sent[:first])
    for start in range(first, size_bytes, piece_bytes):
        transfer._pieces.append(sent[start : start + piece_bytes])
    return sent


def taken(transfer):
    chunks = []
    while (chunk := transfer.take_now()) is not None:
        chunks.append(chunk)
    return chunks


async def test_chunks_end_where_blocks_do(transfer):
    """Regression: chunks ended where a piece did, and every second block was copied once more."""
    sent = came(transfer, 3600 * KIB)
    transfer.gather()
    transfer.end(None)
    chunks = taken(transfer)
    assert [len(chunk) for chunk in chunks] == [1024 * KIB, 1024 * KIB, 1024 * KIB, 528 * KIB]
    assert b"".join(chunks) == sent


async def test_chunks_end_there_after_one_that_was_handed_on_for_its_age_too(transfer):
    came(transfer, 100 * KIB)
    transfer.gather()
    assert not taken(transfer)
    await trio.sleep(0.02)
    transfer.gather()
    assert [len(chunk) for chunk in taken(transfer)] == [100 * KIB]
    transfer._pieces.append(more := bytes(1000 * KIB))
    transfer.end(None)
    chunks = taken(transfer)
    assert [len(chunk) for chunk in chunks] == [924 * KIB, 76 * KIB]
    assert b"".join(chunks) == more
