"""Waves, a hundredth of them: one fetch each, two round trips a host, and the same
where wake-ups are lost and holders killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from loadtest import fleet, herds, waves
from loadtest.herds import Herd, Shape, Trips
from loadtest.report import Target
from loadtest.watched import monitor
from loadtest.waves import Found, Plan, counts, running, times
from tests.helpers import segment_name, shm_names

PLAN = Plan(trials=100, counted=3, lost=2, killed=2, hosts_killed=(3,), l2_deadline=5.0)


@pytest.fixture(scope="module")
def found() -> Found:
    names = [segment_name() for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet, "fresh_name", iter(names).__next__)
        measured = waves.measure(PLAN)
    assert not any(shm_names(name) for name in names)
    return measured


def test_waves_of_the_fleet_are_fetched_once(
    found: Found, measured: Callable[[str], None]
) -> None:
    for target in times(found):
        what, figure, bound, verdict = target.line()
        measured(f"{what}: {figure}, {bound}: {verdict}")
    assert found.herd.fetches == {1: PLAN.trials}
    assert found.herd.clients == PLAN.trials * 8 * herds.CLIENTS
    assert [target.line() for target in counts(found) if not target.met] == []


def test_waves_show_every_figure(found: Found, capsys) -> None:
    waves.show(found)
    told = capsys.readouterr().out
    assert "| 1       |   100 |" in told
    for series in (waves.LOST, waves.CUT, waves.UNWOKEN):
        assert f"| {series} " in told
    assert " - " not in told.replace("| -", "")
    aims = [*counts(found), *times(found)]
    assert all(aim.met is not None for aim in aims)
    assert waves.as_json(found, aims)["fetches"] == {1: 100}


def test_waves_without_redis_are_fetched_once_a_host() -> None:
    with running() as (redis, hosts):
        redis.kill()
        herds.trials(hosts, 6)  # the breaker opens meanwhile
        herd = herds.trials(hosts, 4, [Shape()])
    assert herd.fetches == {2: 4}
    assert herd.mixed == 4
    assert not herd.failed


def test_round_trips_are_told_by_script_and_host() -> None:
    with running() as (redis, hosts), monitor(redis) as watching:
        watching.round_trips()
        hosts.hosts[1].workers[0].ask("call", "delete", "key")
        trips = watching.round_trips()
    assert trips["host1"]["invalidate"] == 1
    assert "invalidate" not in trips.get("host0", {})


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda f: f.herd.fetches.update({2: 1}), "waves with other than 1 fetch"),
        (lambda f: f.herd.failed.append("died"), "waves with mixed answers or errors"),
        (lambda f: f.killed.wrong.append("2 fetches"), "killed worker"),
        (
            lambda f: f.trips.append(Trips(1, [Counter(acquire=3)])),
            "round trips of a host",
        ),
    ],
    ids=["fetches", "errors", "killed", "round trips"],
)
def test_missed_count_ends_in_code_1(
    monkeypatch, capsys, spoil: Callable[[Found], None], what: str
) -> None:
    found = Found(herd=Herd(fetches=Counter({1: 10})))
    monkeypatch.setattr(waves, "measure", lambda plan: found)
    assert waves.main([]) == 0
    spoil(found)
    assert waves.main([]) == 1
    missed = [line for line in capsys.readouterr().out.splitlines() if "MISSED" in line]
    assert [what in line for line in missed] == [True]


def test_missed_time_does_not_end_in_code_1(monkeypatch, capsys) -> None:
    slow = Found(herd=Herd(fetches=Counter({1: 10})))
    slow.herd.woken_ms[herds.OTHER_HOST] = [11.0]
    monkeypatch.setattr(waves, "measure", lambda plan: slow)
    assert waves.main([]) == 0
    assert "MISSED" in capsys.readouterr().out
    assert Target("x", 11.0, 10).met is False
