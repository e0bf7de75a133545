"""The whole check: claims, slots, regions and words beside the shards' own check."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from typing import Any

import pytest

from shmcache import check as checks
from shmcache._core import binding
from shmcache._core.binding import FOREVER, Table
from shmcache.check import FAULTS, OUTBOX_FAULTS, Region, Report, Slot, check
from tests.core.conftest import MIB, init

NOW = 10**12
CLAIM_BYTES = 64


@pytest.fixture
def memory() -> mmap.mmap:
    made = mmap.mmap(-1, MIB)
    init(made)
    return made


@pytest.fixture
def table(memory: mmap.mmap) -> Table:
    made = Table(memory)
    made.take_slot(0, 100, now=NOW)
    return made


def place(memory: mmap.mmap, region: str) -> int:
    described = binding.describe(memory)
    assert described is not None
    offset: int = described["regions"][region][0]
    return offset


def checked(table: Table, alive: bool = True, **more: Any) -> Report:
    slot = Slot(0, 100, table.slot_info(0)[0], alive, more.pop("beat_age", 0.0))
    return check(table, more.pop("regions", []), MIB, [slot], more.pop("now", NOW))


def test_sound_segment_has_neither_fault_nor_note(table: Table) -> None:
    table.put("k", b"v", birth=0, fresh_until=FOREVER, dead_at=FOREVER, stamp=0)
    report = checked(table)
    assert (report.faults, report.notes) == ([], [])
    assert (report.records, report.counters["stores"]) == (1, 1)
    assert report.live_bytes == table.usage()["live_bytes"] > 0


# ---- claims


def test_claims_are_counted_by_state(table: Table) -> None:
    table.claim_take("held")
    index, word = table.claim_take("freed")[1:3]
    table.claim_free(index, word, binding.FREED)
    claims = checked(table).claims
    assert (claims.held, claims.freed, claims.tentative, claims.dead) == (1, 1, 0, 0)
    assert claims.unused == table.geometry["claim_sets"] * 8 - 2


@pytest.mark.parametrize("how", ["died", "taken anew"])
def test_claim_of_a_dead_process_is_a_note(table: Table, how: str) -> None:
    table.claim_take("k")
    if how == "taken anew":
        table.take_slot(0, 101, now=NOW)
    report = checked(table, alive=how != "died")
    assert (report.faults, report.claims.dead) == ([], 1)
    assert "dead process" in report.notes[0]


def test_claim_held_beyond_its_deadline_is_a_note(table: Table) -> None:
    index, word = table.claim_take("k")[1:3]
    table.claim_note(index, word, stamp=0, deadline=NOW + 5)
    assert checked(table, now=NOW + 5).claims.overdue == 0
    report = checked(table, now=NOW + 6)
    assert (report.claims.overdue, report.faults) == (1, [])


Change = Callable[[int], int]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w | 7, "in no state"),
        (lambda w: w | 5 << 3, "slot 5, which nobody ever took"),
        (lambda w: w | 300 << 3, "slot 300, which nobody ever took"),
        (lambda w: w + (1 << 12), "an incarnation that slot 0 has not come to"),
    ],
    ids=["state", "slot-unused", "slot-beyond", "incarnation"],
)
def test_claim_that_nobody_can_have_written_is_a_fault(
    table: Table, memory: mmap.mmap, change: Change, words: str
) -> None:
    index, word = table.claim_take("k")[1:3]
    at = place(memory, "claims") + index * CLAIM_BYTES
    struct.pack_into("Q", memory, at, change(word))
    (fault,) = checked(table).faults
    assert fault.startswith(f"claim {index} ") and words in fault


def test_key_held_twice_is_a_fault(table: Table, memory: mmap.mmap) -> None:
    index, word = table.claim_take("k")[1:3]
    beside = index - 1 if index % 8 else index + 1
    struct.pack_into("Q", memory, place(memory, "claims") + beside * CLAIM_BYTES, word)
    (fault,) = checked(table).faults
    assert "holds the key" in fault


def test_faults_of_claims_are_told_up_to_a_bound(
    table: Table, memory: mmap.mmap
) -> None:
    claims, at = table.geometry["claim_sets"] * 8, place(memory, "claims")
    for i in range(claims):
        struct.pack_into("Q", memory, at + i * CLAIM_BYTES, 7)
    *told, more = checked(table).faults
    assert len(told) == 32 and more == f"{claims - 32} more faults of claims"


# ---- shards, stripes, regions


def test_lock_of_a_dead_holder_is_a_note(table: Table, memory: mmap.mmap) -> None:
    at = place(memory, "shards")
    struct.pack_into("I", memory, at, 0x40000000 | 77)  # as the kernel leaves it
    report = checked(table)
    assert report.faults == [] and "takes the lock over" in report.notes[0]


class Changing:
    """A table whose check finds this and that."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = list(kinds)
        self.looks = 0

    def check(self, shard: int) -> dict[str, Any]:
        kind = self.kinds[min(self.looks, len(self.kinds) - 1)]
        self.looks += 1
        fault = [(kind, 1, 2, 3)] if kind else []
        return {"faults": fault, "found": {kind: 1} if kind else {}}


