"""Sizes in bytes as people write them: "200GiB", "1.5TB", "4096", "64k", "5%". Pure.

KiB, MiB, ... are powers of 1024; kB, MB, ... are powers of 1000 (IEC 80000-13). A bare letter ("64k",
"10G") means the power of 1024, as in dd(1), mount(8) and squid.conf. Case is not looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_LETTERS = "kmgtpe"
_NUMBER = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*([a-z]*)", re.ASCII)
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*%", re.ASCII)
# Offsets travel as signed 64 bit numbers through the kernel: nothing larger can be meant.
_LARGEST = 2**63 - 1


def _factor(unit: str) -> int | None:
    if unit in ("", "b"):
        return 1
    power = _LETTERS.find(unit[0]) + 1
    if not power or unit[1:] not in ("", "ib", "b"):
        return None
    return int((1000 if unit[1:] == "b" else 1024) ** power)


def parse_size(text: str) -> int:
    """Bytes that `text` stands for; a fraction of a byte is cut off.

    Raises:
        ValueError: not a size; the text says what was read and what is understood.
    """
    match = _NUMBER.fullmatch(text.strip().lower())
    factor = _factor(match[2]) if match else None
    if match is None or factor is None:
        raise ValueError(f'"{text}" is not a size: write a number and B, kB, KiB, MB, MiB, GB, GiB, ...')
    size_bytes = int(Fraction(match[1]) * factor)
    if size_bytes > _LARGEST:
        raise ValueError(f'"{text}" is more than the 8 EiB that a file system can hold')
    return size_bytes


def format_size(size_bytes: int) -> str:
    """Binary units for people: "4096 B" is "4 KiB", three figures at most ("1.42 GiB", "131 GiB")."""
    if size_bytes < 0:
        return "-" + format_size(-size_bytes)
    value, power = float(size_bytes), 0
    # 999.5 and not 1024: "1000 MiB" would have four figures, "0.98 GiB" has two.
    while value >= 999.5 and power < len(_LETTERS):
        value, power = value / 1024, power + 1
    unit = f"{_LETTERS[power - 1].upper()}iB" if power else "B"
    places = 0 if power == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    number = f"{value:.{places}f}"
    return f"{number.rstrip('0').rstrip('.') if places else number} {unit}"


def exact_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads back as the same number: "128KiB", "1000"."""
    for power in range(len(_LETTERS), 0, -1):
        if size_bytes and size_bytes % 1024**power == 0:
            return f"{size_bytes // 1024**power}{_LETTERS[power - 1].upper()}iB"
    return str(size_bytes)


@dataclass(frozen=True, slots=True)
class ShareOrSize:
    """A number of bytes, or a share of something whose size is known only later.

    Exactly one of the two is set: `share` is a part of 1 (5 % is 1/20), `size_bytes` is absolute.
    """

    share: Fraction | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.size_bytes is None):
            raise ValueError("either a share or a size")

    def resolve(self, total_bytes: int) -> int:
        """Bytes that this means where the whole has `total_bytes`; an absolute size is returned as it is."""
        if self.size_bytes is not None:
            return self.size_bytes
        assert self.share is not None
        return int(self.share * total_bytes)

    def __str__(self) -> str:
        if self.size_bytes is not None:
            return exact_size(self.size_bytes)
        assert self.share is not None
        return f"{float(self.share * 100):.9f}".rstrip("0").rstrip(".") + "%"


def parse_share_or_size(text: str) -> ShareOrSize:
    """Read "5%" or anything that `parse_size` reads.

    Raises:
        ValueError: neither; or a share above 100 %.
    """
    if "%" not in text:
        return ShareOrSize(size_bytes=parse_size(text))
    match = _SHARE.fullmatch(text.strip())
    if match is None or Fraction(match[1]) > 100:
        raise ValueError(f'"{text}" is not a share: write a number from 0 to 100 and %')
    return ShareOrSize(share=Fraction(match[1]) / 100)
