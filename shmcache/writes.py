"""Writes: values that callers bring, in place of what stands or where nothing does.

Each becomes a record before any I/O, so that a value which cannot be encoded loses
nothing. Which of two writers wins, and how both tiers agree on it, is told in
`invalidation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import fill as fills
from .errors import Overloaded
from .fill import Fill, Terms, _Unset
from .job import nonce
from .parts import Parts
from .policy import after
from .record import DEAD, FOREVER, STALE, VALUE, Record

TRIES = 100
"""Of a change that others come before, each time."""


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
        if ttl == 0:
            raise ValueError("ttl=0: stores nothing; delete the key instead")
        parts = self._parts
        await parts.start()
        found = await self._found(key)
        if found is None:
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

    async def pop(self, key: bytes) -> Record | None:
        """Take away what stands: of many that try, one gets it."""
        parts = self._parts
        await parts.start()
        found = await self._found(key)
        for _ in range(TRIES):
            if found is None:
                return None
            now, clock = parts.l1.clock.now(), parts.l1.table.clock()
            mark = fills.pass_mark(now=now, stamp=clock, nonce=nonce())
            if await parts.conditional.replace(key, mark, found.nonce):
                await parts.invalidations.delete(key)
                return found
            found = await self._found(key, anew=True)
        raise Overloaded(f"pop of {key!r}: others changed it {TRIES} times meanwhile")

    async def incr(
        self, key: bytes, delta: float, initial: float | None, terms: Terms
    ) -> float:
        """Add to the number that stands, whose life goes on; `initial` stands for none.
        `LookupError` if that is None, `TypeError` if no number stands."""
        parts, codec = self._parts, self._parts.codec
        await parts.start()
        found = await self._found(key)
        for _ in range(TRIES):
            if found is None:
                if initial is None:
                    raise LookupError(f"incr of {key!r}: nothing stands there")
                if await self.add(key, initial + delta, terms):
                    return initial + delta
            else:
                value: Any = codec.decode(found.value)
                if type(value) not in (int, float):
                    raise TypeError(
                        f"incr of {key!r}: a {type(value).__name__} stands there, "
                        "expected a number"
                    )
                total: float = value + delta
                added = found._replace(value=codec.encode(total), nonce=nonce())
                if await parts.conditional.replace(key, added, found.nonce):
                    return total
            found = await self._found(key, anew=True)
        raise Overloaded(f"incr of {key!r}: others changed it {TRIES} times meanwhile")

    async def _found(self, key: bytes, anew: bool = False) -> Record | None:
        """The value that stands. What is stale before its time was invalidated, or may
        have been deleted elsewhere: only L2 can tell. `anew`: L1's was not it."""
        parts = self._parts
        found, now = parts.l1.look(key), parts.l1.clock.now()
        doubted = found is None or found.state == DEAD or _doubtful(found, now)
        if doubted or anew:
            told = await parts.lookup.one(key)
            found = told if doubted or told is not None else found
        if found is None or found.kind != VALUE or found.state == DEAD:
            return None
        return found

    def _stored(self, value: Any, terms: Terms) -> Record:
        record = self._record(value, terms)
        if record is None:
            raise ValueError("ttl=0: stores nothing; delete the key instead")
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