@pytest.mark.parametrize(
    ("kinds", "stands", "looks"),
    [
        (("",), {}, 1),
        (("record", ""), {}, 2),
        (("record", "print", "record"), {}, 2),
        (("record",), {"record": 1}, 3),
    ],
    ids=["none", "gone", "another", "standing"],
)
def test_fault_counts_only_if_it_stands_still(
    kinds: tuple[str, ...], stands: dict[str, int], looks: int
) -> None:
    table = Changing(*kinds)
    found = checks._look(table, 0)  # type: ignore[arg-type]
    assert (found["found"], table.looks) == (stands, looks)
    assert len(found["faults"]) == len(stands)


def test_faults_beyond_those_told_are_summed_up() -> None:
    found = {"disabled": 0, "faults": [("print", 1, 8, 3)], "found": {"print": 40}}
    told = list(checks._shard_faults(2, found))
    assert told == [
        "shard 2: slot 3 bears another key's fingerprint",
        "shard 2: 39 more faults of the kind 'print'",
    ]


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_has_words(kind: str) -> None:
    found = {"disabled": 0, "faults": [(kind, 11, 22, 33)], "found": {kind: 1}}
    (told,) = checks._shard_faults(0, found)
    assert "{" not in told and "None" not in told


def test_disabled_shard_is_a_fault_and_counted(
    table: Table, memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = table.check(0)
    monkeypatch.setattr(checks, "_look", lambda table, n: found | {"disabled": 1})
    report = checked(table)
    assert report.shards[0].disabled and "disabled" in report.faults[0]


def test_stripe_above_the_clock_is_a_fault(table: Table, memory: mmap.mmap) -> None:
    struct.pack_into("Q", memory, place(memory, "tag_hard"), 1 << 40)
    assert "above the invalidation clock" in checked(table).faults[0]


# ---- outbox


def test_unsent_and_lost_invalidations_are_notes(table: Table) -> None:
    assert table.outbox_add(1, b"k" * 500)
    (note,) = checked(table).notes
    assert "1 invalidations that Redis has not confirmed" in note
    while table.outbox_add(1, b"k" * 500):
        pass
    report = checked(table)
    assert report.faults == [] and "were lost" in report.notes[1]


def test_outbox_lock_of_a_dead_holder_is_a_note(
    table: Table, memory: mmap.mmap
) -> None:
    struct.pack_into("I", memory, place(memory, "outbox"), 0x40000000 | 77)
    report = checked(table)
    assert report.faults == [] and "takes the lock over" in report.notes[0]


def test_damaged_outbox_is_a_fault(table: Table, memory: mmap.mmap) -> None:
    number = table.outbox_add(1, b"k")
    at = place(memory, "outbox") + 192 + 8 * (number - 1)
    struct.pack_into("Q", memory, at, 0)
    (fault,) = checked(table).faults
    assert fault.startswith("outbox: ") and "no entry" in fault


@pytest.mark.parametrize("kind", OUTBOX_FAULTS)
def test_every_fault_of_the_outbox_has_words(kind: str) -> None:
    found = {"disabled": 1, "found": {kind: 3}}
    disabled, told = checks._outbox_faults(found)
    assert "disabled" in disabled and "(3 times)" in told


@pytest.mark.parametrize(
    ("offset", "length", "words"),
    [(8192, 100, "begins inside region one"), (12288, MIB, "ends outside the file")],
)
def test_region_out_of_its_place_is_a_fault(
    table: Table, offset: int, length: int, words: str
) -> None:
    regions = [Region("one", 4096, 8192, 1), Region("two", offset, length, 1)]
    (fault,) = checked(table, regions=regions).faults
    assert fault == f"region two {words}"


def test_silent_process_is_a_note(table: Table) -> None:
    assert checked(table, beat_age=3.0).notes == []
    (note,) = checked(table, beat_age=60.0).notes
    assert "process 100 gave no sign of life for 60 s" in note
    assert checked(table, alive=False, beat_age=60.0).notes == []
