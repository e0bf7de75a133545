"""Medians, ratios of paired rounds, tables, targets."""

import pytest

from loadtest.report import Target, judged, median, ratio, table


def test_ratio_is_the_median_of_the_rounds_own():
    # One round in which the machine was ten times slower, for both.
    assert ratio([10, 100, 12], [20, 200, 20]) == 0.5


def test_figures_without_rounds_are_none():
    assert median([]) is None
    assert ratio([], [1.0]) is None


def test_table_pads_its_columns():
    assert table(["a", "ns"], [["one", "1"], ["b", "1,000"]]).splitlines() == [
        "| a   |    ns |",
        "| --- | ----: |",
        "| one |     1 |",
        "| b   | 1,000 |",
    ]


@pytest.mark.parametrize(
    ("found", "least", "met"),
    [
        (0.5, False, True),
        (0.51, False, False),
        (0.5, True, True),
        (0.49, True, False),
        (None, True, None),
    ],
)
def test_target_is_met_at_its_bound(found, least, met):
    target = Target("x", found, 0.5, least=least)
    assert target.met is met
    assert target.line()[-1] == {True: "met", False: "MISSED", None: "-"}[met]


@pytest.mark.parametrize(("found", "code"), [(1.0, 0), (3.0, 1), (None, 1)])
def test_firm_target_without_a_figure_is_missed(capsys, found, code):
    soft, firm = Target("time", 9.0, 1.0), Target("count", found, 2.0)
    assert judged([soft, firm], [firm]) == code
    assert capsys.readouterr().out.count("| count ") == 1
