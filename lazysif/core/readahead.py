"""Readahead where no trace leads: follow sequential readers of one image. Pure, no clock.

Twenty tasks read one image at once, so streams are kept per image and not per handle: a read continues the
stream whose end it is near. The window doubles while a stream stays sequential and a lone read opens none.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lazysif.model import ByteRange

_MAX_STREAMS = 32


@dataclass(frozen=True, slots=True)
class ReadaheadLimits:
    """Window sizes in bytes: the first one of a stream that turns sequential, and the largest."""

    first_bytes: int = 256 << 10
    max_bytes: int = 8 << 20
    slack_bytes: int = 256 << 10
    """How far from a stream's end a read may start and still continue it: the kernel sends reads out of order."""


@dataclass(slots=True)
class _Stream:
    position: int
    asked_until: int
    window: int = 0


@dataclass(slots=True)
class Readahead:
    """The streams of one image, most recently used last."""

    limits: ReadaheadLimits = field(default_factory=ReadaheadLimits)
    _streams: list[_Stream] = field(default_factory=list)

    def advance(self, read: ByteRange, size_bytes: int) -> ByteRange | None:
        """Note a read; returns what to ask for ahead of it, beyond what was asked for before, or None.

        A new range is asked for only when half of the window is used up, so that requests stay large.
        """
        stream = self._continue(read)
        if stream is None:
            self._streams.append(_Stream(position=read.stop, asked_until=read.stop))
            del self._streams[:-_MAX_STREAMS]
            return None
        grown = stream.window * 2 if stream.window else max(self.limits.first_bytes, read.length)
        stream.window = min(grown, self.limits.max_bytes)
        stream.position = max(stream.position, read.stop)
        stream.asked_until = max(stream.asked_until, stream.position)
        target = min(stream.position + stream.window, size_bytes)
        if target - stream.asked_until < stream.window // 2 and target < size_bytes:
            return None
        if stream.asked_until >= target:
            return None
        ahead = ByteRange(stream.asked_until, target)
        stream.asked_until = target
        return ahead

    def _continue(self, read: ByteRange) -> _Stream | None:
        """The stream that this read continues, moved to the end of the list."""
        slack = self.limits.slack_bytes
        for stream in reversed(self._streams):
            if (
                stream.position - slack <= read.start <= stream.position + slack
                and read.stop > stream.position
            ):
                self._streams.remove(stream)
                self._streams.append(stream)
                return stream
        return None
