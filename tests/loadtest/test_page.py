"""The report page: what it says, alone and beside the run before, and how it looks."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadtest import page
from loadtest.report import Target
from loadtest.runs import Outcome, Run, Second
from tests.helpers import ROOT
from tests.server.market import browser

SHOTS = ROOT / "build" / "page"
CONTRAST = (ROOT / "tests/server/market/contrast.js").read_text()
VOID = {"meta", "br"}


def outcome(slower: float = 1.0, **totals: float) -> Outcome:
    seconds = [
        Second(
            float(at),
            clients=10 + at,
            requests=0 if at == 7 else 9000,
            failures=3 if at == 7 else 0,
            p50=None if at == 7 else 0.2 * slower,
            p95=None if at == 7 else 0.5 * slower,
            p99=None if at == 7 else 1.25 * slower,
            max=None if at == 7 else 40.0 + at,
            hits=8990,
            stale=at % 3,
            misses=at % 2,
            coalesced=4,
            calls=at % 2 * 4,
        )
        for at in range(20)
    ]
    told = {"requests": 171000.0, "requests_per_second": 9000.0 / slower}
    told |= {"failures": 3.0, "p50": 0.2 * slower, "p99": 1.25 * slower, "calls": 40.0}
    targets = [
        Target("p99, ms", 1.25 * slower, 2.0),
        Target("success, %", None, 100.0, least=True),
    ]
    notes = ["Told <b>so</b>"]
    told |= totals
    return Outcome("ramp", "Ramp", seconds, told, {"/rsi": 20}, targets, notes)


def run(*outcomes: Outcome) -> Run:
    return Run("2026-01-02T03:04:05Z", "abc<1>+", "2 cores & more", list(outcomes))


class Told(HTMLParser):
    """A page's tags, which must match, and its tables as lines of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag in ("td", "th"):
            self.rows[-1] += " | "

    def handle_data(self, data: str) -> None:
        if "tr" in self._open:
            self.rows[-1] += data


def test_page_needs_nothing_else() -> None:
    told = Told(page.page(run(outcome()), run(outcome(1.5))))
    assert not {tag for tag, _ in told.tags} & {"script", "link", "img", "iframe"}
    assert not [a for _, attrs in told.tags for a in attrs if a in ("src", "srcset")]
    links = {attrs["href"] for tag, attrs in told.tags if tag == "a"}
    assert links == {"#scenario-ramp"}
    assert [attrs["id"] for tag, attrs in told.tags if tag == "section"] == [
        "scenario-ramp"
    ]
    assert "url(" not in page.page(run(outcome())) and "@import" not in page.STYLE


def test_text_is_escaped() -> None:
    made = outcome(**{"<i>row</i>: <i>figure</i>": 1.0, "<i>total</i>": 2.0})
    made.name, made.title, made.calls = "<i>", "<i>title</i>", {"<i>call</i>": 1}
    made.targets = [Target("<i>target</i>", 1, 2)]
    text = page.page(run(made), run(made))
    assert "<i>" not in text and text.count("&lt;i&gt;") > 8 and "abc&lt;1&gt;+" in text
    assert "<b>so" not in text and "Told &lt;b&gt;so" in text
    Told(text)


def test_totals_calls_and_targets_are_tables() -> None:
    made = outcome(own_figure=0.125, **{"cache off: p99": 5.0, "L1: p99": 1.0})
    rows = Told(page.page(run(made))).rows
    assert "Ramp | 9,000 | 0.2 | 1.25 | 3 | 40 | 1 of 2 | " in rows
    for row in ("requests/s | 9,000 | ", "own figure | 0.125 | ", "/rsi | 20 | "):
        assert row in rows
    assert "p99, ms | 1.25 | <= 2.00 | met | " in rows
    assert "success, % | - | >= 100.00 | - | " in rows
    assert rows[rows.index(" | p99, ms | ") + 1 :][:2] == [
        *("cache off | 5 | ", "L1 | 1 | ")
    ]
    assert "7 | 17 | 0 | 3 | - | - | - | - | 8,990 | 1 | 1 | 4 | 4 | " in rows


