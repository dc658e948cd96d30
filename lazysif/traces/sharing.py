"""Where nodes share traces: a folder, a web server, or beside the image. Hints from strangers, checked as such."""

from __future__ import annotations

from typing import Protocol

from lazysif.core.trace import Trace


class Share(Protocol):
    """A place that traces come from and, where it takes them, go to."""

    @property
    def name(self) -> str:
        """For the log; without secrets."""
        ...

    async def get(self, key: str) -> Trace | None:
        """The trace of an image, checked as far as it can be without the image; None where there is none.

        Raises: FormatError: what is there is no trace. LazysifError: it could not be asked in time.
        """
        ...

    async def offer(self, trace: Trace) -> bool:
        """Merge a trace into what is there; False where it takes none, or knows all of it.

        Raises: LazysifError: it could not be written in time.
        """
        ...
