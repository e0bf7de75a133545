"""Plots: where figures stand, and what is said of them."""

from __future__ import annotations

import re
from xml.dom import minidom

import pytest

from loadtest.plot import Line, brief, plot, scale, times


def paths(figure: str) -> list[str]:
    """Those of the lines."""
    return re.findall(r'style="stroke:[^"]*" d="([^"]*)"', figure)


@pytest.mark.parametrize(
    ("figures", "kind", "ticks"),
    [
        ([0.0, 7.2], "linear", [0, 2, 4, 6, 8]),
        ([8000.0], "linear", [0, 2000, 4000, 6000, 8000]),
        ([], "linear", [0, 0.5, 1]),
        ([0.0, 9000.0], "counts", [0, 1, 10, 100, 1000, 10000]),
        ([0.3, 5.0], "log", [0.1, 0.2, 0.5, 1, 2, 5, 10]),
        ([0.05, 900.0], "log", [0.01, 0.1, 1, 10, 100, 1000]),
        ([0.0], "log", [0.1, 1]),
    ],
)
def test_scale_has_room_for_all(figures, kind, ticks) -> None:
    made = scale(figures, kind)
    assert made.ticks == pytest.approx(ticks)
    assert made.share(made.ticks[0]) == 0 and made.share(made.ticks[-1]) == 1
    assert all(0 <= made.share(figure) <= 1 for figure in figures)


def test_scale_of_counts_shows_one_among_thousands() -> None:
    made = scale([10_000.0], "counts")
    assert made.share(0) == 0 and made.share(1) > 0.05


def test_axis_is_of_time_whatever_the_points() -> None:
    line = Line("a", [(0.0, 1.0), (1.0, 1.0), (10.0, 1.0)])
    (path,) = paths(plot("t", "u", [line]))
    assert path == "M0.0 0.0h0L100.0 0.0L1000.0 0.0"
    assert times(60) == [0, 15, 30, 45, 60] and times(3) == [0, 1, 2, 3]


def test_second_without_a_figure_breaks_the_line() -> None:
    points = [(0.0, 1.0), (1.0, None), (2.0, 1.0)]
    (path,) = paths(plot("t", "u", [Line("a", points)]))
    assert path.count("M") == 2 and "L" not in path


def test_plot_is_said_and_escaped() -> None:
    line = Line("a<b", [(0.0, 1.5), (1.0, 20.0)])
    before = Line("a<b", [(0.0, None)], before=True)
    figure = minidom.parseString(plot("A & B", "ms", [before, line]))
    (svg,) = figure.getElementsByTagName("svg")
    said = "A & B, ms: a<b before none; a<b 1.5 to 20"
    assert svg.getAttribute("aria-label") == said
    hints = [t.firstChild.data for t in figure.getElementsByTagName("title")]
    assert hints == ["0 s\na<b before: -\na<b: 1.5", "1 s\na<b: 20"]
    classes = [p.getAttribute("class") for p in figure.getElementsByTagName("path")]
    assert classes == ["grid", "before", ""]


def test_nothing_is_no_plot() -> None:
    assert plot("t", "u", [Line("a", [(0.0, None)])]) == plot("t", "u", []) == ""


@pytest.mark.parametrize(
    ("figure", "text"),
    [(0.02, "0.02"), (250.0, "250"), (1500.0, "1.5k"), (12e3, "12k"), (2e6, "2M")],
)
def test_axis_is_brief(figure: float, text: str) -> None:
    assert brief(figure) == text
