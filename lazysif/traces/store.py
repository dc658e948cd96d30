"""The traces of this node: one small file an image in the state directory, so that they survive restarts.

Blocking; used from one thread at a time of the daemon, and by `lazysif trace` beside it: each change reads what
is there, merges, and replaces the file in one step, so neither writes over what the other just forgot or learned.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from lazysif.core.trace import Trace, is_key, merge_all
from lazysif.errors import FormatError, LocalDirectoryError
from lazysif.traces.trace_file import SUFFIX, read_trace, write_trace

log = logging.getLogger(__name__)

MOST_TRACES = 2000
"""At 5 to 100 KB each."""
MOST_BYTES = 64 << 20


class TraceStore:
    """Traces in `directory/traces-v1`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "traces-v1"

    def load(self, key: str) -> Trace | None:
        """The trace of an image; None where there is none. A file that holds something else is deleted.

        Raises:
            FormatError: there was something else; it is gone now.
        """
        path = self._path(key)
        try:
            trace = read_trace(path)
            if trace is not None and trace.key != key:
                raise FormatError("a trace of another image")
        except FormatError:
            path.unlink(missing_ok=True)
            raise
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error.strerror)
            return None
        return trace

    def add(self, trace: Trace) -> Trace:
        """Merge a trace into what is kept of its image, which is returned; then keep the store within bounds.

        Raises:
            LocalDirectoryError: it cannot be written.
        """
        try:
            kept = self.load(trace.key)
        except FormatError:
            kept = None
        merged = trace
        if kept is not None and (kept.size_bytes, kept.block_size) == (trace.size_bytes, trace.block_size):
            merged = merge_all(kept, trace)
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            write_trace(self._path(trace.key), merged)
            self._make_room()
        except OSError as error:
            raise LocalDirectoryError(
                f"cannot write traces to {self.directory}: {error.strerror or error}"
            ) from error
        return merged

    def asked_s(self, key: str) -> float:
        """When the trace of an image was last written or asked for elsewhere, in seconds since 1970; 0 if never."""
        try:
            return self._path(key).stat().st_mtime
        except OSError:
            return 0.0

    def note_asked(self, key: str) -> None:
        """Others were asked for the trace of an image just now."""
        try:
            os.utime(self._path(key))
        except OSError:
            pass  # nothing is known of it yet, so that they are asked again

    def forget(self, key: str) -> bool:
        """Delete the trace of an image; False where there was none. Raises: LocalDirectoryError."""
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise LocalDirectoryError(f"cannot delete from {self.directory}: {error.strerror}") from error
        return True

    def traces(self) -> Iterator[Trace]:
        """All of them, newest first; damaged ones are passed over."""
        for key, _ in self._files():
            try:
                trace = self.load(key)
            except FormatError:
                continue
            if trace is not None:
                yield trace

    def _path(self, key: str) -> Path:
        if not is_key(key):
            raise ValueError(f"not a trace's key: {key!r}")
        return self.directory / f"{key}{SUFFIX}"

    def _files(self) -> list[tuple[str, os.stat_result]]:
        """Keys and sizes, newest first."""
        found = []
        try:
            entries = list(os.scandir(self.directory))
        except OSError:
            return []
        for entry in entries:
            key = entry.name.removesuffix(SUFFIX)
            if is_key(key) and entry.name.endswith(SUFFIX):
                try:
                    found.append((key, entry.stat(follow_symlinks=False)))
                except OSError:
                    continue  # forgotten this moment
        return sorted(found, key=lambda file: -file[1].st_mtime_ns)

    def _make_room(self) -> None:
        """Delete the oldest beyond the bounds."""
        used_bytes = 0
        for number, (key, status) in enumerate(self._files()):
            used_bytes += status.st_size
            if number >= MOST_TRACES or used_bytes > MOST_BYTES:
                self._path(key).unlink(missing_ok=True)
