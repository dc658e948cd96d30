"""How far a miss's request reaches past what was asked for, by what such guesses were worth so far. Pure, no clock.

Jobs jump about in an image, and read on for some 100 KiB to 2 MiB where they land: with neighbours of one block
`import torch` had 522 misses, with seven blocks 273, at 1.3 and 1.55 times the bytes that it touched. How much may be
guessed in vain is what is bounded, and not the reach: a job whose guesses come true gets long ones, and random
reads soon get the least.

The figures were chosen by replaying the recorded reads of five jobs of a 3.5 GB image against a model of the path,
whose requests and seconds agreed with real starts to a few percent. Seconds at 10 ms, 1 Gbit/s (50 ms, 200 Mbit/s),
and fetched by touched, all without `gap_before`:

    import torch ...   one block 13.3 (43.7) 1.29   seven blocks 8.9 (25.2) 1.54   these limits 8.7 (24.3) 1.56
    import jax.numpy   one block  8.2 (25.0) 1.33   seven blocks 5.9 (15.4) 1.85   these limits 5.8 (15.3) 1.71
    /bin/true          one block 0.22 (0.58) 1.75   seven blocks 0.19 (0.49) 3.22  these limits 0.20 (0.53) 2.49

Guessed is also backwards, where a gap to what is there can be closed: the block before a miss came to be read in 30 %
of misses that had nothing read around them, and in 40 to 75 % of the others. Seconds that reads waited in a second
replay, requests as long as a reach with it:

    import torch ...   ahead only 4.71 (21.7) 1.58   closing gaps 4.19 (19.4) 1.59
    import jax.numpy   ahead only 2.93 (13.7) 1.76   closing gaps 2.73 (12.9) 1.75
    a random forest    ahead only 3.44 (15.3) 1.74   closing gaps 3.17 (14.1) 1.71
    import json, numpy ahead only 0.96 (4.20) 2.16   closing gaps 0.98 (4.25) 2.14

The same with a fixed part of each reach backwards, gap or not: 4.55 (21.0) 1.59 for torch.
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
        gap_bytes: the longest gap before a miss that is closed, ...
        gap_after_bytes: ... once reads used so much: a job that has read less may be over soon, and of an origin that
            has sent less nothing is known.
    """

    least_bytes: int = 128 << 10
    most_bytes: int = 2 << 20
    share: float = 0.45
    slack_bytes: int = 3 << 20
    part: float = 0.25
    gap_bytes: int = 1536 << 10
    gap_after_bytes: int = 4 << 20


def gap_before(
    block: int, is_missing: Callable[[int], bool], length: Callable[[int], int], most_bytes: int
) -> range:
    """The missing blocks between `block` and the next one before it that is there; none if they are too many.

    Looks at no more blocks than `most_bytes` have room for, and one.
    """
    start, size_bytes = block, 0
    while start > 0 and is_missing(start - 1):
        start -= 1
        size_bytes += length(start)
        if size_bytes > most_bytes:
            return range(0)
    return range(start, block) if start > 0 else range(0)


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

    @property
    def gap_bytes(self) -> int:
        """The longest gap before a miss that may be closed now."""
        if self._used_bytes < self._limits.gap_after_bytes:
            return 0
        return min(self._limits.gap_bytes, self.reach_bytes)
