"""Bar charts as SVG, written by hand: a plotting library would be the largest thing that the benchmark needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 860
LABEL_WIDTH = 270
VALUE_WIDTH = 90
BAR_HEIGHT = 16
BAR_STEP = 21
GROUP_GAP = 42
TOP = 56


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar, with a whisker from `least` to `most` where they are given."""

    label: str
    value: float
    colour: str
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Bars on one scale of their own; `mark` is a line across them."""

    name: str
    bars: Sequence[Bar]
    mark: float | None = None


def bar_chart(title: str, groups: Sequence[Group], *, unit: str) -> str:
    """Groups of horizontal bars, one above the other. Each group has its own scale, said by the values beside it."""
    y = TOP
    parts = [_text(12, 26, title, size=15, weight="bold")]
    for group in groups:
        parts += _group(group, y, unit)
        y += len(group.bars) * BAR_STEP + GROUP_GAP
    height = y - GROUP_GAP // 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _group(group: Group, top: int, unit: str) -> list[str]:
    parts = [_text(12, top, group.name, size=13, weight="bold")]
    if not group.bars:
        return parts
    highest = max([bar.most or bar.value for bar in group.bars] + [group.mark or 0.0]) or 1.0
    scale = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / highest
    y = top + 8
    for bar in group.bars:
        parts += _bar(bar, y, scale, unit)
        y += BAR_STEP
    if group.mark is not None:
        x = LABEL_WIDTH + group.mark * scale
        parts.append(_line(x, top + 4, x, y - 1, "#c1121f", dashed=True))
    return parts


def _bar(bar: Bar, y: int, scale: float, unit: str) -> list[str]:
    middle = y + BAR_HEIGHT / 2
    end = LABEL_WIDTH + bar.value * scale
    parts = [
        _text(LABEL_WIDTH - 8, middle + 4, bar.label, size=12, anchor="end"),
        f'<rect x="{LABEL_WIDTH}" y="{y}" width="{max(bar.value * scale, 0.5):.1f}" height="{BAR_HEIGHT}" '
        f'fill="{bar.colour}"/>',
    ]
    if bar.least is not None and bar.most is not None and bar.most > bar.least:
        least, most = (LABEL_WIDTH + value * scale for value in (bar.least, bar.most))
        parts.append(_line(least, middle, most, middle, "#222222"))
        parts += [_line(x, middle - 4, x, middle + 4, "#222222") for x in (least, most)]
        end = max(end, most)
    return [*parts, _text(end + 6, middle + 4, _value(bar.value, unit), size=12)]


def _value(value: float, unit: str) -> str:
    return f"{value:,.2f} {unit}" if value < 10 else f"{value:,.1f} {unit}"


def _text(x: float, y: float, text: str, *, size: int, weight: str = "normal", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="#222222">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="1.5"{dash}/>'
    )
