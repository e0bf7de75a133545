"""Writes: values that callers bring, in place of what stands or where nothing does.

Each becomes a record before any I/O, so that a value which cannot be encoded loses
nothing. Which of two writers wins, and how both tiers agree on it, is told in
`invalidation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import fill as fills
from .fill import Fill, Terms, _Unset
from .job import nonce
from .parts import Parts
from .policy import after
from .record import DEAD, FOREVER, STALE, VALUE, Record


class Writes:
    """The write path of a cache and its namespaces; keys are bytes, terms valid."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def set(self, key: bytes, value: Any, terms: Terms) -> None:
        """Replace whatever stands or is on its way; a ttl of 0 deletes."""
        record = self._record(value, terms)
        await self._parts.start()
        if record is None:
            await self._parts.invalidations.delete(key)
        else:
            await self._parts.invalidations.set(key, record)

    async def set_many(self, values: Mapping[bytes, Any], terms: Terms) -> None:
        """`set` of each, in the round trips of one."""
        records = {key: self._record(value, terms) for key, value in values.items()}
        await self._parts.start()
        stored = {key: r for key, r in records.items() if r is not None}
        if stored:
            await self._parts.invalidations.set_many(stored)
        else:
            await self._parts.invalidations.delete(*records)

    async def add(self, key: bytes, value: Any, terms: Terms) -> bool:
        """Store where nothing stands; whether it did."""
        record = self._stored(value, terms)
        await self._parts.start()
        return await self._parts.conditional.add(key, record)

    async def replace(self, key: bytes, value: Any, terms: Terms, version: int) -> bool:
        """Store where just the fill `version` stands; whether it did."""
        record = self._stored(value, terms)  # its life begins now
        record = record._replace(stamp=self._parts.l1.table.clock())
        await self._parts.start()
        return await self._parts.conditional.replace(key, record, version)

    async def touch(
        self, key: bytes, ttl: float | None, grace: float | _Unset | None
    ) -> bool:
        """Give what stands another life, from now; whether something stood. Its age
        goes on: it is no newer than it was. What is stale before its time was
        invalidated, or may have been deleted elsewhere: only L2 can tell."""
        _refuse_nothing(ttl)
        parts = self._parts
        await parts.start()
        found, now = parts.l1.look(key), parts.l1.clock.now()
        if found is None or found.state == DEAD or _doubtful(found, now):
            found = await parts.lookup.one(key)
        if found is None or found.kind != VALUE or found.state == DEAD:
            return False
        now = parts.l1.clock.now()
        fresh_until = after(now, ttl)
        if isinstance(grace, _Unset):
            endless = found.dead_at == FOREVER and found.fresh_until != FOREVER
            expired = found.fresh_until <= found.birth  # by request
            ended = now if expired else found.fresh_until
            left = found.dead_at - ended  # 0 where neither has an end
            forever = endless or fresh_until == FOREVER
            dead_at = FOREVER if forever else min(fresh_until + left, FOREVER)
        else:
            dead_at = after(fresh_until, grace)
        touched = found._replace(
            fresh_until=fresh_until, dead_at=dead_at, nonce=nonce()
        )
        return await parts.conditional.replace(key, touched, found.nonce)

    def _stored(self, value: Any, terms: Terms) -> Record:
        _refuse_nothing(terms.ttl)
        record = self._record(value, terms)
        assert record is not None
        return record

    def _record(self, value: Any, terms: Terms) -> Record | None:
        """None for a ttl of 0; the value is encoded all the same."""
        fill = Fill(value)
        lives = fills.life(fill, terms)
        record = fills.to_record(
            fill,
            lives,
            self._parts.codec,
            now=self._parts.l1.clock.now(),
            stamp=0,
            nonce=nonce(),
            tags=terms.tags,
        )
        return record if lives.stored else None


def _doubtful(record: Record, now: int) -> bool:
    """Stale, and not by its own times."""
    return record.state == STALE and now < record.fresh_until


def _refuse_nothing(ttl: float | None) -> None:
    if ttl == 0:
        raise ValueError("ttl=0: stores nothing; delete the key instead")
