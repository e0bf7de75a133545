"""The scale bench: its figures are what Redis was asked for, its charts are SVG."""

from __future__ import annotations

import json
from xml.dom import minidom

import pytest

from loadtest import scale
from loadtest.chart import chart
from loadtest.scale import Plan, Row, targets
from loadtest.watched import server

PLAN = Plan((1, 3), waves=6, crowds=1, counted=2, deletes=4, storm=20, idle=2.0)
"""Idle for long: what the watcher itself asks is much of a shorter time."""


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return scale.measure(PLAN)


def test_scale_fetches_do_not_grow_with_hosts(rows: list[Row]) -> None:
    assert [row.hosts for row in rows] == [1, 3]
    assert [row.fetched for row in rows] == [1, 1]
    assert [target.line() for target in targets(rows) if not target.met] == []


def test_scale_counts_what_each_host_asks(rows: list[Row]) -> None:
    for row in rows:
        assert row.scripts["put_fenced"] == 1
        assert row.hosts <= row.scripts["acquire"] <= 2 * row.hosts - 1
        assert row.wave.calls["publish"] <= row.hosts - 1
        assert row.wave.cpu_us > row.crowd.cpu_us > 0
        assert len(row.answered_ms) == PLAN.waves
    one, three = (row.invalidated["delete"] for row in rows)
    assert len(one.applied_ms) == PLAN.deletes
    assert three.one.bytes_out > one.one.bytes_out


def test_scale_draws_and_tells(rows: list[Row], monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(scale, "measure", lambda plan: rows)
    svg, told = tmp_path / "build" / "scale.svg", tmp_path / "scale.json"
    assert scale.main(["--svg", str(svg), "--json", str(told)]) == 0
    assert len(minidom.parse(str(svg)).getElementsByTagName("polyline")) == 12
    assert "With all of one core this Redis carries, for 3 hosts" in (
        capsys.readouterr().out
    )
    assert [row["hosts"] for row in json.loads(told.read_text())["rows"]] == [1, 3]


def test_scale_fetched_twice_ends_in_code_1(monkeypatch, rows, tmp_path) -> None:
    monkeypatch.setattr(scale, "measure", lambda plan: rows)
    monkeypatch.setattr(rows[1], "wrong", 1)
    assert scale.main(["--svg", str(tmp_path / "scale.svg")]) == 1


def test_chart_lines_end_at_their_figures() -> None:
    parsed = minidom.parseString(f"<g>{chart('t', [1, 2], {'a<b': [0, 10]}, 'x')}</g>")
    (line,) = parsed.getElementsByTagName("polyline")
    (_, low), (_, high) = (
        tuple(map(float, point.split(",")))
        for point in line.getAttribute("points").split()
    )
    assert low - high == pytest.approx((280 - 34 - 58) / 1.1, abs=0.1)


def test_spent_is_without_the_looks_and_without_idling() -> None:
    with server() as redis:
        idle = redis.spent(lambda: None)
        assert idle.calls["info"] == idle.bytes_in == 0
        spent = redis.spent(lambda: [redis.command("PING") for _ in range(10)])
        assert (spent.calls["ping"], spent.reads) == (10, 10)
        assert spent.plus(spent, -1).calls["ping"] == 0
