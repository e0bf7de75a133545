"""Chart: lines over a few points, as SVG that a browser and a README show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FOOT = 460, 280, 64, 16, 34, 58


def chart(
    title: str, across: Sequence[int], lines: Mapping[str, Sequence[float]], x: str
) -> str:
    """A group of 460 by 280: `lines` by name, one figure for each point `across`. The
    points stand evenly, whatever their distances."""
    top = max((max(figures) for figures in lines.values()), default=0) * 1.1 or 1.0
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _FOOT
    step = wide / max(1, len(across) - 1)

    def at(i: int, figure: float) -> str:
        return f"{_LEFT + i * step:.1f},{_TOP + high * (1 - figure / top):.1f}"

    parts = [_text(_WIDTH / 2, 18, title, "middle", 14)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _TOP + high * (1 - share)
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd" fill="none"/>'
        )
        parts.append(_text(_LEFT - 6, y + 4, f"{top * share:,.3g}", "end"))
    for i, point in enumerate(across):
        parts.append(_text(_LEFT + i * step, _TOP + high + 16, str(point), "middle"))
    parts.append(_text(_WIDTH / 2, _TOP + high + 32, x, "middle"))
    for n, (name, figures) in enumerate(lines.items()):
        colour = _COLOURS[n % len(_COLOURS)]
        points = " ".join(at(i, figure) for i, figure in enumerate(figures))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}"'
            ' stroke-width="2"/>'
        )
        left = _LEFT + n * wide / len(lines)
        parts.append(_text(left, _HEIGHT - 8, f"— {name}", "start", 11, colour))
    return "".join(parts)


def page(charts: Sequence[str]) -> str:
    """A whole file, two charts to a row."""
    rows = (len(charts) + 1) // 2
    placed = "".join(
        f'<g transform="translate({i % 2 * _WIDTH} {i // 2 * _HEIGHT})">{one}</g>'
        for i, one in enumerate(charts)
    )
    width, height = min(2, len(charts)) * _WIDTH, rows * _HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" font-family="sans-serif">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{placed}</svg>\n'
    )


def _text(
    x: float, y: float, words: str, anchor: str, size: int = 11, colour: str = "#333"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        f' fill="{colour}">{escape(words)}</text>'
    )
