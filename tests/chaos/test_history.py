"""Violations planted in small histories: each kind is found, and what is allowed is
not."""

from __future__ import annotations

import pytest

from tests.chaos.history import check, injected
from tests.chaos.journal import (
    HARD,
    SOFT,
    Failure,
    Fault,
    Fetch,
    History,
    Read,
    Sample,
    Void,
)

MS = 1_000_000
KEY = "e"  # fresh for 60 s, stale for 60 more
START = 1_000_000 * MS


class Scene(History):
    """A history told in milliseconds; host `a` has worker a0, and so on."""

    def fetched(self, name: str, begin: int, end: int | None, **more) -> Scene:
        key, worker = more.pop("key", KEY), more.pop("worker", "a0")
        ended = _at(end), end is not None
        self.fetches.append(Fetch(worker[0], worker, _at(begin), key, name, *ended))
        return self

    def voided(self, begin: int, end: int | None, worker: str = "a0", **more) -> Scene:
        fields = {"verb": "delete", "keys": (KEY,), "force": HARD} | more
        ended = {"end": _at(end), "done": end is not None}
        self.voids.append(Void(worker[0], worker, _at(begin), **(ended | fields)))
        return self

    def was_read(self, value: str | None, begin: int, worker="a0", **more) -> Scene:
        fields = {"verb": "get", "key": KEY, "value": value} | more
        fields.setdefault("bears", fields["key"])
        end = _at(fields.pop("end", begin))
        self.reads.append(Read(worker[0], worker, _at(begin), end, **fields))
        return self

    def failed(self, kind: str, begin: int, end: int, target="all", **more) -> Scene:
        fault = Fault(kind, target, _at(begin), _at(end), **{"link": True} | more)
        self.faults.append(fault)
        return self

    @property
    def found(self) -> list[str]:
        return [v.kind for v in check(self).violations]


def _at(ms: int | None) -> int | None:
    return None if ms is None else START + ms * MS


def scene() -> Scene:
    """A value `v`, fetched from 0 to 10."""
    return Scene().fetched("v", 0, 10)


def test_history_without_a_void_is_clean() -> None:
    assert scene().was_read("v", 20).was_read(None, 30).found == []


# --- the same host ----------------------------------------------------------------


def test_older_value_after_a_returned_delete_is_found() -> None:
    assert scene().voided(20, 30).was_read("v", 31).found == ["old on its host"]


def test_older_value_in_another_worker_of_the_host_is_found() -> None:
    told = scene().voided(20, 30, "a1").was_read("v", 31, "a0")
    assert told.found == ["old on its host"]


@pytest.mark.parametrize(
    ("begin", "end", "read"),
    [(20, 30, 29), (20, None, 40), (-5, 30, 40), (0, 30, 40)],
    ids=["read-began-before", "never-returned", "fetch-within", "fetch-with"],
)
def test_older_value_beside_a_delete_is_allowed(begin, end, read) -> None:
    assert scene().voided(begin, end).was_read("v", read).found == []


def test_void_of_another_key_says_nothing() -> None:
    assert scene().voided(20, 30, keys=("c",)).was_read("v", 40).found == []


def test_older_set_after_a_later_set_is_found() -> None:
    told = Scene().voided(0, 10, verb="set", value="one")
    told.voided(20, 30, verb="set", value="two").was_read("two", 40)
    assert told.found == []
    assert told.was_read("one", 50).found == ["old on its host"]


@pytest.mark.parametrize("value", ["one", "two"])
def test_overlapping_sets_may_come_in_either_order(value: str) -> None:
    told = Scene().voided(0, 25, verb="set", value="one")
    told.voided(20, 30, verb="set", value="two")
    assert told.was_read(value, 40).found == []


def test_set_of_a_killed_worker_counts_until_its_death() -> None:
    told = Scene().voided(0, None, "a1", verb="set", value="one")
    told.deaths["a1"] = _at(15)
    told.was_read("one", 17).voided(20, 30)
    assert told.found == []
    assert told.was_read("one", 40).found == ["old on its host"]


