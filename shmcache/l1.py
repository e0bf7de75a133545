"""L1: the tier the host shares, one shared-memory segment.

A thin face of the C table: it names and attaches the segment, takes a process slot,
and turns rows into records. What the table is and why a reader needs no lock is told
in `_core/table.h`; how the file comes and goes in `segment.py`.

Unfollowed
    Invalidations of other hosts are applied by one process of this host, its follower.
    Where nobody was attached, or nobody of them started, nobody followed, so what
    stands may have been deleted elsewhere meanwhile. Who takes a slot and finds it so
    says so first:
    1. It takes a number, and writes it and a time 4 s from now beside the stream's
       position. Then it takes its slot, so nobody comes between and finds a live one.
    2. While number and time stand, records of a lower stamp count as stale.
    3. The follower takes the number away when it has come to the stream's end.

Off
    A segment whose file was removed is used on. Where another file bears its name by
    now, processes that came later delete and set there, and are not heard here: this
    attachment answers misses and stores nothing, until its process starts anew.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, TypedDict

from . import clock as clocks
from ._core import binding
from .clock import SYSTEM, Clock
from .errors import LayoutMismatch, SegmentError
from .policy import SECOND
from .record import DEAD, FRESH, STALE, VALUE, Record
from .segment import CUT, REMOVED, UNFINISHED, Segment
from .stats import INDEX, ShardUsage, Stats

OK, BUSY, RAISED, LOST = binding.OK, binding.BUSY, binding.RAISED, binding.LOST
OLDER, TOO_LARGE, DISABLED = binding.OLDER, binding.TOO_LARGE, binding.DISABLED
STANDS = binding.STANDS
tag_number = binding.tag_number
# states of a claim, and what taking one may answer
HELD, FULL, FREED = binding.HELD, binding.FULL, binding.FREED
FREED_STORED, FREED_PASS = binding.FREED_STORED, binding.FREED_PASS
FREED_REFUSED, FREED_ERROR = binding.FREED_REFUSED, binding.FREED_ERROR

UNFOLLOWED, UNFOLLOWED_UNTIL = 6, 7
"""Words of the region `stream`, behind those of the follower."""
ALL_SENT = 2**64 - 1
"""What `lowest` answers where the fleet knows of every invalidation of this host."""
UNFOLLOWED_SECONDS = 4
BEAT = 3
"""The word of the follower's last sign of life, and..."""
UNFOLLOWED_AFTER = 2_000_000_000
"""...its age at which nobody follows: a stopped one is replaced before."""

_WAYS = 8
"""Slots of a bucket, as `table.h` draws the index."""
_BUSY_STEP, _BUSY_TRIES = 0.005, 20
_LOOK_SECONDS = 1
"""How often at most stores that are refused look for disabled shards."""

Hit = tuple[bytes, bool, int, int]
"""A document, whether it is stale, its age and what is left of its ttl, in seconds."""

log = logging.getLogger("shmcache")


