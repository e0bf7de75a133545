"""What the benchmarks say: medians, ratios of paired rounds, tables, targets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NONE = "-"
"""What a table says where there is no figure."""


def median(rounds: Sequence[float]) -> float | None:
    """Of one row's rounds; None where it has none."""
    return statistics.median(rounds) if rounds else None


def ratio(over: Sequence[float], under: Sequence[float]) -> float | None:
    """Median of the rounds' own ratios: what the machine did to one round it did to
    both of its figures, so a slow round moves neither the ratio nor the median."""
    pairs = list(zip(over, under, strict=False))
    return statistics.median(a / b for a, b in pairs) if pairs else None


def percentile(figures: Sequence[float], share: float) -> float | None:
    """The least figure that `share` of them do not exceed; None where there is none."""
    if not figures:
        return None
    return sorted(figures)[max(0, math.ceil(share * len(figures)) - 1)]


def shown(figure: float | None, form: str = ",.0f") -> str:
    return NONE if figure is None else format(figure, form)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    """A Markdown table, its columns padded so that it reads as text too; the first
    `names` columns are names, the others figures."""
    lines = [list(head), *map(list, rows)]
    width = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def row(cells: Sequence[str]) -> str:
        left = (c.ljust(w) for c, w in zip(cells[:names], width, strict=False))
        right = (c.rjust(w) for c, w in zip(cells[names:], width[names:], strict=True))
        return f"| {' | '.join([*left, *right])} |"

    rule = ["-" * w if i < names else "-" * (w - 1) + ":" for i, w in enumerate(width)]
    return "\n".join(row(line) for line in (lines[0], rule, *lines[1:]))


@dataclass(frozen=True)
class Target:
    """A bound on a figure of the run, and what was found."""

    what: str
    found: float | None
    bound: float
    least: bool = False
    """The figure must reach the bound; else it may not exceed it."""
    form: str = ".2f"

    @property
    def met(self) -> bool | None:
        """None where the run has no such figure."""
        if self.found is None:
            return None
        return self.found >= self.bound if self.least else self.found <= self.bound

    def line(self) -> list[str]:
        verdict = {True: "met", False: "MISSED", None: NONE}[self.met]
        sign = ">=" if self.least else "<="
        bound = f"{sign} {self.bound:{self.form}}"
        return [self.what, shown(self.found, self.form), bound, verdict]

    def as_json(self) -> dict[str, object]:
        fields = ("what", "found", "bound", "least", "met")
        return {name: getattr(self, name) for name in fields}


def judged(targets: Sequence[Target], firm: Sequence[Target] = ()) -> int:
    """Print targets; the exit code: 1 if one of those that are firm is missed, or its
    figure was not found."""
    print("\nTargets:\n")
    print(targets_table(targets))
    return int(not all(target.met for target in firm))


def targets_table(targets: Iterable[Target]) -> str:
    return table(["target", "found", "bound", ""], [t.line() for t in targets])