def test_missed_target_is_told_where_it_is_first_seen() -> None:
    rows = Told(page.page(run(outcome(2.0)))).rows
    assert "p99, ms | 2.50 | <= 2.00 | MISSED | " in rows
    assert any(row.startswith("Ramp") and "0 of 2" in row for row in rows)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ((1.0, 1.0), '"good">2 of 2<'),
        ((1.0, 3.0), '"bad">1 of 2<'),
        ((1.0, None), '"soft">1 of 2<'),
        ((None, None), "<td>-</td>"),
    ],
    ids=["met", "missed", "not found", "none found"],
)
def test_figure_that_is_missing_is_not_met(found, told: str) -> None:
    made = Outcome("a", "A", targets=[Target("x", one, 2.0) for one in found])
    assert told in page.page(run(made))


def test_run_before_stands_beside() -> None:
    text = page.page(run(outcome(2.0)), run(outcome(), Outcome("gone", "Gone")))
    rows = Told(text).rows
    assert "p99, ms | 2.5 | 1.25 | +100.0%, worse | " in rows
    assert "requests/s | 4,500 | 9,000 | -50.0%, worse | " in rows
    assert "requests | 171,000 | 171,000 | same | " in rows
    assert "p99, ms | 2.50 | <= 2.00 | MISSED | 1.25 | " in rows
    assert "Only in the run before: gone." in text
    dashed = text.count('<path class="before"')
    assert dashed == text.count("<path style=") == 12


@pytest.mark.parametrize(
    ("now", "before", "name", "text"),
    [
        (2.0, 1.0, "p99", "+100.0%, worse"),
        (0.5, 1.0, "p99", "-50.0%, better"),
        (1.04, 1.0, "p99", "+4.0%"),
        (2.0, 1.0, "requests_per_second", "+100.0%, better"),
        (2.0, 1.0, "hits", "+100.0%"),
        (3.0, 0.0, "failures", "+3, worse"),
        (1.0, 1.0, "p99", "same"),
        (1.0, None, "p99", "-"),
    ],
)
def test_change_says_what_is_better(now, before, name, text) -> None:
    assert re.sub("<[^>]*>", "", page.change(now, before, name)) == text


def test_scenario_without_seconds_has_no_plot() -> None:
    text = page.page(run(Outcome("still", "Still")))
    assert "<figure" not in text and "<details" not in text
    Told(text)


def test_command_writes_beside_the_run(tmp_path: Path, capsys) -> None:
    now, before = tmp_path / "now.json", tmp_path / "before.json"
    run(outcome(2.0)).write(now)
    run(outcome()).write(before)
    assert page.main([str(now), str(before)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'now.html'}\n"
    assert "worse" in (tmp_path / "now.html").read_text()
    assert page.main([str(now), "-o", str(tmp_path / "other.html")]) == 0
    assert "worse" not in (tmp_path / "other.html").read_text()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"outcomes": [{}]}', None])
def test_wrong_file_is_one_line(tmp_path: Path, capsys, text: str | None) -> None:
    wrong = tmp_path / "wrong.json"
    if text is not None:
        wrong.write_text(text)
    assert page.main([str(wrong)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(wrong) in said


async def test_page_fits_has_contrast_and_names(
    tmp_path: Path, measured: Callable[[str], None]
) -> None:
    try:
        browser.program()
    except browser.Unavailable as missing:
        measured(f"report page: NOT RUN, {missing}")
        pytest.skip(str(missing))
    file, profile = tmp_path / "run.html", tmp_path / "browser"
    profile.mkdir()
    rows = {f"{way}: p99": 1.0 for way in ("cache off", "one per process", "ours")}
    page.write(run(outcome(2.0, **rows)), file, run(outcome()))
    shapes = {"phone": (360, 780), "desktop": (1280, 900)}
    async with browser.browsing(profile) as started:
        tab = await started.page()
        await tab.open(file.as_uri())
        for scheme, (size, shape) in itertools.product(
            ("light", "dark"), shapes.items()
        ):
            await tab.emulate(prefers_color_scheme=scheme)
            await tab.resize(*shape, scale=2)
            await tab.shoot(SHOTS / f"load-{size}-{scheme}.png")
            assert await tab.look("document.documentElement.scrollWidth") == shape[0]
            found = await tab.look(CONTRAST)
            assert found["low"] == [] and found["texts"] > 100
        names = await tab.names()
        assert tab.complaints == []
    named = {"image", "img", "table", "link", "heading"}
    assert [role for role, name in names if role in named and not name] == []
    said = [name for role, name in names if role in ("image", "img")]
    assert len(said) == 5 and said[1].startswith("Latency, ms: p50 before 0.2 to 0.2; ")
