"""What a host may grant of a budget, by what it knows. Time is an argument."""

from __future__ import annotations

import random

import pytest

from shmcache_server import allowance
from shmcache_server.allowance import SECOND, State, Terms, Told

MINUTE = 60 * SECOND
TERMS = Terms(calls=20, span=MINUTE)
NOW = 1000 * MINUTE


def told(granted: bool = True, used: int = 0, age: int = 2 * MINUTE, **rest) -> Told:
    return Told(granted, *(rest.get(k, 0) for k in ("wait",)), used, 0, 0, age)


def take(terms: Terms, state: State, now: int, cost: int = 1) -> tuple[State, bool]:
    if allowance.wait(terms, state, now, cost):
        return state, False
    return allowance.granted(terms, state, now, cost), True


def most(times: list[int], span: int) -> int:
    """The most there were in any window."""
    return max(sum(at - span < t <= at for t in times) for at in times)


def test_window_slides_and_has_no_double_burst_at_its_edge() -> None:
    state, times, now = State(), [], NOW
    chance = random.Random(1)
    for _ in range(20_000):
        now += chance.choice((1, SECOND // 100, SECOND))
        state, granted = take(TERMS, state, now)
        times += [now] if granted else []
    assert most(times, MINUTE) == 20
    assert len(times) > 20 * (now - NOW) // MINUTE * 0.9, "and the budget is used"


def test_last_of_a_window_is_free_a_window_later_to_the_microsecond() -> None:
    terms, state = Terms(1, MINUTE), State()
    state, granted = take(terms, state, NOW)
    assert granted
    assert allowance.wait(terms, state, NOW + 1, 1) == MINUTE - 1
    assert not take(terms, state, NOW + MINUTE - 1)[1]
    assert take(terms, state, NOW + MINUTE)[1]


def test_cost_waits_until_as_many_have_left() -> None:
    state = State(grants=[[NOW, 8], [NOW + SECOND, 8]])
    now = NOW + 2 * SECOND
    assert allowance.wait(TERMS, state, now, 4) == 0
    assert allowance.wait(TERMS, state, now, 5) == NOW + MINUTE - now
    assert allowance.wait(TERMS, state, now, 13) == NOW + SECOND + MINUTE - now


def test_many_calls_are_few_pieces_and_never_too_many() -> None:
    terms, state, times, now = Terms(50_000, MINUTE), State(), [], NOW
    for _ in range(5000):
        now += 30_000
        state, granted = take(terms, state, now, 100)
        times += [now] * (100 if granted else 0)
    assert len(state.grants) <= allowance.PIECES + 1
    edges = times[::5000]
    assert max(sum(a - MINUTE < t <= a for t in times) for a in edges) <= 50_000


def test_blocked_and_none_left_are_waited_for() -> None:
    state = State(none_until=NOW + 5, blocked_until=NOW + 9)
    assert allowance.wait(TERMS, state, NOW, 1) == 9
    assert allowance.wait(TERMS, state, NOW + 9, 1) == 0


# -- the share


def lost(used: int, hosts: int) -> State:
    whole = allowance.heard(TERMS, State(hosts=hosts), NOW, told(used=used))
    assert not whole.lost_at
    return allowance.lost(TERMS, whole, NOW, 0)


@pytest.mark.parametrize(
    ("used", "hosts", "share"), [(0, 2, 10), (20, 2, 0), (14, 2, 3), (0, 3, 6)]
)
def test_what_was_left_is_shared_for_a_window(used, hosts, share) -> None:
    state, count = lost(used, hosts), 0
    for i in range(40):
        state, granted = take(TERMS, state, NOW + i)
        count += granted
    assert count == share
    assert allowance.wait(TERMS, state, NOW + 50, 1) == MINUTE - 50


def test_share_of_the_budget_holds_after_that_window() -> None:
    state, times = lost(20, 2), []
    for second in range(600):
        state, granted = take(TERMS, state, NOW + second * SECOND)
        times += [second] if granted else []
    assert times[0] == 60
    assert most(times, 60) == 10


def test_share_below_a_call_is_one_call_in_a_longer_window() -> None:
    terms = Terms(1, 15 * SECOND)
    state = allowance.lost(terms, State(hosts=3), NOW, 0)
    times = []
    for second in range(200):
        state, granted = take(terms, state, NOW + second * SECOND)
        times += [second] if granted else []
    assert times == [15, 60, 105, 150, 195], "one in 45 s for each of three hosts"


def test_host_that_never_saw_the_fleet_grants_nothing_alone() -> None:
    state = allowance.lost(TERMS, State(), NOW, 0)
    assert allowance.wait(TERMS, state, NOW, 1) > 0


def test_lost_answer_counts_as_granted() -> None:
    whole = allowance.heard(TERMS, State(hosts=1), NOW, told(used=18))
    state = allowance.lost(TERMS, whole, NOW, 1)
    state, granted = take(TERMS, state, NOW)
    assert granted
    assert not take(TERMS, state, NOW)[1]


def test_share_ends_when_the_tally_was_whole_for_a_window() -> None:
    state = lost(0, 2)
    back = NOW + 10 * SECOND
    state = allowance.found(TERMS, state, back, (), 2)
    state = allowance.heard(TERMS, state, back, told(used=3))
    assert (state.away, bool(state.lost_at), state.used) == (False, True, 0)
    state = allowance.heard(TERMS, state, back + MINUTE - 1, told(used=3))
    assert state.lost_at
    state = allowance.heard(TERMS, state, back + MINUTE, told(used=3))
    assert (state.lost_at, state.used) == (0, 3)


def test_young_tally_means_the_share_until_it_is_a_window_old() -> None:
    state = allowance.heard(TERMS, State(hosts=2), NOW, told(used=12))
    state = allowance.heard(TERMS, state, NOW + 1, told(age=SECOND))
    assert (state.lost_at, state.used) == (NOW + 1, 12)
    count = 0
    for i in range(40):
        state, granted = take(TERMS, state, NOW + 1 + i)
        count += granted
    assert count == 4, "half of what was left"
    old = NOW + MINUTE
    assert not allowance.heard(TERMS, state, old, told(age=MINUTE)).lost_at


def test_hosts_do_not_grow_fewer_while_the_fleet_comes_back() -> None:
    state = allowance.found(TERMS, lost(0, 4), NOW, (), 1)
    assert state.hosts == 4
    whole = allowance.found(TERMS, State(hosts=4), NOW, (), 1)
    assert whole.hosts == 1


def test_calls_granted_alone_are_told_once() -> None:
    state = lost(0, 1)
    for i in range(3):
        state = allowance.granted(TERMS, state, NOW + i * SECOND, 1, untold=True)
    told_now = state.untold
    state = allowance.granted(TERMS, state, NOW + 9 * SECOND, 1, untold=True)
    state = allowance.found(TERMS, state, NOW + 10 * SECOND, told_now, 1)
    assert state.untold == [[NOW + 9 * SECOND, 1]]
