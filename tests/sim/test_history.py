"""The checker notices what it should, and allows what is allowed."""

from __future__ import annotations

import pytest

from tests.sim.history import FRESH, STALE, UNKNOWN, History, Read, Value, Write

SECOND = 1_000_000_000


def _value(number: int, began: int, **more: object) -> Value:
    fields = {"is_set": False, "ended": began, "ttl_ns": 0, "grace_ns": 0}
    return Value("k", began, number, **{**fields, **more})  # type: ignore[arg-type]


def _read(begin: int, value: Value | None, host: int = 0, state: str = FRESH) -> Read:
    return Read("get", host, "k", begin, begin + 1, value, state, "l1")


def _delete(begin: int, end: int | None, host: int = 0, soft: bool = False) -> Write:
    return Write("delete", host, begin, lambda v: v.key == "k", "k", soft, None, end)


def _set(begin: int, end: int | None, number: int, host: int = 0) -> Write:
    value = _value(number, begin, is_set=True)
    return Write("set", host, begin, lambda v: v.key == "k", "k", False, value, end)


def _rules(reads: list[Read], writes: list[Write], **more: object) -> list[str]:
    history = History(reads, writes, **more)  # type: ignore[arg-type]
    return [v.rule for v in history.check()]


def test_fetch_from_before_a_delete_is_stale_after_it() -> None:
    assert _rules([_read(30, _value(1, 5))], [_delete(10, 20)]) == ["stale"]


def test_fetch_begun_during_a_delete_is_allowed() -> None:
    assert not _rules([_read(30, _value(1, 12))], [_delete(10, 20)])


def test_get_that_overlaps_a_delete_is_allowed_either() -> None:
    assert not _rules([_read(15, _value(1, 5))], [_delete(10, 20)])


def test_delete_that_never_returned_judges_nothing() -> None:
    assert not _rules([_read(30, _value(1, 5))], [_delete(10, None)])


def test_other_host_may_lag_until_all_has_settled() -> None:
    late = _read(30, _value(1, 5), host=1)
    assert not _rules([late], [_delete(10, 20)])
    assert _rules([late], [_delete(10, 20)], settled=25) == ["unsettled"]


def test_stale_answer_is_allowed_on_another_host_without_patience() -> None:
    late = _read(30, _value(1, 5), host=1, state=STALE)
    assert not _rules([late], [_delete(10, 20)], settled=25, patient=False)


@pytest.mark.parametrize(
    "state, rules", [(FRESH, ["stale"]), (STALE, []), (UNKNOWN, [])]
)
def test_soft_write_allows_stale_answers_only(state: str, rules: list[str]) -> None:
    read = _read(30, _value(1, 5), state=state)
    assert _rules([read], [_delete(10, 20, soft=True)]) == rules


def test_own_value_of_a_set_is_read_from_its_begin_on() -> None:
    write = _set(10, 20, 1)
    assert not _rules([_read(12, write.value), _read(30, write.value)], [write])
    assert _rules([_read(5, write.value)], [write]) == ["invented"]


def test_set_that_overlaps_a_delete_may_win() -> None:
    write = _set(5, 15, 1)
    assert not _rules([_read(30, write.value)], [write, _delete(10, 20)])


def test_set_that_returned_before_a_delete_is_void() -> None:
    write = _set(5, 8, 1)
    assert _rules([_read(30, write.value)], [write, _delete(10, 20)]) == ["stale"]


def test_older_value_after_a_newer_one_is_resurrected() -> None:
    old, write = _value(1, 5), _delete(10, 20, host=1)
    reads = [_read(30, _value(2, 25)), _read(40, old)]
    assert _rules(reads, [write]) == ["resurrected"]
    assert not _rules(reads[::-1][:1], [write])


@pytest.mark.parametrize("host", [0, 1])
def test_value_that_redis_never_had_tells_nothing_of_another_host(host: int) -> None:
    """A host that had no answer made it; the other could not tell Redis either."""
    own, old = _value(2, 25), _value(1, 5)
    history = History([_read(30, own), _read(40, old)], [_delete(10, 20, host)])
    history.shared = {1, 2}
    assert "resurrected" in [v.rule for v in history.check()]
    history.shared = {1}
    assert ("resurrected" in [v.rule for v in history.check()]) == (host == 0)


