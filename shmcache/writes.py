"""Writes: values that callers bring, in place of what stands or where nothing does.

Each becomes a record before any I/O, so that a value which cannot be encoded loses
nothing. Which of two writers wins, and how both tiers agree on it, is told in
`invalidation.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from typing import Any

from . import fill as fills
from .conditional import GONE, REPLACED
from .errors import CodecError, Overloaded, TierUnavailable
from .fill import Fill, Terms, _Unset
from .job import nonce
from .parts import Parts
from .policy import after
from .record import DEAD, FOREVER, STALE, VALUE, Record

TRIES = 100
"""Of a change that others come before, each time."""
PAUSE = 0.004
"""Seconds at most between two of them."""


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
        parts = self._parts
        await parts.start()
        if await parts.conditional.add(key, record):
            return True
        standing = parts.l1.look(key) or await parts.lookup.one(key)
        if standing is None or standing.kind != VALUE or self._readable(standing):
            return False
        # an unreadable value is none
        return await parts.conditional.replace(key, record, standing.nonce)

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
        await self._parts.start()
        found = await self._found(key)
        for _ in range(TRIES):
            if found is None:
                found = await self._parts.conditional.standing(key)
            if found is None:
                return None
            if await self._parts.conditional.take(key, found.nonce):
                return found
            found = await self._found(key, tried=found)
        raise Overloaded(f"pop of {key!r}: others changed it {TRIES} times meanwhile")

    async def incr(
        self, key: bytes, delta: float, initial: float | None, terms: Terms
    ) -> float:
        """Add to the number that stands, whose life goes on; `initial` stands for none.
        `LookupError` if that is None, `TypeError` if no number stands."""
        await self._parts.start()
        step = asyncio.get_running_loop().create_task(
            self._incr(key, delta, initial, terms), name="shmcache-incr"
        )
        # between its halves nothing stands: who is cancelled shall not leave it so
        self._parts.keep(step)
        return await asyncio.shield(step)

    async def _incr(
        self, key: bytes, delta: float, initial: float | None, terms: Terms
    ) -> float:
        conditional, codec = self._parts.conditional, self._parts.codec
        found = await self._found(key)
        for _ in range(TRIES):
            if found is None and initial is None:
                # between another's halves nothing stands, but for the lease's holder
                found = await conditional.standing(key)
            number = initial if found is None else self._number(key, found)
            if number is None:
                raise LookupError(f"incr of {key!r}: nothing stands there")
            total = number + delta
            if found is None:
                if await self.add(key, total, terms):
                    return total
            else:
                added = found._replace(value=codec.encode(total), nonce=nonce())
                became = await conditional.replaced(key, added, found.nonce)
                if became == REPLACED:
                    return total
                if became == GONE:  # what came between may be a delete: it wins
                    found = None
                    continue
            found = await self._found(key, tried=found)
        raise Overloaded(f"incr of {key!r}: others changed it {TRIES} times meanwhile")

    def _number(self, key: bytes, found: Record) -> float:
        value = self._parts.codec.decode(found.value)
        if type(value) is int or type(value) is float:
            return value
        raise TypeError(
            f"incr of {key!r}: a {type(value).__name__} stands there, expected a number"
        )

    async def _found(self, key: bytes, tried: Record | None = None) -> Record | None:
        """The value that stands, if it can be read. What is stale before its time was
        invalidated, or may have been deleted elsewhere: only L2 can tell. `tried`: what
        was found, and was not it any more."""
        parts = self._parts
        if tried is not None:
            await asyncio.sleep(random.uniform(0, PAUSE))
        found, now = parts.l1.look(key), parts.l1.clock.now()
        if found is None or found.state == DEAD or _doubtful(found, now):
            found = await parts.lookup.one(key)
        elif tried is not None and parts.l2 is not None:
            with contextlib.suppress(TierUnavailable):
                told = await parts.lookup.surely(key)
                if told is None and found.nonce == tried.nonce:
                    # evicted there, or too large for it: so for all who take it
                    await parts.invalidations.delete(key)
                found = told
        if found is None or found.kind != VALUE or found.state == DEAD:
            return None
        return found if self._readable(found) else None

    def _readable(self, record: Record) -> bool:
        try:
            self._parts.codec.decode(record.value)
        except CodecError:
            return False
        return True

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
