"""Plot: lines over the seconds of a scenario, as a figure of a page.

The lines are SVG that stretches; what is to be read is text beside it, of one size on
a phone and on a desk. `STYLE` is the page's. Colours are the page's variables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

COLOURS = 5
"""Lines that can be told apart: `--line-0` and so on."""
TICKS = 6
"""At most, across."""
_SIDE = 1000
"""Of the drawing, in its own units."""
_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)

STYLE = """
figure.plot { margin: 0; min-width: 0; }
.plot figcaption { font-weight: 600; margin-bottom: .35rem; }
.plot figcaption small { font-weight: 400; color: var(--soft); }
.plot .area { position: relative; height: 11rem; margin: .4rem .6rem 1.5rem 3.2rem; }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%;
  overflow: visible; }
.plot path { fill: none; vector-effect: non-scaling-stroke; stroke-width: 2;
  stroke-linecap: round; stroke-linejoin: round; }
.plot path.grid { stroke: var(--rule); stroke-width: 1; }
.plot path.before { stroke-width: 1.5; stroke-dasharray: 3 4; opacity: .75; }
.plot rect { fill: transparent; }
.plot rect:hover { fill: var(--soft); fill-opacity: .16; }
.plot .area span { position: absolute; font-size: .75rem; line-height: 1rem;
  color: var(--soft); white-space: nowrap; }
.plot .area .up { right: 100%; padding-right: .45rem; transform: translateY(-50%); }
.plot .area .along { top: 100%; padding-top: .25rem; transform: translateX(-50%); }
.plot ul { display: flex; flex-wrap: wrap; gap: .1rem 1rem; list-style: none;
  margin: 0; padding: 0; font-size: .8125rem; }
.plot li::before { content: ""; display: inline-block; width: 1.1rem; height: 0;
  border-top: 3px solid var(--line); vertical-align: .22em; margin-right: .4rem; }
.plot li.before::before { border-top: 2px dashed var(--soft); }
"""


@dataclass(frozen=True)
class Line:
    """Figures at seconds, in order; None where there is none, and the line is broken.
    Lines of one `colour` belong together: that of the run before is dashed."""

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int = 0
    before: bool = False

    @property
    def figures(self) -> list[float]:
        return [figure for _, figure in self.points if figure is not None]


@dataclass(frozen=True)
class Scale:
    """What stands where between the foot, 0, and the top, 1."""

    ticks: Sequence[float]
    kind: str = "linear"
    """`log`: each tenfold as high as the next, none is 0. `counts`: nearly so, and
    one call among ten thousand hits is seen, but 0 stands at the foot."""

    def _height(self, figure: float) -> float:
        if self.kind == "counts":
            return math.log10(1 + figure)
        return math.log10(figure) if self.kind == "log" else figure

    def share(self, figure: float) -> float:
        low, high = self._height(self.ticks[0]), self._height(self.ticks[-1])
        figure = max(figure, self.ticks[0])
        return (self._height(figure) - low) / (high - low)


def scale(figures: Sequence[float], kind: str = "linear") -> Scale:
    """One that has room for all of them."""
    if kind == "log":
        return Scale(_decades([one for one in figures if one > 0]), kind)
    top = max(figures, default=0.0)
    if kind == "counts":
        tens = range(max(1, math.ceil(math.log10(max(top, 1)))) + 1)
        return Scale([0.0, *(10.0**n for n in tens)], kind)
    top = top or 1.0
    step = _step(top / 4)
    return Scale([step * n for n in range(math.ceil(top / step - 1e-9) + 1)])


def _decades(figures: Sequence[float]) -> list[float]:
    if not figures:
        return [0.1, 1.0]
    low = math.floor(math.log10(min(figures)))
    high = max(low + 1, math.ceil(math.log10(max(figures))))
    steps = (1, 2, 5) if high - low < 3 else (1,)
    return [*(s * 10.0**n for n in range(low, high) for s in steps), 10.0**high]


def _step(least: float) -> float:
    """1, 2 or 5 times a power of ten, not below the least."""
    ten = 10.0 ** math.floor(math.log10(least))
    return next(m * ten for m in (1, 2, 5, 10) if m * ten >= least * (1 - 1e-9))


def times(seconds: float) -> list[int]:
    """Seconds that are named below a plot of so many."""
    step = next((t for t in _TIMES if seconds / t < TICKS), _TIMES[-1])
    return list(range(0, int(seconds) + 1, step))


def plot(title: str, unit: str, lines: Sequence[Line], kind: str = "linear") -> str:
    """A figure of HTML, for a page that has `STYLE`; empty if there is nothing to
    draw. Who cannot see it hears between what each line moved."""
    if not any(line.figures for line in lines):
        return ""
    up = scale([one for line in lines for one in line.figures], kind)
    along = max(1.0, max(at for line in lines for at, _ in line.points))
    drawn = [_grid(up), *(_path(line, up, along) for line in lines)]
    ticks = [
        f'<span class="up" style="top:{100 * (1 - up.share(tick)):.2f}%">'
        f"{brief(tick)}</span>"
        for tick in up.ticks
    ] + [
        f'<span class="along" style="left:{100 * at / along:.2f}%">{at} s</span>'
        for at in times(along)
    ]
    legend = [
        f'<li style="--line:var(--line-{line.colour})">{escape(line.name)}</li>'
        for line in lines
        if not line.before
    ]
    if any(line.before for line in lines):
        legend.append('<li class="before">before</li>')
    said = escape(f"{title}, {unit}: {'; '.join(map(_said, lines))}")
    return (
        f'<figure class="plot"><figcaption>{escape(title)} <small>{escape(unit)}'
        '</small></figcaption><div class="area">'
        f'<svg viewBox="0 0 {_SIDE} {_SIDE}" preserveAspectRatio="none" role="img"'
        f' aria-label="{said}">{"".join(drawn)}{_hints(lines, along)}</svg>'
        f'<div aria-hidden="true">{"".join(ticks)}</div></div>'
        f"<ul>{''.join(legend)}</ul></figure>"
    )


def brief(figure: float) -> str:
    """For an axis: `250`, `10k`, `0.02`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(figure) >= size:
            return f"{figure / size:,.4g}{letter}"
    return f"{figure:.3g}"


