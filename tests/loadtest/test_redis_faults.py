"""The bench of Redis' faults, once through: no client is given an error."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loadtest import redis_faults
from loadtest.redis_faults import Found, Plan, counts, times

PLAN = Plan(
    rounds=3, seconds=0.4, hangs=1, followers=1, hosts=1, away=1, back=2, looked=4
)


@pytest.fixture(scope="module")
def found() -> Found:
    return redis_faults.measure(PLAN)


def test_redis_faults_cost_no_client_its_answer(
    found: Found, measured: Callable[[str], None]
) -> None:
    for target in times(found):
        what, figure, bound, verdict = target.line()
        measured(f"{what}: {figure}, {bound}: {verdict}")
    assert found.errors == []
    assert [target.line() for target in counts(found) if not target.met] == []
    assert found.elected_ms is not None


def test_redis_faults_show_every_figure(found: Found, capsys) -> None:
    redis_faults.show(found)
    assert "a hang is noticed, with misses" in capsys.readouterr().out
    assert all(target.met is not None for target in [*counts(found), *times(found)])


def test_error_given_to_a_client_ends_in_code_1(monkeypatch, found: Found) -> None:
    monkeypatch.setattr(redis_faults, "measure", lambda plan: found)
    assert redis_faults.main([]) == 0
    monkeypatch.setattr(found, "errors", ["an error"])
    assert redis_faults.main([]) == 1
