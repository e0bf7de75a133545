"""Check: whether what stands in a segment, live or left over, agrees with itself.

Faults and notes
    A fault is what no order of writers, killed or stopped between any two of their
    steps, can have left: damage, by a bug or from outside. Notes are what a killed
    process may leave (counts of live bytes that drifted, pieces of a value that nothing
    names, a lock to be taken over) and what an operator may want to know.

    Writers go on while it looks. What changed under it is looked at again, and a fault
    counts only if it is found again a moment later, at the same place. What a shard's
    check reads, and why no writer can make it see what never stood, is told in
    `_core/check.c`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ._core import binding
from .stats import COUNTERS

WAYS = 8
"""Slots of a bucket, and claims of a set, as `table.h` draws them."""
_LOOKS = 3
_APART = 0.002
"""Seconds between two looks at what seems a fault."""
_OVERDUE = 10.0
"""Seconds without a beat that are worth a note: a loop beats several times a second."""
_TOLD = 32
"""Faults of claims that are told one by one, as many as of a shard."""
_AHEAD = 16
"""Incarnations: a claim's are 12 bits, so one that is behind far enough looks ahead."""

FAULTS = {
    "state": "its state is none",
    "queue": "extent {extent} is in no queue",
    "fill": "extent {extent} has the fill mark {offset}, which no append leaves",
    "age": "extent {extent} is older than any that was opened",
    "open": "extent {extent} is open for a queue that it is not in",
    "victim": "extent {extent} cannot be emptied at {offset}",
    "log": "extent {extent} has no record at {offset}, below its fill mark",
    "past": "slot {slot} is of a past generation of extent {extent}",
    "outside": "slot {slot} points outside what extent {extent} holds, at {offset}",
    "record": "slot {slot} points into extent {extent} at {offset}: no record begins "
    "there",
    "shard": "slot {slot}: the key at {offset} of extent {extent} is another shard's",
    "bucket": "slot {slot} is in neither bucket of its key",
    "print": "slot {slot} bears another key's fingerprint",
    "twice": "slot {slot} and another mean the record at {offset} of extent {extent}",
    "key": "slot {slot} and another mean records of one key",
    "chain": "slot {slot}: a chain that no store makes, extent {extent} at {offset}",
    "piece": "slot {slot}: a piece that no store makes, extent {extent} at {offset}",
    "stamp": "slot {slot}: a record stamped above the invalidation clock, which no "
    "invalidation reaches",
}
assert tuple(FAULTS) == binding.FAULTS

OUTBOX_FAULTS = {
    "state": "its lock is in no state",
    "ends": "its head and tail lie further apart than it is long",
    "entry": "between head and tail stands what is no entry: what comes after is not "
    "sent",
    "clock": "a clock falls, or stands above the invalidation clock",
    "lowest": "an unsent entry is older than the lowest says: a read may believe what "
    "was invalidated",
}
assert tuple(OUTBOX_FAULTS) == binding.OUTBOX_FAULTS


class Region(NamedTuple):
    """A named piece of the segment."""

    name: str
    offset: int
    bytes: int
    version: int


class Slot(NamedTuple):
    """A process slot that was ever taken."""

    number: int
    pid: int
    incarnation: int
    alive: bool
    """Whether its liveness lock is held."""
    beat_age: float
    """Seconds since its process' last sign of life."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard's occupancy, counted from its index."""

    number: int
    records: int
    """Pieces of values in several included."""
    live_bytes: int
    filled_bytes: int
    """What was appended to its extents, replaced records included."""
    pieces: int
    chains: int
    ghosts: int
    free: int
    """Extents by queue."""
    probation: int
    main: int
    rewrites: int
    disabled: bool


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims by state."""

    held: int = 0
    tentative: int = 0
    freed: int = 0
    unused: int = 0
    dead: int = 0
    """Of the held and the tentative, those whose process is no more."""
    overdue: int = 0
    """Of the held, those past the hard end of their compute."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    claims: Claims = field(default_factory=Claims)
    counters: dict[str, int] = field(default_factory=dict)
    """Summed over every process that ever attached."""
    capacity_bytes: int = 0

    @property
    def records(self) -> int:
        """That stand, pieces of values in several left out."""
        return sum(s.records - s.pieces for s in self.shards)

    @property
    def live_bytes(self) -> int:
        """Of what stands: heads, keys and values."""
        return sum(s.live_bytes for s in self.shards)


