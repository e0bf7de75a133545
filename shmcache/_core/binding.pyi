"""The C core as Python sees it: buffers in, bytes out, status to exception.

Times are nanoseconds of CLOCK_BOOTTIME; `now=-1` means the binding reads the clock.
Keys are `str` (UTF-8) or `bytes` of 1 to 1024 bytes; others raise `KeyRejected`.
Incarnations are their low 12 bits, as a claim word bears them. Whatever writes raises
`SegmentError` on an attachment for reading only; an index outside its range raises
`IndexError`.
"""

from typing import Any

FOREVER: int
SLOTS: int
COUNTERS: tuple[str, ...]
FAULTS: tuple[str, ...]
OUTBOX_FAULTS: tuple[str, ...]
FRESH: int
STALE: int
DEAD: int
VALUE: int
PASS: int
ERROR: int
# answers of put
OK: int
MISS: int
BUSY: int
RAISED: int
LOST: int
OLDER: int
TOO_LARGE: int
DISABLED: int
FULL: int
STANDS: int
# states of a claim word
FREED: int
TENTATIVE: int
HELD: int
FREED_STORED: int
FREED_PASS: int
FREED_REFUSED: int
FREED_ERROR: int

def plan(size: int, record_bytes: int, shards: int = 0) -> dict[str, int]:
    """The geometry for a segment of `size` bytes; `SegmentError` if too small.
    `shards`: a power of two; 0: as many as suit the size and the records."""

def layout_hash() -> int: ...
def clock_cost(calls: int = 1000) -> float:
    """Nanoseconds that one look at the clock takes."""

def init(
    buffer: Any,
    *,
    size: int,
    record_bytes: int,
    seed: bytes,
    boot_id: bytes,
    clock_ns: int,
    config: int,
    uid: int,
    shards: int = 0,
) -> None:
    """Write header and regions into a zeroed buffer; publish the state last."""

def describe(buffer: Any) -> dict[str, Any] | None:
    """Header of a segment: ready, layout, layout_hash, boot_id, clock_ns, config, uid,
    geometry (as `plan`), regions (name to offset, length, version); None where the
    magic is not there. The buffer is released."""

def tag_number(name: str | bytes) -> int:
    """The 20-bit unkeyed number of a tag or a namespace, the same on every host."""

class Mapping:
    """The first `size` bytes of an open file, shared and writable: a buffer, unmapped
    when nobody has it. Unlike `mmap.mmap` before Python 3.13 it keeps no descriptor.
    `OSError` if it cannot be mapped."""

    def __init__(self, fd: int, size: int) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def advise(self, advice: int) -> None:
        """madvise for all of it, by a number of `mmap.MADV_...`; `OSError`."""

class Words:
    """The 64-bit atomic words of a region; made by `Table.words`."""

    def __len__(self) -> int: ...
    def load(self, i: int) -> int: ...
    def store(self, i: int, value: int) -> None: ...
    def add(self, i: int, n: int) -> int:
        """The new value."""
    def cas(self, i: int, old: int, new: int) -> bool: ...
    def lift(self, i: int, value: int) -> None:
        """Raise to `value` if it stands below."""

