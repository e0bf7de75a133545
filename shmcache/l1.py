"""L1: the tier the host shares, one shared-memory segment.

A thin face of the C table: it names and attaches the segment, takes a process slot,
and turns rows into records. What the table is and why a reader needs no lock is told
in `_core/table.h`; how the file comes and goes in `segment.py`.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from hashlib import blake2b
from typing import TypedDict

from . import clock as clocks
from ._core import binding
from .clock import SYSTEM, Clock
from .errors import SegmentError
from .record import Record
from .segment import Segment
from .stats import INDEX, Stats

OK, BUSY, RAISED, LOST = binding.OK, binding.BUSY, binding.RAISED, binding.LOST
OLDER, TOO_LARGE, DISABLED = binding.OLDER, binding.TOO_LARGE, binding.DISABLED
tag_number = binding.tag_number
# states of a claim, and what taking one may answer
HELD, FULL, FREED = binding.HELD, binding.FULL, binding.FREED
FREED_STORED, FREED_PASS = binding.FREED_STORED, binding.FREED_PASS
FREED_REFUSED, FREED_ERROR = binding.FREED_REFUSED, binding.FREED_ERROR

_BUSY_STEP, _BUSY_TRIES = 0.005, 20


class L1:
    """One attachment to a host's segment. Times are nanoseconds of CLOCK_BOOTTIME."""

    def __init__(self, segment: Segment, clock: Clock = SYSTEM) -> None:
        self.segment = segment
        self.table = binding.Table(segment.memory)
        self.clock = clock
        self._fake = clock is not SYSTEM

    @classmethod
    def open(
        cls, name: str, size: int, record_bytes: int = 300, clock: Clock = SYSTEM
    ) -> L1:
        """Attach to the host's segment `name`, made where it is not there.

        `SegmentError` if it cannot be made, `LayoutMismatch` if it is in use by
        processes of another build or configuration.
        """
        size -= size % mmap.PAGESIZE
        binding.plan(size, record_bytes)  # too small a size is refused first
        mine = _identity(size, record_bytes)

        def prepare(memory: mmap.mmap, seed: bytes) -> None:
            binding.init(
                memory, size=size, record_bytes=record_bytes, seed=seed, **mine
            )

        def verdict(memory: mmap.mmap) -> str | None:
            return _disagreement(binding.describe(memory), mine)

        return cls(Segment.open(segment_name(name), size, prepare, verdict), clock)

    def join(self) -> None:
        """Take a process slot: from now on this attachment counts, claims and waits."""
        self.segment.forked = False
        for slot in range(binding.SLOTS):
            if self.segment.lock_slot(self.table.slot_offset(slot)):
                self.table.take_slot(slot, os.getpid(), self.clock.now())
                return
        raise SegmentError(
            f"segment {self.segment.path}: all {binding.SLOTS} process slots are taken"
        )

    def close(self, *, keep: bool = True) -> bool:
        """Detach; without `keep` the last one removes the segment. Whether it did."""
        removed = not keep and self.segment.remove()
        self.segment.detach()
        return removed

    # -- records

    def peek(self, key: bytes | str) -> bytes | None:
        """The document of a fresh value, else None. No lock; counts a hit."""
        if self._fake:
            return self.table.peek(key, self.clock.now())
        return self.table.peek(key)

    def get(self, key: bytes | str) -> Record | None:
        """What stands under the key, stale and dead too; counts no fresh hit."""
        row = self.table.get(key, self.clock.now())
        return None if row is None else Record._make(row)

    def look(self, key: bytes | str) -> Record | None:
        """As `get`, but counts nothing and leaves the record's frequency alone."""
        row = self.table.look(key, self.clock.now())
        return None if row is None else Record._make(row)

    def put(
        self,
        key: bytes,
        record: Record,
        *,
        claim: tuple[int, int] | None = None,
        newer_only: bool = False,
        raising: bool = False,
    ) -> int:
        """Store under the shard's lock: OK, or BUSY RAISED LOST OLDER TOO_LARGE.

        With `claim` only if the claim still bears that word; with `raising` the key
        is invalidated and stored under one hold of the lock.
        """
        return self.table.put(
            key,
            record.value,
            birth=record.birth,
            fresh_until=record.fresh_until,
            dead_at=record.dead_at,
            stamp=record.stamp,
            nonce=record.nonce,
            fill_us=record.fill_us,
            kind=record.kind,
            tags=record.tags,
            claim=claim,
            newer_only=newer_only,
            raise_=raising,
            now=self.clock.now(),
        )

    async def put_patiently(
        self,
        key: bytes,
        record: Record,
        *,
        claim: tuple[int, int] | None = None,
        newer_only: bool = False,
        raising: bool = False,
    ) -> int:
        """`put`, tried for 100 ms while a stopped writer has the shard's lock."""
        for _ in range(_BUSY_TRIES):
            stored = self.put(
                key, record, claim=claim, newer_only=newer_only, raising=raising
            )
            if stored != BUSY:
                break
            await asyncio.sleep(_BUSY_STEP)
        return stored

    # -- processes and counters

    def alive(self, slot: int, incarnation: int) -> bool:
        """Whether the attachment that took `slot` as `incarnation` is still there."""
        current = self.table.slot_info(slot)[0]
        return (current ^ incarnation) & 0xFFF == 0 and self.segment.alive(
            self.table.slot_offset(slot)
        )

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter of this process."""
        self.table.count(INDEX[name], n)

    def stats(self, l2: str = "none") -> Stats:
        """Counters summed over every process that ever attached, and occupancy."""
        sums = self.table.counters()
        usage = self.table.usage()
        offsets = map(self.table.slot_offset, range(binding.SLOTS))
        return Stats(
            counters={name: sums[i] for name, i in INDEX.items()},
            records=usage["records"],
            live_bytes=usage["live_bytes"],
            capacity_bytes=usage["capacity_bytes"],
            disabled_shards=usage["disabled_shards"],
            segment=self.segment.path.name,
            size_bytes=self.table.geometry["size"],
            processes=sum(map(self.segment.alive, offsets)),
            geometry=dict(self.table.geometry),
            l2=l2,
        )


def segment_name(name: str) -> str:
    """The file's name in /dev/shm; it carries the layout, so that two builds that
    differ in it run side by side."""
    return f"shmcache.{binding.layout_hash():08x}.{name}"


class _Identity(TypedDict):
    """What must agree between who made a segment and who attaches."""

    boot_id: bytes
    clock_ns: int
    config: int
    uid: int


def _identity(size: int, record_bytes: int) -> _Identity:
    asked = blake2b(f"{size} {record_bytes}".encode(), digest_size=8).digest()
    return {
        "boot_id": clocks.boot_id(),
        "clock_ns": clocks.namespace(),
        "config": int.from_bytes(asked, "little"),
        "uid": os.geteuid(),
    }


_REASONS = {
    "boot_id": "it was made before the last boot",
    "clock_ns": "its clock namespace is another",
    "config": "it was made with another size or record size",
    "uid": "its owner is another user",
}


def _disagreement(found: dict[str, object] | None, mine: _Identity) -> str | None:
    if found is None:
        return "it is no segment"
    if not found["ready"]:
        return "empty"
    if found["layout_hash"] != binding.layout_hash():
        return "its layout is another build's"
    for field, value in mine.items():
        if found[field] != value:
            return _REASONS[field]
    return None
