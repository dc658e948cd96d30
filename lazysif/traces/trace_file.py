"""A trace as a file: JSON in one zstd frame, so that `zstd -dc FILE | jq` shows it.

Traces come from shared folders and web servers: lengths are checked before anything is unpacked, every value
against its kind and bound, and the frame has a checksum of its own.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import zstandard

from lazysif.core.trace import MAX_BLOCKS, MAX_PATHS, Trace, TracePath, check
from lazysif.errors import FormatError
from lazysif.whole_file import write_whole

SUFFIX = ".lazysif-trace"
MAX_FILE_BYTES = 1 << 20
_MAX_PLAIN_BYTES = 4 << 20

_Number = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
_Numbers = Annotated[tuple[_Number, ...], msgspec.Meta(max_length=MAX_BLOCKS)]


class _Path(msgspec.Struct, forbid_unknown_fields=True):
    used_s: _Number
    blocks: _Numbers
    times_ms: _Numbers


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    lazysif_trace: Literal[1]
    key: Annotated[str, msgspec.Meta(max_length=32)]
    size_bytes: _Number
    block_size: _Number
    paths: Annotated[tuple[_Path, ...], msgspec.Meta(max_length=MAX_PATHS)]
    name: Annotated[str, msgspec.Meta(max_length=4096)] = ""


def encode(trace: Trace) -> bytes:
    """The file's content; raises FormatError where `core.trace.check` does."""
    check(trace)
    paths = tuple(_Path(path.used_s, path.blocks, path.times_ms) for path in trace.paths)
    document = _Document(1, trace.key, trace.size_bytes, trace.block_size, paths, trace.name)
    packer = zstandard.ZstdCompressor(level=9, write_checksum=True, write_content_size=True)
    return packer.compress(msgspec.json.encode(document))


def decode(content: bytes) -> Trace:
    """The checked trace in a file's content.

    Raises:
        FormatError: anything else; its text says what.
    """
    if len(content) > MAX_FILE_BYTES:
        raise FormatError(f"a trace of more than {MAX_FILE_BYTES} bytes")
    try:
        # python-zstandard allocates what the frame declares, so that is looked at first
        if not 0 <= zstandard.frame_content_size(content) <= _MAX_PLAIN_BYTES:
            raise FormatError("a trace that unpacks to too much")
        plain = zstandard.ZstdDecompressor().decompress(content, allow_extra_data=False)
        document = msgspec.json.decode(plain, type=_Document)
    except zstandard.ZstdError as error:
        raise FormatError("not a trace") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"not a trace of this version: {error}") from error
    if not document.name.isprintable():
        raise FormatError("a trace of a name that cannot be shown")
    trace = Trace(
        document.key,
        document.size_bytes,
        document.block_size,
        tuple(TracePath(path.blocks, path.times_ms, path.used_s) for path in document.paths),
        document.name,
    )
    check(trace)
    return trace


def read_trace(path: Path) -> Trace | None:
    """The trace in a file, None if there is none. Blocking.

    Raises:
        FormatError: the file holds something else, or is none (a pipe in a shared folder would hang its reader).
        OSError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FormatError("not a file")
        return decode(file.read(MAX_FILE_BYTES + 1))


def write_trace(path: Path, trace: Trace, *, mode: int = 0o600) -> None:
    """Put a trace in its place in one step. Blocking. Raises: OSError."""
    write_whole(path, encode(trace), mode=mode)