def test_compare_and_set_that_did_nothing_voids_nothing() -> None:
    told = scene().voided(20, 30, verb="compare_and_set", value="x", done=False)
    assert told.was_read("v", 40).found == []


# --- other hosts ------------------------------------------------------------------


def test_older_value_on_another_host_is_allowed_for_four_seconds() -> None:
    told = scene().voided(20, 30).was_read("v", 4000, "b0", state="fresh")
    assert told.found == []
    told.was_read("v", 4100, "b0", state="fresh")
    assert told.found == ["old in the fleet"]


def test_older_value_flagged_stale_is_allowed_for_eight_seconds() -> None:
    told = scene().voided(20, 30).was_read("v", 7900, "b0", state="stale")
    assert told.found == []
    assert told.was_read("v", 8100, "b0", state="stale").found == ["old in the fleet"]


def test_bound_begins_when_the_link_is_up_and_that_was_noticed() -> None:
    told = scene().failed("drop", 1000, 5000).voided(1500, 1600)
    told.was_read("v", 5000 + 3000 + 3900, "b0", state="fresh")
    assert told.found == []
    told.was_read("v", 5000 + 3000 + 4100, "b0", state="fresh")
    assert told.found == ["old in the fleet"]


def test_bound_begins_anew_with_a_host_that_saw_l2_down() -> None:
    told = scene().voided(20, 30)
    told.samples.append(Sample("b", _at(3000), "down"))
    assert told.was_read("v", 6000, "b0", state="fresh").found == []
    assert told.was_read("v", 7300, "b0", state="fresh").found == ["old in the fleet"]


def test_faults_of_workers_do_not_lengthen_the_bound() -> None:
    told = scene().voided(20, 30).failed("kill", 2000, 2000, link=False)
    assert told.was_read("v", 4100, "b0", state="fresh").found == ["old in the fleet"]


def test_link_up_between_two_faults_long_enough_settles_a_void() -> None:
    told = scene().voided(20, 30).failed("drop", 9000, 20_000)
    assert told.was_read("v", 10_000, "b0").found == ["old in the fleet"]


def test_older_answers_within_the_bound_are_measured() -> None:
    verdict = check(scene().voided(20, 30).was_read("v", 1030, "b0"))
    assert verdict.counts["older answers across hosts"] == 1
    assert verdict.behind == pytest.approx(1.0)


# --- soft voids -------------------------------------------------------------------


def test_fresh_value_after_an_expire_is_found() -> None:
    told = scene().voided(20, 30, verb="expire", force=SOFT)
    assert told.was_read("v", 40, state="stale").was_read("v", 41).found == []
    assert told.was_read("v", 42, state="fresh").found == ["fresh though soft"]


def test_fresh_value_after_an_expire_elsewhere_is_found_after_the_bound() -> None:
    told = scene().voided(20, 30, verb="expire", force=SOFT)
    assert told.was_read("v", 4000, "b0", state="fresh").found == []
    assert told.was_read("v", 4100, "b0", state="fresh").found == ["fresh though soft"]


def test_touch_after_an_expire_makes_fresh_again() -> None:
    told = scene().voided(20, 30, verb="expire", force=SOFT)
    told.voided(35, 37, verb="touch", force="no")
    assert told.was_read("v", 42, state="fresh").found == []


# --- the value itself -------------------------------------------------------------


def test_value_past_its_life_is_found() -> None:
    told = Scene().fetched("v", 0, 10, key="c")  # 60 s, no grace
    told.was_read("v", 60_000, key="c")
    assert told.found == []
    assert told.was_read("v", 60_600, key="c").found == ["dead"]


def test_value_flagged_fresh_past_its_ttl_is_found() -> None:
    told = scene().was_read("v", 60_600, state="stale")
    assert told.found == []
    assert told.was_read("v", 60_600, state="fresh").found == ["dead"]