class Table:
    """One attachment. The buffer is kept for ever: an attachment is never unmapped;
    one for reading only goes with its table.

    Raises `LayoutMismatch` where the buffer is no ready segment of this build.
    """

    def __init__(self, buffer: Any, *, read_only: bool = False) -> None: ...
    geometry: dict[str, int]
    value_max: int
    """Bytes of the longest value that can be stored."""
    early: float
    """How many of its own fill times before it ends a fresh record is no more
    answered by `peek`, so that its caller may draw for an early refresh; 0: none."""
    unsure: bool
    """While it is set `hit` answers None: there is more to ask than the record."""
    def peek(self, key: str | bytes, spaced: bool = True) -> bytes | None:
        """The value of a fresh record of kind VALUE, else None. Counts a hit only:
        what else it was is counted by `get`. Takes the time of the kernel's last tick
        for now: a record may be found for some milliseconds after its time. Unless
        `spaced`, a key that begins as namespaces do is rejected."""
    def peek_at(self, key: str | bytes, now: int, spaced: bool = True) -> bytes | None:
        """As `peek`, at a time of the caller's."""
    def hit(
        self, key: str | bytes, now: int = -1
    ) -> tuple[bytes, bool, int, int] | None:
        """As `peek`, but of a stale value too: value, whether it is stale, and in whole
        seconds, rounded down, its age and what is left of its ttl. Counts a hit or a
        stale hit, and in the counter of `count_hits`."""
    def count_hits(self, counter: int) -> None:
        """Which counter `hit` adds to."""
    def get(self, key: str | bytes, now: int = -1) -> tuple[Any, ...] | None:
        """(value, state, kind, birth, fresh_until, dead_at, stamp, nonce, fill_us,
        tags), dead ones included; None where nothing stands. Counts stale hits and
        misses (dead and absent), not fresh hits: `peek` did."""
    def look(self, key: str | bytes, now: int = -1) -> tuple[Any, ...] | None:
        """As `get`, counts nothing and sets no frequency."""
    def put(
        self,
        key: str | bytes,
        value: bytes,
        birth: int,
        fresh_until: int,
        dead_at: int,
        stamp: int,
        nonce: int = 0,
        fill_us: int = 0,
        kind: int = 0,
        tags: tuple[int, ...] = (),
        claim: tuple[int, int] | None = None,
        newer_only: bool = False,
        raise_: bool = False,
        absent_only: bool = False,
        if_nonce: int = 0,
        now: int = -1,
    ) -> int:
        """OK, or why not: BUSY RAISED LOST OLDER TOO_LARGE DISABLED STANDS.

        `absent_only`: STANDS where a record stands that is not dead. `if_nonce`:
        STANDS unless one that is not dead and bears this nonce does. Both are judged
        under the lock, before anything is raised.

        `raise_`: take a number, raise the key to it and bear it as stamp, under one
        hold of the lock; RAISED then means that a tag or everything was raised
        meanwhile, and the old record is gone too. With `if_nonce` the stamp stays as
        it is given: what replaces a record is as old as the look at that, and is never
        RAISED. At most 33 tags, else `ValueError`.
        """
    def drop(self, key: str | bytes, floor: int = 0, keep_nonce: int = 0) -> int:
        """Remove the record, unless it bears `keep_nonce` (not 0). OK, MISS, BUSY, or
        DISABLED: its shard misses every key. When BUSY or DISABLED and `floor` is not
        0 the key's floor is raised to it. A kept record answers OK."""
    # invalidation clock
    def clock(self) -> int: ...
    def number(self) -> int:
        """Take the clock's next number."""
    def raise_key(self, key: str | bytes, number: int, soft: bool = False) -> None: ...
    def raise_tag(self, tag: int, number: int, soft: bool = False) -> None: ...
    def raise_all(self, number: int, soft: bool = False) -> None: ...
    def raise_gap(self, number: int, now: int = -1) -> None:
        """What stands below is stale for 4 s, then gone. A gap within those 4 s keeps
        the first one's time; what an earlier gap hid stays hidden."""
    def highest(
        self, key: str | bytes, tags: tuple[int, ...] = (), soft: bool = False
    ) -> int:
        """The highest hard raise that the key and these tags bear, clear included; with
        `soft`, the highest of hard and soft raises. The gap word is left out."""
    # outbox
    def outbox_add(self, kind: int, name: bytes, now: int = -1) -> int:
        """Note an invalidation before it takes its number; the entry bears the clock.
        Its number (not 0), or 0: it did not fit, or the lock was not to be had in 2 ms,
        and the overflow mark is set in its place. A kind is 1 to 255, a name at most
        1024 bytes, else `ValueError`."""
    def outbox_sent(self, number: int) -> None:
        """Redis has it. Any number of times, by any process, 0 included; takes no lock,
        and frees the room as soon as nobody has it."""
    def outbox_lowest(self) -> int:
        """The lowest clock among unsent entries and what is lost, or lower;
        2**64 - 1: there is none. Two words, no lock."""
    def outbox_unsent(
        self, before: int, limit: int
    ) -> list[tuple[int, int, int, bytes]]:
        """(number, time added, kind, name) of the first `limit` unsent entries in
        order, up to the first that was not added before that time. No lock."""
    def outbox_overflow(self) -> int:
        """0, or the mark of entries lost: the clock of the first << 16 | how many,
        modulo 2**16 but never 0. Each loss changes it."""
    def outbox_overflowed(self, seen: int) -> bool:
        """Take the mark back, if nothing was lost since it was `seen`."""
    def outbox_usage(self) -> dict[str, int]:
        """unsent (entries), bytes (sent ones before them included), capacity_bytes."""
    # process slots
    slot: int
    """This attachment's slot, -1 before `take_slot`."""
    incarnation: int
    def take_slot(self, i: int, pid: int, now: int = -1) -> int:
        """Raise the slot's incarnation and count there from now on. The caller holds
        the lock on the slot's byte."""
    def beat(self, now: int = -1) -> None: ...
    def slot_info(self, i: int) -> tuple[int, int, int]:
        """(incarnation, pid, beat)."""
    def slot_offset(self, i: int) -> int:
        """Byte of the slot in the file, for the liveness lock."""
    def count(self, counter: int, n: int = 1) -> None: ...
    def counters(self, slot: int = -1) -> tuple[int, ...]:
        """Of one slot, or summed over all, dead processes included."""
    def usage(self, shard: int = -1) -> dict[str, int]:
        """records, live_bytes, capacity_bytes, disabled_shards, and how many extents
        are free, of probation, main, rewrites: of one shard, or of all."""
    def hash(self, key: str | bytes) -> int:
        """The key's hash under the segment's seed, 64 bits."""
    def check(self, shard: int) -> dict[str, Any]:
        """What a shard's check found, as `shmc_report` of table.h: `faults`, the first
        32 as (kind of FAULTS, extent, offset, slot), None for no such place; `found`,
        how many of each kind; and its numbers. Takes no lock and writes nothing."""
    def check_stripes(self) -> tuple[int, int]:
        """How many kinds of stripes stand above the clock, how many above what lets
        readers look at them. Both are 0."""
    def check_outbox(self) -> dict[str, Any]:
        """What the outbox' check found, as `shmc_outbox_report` of table.h: `found`,
        how many faults of each kind of OUTBOX_FAULTS; and its numbers. Takes no lock
        and writes nothing."""
    def records(
        self,
        shard: int,
        first: int,
        end: int,
        *,
        wanted: set[int] | None = None,
        now: int = -1,
    ) -> list[tuple[Any, ...]]:
        """(key, hash, length, state, kind, birth, fresh_until, dead_at, fill_us) of the
        records that the slots from `first` to `end` of a shard mean, only those whose
        hash has its high 32 bits in `wanted` if it is given. A record keeps its slot
        while it stands. Reads nothing of the value, touches no frequency."""
    def words(self, region: str) -> Words: ...
    # claims: `word` is what stood; `wake` is the bitmap of slots to wake
    def claim_take(self, key: str | bytes) -> tuple[int, int, int, int]:
        """(OK | HELD | FULL, index, word, wake). HELD: another's word to wait on."""
    def claim_over(self, index: int, seen: int) -> tuple[int, int, int]:
        """(OK | LOST, word, wake): take a dead, overdue or void claim by one CAS. LOST:
        it bears `word` by now, or it was tentative and another one stands."""
    def claim_free(self, index: int, word: int, state: int) -> tuple[int, int]:
        """(OK | LOST, wake)."""
    def claim_note(
        self, index: int, word: int, stamp: int, deadline: int, token: bytes = b""
    ) -> int:
        """OK, or LOST when the claim is no longer ours."""
    def claim_noted(self, index: int, word: int) -> tuple[int, int, bytes] | None:
        """(stamp, deadline, token) written under this very word, else None."""
    def claim_void(self, index: int, word: int, key: str | bytes) -> bool:
        """Whether the claim's noted stamp lies under the key's stripe, or under the
        clear word: its value would be refused."""
    def claim_wait(self, index: int, word: int) -> bool:
        """Set our bit, read again: True if the word still stands (park), else False.
        Slots from 64 on set no bit and must poll."""
    def claim_word(self, index: int) -> int: ...
    @staticmethod
    def claim_parts(word: int) -> tuple[int, int, int, int, int]:
        """(state, slot, incarnation, sequence, hash) of a claim word."""
