"""Behind the first open: find the squashfs tables of an image, fetch and pin them (design section 7.2).

Mount, `ls` and `stat` inside the image are local then. Everything is a guess for speed: an image of another
format, or a hostile header, just gets no tables.
"""

from __future__ import annotations

import logging

import trio

from lazysif.core.block_map import span
from lazysif.core.image_format import metadata_plan
from lazysif.errors import FormatError, LazysifError
from lazysif.image.open_image import OpenImage
from lazysif.model import ByteRange

log = logging.getLogger(__name__)

_HEAD_BYTES = 64 << 10
_PATIENCE_S = 1.0
"""With a state directory that does not say whether it has a trace."""


async def pin_tables(opened: OpenImage) -> None:
    """Fetch and pin the header and the squashfs tables of an image just opened; never raises an error of ours."""
    try:
        tables = await _find_tables(opened)
        if tables is not None:
            await _fetch_and_pin(opened, tables)
    except FormatError as error:
        log.info("%s: no tables are fetched ahead: %s", opened.image.name, error.why)
    except LazysifError as error:
        log.info("tables are not fetched ahead: %s", error)


async def _find_tables(opened: OpenImage) -> ByteRange | None:
    """Where the tables lie, by what the header and the superblock say; None for an image of another format."""
    size = opened.image.size_bytes
    head = await _bytes(opened, ByteRange(0, min(_HEAD_BYTES, size))) if size else b""
    plan = metadata_plan(head, size)
    if plan.head is not None:
        head = await _bytes(opened, plan.head)
        plan = metadata_plan(head, size)
    if plan.superblock is not None:
        plan = metadata_plan(head, size, await _bytes(opened, plan.superblock))
    return plan.tables


async def _bytes(opened: OpenImage, wanted: ByteRange) -> bytes:
    return bytes(await opened.read(wanted.start, wanted.length))


async def _fetch_and_pin(opened: OpenImage, tables: ByteRange) -> None:
    """Ask for the tables in large background requests; who needs a part sooner moves it into the demand lane.

    Their end comes first, where a mount begins to read, and the rest behind what a trace names, which has all that a
    start needs of them: 50 ms and 200 Mbit/s away a mount waited 160 ms for the end of 2.8 MB of tables.
    """
    head = span(opened.block_map, 0, _HEAD_BYTES)
    blocks = span(opened.block_map, tables.start, tables.length)
    opened.blocks.pin([*head, *blocks])
    opened.asking.prefetch_blocks(blocks[-1:])
    if opened.tracing is not None:
        with trio.move_on_after(_PATIENCE_S):
            await opened.tracing.wait_decided()
    for flight in opened.asking.prefetch(tables):
        await flight.wait()
