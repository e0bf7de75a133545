"""Lookup: what L2 has, asked for without a lease, and promoted.

What may be believed
    1. The invalidation clock is noted: a record found is as new as that.
    2. The lowest clock among invalidations that Redis may not know of is read.
    3. Redis is asked.
    What bears an invalidation above 2 may be in Redis for want of a message: it is not
    used. What was invalidated after 1 is not either. A promoted record takes the place
    of older ones only, for there is no claim to say who may store.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import TierUnavailable
from .l1 import L1
from .l2 import L2
from .record import FRESH, VALUE, Record


class Lookup:
    """Plain gets, of one key and of many."""

    def __init__(self, l1: L1, l2: L2 | None) -> None:
        self._l1 = l1
        self._l2 = l2

    async def one(self, key: bytes) -> Record | None:
        """The key's value in L2, fresh or stale, promoted; None if there is none."""
        if self._l2 is None:
            return None
        stamp, lowest = self._l1.table.clock(), self._l1.lowest()
        try:
            record = (await self._l2.acquire(key)).record
        except TierUnavailable:
            self._l1.count("l2_errors")
            return None
        return self._promote(key, record, stamp, lowest)

    async def many(self, keys: Sequence[bytes]) -> dict[bytes, Record]:
        """Those of the keys that have a value in L2."""
        if self._l2 is None or not keys:
            return {}
        stamp, lowest = self._l1.table.clock(), self._l1.lowest()
        try:
            records = await self._l2.get_many(keys)
        except TierUnavailable:
            self._l1.count("l2_errors")
            return {}
        found = {}
        for key in keys:
            record = self._promote(key, records.get(key), stamp, lowest)
            if record is not None:
                found[key] = record
        return found

    async def fresh(self, key: bytes) -> Record | None:
        """As `one`, for those who waited for a value that L1 cannot hold: they take it
        from L2, all at once. None while its breaker is open: they may compute."""
        if self._l2 is None or not self._l2.up(self._l2.partition(key)):
            return None
        record = await self.one(key)
        return record if record is not None and record.state == FRESH else None

    def _promote(
        self, key: bytes, record: Record | None, stamp: int, lowest: int
    ) -> Record | None:
        l1 = self._l1
        if record is None or record.kind != VALUE:
            l1.count("l2_misses")
            return None
        if (
            not l1.usable(key, record.tags, lowest)
            or l1.table.highest(key, record.tags) > stamp
        ):
            return None
        l1.count("l2_hits")
        record = record._replace(stamp=stamp)
        l1.put(key, record, newer_only=True)
        return record
