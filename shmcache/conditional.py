"""Conditional stores: where nothing stands (add), or in place of one fill (replace).

In the fleet the key's lease is asked for first: who holds it is alone with the key. On
a host without L2 the condition is judged under the shard's lock.

Compare and set
    The lease is taken first, so the value that is compared is the one replaced: the
    delete of the set is done only where that lease still stands. What is stored may be
    what was read, with another life (`touch`), so it is as old as the read:
    1. the lease is won, and the value read; 2. one of its tags is deleted; 3. the set's
    delete; 4. its fill, begun under the clock of 3, would bring back what 2 removed.
    So the fill bears the clock of 1, in Redis and here. Without L2 the store is one
    step, and the stamp that the record brings, from before the look, is left to it.
"""

from __future__ import annotations

import asyncio
import os
from typing import NamedTuple

from .ask import NONE, WON, Answer, FleetClock, Invalidation
from .errors import CacheError, TierUnavailable
from .fill import mark
from .invalidation import Invalidations
from .l1 import L1, OK
from .l2 import FULL, L2, STORED
from .lease import Leases
from .record import DEAD, PASS, VALUE, Record

STANDS, REPLACED, GONE = range(3)
"""What became of `replaced`."""
WAIT = 30.0
"""Seconds that a store waits for who holds the key's lease."""
_NO_KEY = b"\x1f"
"""Nobody's: what is raised above it is raised for tags, or for everything."""


class _Asked(NamedTuple):
    """What L2 answered about a key, and what was noted before it was asked."""

    token: bytes
    """Of the lease that is ours; b"": none."""
    answer: Answer
    note: int
    """The invalidation clock."""
    lowest: int
    """That of the oldest invalidation which Redis may not know of."""


