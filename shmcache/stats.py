"""What is counted, and the sum over a host's processes, the dead included."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

CORE = (
    "hits",
    "stale_hits",
    "misses",
    "retries",
    "stores",
    "replaced",
    "invalidated",
    "expired",
    "evicted",
    "refused_raised",
    "refused_lost",
    "refused_older",
    "too_large",
    "no_slot",
    "lock_timeouts",
    "locks_recovered",
    "shards_wiped",
    "claims_full",
)
"""Counted by the C core; the order is that of its enum."""

ABOVE = (
    "computes",  # compute functions started
    "compute_errors",  # of these, ended by an exception or a time-out
    "coalesced",  # callers answered by somebody else's compute
    "refreshes",  # computes that a stale hit started
    "passed",  # computes whose answer may not be shared
    "promotions",  # L2 records copied into L1
    "l2_hits",
    "l2_misses",
    "l2_errors",  # operations that failed, timed out or met an open breaker
    "leases_won",
    "leases_waited",
    "fills_refused",  # lost or raised: late holders and invalidated computes
    "fills_full",  # L2 out of memory, or L1's lock not to be had
    "claims_taken_over",
    "claim_waits",
    "invalidations",
    "early_refreshes",  # of the refreshes, those that chance began before the ttl's end
    "soft_timeouts",  # callers that would wait no longer for somebody else's work
    "errors_stored",  # failures stored in place of a value, as their callers asked
    "overloaded",  # callers and refreshes refused by flights_max or waiters_max
    "reentrant",  # computes that asked for their own key
    "claims_reaped",  # claims of dead processes that nobody had taken over
    "wakeups",  # told by a sibling that a claim has changed
    "entries_applied",  # invalidations read from the fleet's stream
    "gaps",  # times that the stream had lost some
    "outbox_overflows",  # times that the outbox lost some, and everything goes
    "l2_foreign",  # values in L2 that are not ours, or not whole: deleted
    "fast_hits",  # of hits and stale hits, those looked up for the server's fast lane
)
"""Counted above the core, behind its own."""

COUNTERS = CORE + ABOVE
INDEX = {name: i for i, name in enumerate(COUNTERS)}


class Hot(NamedTuple):
    """A key of the hot ones."""

    weight: float
    """Hits, counted from a sample; or seconds that its computes took, summed."""
    hash: int
    """The high 32 bits of the key's."""
    key: bytes | None
    """None where no record of it stands."""


@dataclass(frozen=True, slots=True)
class ShardUsage:
    """One shard's occupancy now; the extents are told by the queue they stand in."""

    records: int
    live_bytes: int
    capacity_bytes: int
    free: int
    probation: int
    main: int
    rewrites: int
    disabled: bool
    """Its lock could not be recovered: it misses until the segment is made anew."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of all processes that ever used the segment, and its occupancy now."""

    counters: dict[str, int] = field(default_factory=dict)
    records: int = 0
    live_bytes: int = 0
    """Key, value and head of the records that stand."""
    capacity_bytes: int = 0
    """Of all extents."""
    segment: str = ""
    size_bytes: int = 0
    processes: int = 0
    """Attached and alive."""
    disabled_shards: int = 0
    shards: tuple[ShardUsage, ...] = ()
    value_max: int = 0
    """Bytes of the longest value that can be stored."""
    geometry: dict[str, int] = field(default_factory=dict)
    """Sizes chosen when the segment was made: `shards`, `extent_bytes` (a shard has
    64), `index_slots`, `record_bytes` (the expected record), and others."""
    l1: str = "up"
    """up; removed: the file was, so processes to come will not share it; off: another
    file bears its name, or it was truncated."""
    l2: str = "none"
    """none, up or down."""
    following: bool | None = None
    """Whether what other hosts invalidate is applied here: L2 is up, a process of this
    host has the role to follow the stream of invalidations, and has come to its end
    since the first of them started, and again within the last seconds. False: it may
    be late, and what stood before that start is served as stale, for 4 s at most.
    None: no L2, and so no other host."""
    unsent: int = 0
    """Invalidations in the outbox now, which Redis is still to be told."""

    def __getattr__(self, name: str) -> int:
        try:
            return self.counters[name]
        except KeyError:
            raise AttributeError(name) from None
