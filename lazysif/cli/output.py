"""Standard output of a command: nothing that it prints can end it with a traceback."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from lazysif.errors import LazysifError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Checked(io.FileIO):
    """Tells trouble of standard output, as of a full disk, apart from that of all other files; once."""

    _told = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self._told:
            return memoryview(data).nbytes  # else the interpreter's end writes what is left, and complains
        try:
            return super().write(data)
        except BrokenPipeError:
            raise  # `| head`: click and rich end the command without a word
        except OSError as error:
            self._told = True
            raise LazysifError(
                f"standard output cannot be written: {error.strerror}", hint="send it somewhere else"
            ) from error


def guard_standard_output() -> None:
    """Its trouble becomes a `LazysifError`; names of files may be any bytes, and what is no text is shown escaped."""
    usual = sys.__stdout__
    if usual is None or usual is not sys.stdout:
        return  # closed, or somebody else's by now
    buffer = io.BufferedWriter(_Checked(usual.fileno(), "wb", closefd=False))
    sys.stdout = io.TextIOWrapper(
        buffer, usual.encoding, errors="backslashreplace", line_buffering=bool(usual.line_buffering)
    )