class Conditional:
    """Those of this process."""

    def __init__(
        self,
        l1: L1,
        l2: L2 | None,
        leases: Leases | None,
        invalidations: Invalidations,
    ) -> None:
        self._l1 = l1
        self._l2 = l2
        self._leases = leases
        self._invalidations = invalidations
        self._outbox = invalidations.outbox

    async def add(self, key: bytes, record: Record) -> bool:
        """Store the record if nothing stands under the key, in the fleet or here, nor
        is on its way; whether it was."""
        if self._stands(key):
            return False
        asked = await self._lease(key, early=False)
        if asked is not None and self._doubtful(key, asked):
            # 1. any key is invalidated here, Redis is not told; 2. another host sets
            # this one; 3. its value is no older than 1, but cannot be told from one
            # that is: so Redis is told first.
            self._invalidations.give_back(key, asked.token)
            await self._tell_all(key)
            asked = await self._lease(key, early=False)
        if asked is not None and not (asked.token or self._usable(key, asked)):
            asked = await self._lease(key, early=True)  # what is fresh is no value
        if asked is None:
            return await self._store_if(key, record, absent_only=True)
        token, answer = asked.token, asked.answer
        if self._usable(key, asked) or self._stands(key):
            self._invalidations.give_back(key, token)
            return False
        if self._doubtful(key, asked):
            self._invalidations.give_back(key, token)
            raise TierUnavailable("l2: whether a value stands is not known")
        record = record._replace(stamp=self._l1.table.clock())
        return await self._finish(key, record, token, answer)

    async def standing(self, key: bytes) -> Record | None:
        """The value that stands in L2, to be believed: nobody is between two halves of
        a set. None without L2."""
        asked = await self._lease_in_truth(key)
        if asked is None:
            return None
        self._invalidations.give_back(key, asked.token)
        return self._usable(key, asked)

    async def take(self, key: bytes, nonce: int) -> bool:
        """Delete what bears `nonce`; False if another stands, or none. It is the first
        half of `replace`, and lets go of the lease. `TierUnavailable` if it cannot be
        known whether: it may be gone then."""
        asked = await self._lease_in_truth(key)
        if asked is None:
            now, clock = self._l1.clock.now(), self._l1.table.clock()
            nothing = mark(PASS, b"\xc0", 0.0, now=now, stamp=clock)  # dead by now
            return await self._store_if(key, nothing, if_nonce=nonce)
        found = self._ours(key, asked, nonce)
        if found is None or self._raised(key, found, found, asked.note):
            self._invalidations.give_back(key, asked.token)
            return False
        item = Invalidation(b"d", key, instead_of=asked.token)
        begun = await self._begun(item, {key: asked.token})
        if begun is None:
            raise TierUnavailable("l2: whether the value was taken is not known")
        return bool(begun)

    async def replace(self, key: bytes, record: Record, nonce: int) -> bool:
        """Store the record in place of the one that bears `nonce`; False if another
        stands, or none. `TierUnavailable` if it cannot be known: L2 went away in
        between. Its stamp is the clock before that one was looked at."""
        return await self.replaced(key, record, nonce) == REPLACED

    async def replaced(self, key: bytes, record: Record, nonce: int) -> int:
        """As `replace`: REPLACED, STANDS (nothing was done in the fleet), or GONE: that
        one is, and the record is not in its place."""
        asked = await self._lease_in_truth(key)
        if asked is None:
            stored = await self._store_if(key, record, if_nonce=nonce)
            return REPLACED if stored else STANDS
        found = self._ours(key, asked, nonce)
        if found is None or self._raised(key, found, record, asked.note):
            self._invalidations.give_back(key, asked.token)
            return STANDS
        token = os.urandom(16)
        item = Invalidation(b"d", key, record.nonce, token, asked.token)
        begun = await self._begun(item, {key: token})
        if begun is None:
            raise TierUnavailable("l2: whether the value was replaced is not known")
        if not begun:  # set or invalidated in between
            return STANDS
        # noted before the looks: 1. they find nothing; 2. we are stopped, and a sibling
        # deletes a tag, which returns; 3. we go on: the store is refused
        record = record._replace(stamp=self._l1.table.clock())
        # the key itself is raised by now, by us: who else did so has told Redis, where
        # the lease is gone then, or stands in the outbox
        if self._raised(_NO_KEY, found, record, asked.note) or self._pending(
            key, found
        ):
            self._invalidations.give_back(key, token)
            return GONE
        stored = await self._finish(key, record, token, asked.answer)
        return REPLACED if stored else GONE

    async def _begun(
        self, item: Invalidation, tokens: dict[bytes, bytes]
    ) -> dict[int, FleetClock] | None:
        """The first half: empty if the lease was lost, None if there is no answer."""
        begun = None
        try:
            begun = await self._invalidations.send([item], tokens)
        finally:
            if begun is None:  # cancelled, or without an answer
                for key, token in tokens.items():
                    self._invalidations.give_back(key, item.instead_of)
                    self._invalidations.give_back(key, token)
        return begun

    async def _lease_in_truth(self, key: bytes) -> _Asked | None:
        """The key's lease. What was invalidated here, and L2 is still to be told of, is
        told first, or its value cannot be believed; what comes meanwhile is another's
        change, and wins."""
        asked = await self._lease(key, early=True)
        if asked is not None and self._doubtful(key, asked):
            self._invalidations.give_back(key, asked.token)
            await self._tell_all(key)
            asked = await self._lease(key, early=True)
        return asked

    def _ours(self, key: bytes, asked: _Asked, nonce: int) -> Record | None:
        """L2's value, if it bears the nonce, and its lease is ours."""
        found = self._usable(key, asked)
        stands = found is not None and found.nonce == nonce and bool(asked.token)
        return found if stands else None

    async def _finish(
        self, key: bytes, record: Record, token: bytes, answer: Answer
    ) -> bool:
        """Store under the lease; `TierUnavailable` if it cannot be known whether."""
        assert self._l2 is not None
        begun = {self._l2.partition(key): answer.clock}
        tokens = {key: token}
        (ended,) = await self._invalidations.finish({key: record}, tokens, begun)
        if not ended:
            raise TierUnavailable("l2: whether the value was stored is not known")
        return ended in (STORED, FULL)

    def _raised(self, key: bytes, found: Record, record: Record, note: int) -> bool:
        """Whether what either bears was invalidated here since the note."""
        highest = self._l1.table.highest
        return any(highest(key, r.tags, soft=True) > note for r in (found, record))

    def _pending(self, key: bytes, found: Record) -> bool:
        """Whether Redis is still to be told of what voids the record."""
        assert self._outbox is not None
        return self._outbox.holds(key, found.tags)

    async def _tell_all(self, key: bytes) -> None:
        """Send what Redis may not know of."""
        if self._outbox is not None and self._l2 is not None:
            await self._outbox.drain(self._l2.partition(key))

    def _stands(self, key: bytes) -> bool:
        found = self._l1.look(key)
        return found is not None and found.kind == VALUE and found.state != DEAD

    def _usable(self, key: bytes, asked: _Asked) -> Record | None:
        """What L2 has, unless it was invalidated here and Redis is not told yet."""
        found = asked.answer.record
        if found is None or found.kind != VALUE:
            return None
        usable = self._l1.usable(key, found.tags, asked.lowest)
        return found if usable else None

    def _doubtful(self, key: bytes, asked: _Asked) -> bool:
        """Whether L2 has a value that may have been invalidated here."""
        found = asked.answer.record
        return (
            found is not None
            and found.kind == VALUE
            and self._usable(key, asked) is None
        )

    async def _lease(self, key: bytes, *, early: bool) -> _Asked | None:
        """Ask until the key's lease is ours, or, unless `early`, a value stands that
        may be believed. None without L2."""
        l2 = self._l2
        if l2 is None:
            return None
        loop = asyncio.get_running_loop()
        ends = loop.time() + WAIT
        channel = self._leases.channel if self._leases is not None else b""
        while True:
            if self._invalidations.closed:
                raise CacheError("the cache was closed")
            token = os.urandom(16)
            note, lowest = self._l1.table.clock(), self._l1.lowest()
            try:
                answer = await l2.acquire(
                    key, offer=token, early=early, channel=channel
                )
            except TierUnavailable:
                l2.abandon_later(key, token)
                return None
            asked = _Asked(token if answer.lease == WON else b"", answer, note, lowest)
            if answer.lease in (WON, NONE) or (
                not early and self._usable(key, asked) is not None
            ):
                return asked
            if loop.time() >= ends:
                raise TierUnavailable(f"the key's lease was not to be had in {WAIT} s")
            await self._wait(key, answer.wait_ms)

    async def _wait(self, key: bytes, wait_ms: int) -> None:
        if self._leases is not None:
            await self._leases.wait(key, wait_ms)
        else:
            await asyncio.sleep(min(0.05, wait_ms / 1000))

    async def _store_if(
        self,
        key: bytes,
        record: Record,
        *,
        absent_only: bool = False,
        if_nonce: int = 0,
    ) -> bool:
        """Raise and store in L1 on a condition; the fleet hears of it as a delete."""
        item = [Invalidation(b"d", key)]
        numbers = self._outbox.add(item) if self._outbox is not None else []
        stored = await self._l1.put_patiently(
            key, record, raising=True, absent_only=absent_only, if_nonce=if_nonce
        )
        if stored != OK and self._outbox is not None:  # nothing was done
            self._outbox.sent(numbers)
        self._invalidations.fits(record, stored)
        return stored == OK
