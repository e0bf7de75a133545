"""Before and after: each way calls the vendors as often as it must, and is told so."""

from __future__ import annotations

import json

import pytest

from loadtest import beforeafter, vendors
from loadtest.beforeafter import L1, L2, OFF, PROCESS, WAYS, Way, standing
from loadtest.openloop import Loop
from loadtest.peers.servers import which
from loadtest.peers.wrk import Failed
from loadtest.runs import read
from loadtest.samples import Plan
from loadtest.service import DASHBOARD, calls
from tests.loadtest.peers.rows import row, run
from tests.server.market.vendor import CALLED

WORKERS = 2


def test_ways_call_the_vendors_as_they_must() -> None:
    """The same load on each: none saves a call, a process its own, a host all."""
    counted, busiest = {}, {}
    with (
        vendors.running("--still", "--latency", str(beforeafter.LATENCY)) as simulator,
        standing(simulator, WORKERS) as served,
    ):
        for name, one in served.items():
            beforeafter._settle(simulator)
            simulator.reset()
            url = f"http://127.0.0.1:{one.port}{DASHBOARD}?k=0"
            found = Loop(url, Plan(60, 1.5, clients=8)).run().totals()
            assert (found["requests"], found["failures"]) == (90, 0), name
            beforeafter._settle(simulator)
            counted[name] = calls(simulator)
            busiest[name] = calls(simulator, "busiest", beforeafter.TTL)
            assert one.memory_bytes() > 10 << 20
        if which("wrk"):
            way = Way(L1)
            beforeafter._measure(way, served[L1], simulator, 1)
            assert way.busiest == [1] and way.rates[0] > 60 and way.memory[0] > 0
            with vendors.running() as other, pytest.raises(Failed, match="no vendor"):
                beforeafter._measure(way, served[L1], other, 1)
    assert counted[OFF] == dict.fromkeys(CALLED, 90)
    assert busiest[L1] == busiest[L2] == dict.fromkeys(CALLED, 1)
    assert {*counted[PROCESS]} == {*CALLED}
    assert 1 <= max(busiest[PROCESS].values()) <= WORKERS


def ways(most: int = 1) -> list[Way]:
    found = {
        OFF: (400, 1600, 300),
        PROCESS: (8000, 16, 4),
        L1: (40_000, 4, most),
        L2: (40_000, 4, 1),
    }
    return [
        Way(name, [rate, rate * 3, rate * 2], [1.0], [2.0], [count], [busy], [1 << 27])
        for name, (rate, count, busy) in found.items()
    ]


def test_outcome_has_a_row_for_each_way() -> None:
    outcome = beforeafter.ways_outcome(ways(), 4)
    assert outcome.met and outcome.totals["L1: requests_per_second"] == 80_000
    assert outcome.totals["cache off: memory, MiB"] == 128
    assert {name.partition(": ")[0] for name in outcome.totals} == {*WAYS}
    assert "one per process 20, L1 100, L1 + L2 100." in outcome.notes[1]
    missed = beforeafter.ways_outcome(ways(most=2), 4)
    assert [target.met for target in missed.targets] == [True, False, True]


def test_nginx_is_the_measure_of_a_slow_machine() -> None:
    ours, nginx = (
        row("two", "ours", run(40_000, p99=4.0)),
        row("two", "nginx", run(5e4)),
    )
    crowd = row("burst", "ours", connections=500)
    crowd.figures = [0.2, 0.6]
    outcome = beforeafter.nginx_outcome(ours, nginx, crowd, None)
    speed, p99, slowest = outcome.targets
    assert (speed.found, speed.bound, speed.met) == (pytest.approx(0.8), 0.7, True)
    assert (p99.found, p99.met) == (2.0, False)
    assert (slowest.found, slowest.met) == (0.6, False)
    assert outcome.totals["nginx: requests_per_second"] == 5e4
    quick = row("two", "ours", run(90_000))
    speed, *_ = beforeafter.nginx_outcome(quick, nginx, crowd, None).targets
    assert (speed.found, speed.bound, speed.met) == (90_000, 84_145, True)


def test_row_that_failed_says_why() -> None:
    rows = [row("two", peer) for peer in ("ours", "nginx")]
    crowds = [row("burst", peer, connections=500) for peer in ("ours", "nginx")]
    for number, one in enumerate((*rows, *crowds)):
        one.failed = f"reason {number}"
    outcome = beforeafter.nginx_outcome(*rows, *crowds)
    assert outcome.notes == [
        "ours: reason 0",
        "nginx: reason 1",
        "ours, 500 cold: reason 2",
        "nginx, 500 cold: reason 3",
    ]


def test_without_nginx_there_is_no_ratio() -> None:
    ours = row("two", "ours", run(40_000))
    outcome = beforeafter.nginx_outcome(ours, None, None, None)
    assert [target.met for target in outcome.targets] == [None, None, None]


def test_command_tells_and_draws(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(beforeafter, "PAGE", tmp_path / "page.html")
    monkeypatch.setattr(beforeafter, "which", lambda program: program)
    monkeypatch.setattr(beforeafter, "install", lambda peers: None)
    told, most = tmp_path / "told.json", 1
    monkeypatch.setattr(beforeafter, "measure", lambda *how: (ways(most), 645))
    flags = ["--only", "ways", "--json", str(told)]
    assert beforeafter.main(flags) == 0
    said = capsys.readouterr().out
    assert "| L1              |     80,000 |" in said and said.count("| met |") == 3
    (outcome,) = read(told).outcomes
    assert outcome.met and outcome.totals["cache off: calls/s"] == 1600
    assert "one per process" in (tmp_path / "page.html").read_text()
    assert json.loads(told.read_text())["began"].endswith("Z")
    most = 2
    assert beforeafter.main(flags) == 1


def test_command_needs_wrk(monkeypatch, capsys) -> None:
    monkeypatch.setattr(beforeafter, "which", lambda program: None)
    monkeypatch.setattr(beforeafter, "install", lambda peers: None)
    assert beforeafter.main([]) == 0
    assert "skipped, it needs two cores and wrk" in capsys.readouterr().out
