"""The scenarios of load, each in its short form: real servers, a real Redis, locust's
processes. Counts and bodies are asserted, times are not."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from loadtest import load, runs
from loadtest.generator import quantile
from loadtest.runs import Outcome, Run
from loadtest.scenarios import scenarios
from loadtest.shapes import Ramp, Waves, steady
from loadtest.stage import Stage
from loadtest.vendors import Vendors
from loadtest.witness import Witness, of_dashboard
from tests.helpers import (
    alive,
    answers,
    descendants,
    end,
    free_port,
    get,
    python,
    shm_names,
    until,
)
from tests.redis_server import redis_server

NOBODY = Vendors(port=0, pid=0, began=0)
WITHIN = 600.0
IMPOSSIBLE = "requests=0"
GROUPS = (
    ("stampede", "expiry", "reload"),
    ("stampede-fleet", "vendor-dead", "ramp", "burst"),
    ("redis-killed", "worker-killed", "sustained", "budget", "open-loop", "single"),
)
"""One after another, for two cores are few. The second is given a bound that it must
miss."""


def loading(*flags: str, **options) -> subprocess.Popen:
    """It can be interrupted, also where who runs the tests cannot: what a shell starts
    in the background ignores SIGINT."""
    interruptible = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    command = ("-m", "loadtest.load", *flags)
    return python(*command, preexec_fn=interruptible, **options)


@pytest.fixture(scope="module")
def codes_and_outcomes(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[int], dict[str, Outcome]]:
    folder = tmp_path_factory.mktemp("load")
    codes, outcomes = [], {}
    for number, names in enumerate(GROUPS):
        flags = [flag for name in names for flag in ("--scenario", name)]
        flags += ["--at-most", IMPOSSIBLE] if number == 1 else []
        log, json = folder / f"{number}.log", folder / f"{number}.json"
        flags += ["--short", "--json", str(json)]
        with log.open("w") as out:
            process = loading(*flags, stdout=out, stderr=out)
            try:
                codes.append(process.wait(WITHIN))
            except subprocess.TimeoutExpired as e:
                raise AssertionError(f"{e}\n{log.read_text()}") from None
            finally:
                end(process, 60)
        assert json.exists(), log.read_text()
        found = {outcome.name: outcome for outcome in runs.read(json).outcomes}
        assert [*found] == [*names]
        outcomes |= found
    return codes, outcomes


@pytest.fixture
def outcomes(codes_and_outcomes) -> dict[str, Outcome]:
    return codes_and_outcomes[1]


@pytest.mark.parametrize("name", scenarios(True))
def test_scenario_meets_its_counts(outcomes, name: str) -> None:
    """Requests, fetches and calls agree between clients, servers and vendors; every
    body that was read is right; no request failed."""
    outcome = outcomes[name]
    firm = [target for target in outcome.targets if "as told" not in target.what]
    assert len(firm) >= 6
    assert [target.line() for target in firm if not target.met] == [], outcome.notes
    totals = outcome.totals
    split = sum(totals[name] for name in ("hits", "stale", "misses", "coalesced"))
    assert abs(split - totals["requests"]) <= totals["under_way"]
    assert sum(second.requests for second in outcome.seconds) > 30
    assert sum(outcome.calls.values()) == totals["calls"]


@pytest.mark.parametrize("name", ["stampede", "stampede-fleet"])
def test_wave_on_a_cold_key_is_one_call_a_part(outcomes, name: str) -> None:
    waves = scenarios(True)[name].shape
    assert set(outcomes[name].calls.values()) == {waves.count}
    assert len(outcomes[name].calls) == 4
    assert outcomes[name].totals["misses"] == waves.count
    asked = waves.count * (waves.clients + 1)  # the witness too
    assert outcomes[name].totals["requests"] == asked


@pytest.mark.parametrize("name", ["open-loop", "single"])
def test_requests_at_fixed_times_are_all_answered(outcomes, name: str) -> None:
    outcome = outcomes[name]
    assert [(t.found, t.met) for t in outcome.targets] == [(0, True)], outcome.notes
    figures = [n for k, n in outcome.totals.items() if k.endswith("requests")]
    assert all(figures) and sum(figures) >= 600


def test_only_a_death_loses_requests(outcomes) -> None:
    lost = {name: outcomes[name].totals["under_way"] for name in scenarios(True)}
    clients = scenarios(True)["worker-killed"].shape.clients
    assert lost.pop("worker-killed") <= clients and not any(lost.values())


def test_expired_parts_are_served_stale(outcomes) -> None:
    totals = outcomes["expiry"].totals
    assert totals["stale"] > 0 and totals["misses"] == totals["coalesced"] == 0


def test_budget_refuses_and_serves_stale(outcomes) -> None:
    totals = outcomes["budget"].totals
    assert totals["refused"] > 0 and totals["within_budget"] > totals["refused"]


def test_missed_figure_exits_1(codes_and_outcomes) -> None:
    codes, outcomes = codes_and_outcomes
    assert codes == [0, 1, 0]
    for name in GROUPS[1]:
        missed = [t.what for t in outcomes[name].targets if not t.met]
        assert missed == ["requests, as told"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--scenario", "stampedes"), "load: no scenario 'stampedes': stampede, "),
        (("--at-most", "p42=1"), "got 'p42=1'"),
        (("--page", "x"), "got 'x'"),
    ],
    ids=["scenario", "figure", "page"],
)
def test_unknown_words_exit_2(flags: tuple[str, ...], said: str) -> None:
    process = loading(*flags, stderr=subprocess.PIPE, text=True)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert said in error.splitlines()[-1]


@pytest.mark.parametrize("page", [False, True], ids=["headless", "page"])
def test_ctrl_c_leaves_nothing(tmp_path: Path, page: bool) -> None:
    port = free_port()
    flags = ["--page", str(port)] if page else []
    with (tmp_path / "log").open("w") as log:
        process = loading("--scenario", "sustained", *flags, stdout=log, stderr=log)
    try:
        until(lambda: len(_locusts(process.pid)) == 3, 60, "locust and its workers")
        if page:
            until(lambda: answers(port, "/"), 60, "locust's page")
            assert b"Locust" in get(port, "/").body
        family = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        end(process, 60)
    until(lambda: not any(map(alive, family)), 10, "all ended")
    assert shm_names(f"test-{process.pid}-") == set()
    assert "Traceback" not in (tmp_path / "log").read_text()


def _locusts(pid: int) -> list[int]:
    found = []
    for one in descendants(pid):
        command = Path(f"/proc/{one}/cmdline")
        if command.exists() and b"locustfile.py" in command.read_bytes():
            found.append(one)
    return found


@pytest.mark.parametrize("before", [None, "", "{}", '{"outcomes": [{}]}'])
def test_run_is_kept_whatever_lies_there(tmp_path, monkeypatch, before) -> None:
    monkeypatch.setattr(load, "KEPT", tmp_path)
    latest = tmp_path / "latest.json"
    if before is not None:
        latest.write_text(before)
    run = Run("2026-01-02T03:04:05Z", "abc", "2 cores", [Outcome("a", "A")])
    load.kept(run, None, short=False)
    assert runs.read(latest) == runs.read(tmp_path / "2026-01-02T030405Z.json") == run
    assert "Load" in latest.with_suffix(".html").read_text()


def test_tree_is_unknown_without_git(monkeypatch) -> None:
    assert runs.begun().tree
    monkeypatch.setenv("PATH", "/nowhere")
    assert runs.begun().tree == "unknown"


def test_what_happens_after_the_load_does_not_count() -> None:
    """Nobody noticed that Redis was killed then."""
    scenario = scenarios(True)["redis-killed"]
    witness = Witness([], [], of_dashboard(NOBODY))
    with redis_server() as redis:
        stage = Stage(scenario, NOBODY, [], redis, witness)
        stage.end()
        scenario.happens(stage)
    assert stage.figures == {"killed": 0}


# --- the pure parts


@pytest.mark.parametrize(
    ("shape", "at", "answers", "tick"),
    [
        (steady(200, 60), 59, 0, (200, 200)),
        (steady(200, 60), 60, 0, None),
        (Ramp(10, 100, 60), 0, 0, (10, 100)),
        (Ramp(10, 100, 60), 30, 0, (55, 100)),
        (Ramp(10, 100, 60), 60, 0, None),
        (Waves(250, 20, 4), 79, 4999, (250, 250)),
        (Waves(250, 20, 4), 79, 5000, None),
        (Waves(250, 20, 4), 141, 4999, None),
    ],
)
def test_shape_at_a_time(shape, at: float, answers: int, tick) -> None:
    assert shape.tick(at, answers) == tick


def test_quantile_is_the_least_that_holds() -> None:
    times = Counter({1.0: 98, 5.0: 1, 9.0: 1})
    found = [quantile(times, share) for share in (0.5, 0.98, 0.99, 1.0)]
    assert found == [1.0, 1.0, 5.0, 9.0]
    assert quantile(Counter(), 0.5) is None
