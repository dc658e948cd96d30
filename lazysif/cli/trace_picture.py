"""A trace as a picture: where in the image its starts read, over time. SVG by hand: a few lines of text."""

from __future__ import annotations

from xml.sax.saxutils import escape

from lazysif.core.trace import Trace

_WIDTH, _HEIGHT = 900, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 20, 60, 50
_COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#edae49", "#7b4ea3", "#00798c", "#8d5a2b", "#555555")
_TEXT = 'font-family="sans-serif" font-size="12" fill="#222"'


def picture(trace: Trace, title: str) -> str:
    """SVG of all paths: time to the right, offset in the image upwards, a mark for each block touched first."""
    longest_s = max((path.times_ms[-1] for path in trace.paths), default=0) / 1000 or 1.0
    size = trace.size_bytes
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        '<rect width="100%" height="100%" fill="white"/>',
        _label(_LEFT, 24, title, "start", "font-weight='bold'"),
        _label(_LEFT, 42, "each mark is a block touched for the first time", "start"),
    ]
    lines += _axes(longest_s, size)
    for number, path in enumerate(trace.paths):
        marks = "".join(
            f"M{_x(ms / 1000, longest_s):.1f} {_y(block * trace.block_size, size):.1f}h2"
            for block, ms in zip(path.blocks, path.times_ms, strict=True)
        )
        colour = _COLOURS[number % len(_COLOURS)]
        lines.append(f'<path d="{marks}" stroke="{colour}" stroke-width="2" fill="none"/>')
        across = _LEFT + 10 + 150 * (number % 5)
        lines.append(
            _label(across, _TOP + 16 + 14 * (number // 5), f"path {number + 1}", "start", f"fill='{colour}'")
        )
    return "\n".join([*lines, "</svg>", ""])


def _x(seconds: float, longest_s: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / longest_s


def _y(offset: int, size_bytes: int) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * offset / size_bytes


def _axes(longest_s: float, size_bytes: int) -> list[str]:
    lines = []
    for part in range(6):
        x, y = _x(longest_s * part / 5, longest_s), _y(size_bytes * part // 5, size_bytes)
        lines.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        lines.append(_label(_LEFT - 6, y + 4, f"{size_bytes * part / 5 / 1e6:.0f}", "end"))
        lines.append(_label(x, _HEIGHT - _BOTTOM + 18, f"{longest_s * part / 5:.1f}", "middle"))
    bottom = _HEIGHT - _BOTTOM
    lines.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{_WIDTH - _RIGHT}" stroke="#222" fill="none"/>')
    lines.append(_label(_WIDTH / 2, _HEIGHT - 12, "seconds since the first touch", "middle"))
    lines.append(_label(16, _TOP - 8, "MB into the image", "start"))
    return lines


def _label(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    style = _TEXT.replace(' fill="#222"', "") if "fill" in more else _TEXT
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {style} {more}>{escape(text)}</text>'
