"""How long to wait so that a flow keeps to its rate. Pure."""

from __future__ import annotations


class Pace:
    """A flow of at most `bytes_per_s`; None for one without bound.

    A pause is not made up for later: what was not sent then is not sent in a burst.
    """

    def __init__(self, bytes_per_s: float | None) -> None:
        self.bytes_per_s = bytes_per_s
        self._free_at = float("-inf")

    def take(self, size_bytes: int, now: float) -> float:
        """Seconds to wait before the next `size_bytes` may go; they are then counted as gone."""
        if self.bytes_per_s is None:
            return 0.0
        start = max(now, self._free_at)
        self._free_at = start + size_bytes / self.bytes_per_s
        return start - now

    def piece_bytes(self, most_bytes: int, span_s: float = 0.25) -> int:
        """How much to ask for at once, so that a slow flow is even: what goes within `span_s`, at least a byte."""
        if self.bytes_per_s is None:
            return most_bytes
        return max(1, min(most_bytes, int(self.bytes_per_s * span_s)))
