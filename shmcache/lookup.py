"""Lookup: what L2 has, asked for without a lease, and promoted.

What may be believed
    1. The invalidation clock is noted: a record found is as new as that.
    2. The lowest clock among invalidations that Redis may not know of is read.
    3. Redis is asked.
    What bears an invalidation above 2 may be in Redis for want of a message: it is not
    used. What was invalidated after 1 is asked for again. A promoted record takes the
    place of older ones only, for there is no claim to say who may store.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import TierUnavailable
from .l1 import L1
from .l2 import L2
from .record import FRESH, VALUE, Record

TRIES = 3
"""Of what is invalidated while it is asked for."""


class Lookup:
    """Plain gets, of one key and of many."""

    def __init__(self, l1: L1, l2: L2 | None) -> None:
        self._l1 = l1
        self._l2 = l2

    async def one(self, key: bytes) -> Record | None:
        """The key's value in L2, fresh or stale, promoted; None if there is none, or
        no answer."""
        try:
            return await self.surely(key)
        except TierUnavailable:
            return None

    async def surely(self, key: bytes) -> Record | None:
        """As `one`; `TierUnavailable` if there is no answer."""
        if self._l2 is None:
            return None
        for _ in range(TRIES):
            stamp, lowest = self._l1.table.clock(), self._l1.lowest()
            try:
                record = (await self._l2.acquire(key)).record
            except TierUnavailable:
                self._l1.count("l2_errors")
                raise
            if not self._overtaken(key, record, stamp):
                return self._promote(key, record, stamp, lowest)
        return None

    async def many(self, keys: Sequence[bytes]) -> dict[bytes, Record]:
        """Those of the keys that have a value in L2."""
        found: dict[bytes, Record] = {}
        for _ in range(TRIES):
            if self._l2 is None or not keys:
                break
            stamp, lowest = self._l1.table.clock(), self._l1.lowest()
            try:
                records = await self._l2.get_many(keys)
            except TierUnavailable:
                self._l1.count("l2_errors")
                break
            again = [k for k in keys if self._overtaken(k, records.get(k), stamp)]
            for key in set(keys).difference(again):
                record = self._promote(key, records.get(key), stamp, lowest)
                if record is not None:
                    found[key] = record
            keys = again
        return found

    async def fresh(self, key: bytes) -> Record | None:
        """As `one`, for those who waited for a value that L1 cannot hold: they take it
        from L2, all at once. None while its breaker is open: they may compute."""
        if self._l2 is None or not self._l2.up(self._l2.partition(key)):
            return None
        record = await self.one(key)
        return record if record is not None and record.state == FRESH else None

    def _overtaken(self, key: bytes, record: Record | None, stamp: int) -> bool:
        """Whether the record was invalidated since the note, perhaps by the very set
        that it is of: L2 knows."""
        return record is not None and (self._l1.table.highest(key, record.tags) > stamp)

    def _promote(
        self, key: bytes, record: Record | None, stamp: int, lowest: int
    ) -> Record | None:
        l1 = self._l1
        if record is None or record.kind != VALUE:
            l1.count("l2_misses")
            return None
        if not l1.usable(key, record.tags, lowest):
            return None
        l1.count("l2_hits")
        record = record._replace(stamp=stamp)
        l1.put(key, record, newer_only=True)
        return record