def check(
    table: binding.Table,
    regions: list[Region],
    file_bytes: int,
    slots: list[Slot],
    now: int,
) -> Report:
    """All of a segment: index, extents, accounts, stripes, outbox, claims, slots. It
    takes some hundreds of nanoseconds for each record, and holds nobody up."""
    faults = list(_check_regions(regions, file_bytes))
    notes: list[str] = []
    shards = []
    for number in range(table.geometry["shards"]):
        found = _look(table, number)
        faults.extend(_shard_faults(number, found))
        notes.extend(_shard_notes(number, found))
        shards.append(_shard(number, found))
    faults.extend(_check_stripes(table))
    outbox = table.check_outbox()
    faults.extend(_outbox_faults(outbox))
    notes.extend(_outbox_notes(outbox))
    claims, wrong = _check_claims(table, slots, now)
    faults.extend(wrong[:_TOLD])
    if len(wrong) > _TOLD:
        faults.append(f"{len(wrong) - _TOLD} more faults of claims")
    counters: dict[str, int] = dict(zip(COUNTERS, table.counters(), strict=False))
    notes.extend(_notes(claims, slots, counters))
    capacity = table.usage()["capacity_bytes"]
    return Report(faults, notes, shards, slots, claims, counters, capacity)


def _look(table: binding.Table, number: int) -> dict[str, Any]:
    """What a shard's check finds each time."""
    found = table.check(number)
    for _ in range(_LOOKS - 1):
        if not found["found"]:
            break
        time.sleep(_APART)
        found = _standing(found, table.check(number))
    return found