def test_touched_value_lives_on() -> None:
    told = scene().voided(50_000, 50_010, verb="touch", force="no")
    assert told.was_read("v", 100_000, state="fresh").found == []
    assert told.was_read("v", 111_000, state="fresh").found == ["dead"]


def test_life_is_not_judged_once_the_clock_of_redis_was_stepped() -> None:
    told = scene().failed("clock", 30, 40, link=False).was_read("v", 200_000)
    assert told.found == []


@pytest.mark.parametrize(
    ("value", "begin", "more", "kind"),
    [
        ("w", 20, {}, "never written"),
        ("v", -10, {}, "never written"),
        ("v", 20, {"bears": "c"}, "foreign"),
        ("v", 20, {"key": "d"}, "never written"),
        ("torn", 20, {}, "torn"),
    ],
    ids=["unknown", "before-its-fetch", "foreign", "another-key", "torn"],
)
def test_value_that_cannot_be_is_found(value, begin, more, kind) -> None:
    assert scene().was_read(value, begin, **more).found == [kind]


def test_value_of_a_failed_fetch_is_never_written() -> None:
    told = Scene().fetched("v", 0, None).was_read("v", 20)
    assert told.found == ["never written"]


# --- calls ------------------------------------------------------------------------


def test_call_beyond_its_limit_is_found() -> None:
    assert scene().was_read("v", 20, end=3000).found == []
    assert scene().was_read("v", 20, end=3100).found == ["late"]
    assert scene().was_read("v", 20, verb="peek", end=1100).found == ["late"]
    assert scene().was_read("v", 20, verb="get_or_set", end=9000).found == []


def test_stop_of_the_calls_own_worker_does_not_count() -> None:
    told = scene().failed("stop", 100, 5000, "a0", link=False)
    assert told.was_read("v", 20, end=6000).found == []
    assert told.was_read("v", 20, "a1", end=6000).found == ["late"]


def test_void_beyond_its_limit_is_found() -> None:
    assert Scene().voided(0, 3100).found == ["late"]


@pytest.mark.parametrize(
    ("verb", "error", "found"),
    [
        ("get", "OriginFailed: a", []),
        ("get", "ComputeTimeout: the compute ran", []),
        ("add", "TierUnavailable: l2: no answer", []),
        ("get", "TierUnavailable: l2: no answer", ["error"]),
        ("get", "TypeError: 'NoneType'", ["error"]),
        ("get", "hung", ["hung"]),
    ],
)
def test_call_that_raised_is_found_unless_it_may(verb, error, found) -> None:
    told = Scene()
    told.failures.append(Failure("a", "a0", _at(0), _at(10), verb, KEY, error))
    assert told.found == found


# --- waves ------------------------------------------------------------------------


def test_two_fetches_at_a_time_are_found() -> None:
    told = scene().fetched("w", 5, 12, worker="b0")
    assert told.found == ["two fetches"]
    assert check(told).waves == {2: 1}


def test_fetches_one_after_another_are_two_waves() -> None:
    told = scene().fetched("w", 11, 12, worker="b0")
    assert told.found == [] and check(told).waves == {1: 2}


def test_two_fetches_of_two_keys_are_two_waves() -> None:
    told = scene().fetched("w", 5, 12, key="c")
    assert told.found == [] and check(told).waves == {1: 2}


@pytest.mark.parametrize(
    "explained",
    [
        lambda told: told.voided(3, 4, "b1"),
        lambda told: told.voided(3, None, "b1"),
        lambda told: told.failed("kill", -1000, -1000, link=False),
        lambda told: told.failed("stop", -9000, -3000, link=False),
    ],
    ids=["void", "void-unended", "kill", "stop"],
)
def test_two_fetches_with_a_reason_are_allowed(explained) -> None:
    told = scene().fetched("w", 5, 12, worker="b0")
    explained(told)
    assert told.found == []


def test_injected_sums_by_kind() -> None:
    told = Scene().failed("drop", 0, 1000, touched=3).failed("drop", 2000, 2500)
    assert injected(told.faults) == {"drop": (2, 1.5, 3)}
