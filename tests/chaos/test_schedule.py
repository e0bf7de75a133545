"""The schedule: the same for the same seed, calm where it must be, of every kind."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.chaos.proxy import FAULTS
from tests.chaos.schedule import CALM, REDIS, WARM, WORKERS, plan, storms


def test_plan_of_a_seed_is_always_the_same() -> None:
    assert plan(7, 60) == plan(7, 60)
    assert plan(7, 60) != plan(8, 60)


@pytest.mark.parametrize("seconds", [30, 60, 300])
@pytest.mark.parametrize("seed", range(5))
def test_plan_has_every_kind_and_ends_calm(seed: int, seconds: int) -> None:
    events = plan(seed, seconds)
    kinds = {e.kind for e in events}
    assert kinds >= {*FAULTS, *REDIS, "kill", "stop"}
    assert min(e.at for e in events) >= WARM
    assert max(e.end for e in events) <= seconds - CALM + 0.01


def test_plan_of_five_minutes_has_all_kinds_many_times() -> None:
    counts = [e.kind for e in plan(1, 300)]
    assert all(counts.count(kind) >= 5 for kind in (*FAULTS, *REDIS, *WORKERS))


def test_plan_leaves_the_link_alone_in_every_calm() -> None:
    link = [e for e in plan(3, 300) if e.kind not in WORKERS]
    assert len(storms(300)) > 5
    for _, end in storms(300):
        calm = [e for e in link if e.end > end + 0.01 and e.at < end + CALM - 0.01]
        assert calm == []


def test_plan_has_one_fault_of_the_link_at_a_time() -> None:
    link = [e for e in plan(3, 300) if e.kind not in WORKERS]
    assert all(a.end <= b.at for a, b in pairwise(link))


def test_plan_stops_one_worker_of_a_host_at_a_time() -> None:
    for host in range(2):
        stops = [e for e in plan(3, 300) if (e.kind, e.host) == ("stop", host)]
        assert len(stops) > 5
        assert all(a.end <= b.at for a, b in pairwise(stops))
        assert all(1.0 <= e.seconds <= 6.0 for e in stops)


def test_plan_without_a_kind_has_none_of_it() -> None:
    kinds = {e.kind for e in plan(1, 60, without=("clock", "stop"))}
    assert not kinds & {"clock", "stop"}
    assert {"kill", "drop"} <= kinds