class L1:
    """One attachment to a host's segment. Times are nanoseconds of CLOCK_BOOTTIME."""

    peek: Callable[..., bytes | None]
    """The document of a fresh value, else None. No lock; counts a hit. It is the
    table's own method, without a Python frame between."""
    hit: Callable[[bytes | str], Hit | None]
    """The same of a stale value too, with what is told of it. None also where there is
    more to say of it than that."""

    def __init__(self, segment: Segment, clock: Clock = SYSTEM) -> None:
        self.segment = segment
        self.table = binding.Table(segment.memory)
        self.clock = clock
        self.lost = ""
        """What `Segment.lost` said last."""
        self._stream = self.table.words("stream")
        self._unfollowed = False
        self._off = False
        self._disabled: set[int] = set()
        self._look_at = 0
        self._told_too_large = False
        own = clock is not SYSTEM
        self.peek = self._fast = self._peek_at if own else self.table.peek
        self.hit = self._hit_at if own else self.table.hit
        self.table.count_hits(INDEX["fast_hits"])

    @classmethod
    def open(
        cls, name: str, size: int, record_bytes: int = 300, clock: Clock = SYSTEM
    ) -> L1:
        """Attach to the host's segment `name`, made where it is not there.

        `record_bytes` is the expected mean record. `SegmentError` if it cannot be
        made, `LayoutMismatch` if it is in use by processes of another build or
        configuration.
        """
        size -= size % mmap.PAGESIZE
        binding.plan(size, record_bytes)  # too small a size is refused first
        mine = _identity(size, record_bytes)

        def prepare(memory: mmap.mmap, seed: bytes) -> None:
            binding.init(
                memory, size=size, record_bytes=record_bytes, seed=seed, **mine
            )

        def verdict(header: mmap.mmap, size: int) -> str | None:
            return _disagreement(binding.describe(header), mine, size)

        def attach() -> Segment:
            mapped = binding.Mapping
            return Segment.open(segment_name(name), size, prepare, verdict, mapped)

        l1 = cls._on(attach(), clock)
        if l1 is None:
            l1 = cls(attach(), clock)
            l1.segment.note = f"replaced: {_DAMAGED}"
        return l1

    @classmethod
    def _on(cls, segment: Segment, clock: Clock) -> L1 | None:
        """On an attached file; None where the core could not use it, nor did anybody
        else, so that it is removed."""
        try:
            return cls(segment, clock)
        except LayoutMismatch:
            removed = segment.remove()
            segment.detach()
            if removed:
                return None
            raise LayoutMismatch(
                f"segment {segment.path}: in use, and {_DAMAGED}; stop its processes "
                "or choose another name"
            ) from None
        except BaseException:
            segment.detach()
            raise

    def join(self, *, follows: bool = False) -> None:
        """Take a process slot: from now on this attachment counts, claims and waits.

        `follows`: the host has a fleet, whose invalidations it may have missed.
        """
        self.segment.forked = False
        if follows:
            self._mark_unfollowed()
        for slot in range(binding.SLOTS):
            if self.segment.lock_slot(self.table.slot_offset(slot)):
                self.table.take_slot(slot, os.getpid(), self.clock.now())
                return
        raise SegmentError(
            f"segment {self.segment.path}: all {binding.SLOTS} process slots are taken"
        )

    def close(self, *, keep: bool = True) -> bool:
        """Detach, and answer misses from now on; without `keep` the last one removes
        the segment, unless it holds what Redis is still to be told. Whether it did."""
        self._turn_off()
        if not keep and (unsent := self.unsent):
            keep = True
            log.warning(
                "segment %s: it stays, with %d invalidations that Redis is still to be "
                "told; whoever opens it next sends them",
                *(self.segment.path, unsent),
            )
        try:
            if not keep:
                return self.segment.remove()
            self.segment.tidy()
            return False
        finally:
            self.segment.detach()

    def beat(self) -> None:
        """A sign of life, and a look at what became of the file. Off is for good."""
        self.table.beat(self.clock.now())
        lost = self.segment.lost()
        if lost == self.lost or self._off:
            return
        self.lost = lost
        path = self.segment.path
        if lost == REMOVED:
            log.warning(
                "segment %s: somebody removed its file; it is used on, but processes "
                "to come will not share it: restart",
                path,
            )
        elif lost:
            log.error(
                "segment %s: somebody %s its file; L1 is off in this process: restart",
                *(path, "truncated" if lost == CUT else "replaced"),
            )
            self._turn_off()

    def _turn_off(self) -> None:
        self._off, self.peek, self._fast = True, _nothing, _nothing
        self.table.unsure = True

    # -- records

    def get(self, key: bytes | str) -> Record | None:
        """What stands under the key, stale and dead too; counts no fresh hit."""
        if self._off:
            self.count("misses")
            return None
        row = self.table.get(key, self.clock.now())
        if row is None:
            return None
        record = Record._make(row)
        if self._unfollowed and self._doubtful(record):
            self.count("stale_hits")
            return record._replace(state=STALE)
        return record

    def look(self, key: bytes | str) -> Record | None:
        """As `get`, but counts nothing and leaves the record's frequency alone."""
        row = None if self._off else self.table.look(key, self.clock.now())
        if row is None:
            return None
        record = Record._make(row)
        if self._unfollowed and self._doubtful(record):
            return record._replace(state=STALE)
        return record

    def standing(self, key: bytes) -> int:
        """The nonce of what stands under the key, fresh or stale; 0: nothing does. A
        store in the place of just that has `if_nonce`, or `absent_only`."""
        record = self.look(key)
        return 0 if record is None or record.state == DEAD else record.nonce

    def _peek_at(self, key: bytes | str, spaced: bool = True) -> bytes | None:
        """`peek` on a clock of tests."""
        return self.table.peek_at(key, self.clock.now(), spaced)

    def _hit_at(self, key: bytes | str) -> Hit | None:
        return self.table.hit(key, self.clock.now())

    # -- unfollowed

    @property
    def followed(self) -> bool:
        """Whether some process has the follower's role, and has come to the end of
        every stream since the host was last unfollowed."""
        age = self.clock.now() - self._stream.load(BEAT)
        return age < UNFOLLOWED_AFTER and not self._stream.load(UNFOLLOWED)

    def _mark_unfollowed(self) -> None:
        """Before a slot is taken: step 1 if nobody lives here, and step 2."""
        words, now = self._stream, self.clock.now()
        # who is attached and never started follows nothing
        idle = now - words.load(BEAT) >= UNFOLLOWED_AFTER and not self._bound()
        nobody = idle or not self.processes()
        if nobody and self.table.usage()["records"]:
            words.store(UNFOLLOWED_UNTIL, now + UNFOLLOWED_SECONDS * SECOND)
            words.lift(UNFOLLOWED, self.table.number())
        self._unfollowed = bool(self._bound())
        self.peek = self._peek_unfollowed if self._unfollowed else self._fast
        self.table.unsure = self._unfollowed

    def _bound(self) -> int:
        """Records of a lower stamp count as stale; 0 once that is over."""
        if self.clock.now() >= self._stream.load(UNFOLLOWED_UNTIL):
            return 0
        return self._stream.load(UNFOLLOWED)

    def _doubtful(self, record: Record) -> bool:
        """Whether a fresh record may have been deleted elsewhere."""
        bound = self._bound()
        if not bound:
            self._unfollowed = self.table.unsure = False
            self.peek = self._fast
        return record.state == FRESH and record.stamp < bound

    def _peek_unfollowed(self, key: bytes | str, spaced: bool = True) -> bytes | None:
        record = self.look(key)
        if record is None or record.state != FRESH or record.kind != VALUE:
            return None
        return self._fast(key, spaced)

    def put(
        self,
        key: bytes,
        record: Record,
        *,
        claim: tuple[int, int] | None = None,
        newer_only: bool = False,
        raising: bool = False,
        absent_only: bool = False,
        if_nonce: int = 0,
    ) -> int:
        """Store under the shard's lock: OK, or BUSY RAISED LOST OLDER STANDS TOO_LARGE
        DISABLED.

        With `claim` only if the claim still bears that word; with `raising` the key
        is invalidated and stored under one hold of the lock; with `absent_only` only
        if nothing stands, with `if_nonce` only in place of the record that bears it.
        `raising` gives the record a stamp of its own, unless it has `if_nonce`.
        """
        if self._off:
            return DISABLED
        stored = self.table.put(
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
            absent_only=absent_only,
            if_nonce=if_nonce,
            now=self.clock.now(),
        )
        if stored == DISABLED:
            self._look_for_disabled()
        elif stored == TOO_LARGE and not (raising or self._told_too_large):
            self._told_too_large = True
            log.warning("%s; not stored (said once)", self.too_large(record))
        return stored

    def too_large(self, record: Record) -> str:
        """Why a record can never be stored, with the numbers."""
        return (
            f"value of {len(record.value)} bytes: a segment of "
            f"{self.table.geometry['size']} bytes takes {self.table.value_max} at most"
        )

    async def put_patiently(
        self,
        key: bytes,
        record: Record,
        *,
        claim: tuple[int, int] | None = None,
        newer_only: bool = False,
        raising: bool = False,
        absent_only: bool = False,
        if_nonce: int = 0,
    ) -> int:
        """`put`, tried for 100 ms while a stopped writer has the shard's lock."""
        stored = BUSY
        for _ in range(_BUSY_TRIES):
            stored = self.put(
                *(key, record),
                claim=claim,
                newer_only=newer_only,
                raising=raising,
                absent_only=absent_only,
                if_nonce=if_nonce,
            )
            if stored != BUSY:
                break
            await asyncio.sleep(_BUSY_STEP)
        return stored

    def _look_for_disabled(self) -> None:
        if self.clock.now() >= self._look_at:
            self._look_at = self.clock.now() + _LOOK_SECONDS * SECOND
            self._shards()

    def _shards(self) -> tuple[ShardUsage, ...]:
        """Occupancy by shard; a disabled one is reported once."""
        shards = []
        for i in range(self.table.geometry["shards"]):
            usage = self.table.usage(i)
            disabled = usage.pop("disabled_shards") > 0
            shards.append(ShardUsage(disabled=disabled, **usage))
            if disabled and i not in self._disabled:
                self._disabled.add(i)
                log.error(
                    "segment %s: shard %d could not be recovered and misses until the "
                    "segment is made anew",
                    *(self.segment.path, i),
                )
        return tuple(shards)

    # -- what the fleet does not know yet

    @property
    def unsent(self) -> int:
        """Invalidations that Redis is still to be told."""
        lost = self.table.outbox_overflow() != 0
        return int(self.table.outbox_usage()["unsent"]) + lost

    def lowest(self) -> int:
        """The clock under which the oldest invalidation began that Redis may not know
        of; `ALL_SENT` if there is none. Read before L2 is asked."""
        return self.table.outbox_lowest()

    def usable(self, key: bytes, tags: tuple[int, ...], lowest: int) -> bool:
        """Whether a record that L2 gave may be believed: nothing that it bears was
        invalidated here by one that Redis may not have known of when it was asked."""
        return lowest == ALL_SENT or self.table.highest(key, tags, soft=True) <= lowest

    # -- processes and counters

    def processes(self) -> int:
        """How many have a slot and are alive."""
        offsets = map(self.table.slot_offset, range(binding.SLOTS))
        return sum(map(self.segment.alive, offsets))

    def alive(self, slot: int, incarnation: int) -> bool:
        """Whether the attachment that took `slot` as `incarnation` is still there."""
        current = self.table.slot_info(slot)[0]
        return (current ^ incarnation) & 0xFFF == 0 and self.segment.alive(
            self.table.slot_offset(slot)
        )

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter of this process."""
        self.table.count(INDEX[name], n)

    def stats(self, l2: str = "none", following: bool | None = None) -> Stats:
        """Counters summed over every process that ever attached, and occupancy."""
        sums = self.table.counters()
        geometry, shards = self.table.geometry, self._shards()
        slots = geometry["shards"] * geometry["buckets"] * _WAYS
        return Stats(
            counters={name: sums[i] for name, i in INDEX.items()},
            records=sum(s.records for s in shards),
            live_bytes=sum(s.live_bytes for s in shards),
            capacity_bytes=sum(s.capacity_bytes for s in shards),
            disabled_shards=sum(s.disabled for s in shards),
            shards=shards,
            segment=self.segment.path.name,
            size_bytes=geometry["size"],
            processes=self.processes(),
            unsent=self.unsent,
            value_max=self.table.value_max,
            geometry=geometry | {"index_slots": slots},
            l1=("off" if self._off else self.lost) or "up",
            l2=l2,
            following=following,
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


_DAMAGED = "its header contradicts itself"
_REASONS = {
    "boot_id": "it was made before the last boot",
    "clock_ns": "its clock namespace is another",
    "config": "it was made with another size or record size",
    "uid": "its owner is another user",
}


def _disagreement(
    found: dict[str, Any] | None, mine: _Identity, size: int
) -> str | None:
    """Why a segment of `size` bytes, so described, is not one that we would make. How
    it is cut may differ: it is read from the header, and judged by the core."""
    if found is None:
        return "it is no segment"
    if not found["ready"]:
        return UNFINISHED
    if found["layout_hash"] != binding.layout_hash():
        return f"its layout ({found['layout']}) is another build's"
    for field, value in mine.items():
        if found[field] != value:
            return _REASONS[field]
    if size < found["geometry"]["size"]:
        return f"it was truncated to {size} bytes"
    return None


def _nothing(key: bytes | str, spaced: bool = True) -> None:
    return None
