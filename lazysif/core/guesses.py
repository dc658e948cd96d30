"""How far a miss's request reaches past what was asked for, by what such guesses were worth so far. Pure, no clock.

Jobs jump about in an image, and read on for some 100 KiB to 2 MiB where they land: with neighbours of one block
`import torch` had 522 misses, with seven blocks 273, at 1.3 and 1.55 times the bytes that it touched. How much may be
guessed in vain is what is bounded, and not the reach: a job whose guesses come true gets long ones, and random
reads soon get the least.

The figures were chosen by replaying the recorded reads of five jobs of a 3.5 GB image against a model of the path,
whose requests and seconds agreed with real starts to a few percent. Seconds at 10 ms, 1 Gbit/s (50 ms, 200 Mbit/s),
and fetched by touched:

    import torch ...   one block 13.3 (43.7) 1.29   seven blocks 8.9 (25.2) 1.54   these limits 8.7 (24.3) 1.56
    import jax.numpy   one block  8.2 (25.0) 1.33   seven blocks 5.9 (15.4) 1.85   these limits 5.8 (15.3) 1.71
    /bin/true          one block 0.22 (0.58) 1.75   seven blocks 0.19 (0.49) 3.22  these limits 0.20 (0.53) 2.49
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GuessLimits:
    """Sizes in bytes.

    Args:
        least_bytes, most_bytes: between these lies the reach.
        share: of what reads used may be guessed in vain, ...
        slack_bytes: ... and so much besides, so that short jobs get anything.
        part: the reach is this part of what may still be guessed.
    """

    least_bytes: int = 128 << 10
    most_bytes: int = 2 << 20
    share: float = 0.45
    slack_bytes: int = 3 << 20
    part: float = 0.25


class Guesses:
    """The guesses of one image: fetched beyond what a read asked for, and not read so far.

    Args:
        length: bytes of a block.
    """

    def __init__(self, length: Callable[[int], int], limits: GuessLimits | None = None) -> None:
        self._length = length
        self._limits = limits or GuessLimits()
        self._used_bytes = 0
        self._open_bytes = 0
        self.open: set[int] = set()
        """Guessed, and not read so far."""

    def add(self, blocks: Iterable[int]) -> None:
        """These are being fetched on a guess."""
        for block in blocks:
            if block not in self.open:
                self.open.add(block)
                self._open_bytes += self._length(block)

    def missed(self, blocks: Iterable[int]) -> None:
        """These are being fetched because a read asks for them."""
        self._used_bytes += sum(self._length(block) for block in blocks)

    def read(self, blocks: Iterable[int]) -> None:
        """A read comes to these blocks: guesses among them came true."""
        for block in self.open.intersection(blocks):
            self.open.remove(block)
            self._open_bytes -= self._length(block)
            self._used_bytes += self._length(block)

    @property
    def reach_bytes(self) -> int:
        """How far the next guess may reach."""
        limits = self._limits
        room = limits.share * self._used_bytes + limits.slack_bytes - self._open_bytes
        return max(limits.least_bytes, min(limits.most_bytes, int(limits.part * room)))
