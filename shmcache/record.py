"""Record: a value with its times, its stamp, its tags and the mark of its fill."""

from __future__ import annotations

from typing import NamedTuple

FRESH, STALE, DEAD = 0, 1, 2
VALUE, PASS, ERROR = 0, 1, 2
FOREVER = 2**63 - 1
STATES = ("fresh", "stale", "dead")


class Record(NamedTuple):
    """What a tier holds under a key; the order is that of `_core`'s `Table.get`.

    Times are nanoseconds of CLOCK_BOOTTIME. `state` is what it was worth when read.
    """

    value: bytes
    """One document as the codec wrote it."""
    state: int
    """FRESH, STALE or DEAD."""
    kind: int
    """VALUE, PASS (its answers may not be shared) or ERROR."""
    birth: int
    fresh_until: int
    """FOREVER: never expires."""
    dead_at: int
    """End of grace."""
    stamp: int
    """Invalidation clock of this segment that it was begun under."""
    nonce: int
    """64 random bits of its fill."""
    fill_us: int
    """How long its compute took, microseconds."""
    tags: tuple[int, ...]
    """20-bit numbers of its tags and of its namespace."""