@pytest.mark.parametrize("host", [0, 1])
def test_swap_for_one_host_alone_is_not_known_on_another(host: int) -> None:
    """Where there was no lease to be had: docs/fleet.md."""
    old, swap = _value(1, 5), _set(10, 20, 2, host=1)
    swap.verb = "swap"
    reads = [_read(30, _value(3, 25), host), _read(40, old, host)]
    history = History(reads, [swap])
    told = [v.rule for v in history.check() if v.rule == "resurrected"]
    alone = [v.rule for v in history.check(swaps=False) if v.rule == "resurrected"]
    assert (told, alone) == (["resurrected"], ["resurrected"] * host)


def test_two_sets_must_not_stand_on_two_hosts_for_ever() -> None:
    one, two = _set(5, 15, 1), _set(6, 16, 2, host=1)
    reads = [_read(30, one.value), _read(30, two.value, host=1)]
    assert _rules(reads, [one, two], settled=25) == ["apart"]


def test_two_adds_may_differ_where_redis_evicted() -> None:
    one, two = _set(5, 15, 1), _set(6, 16, 2, host=1)
    one.verb = two.verb = "add"
    reads = [_read(30, one.value), _read(30, two.value, host=1)]
    history = History(reads, [one, two], settled=25)
    assert [v.rule for v in history.check()] == ["apart"]
    assert history.check(adds=False) == []


def test_value_of_a_refused_write_is_unwanted() -> None:
    write = _set(5, 15, 1)
    write.refused = True
    assert _rules([_read(30, write.value)], [write]) == ["unwanted"]


def test_two_swaps_of_one_version_are_one_too_many() -> None:
    one, two = _set(5, 15, 1), _set(6, 16, 2)
    one.swapped = two.swapped = 77
    assert _rules([], [one, two]) == ["swapped"]


@pytest.mark.parametrize("host", [0, 1])
@pytest.mark.parametrize("swaps", [True, False])
@pytest.mark.parametrize("alone", [set(), {1}, {2}])
def test_swap_for_one_host_alone_is_one_too_many_on_that_host_only(
    alone: set[int], swaps: bool, host: int
) -> None:
    one, two = _set(5, 15, 1), _set(6, 16, 2, host)
    one.swapped = two.swapped = 77
    history = History([], [one, two], alone=alone)
    allowed = host == 1 and (bool(alone) or not swaps)
    assert [v.rule for v in history.check(swaps=swaps)] == ["swapped"] * (not allowed)


def test_third_swap_is_held_against_each_before_it() -> None:
    """The second was its host's alone; the first and the third are of one host."""
    writes = [_set(5, 15, 1), _set(6, 16, 2, host=1), _set(7, 17, 3)]
    for write in writes:
        write.swapped = 77
    (found,) = History([], writes, alone={1, 2, 3}).check()
    assert found.rule == "swapped"


@pytest.mark.parametrize("told", [True, False])
def test_delete_that_redis_knew_of_is_known_on_another_host(told: bool) -> None:
    """Even where what is read after it is its host's alone."""
    old, own = _value(1, 5), _value(2, 25)
    delete = _delete(10, 20, host=1)
    delete.told = told
    history = History([_read(30, own), _read(40, old)], [delete], shared={1})
    assert ("resurrected" in [v.rule for v in history.check()]) == told


@pytest.mark.parametrize(
    "begin, state, rules",
    [
        (SECOND, FRESH, []),
        (3 * SECOND, FRESH, ["expired"]),
        (3 * SECOND, STALE, []),
        (5 * SECOND, STALE, ["expired"]),
    ],
)
def test_answer_past_its_life_has_expired(
    begin: int, state: str, rules: list[str]
) -> None:
    value = _value(1, 5, ttl_ns=2 * SECOND, grace_ns=2 * SECOND)
    assert _rules([_read(begin, value, state=state)], []) == rules


def test_value_of_another_key_is_invented() -> None:
    read = _read(30, _value(1, 5)._replace(key="other"))
    assert _rules([read], []) == ["invented"]