def _standing(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What was found at both looks."""
    return after | {
        "faults": [fault for fault in after["faults"] if fault in before["faults"]],
        "found": {
            kind: min(n, before["found"][kind])
            for kind, n in after["found"].items()
            if kind in before["found"]
        },
    }


def _shard(number: int, found: dict[str, Any]) -> Shard:
    told = {name: found[name] for name in Shard.__slots__ if name in found}
    return Shard(**told | {"number": number, "disabled": found["disabled"] == 1})


def _check_regions(regions: list[Region], file_bytes: int) -> Iterator[str]:
    """Whether they lie inside the file, beside each other."""
    end, before = 0, ""
    for region in regions:
        if region.offset < end:
            yield f"region {region.name} begins inside region {before}"
        end, before = region.offset + region.bytes, region.name
        if end > file_bytes:
            yield f"region {region.name} ends outside the file"


def _check_stripes(table: binding.Table) -> Iterator[str]:
    above_clock, above_top = table.check_stripes()
    if above_clock:
        yield (
            "an invalidation's stripe stands above the invalidation clock: stores "
            "are refused until the clock has passed it"
        )
    if above_top:
        yield (
            "a key's stripe stands above what lets readers look at it: they may "
            "be shown what was invalidated"
        )


def _check_claims(
    table: binding.Table, slots: list[Slot], now: int
) -> tuple[Claims, list[str]]:
    """Count claims; what no claim word may say is a fault if it still says it."""
    faults = []
    owners = {slot.number: slot for slot in slots}
    counts: Counter[str] = Counter()
    holders: dict[tuple[int, int], int] = {}
    for i in range(table.geometry["claim_sets"] * WAYS):
        word = table.claim_word(i)
        state, number, incarnation, _, hash_ = binding.Table.claim_parts(word)
        name = _CLAIM_STATES.get(state, "freed") if word else "unused"
        counts[name] += 1
        fault = "is in no state" if state == _NO_STATE else None
        if name in ("held", "tentative"):
            fault = _owner_fault(table, owners, number, incarnation)
            owner = owners.get(number)
            counts["dead"] += owner is not None and not (
                owner.alive and owner.incarnation == incarnation
            )
        if name == "held":
            counts["overdue"] += _overdue(table, i, word, now)
            rival = holders.setdefault((i // WAYS, hash_), i)
            if rival != i and _holds(table, rival, hash_):
                fault = f"holds the key that claim {rival} holds"
        if fault and table.claim_word(i) == word:
            faults.append(f"claim {i} {fault}")
    return Claims(**counts), faults


def _owner_fault(
    table: binding.Table, owners: dict[int, Slot], number: int, incarnation: int
) -> str | None:
    if number >= binding.SLOTS or (
        number not in owners and table.slot_info(number)[:2] == (0, 0)
    ):
        return f"is of slot {number}, which nobody ever took"
    if 0 < (incarnation - table.slot_info(number)[0]) % 4096 < _AHEAD:
        return f"is of an incarnation that slot {number} has not come to"
    return None


def _overdue(table: binding.Table, claim: int, word: int, now: int) -> bool:
    noted = table.claim_noted(claim, word)
    return noted is not None and noted[1] < now


def _holds(table: binding.Table, claim: int, hash_: int) -> bool:
    parts = binding.Table.claim_parts(table.claim_word(claim))
    return parts[0] == binding.HELD and parts[4] == hash_


# -- words

_CLAIM_STATES = {binding.HELD: "held", binding.TENTATIVE: "tentative"}
_NO_STATE = 7


def _shard_faults(number: int, found: dict[str, Any]) -> Iterator[str]:
    if found["disabled"] == 1:
        yield (
            f"shard {number}: disabled: its lock cannot be recovered, all its keys "
            "miss until the segment is made anew"
        )
    told: Counter[str] = Counter()
    for kind, extent, offset, slot in found["faults"]:
        told[kind] += 1
        words = FAULTS[kind].format(extent=extent, offset=offset, slot=slot)
        yield f"shard {number}: {words}"
    for kind, n in found["found"].items():
        if n > told[kind]:
            yield f"shard {number}: {n - told[kind]} more faults of the kind {kind!r}"


def _shard_notes(number: int, found: dict[str, Any]) -> Iterator[str]:
    if found["disabled"] == 2:
        yield f"shard {number}: being wiped, by whoever has its lock or takes it next"
    if found["orphaned"]:
        yield (
            f"shard {number}: a process died in a store; the next store takes the lock "
            "over"
        )
    if found["drifted"]:
        yield (
            f"shard {number}: {found['drifted']} extents book "
            f"{found['drift_records']:+} records and {found['drift_bytes']:+} bytes "
            "beside what stands (stores of killed processes); reset when reused"
        )
    if found["broken_chains"]:
        yield (
            f"shard {number}: {found['broken_chains']} long values lack "
            f"{found['missing_pieces']} evicted pieces, and miss"
        )
    if found["orphan_pieces"]:
        yield (
            f"shard {number}: {found['orphan_pieces']} pieces belong to no value "
            "(being stored, or left by a killed process); evicted in time"
        )
    if found["unsettled"]:
        yield (
            f"shard {number}: {found['unsettled']} places changed too often to be "
            "checked"
        )


def _outbox_faults(found: dict[str, Any]) -> Iterator[str]:
    if found["disabled"] == 1:
        yield (
            "outbox: disabled: its lock cannot be recovered, all invalidations are "
            "made up for by clearing until the segment is made anew"
        )
    for kind, n in found["found"].items():
        yield f"outbox: {OUTBOX_FAULTS[kind]} ({n} times)"


def _outbox_notes(found: dict[str, Any]) -> Iterator[str]:
    if found["orphaned"]:
        yield ("outbox: a process died adding to it; the next one takes the lock over")
    if found["unsent"]:
        yield f"outbox: {found['unsent']} invalidations that Redis has not confirmed"
    if found["lost"]:
        yield (
            "outbox: invalidations were lost for want of room or of its lock; Redis "
            "is to be cleared for them"
        )


def _notes(
    claims: Claims, slots: list[Slot], counters: dict[str, int]
) -> Iterator[str]:
    for slot in slots:
        if slot.alive and slot.beat_age > _OVERDUE:
            yield (
                f"slot {slot.number}: process {slot.pid} gave no sign of life for "
                f"{slot.beat_age:.0f} s: its event loop is blocked, or it is stopped"
            )
    if claims.dead:
        yield (
            f"{claims.dead} claims are of dead processes: whoever wants their keys "
            "takes them over"
        )
    if claims.overdue:
        yield f"{claims.overdue} claims are held past the hard end of their compute"
    if wiped := counters["shards_wiped"]:
        yield (
            f"{wiped} times a shard was wiped because its headers contradicted each "
            "other: that is a bug, please report it"
        )