def _said(line: Line) -> str:
    name = f"{line.name} before" if line.before else line.name
    figures = line.figures
    if not figures:
        return f"{name} none"
    return f"{name} {min(figures):,.3g} to {max(figures):,.3g}"


def _grid(up: Scale) -> str:
    heights = (_SIDE * (1 - up.share(tick)) for tick in up.ticks)
    path = "".join(f"M0 {y:.1f}H{_SIDE}" for y in heights)
    return f'<path class="grid" d="{path}"/>'


def _path(line: Line, up: Scale, along: float) -> str:
    """A point between two gaps is a dot: the ends of strokes are round."""
    parts, drawing = [], False
    for at, figure in line.points:
        if figure is not None:
            x, y = _SIDE * at / along, _SIDE * (1 - up.share(figure))
            parts.append(f"{'L' if drawing else 'M'}{x:.1f} {y:.1f}")
            parts += [] if drawing else ["h0"]
        drawing = figure is not None
    named = ' class="before"' if line.before else ""
    colour = f"stroke:var(--line-{line.colour % COLOURS})"
    return f'<path{named} style="{colour}" d="{"".join(parts)}"/>'


def _hints(lines: Sequence[Line], along: float) -> str:
    """What a pointer over a second is told."""
    told: dict[float, list[str]] = {}
    for line in lines:
        for at, figure in line.points:
            name = f"{line.name} before" if line.before else line.name
            shown = "-" if figure is None else f"{figure:,.4g}"
            told.setdefault(at, []).append(f"{name}: {shown}")
    starts = sorted(told)
    ends = [*starts[1:], along + 1]
    edges = [0.0, *((a + b) / 2 for a, b in zip(starts, ends, strict=True))]
    return "".join(
        f'<rect x="{_SIDE * left / along:.1f}" y="0" height="{_SIDE}"'
        f' width="{_SIDE * (min(right, along) - left) / along:.1f}"><title>'
        f"{escape(chr(10).join([f'{at:g} s', *told[at]]))}</title></rect>"
        for at, (left, right) in zip(starts, pairwise(edges), strict=True)
    )
