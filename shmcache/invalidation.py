"""Invalidations: raised on this host, appended to the stream that all hosts follow.

Order on the sender
    1. Entry in the outbox, bearing the clock as it stands.
    2. Take a number, raise, drop.
    3. The script: value and lease deleted, entry appended to the stream.
    4. Take a number, raise, drop again, *however the script ended*.
    5. The entry is sent, if a reply said so; return.
    Without 1 it is lost with its sender, and an old value in L2 may be promoted until
    the fleet is told (`outbox.py`). Without 2 a fill that began before would still be
    accepted here during 3. Without 4 a value promoted from Redis between 2 and 3, with
    a stamp above 2, would stand: so would one whose deletion in Redis was done by a
    script whose reply was lost.

A set is a delete that takes the lease, and a fill
    The script gives the key's lease to the set's token. Its reply, and step 4, come
    before the stamp is noted; then the value is stored as any other, under lease and
    stamp. A late first half is a miss, a late second half is refused. Without an answer
    it is stored nowhere: the stamp is above all that was applied here, also above a
    delete of another host that came between the halves. The entry in the
    stream bears the nonce of the record, by which followers spare just that one.

Compare and set
    The lease is taken first, so the value that is compared is the one replaced: the
    delete of the set is done only where that lease still stands. What is stored may be
    what was read, with another life (`touch`), so it is as old as the read:
    1. the lease is won, and the value read; 2. one of its tags is deleted; 3. the set's
    delete; 4. its fill, begun under the clock of 3, would bring back what 2 removed.
    So the fill bears the clock of 1, in Redis and here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from .ask import NONE, WON, Answer, FleetClock, Invalidation
from .errors import TierUnavailable, ValueTooLarge
from .follower import Follower
from .l1 import L1, OK, RAISED, TOO_LARGE
from .l2 import FULL, L2, STORED
from .lease import Leases
from .outbox import Outbox
from .record import DEAD, VALUE, Record
from .stream import raise_and_drop

BATCH = 128
"""Names of one round; a longer list takes several."""
WAIT = 30.0
"""Seconds that `add` and `replace` wait for who holds the key's lease."""
_NO_KEY = b"\x1f"
"""Nobody's: what is raised above it is raised for tags, or for everything."""
T = TypeVar("T", bytes, int)


class _Asked(NamedTuple):
    """What L2 answered about a key, and what was noted before it was asked."""

    token: bytes
    """Of the lease that is ours; b"": none."""
    answer: Answer
    note: int
    """The invalidation clock."""
    lowest: int
    """That of the oldest invalidation which Redis may not know of."""


class Invalidations:
    """The sender of this process, and its part in following."""

    def __init__(
        self, l1: L1, l2: L2 | None = None, leases: Leases | None = None
    ) -> None:
        """Without L2 the host is the fleet."""
        self._l1 = l1
        self._l2 = l2
        self._leases = leases
        self.follower: Follower | None = None
        self.outbox: Outbox | None = None
        if l2 is not None:
            self.outbox = Outbox(l1, l2, os.urandom(8))
            self.follower = Follower(l1, l2, self.outbox)
            l2.drain = self.outbox.drain

    @property
    def unsent(self) -> int:
        """Invalidations of this host that Redis has not confirmed."""
        return int(self._l1.table.outbox_usage()["unsent"])

    async def start(self) -> None:
        """Stand for the follower's role, and give the host's first position a moment:
        with Redis away it is not waited for longer than one operation."""
        if self.follower is None or self._l2 is None:
            return
        await self.follower.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._l2.deadline):
                await self.follower.placed()

    async def close(self) -> None:
        """Leave the role to a sibling."""
        if self.follower is not None:
            await self.follower.close()

    # -- invalidate

    async def delete(self, *keys: bytes) -> bool:
        """The keys' records are gone on this host. True if the fleet is told."""
        return await self._all(b"d", keys)

    async def expire(self, *keys: bytes) -> bool:
        """As `delete`, but what stands is stale, and served so within its grace."""
        return await self._all(b"x", keys)

    async def delete_tags(self, *numbers: int) -> bool:
        """All records that bear one of these tags or namespaces are gone."""
        return await self._all(b"t", numbers)

    async def expire_tags(self, *numbers: int) -> bool:
        """All records that bear one of these tags or namespaces are stale."""
        return await self._all(b"u", numbers)

    async def clear(self, *, soft: bool = False) -> bool:
        """Every record of the app is gone; with `soft`, stale."""
        return await self._all(b"y" if soft else b"c", (b"",))

    async def _all(self, kind: bytes, names: Sequence[T]) -> bool:
        told = True
        for i in range(0, len(names), BATCH):
            items = [Invalidation(kind, name) for name in names[i : i + BATCH]]
            told = await self._send(items) is not None and told
        return told

    # -- store

    async def set(self, key: bytes, record: Record) -> bool:
        """Store the record in both tiers, in place of whatever stands or is on its way.

        The record's stamp is noted here. False if it stands on this host alone, or not
        at all because a later invalidation or set came between. `ValueTooLarge` if
        no tier can hold it; what stood there is gone then too.
        """
        return await self.set_many({key: record})

    async def set_many(self, records: Mapping[bytes, Record]) -> bool:
        """`set` of each, for the round trips of one. True if the fleet has them all."""
        keys, stored = list(records), True
        for i in range(0, len(keys), BATCH):
            part = {key: records[key] for key in keys[i : i + BATCH]}
            stored = await self._set(part) and stored
        return stored

    async def _set(self, records: Mapping[bytes, Record]) -> bool:
        if self._l2 is None:
            self._l1.count("invalidations", len(records))
            for key, record in records.items():
                await self._store_here(key, record)
            return True
        tokens = {key: os.urandom(16) for key in records}
        begun = await self._send(
            [
                Invalidation(b"d", key, record.nonce, tokens[key])
                for key, record in records.items()
            ],
            tokens,
        )
        if begun is None:
            for key, record in records.items():
                await self._store_here(key, record)
            return False
        return await self._finish(records, tokens, begun)

    async def _finish(
        self,
        records: Mapping[bytes, Record],
        tokens: Mapping[bytes, bytes],
        begun: Mapping[int, FleetClock],
    ) -> bool:
        """The second half of sets: fills, under leases that their first half took."""
        l2 = self._l2
        assert l2 is not None
        stamp = self._l1.table.clock()
        puts = [
            (key, tokens[key], record._replace(stamp=stamp), begun[l2.partition(key)])
            for key, record in records.items()
        ]
        try:
            answers = await l2.put_many(puts)
        except TierUnavailable:
            answers = [""] * len(puts)
        except asyncio.CancelledError:
            for key, token in tokens.items():
                self._give_back(key, token)
            raise
        for (key, _, record, _), answer in zip(puts, answers, strict=True):
            if answer in (STORED, FULL):
                await self._l1.put_patiently(key, record, newer_only=True)
        return all(answer in (STORED, FULL) for answer in answers)

    async def add(self, key: bytes, record: Record) -> bool:
        """Store the record if nothing stands under the key, in the fleet or here, nor
        is on its way; whether it was."""
        if self._stands(key):
            return False
        asked = await self._lease(key, early=False)
        if asked is not None and not (asked.token or self._usable(key, asked)):
            # what is fresh there is no value, or is invalidated and Redis not told
            asked = await self._lease(key, early=True)
        if asked is None:
            return await self._store_if(key, record, absent_only=True)
        token, answer = asked.token, asked.answer
        if self._usable(key, asked) or self._stands(key):
            self._give_back(key, token)
            return False
        l2 = self._l2
        assert l2 is not None
        begun = {l2.partition(key): answer.clock}
        return await self._finish({key: record}, {key: token}, begun)

    async def replace(self, key: bytes, record: Record, nonce: int) -> bool:
        """Store the record in place of the one that bears `nonce`; False if another
        stands, or none. `TierUnavailable` if it cannot be known: L2 went away in
        between."""
        asked = await self._lease(key, early=True)
        if asked is None:
            return await self._store_if(key, record, if_nonce=nonce)
        found, l2 = self._usable(key, asked), self._l2
        assert l2 is not None
        if found is None or found.nonce != nonce or not asked.token:
            self._give_back(key, asked.token)
            return False
        token = os.urandom(16)
        item = Invalidation(b"d", key, record.nonce, token, asked.token)
        try:
            begun = await self._send([item], {key: token})
        except asyncio.CancelledError:
            self._give_back(key, asked.token)
            raise
        if begun is None:
            raise TierUnavailable("l2: whether the value was replaced is not known")
        if not begun:  # set or invalidated in between
            return False
        highest = self._l1.table.highest
        if max(highest(_NO_KEY, r.tags) for r in (found, record)) > asked.note:
            self._give_back(key, token)
            return False
        begun = {l2.partition(key): asked.answer.clock}
        return await self._finish({key: record}, {key: token}, begun)

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

    async def _lease(self, key: bytes, *, early: bool) -> _Asked | None:
        """Ask until the key's lease is ours, or its value fresh and not asked for
        `early`. None without L2."""
        l2 = self._l2
        if l2 is None:
            return None
        loop = asyncio.get_running_loop()
        ends = loop.time() + WAIT
        channel = self._leases.channel if self._leases is not None else b""
        while True:
            token = os.urandom(16)
            note, lowest = self._l1.table.clock(), self._l1.lowest()
            try:
                answer = await l2.acquire(
                    key, offer=token, early=early, channel=channel
                )
            except TierUnavailable:
                l2.abandon_later(key, token)
                return None
            if answer.lease in (WON, NONE):
                token = token if answer.lease == WON else b""
                return _Asked(token, answer, note, lowest)
            if loop.time() >= ends:
                raise TierUnavailable(f"the key's lease was not to be had in {WAIT} s")
            await self._wait(key, answer.wait_ms)

    async def _wait(self, key: bytes, wait_ms: int) -> None:
        if self._leases is not None:
            await self._leases.wait(key, wait_ms)
        else:
            await asyncio.sleep(min(0.05, wait_ms / 1000))

    def _give_back(self, key: bytes, token: bytes) -> None:
        if self._l2 is not None and token:
            self._l2.abandon_later(key, token)

    # -- inside

    async def _send(
        self, items: Sequence[Invalidation], tokens: Mapping[bytes, bytes] | None = None
    ) -> dict[int, FleetClock] | None:
        """Steps 1 to 5. The clocks of the partitions that were told; none of a
        partition that refused a name for its lease. None: the fleet is not told.
        Cancelled, the leases of `tokens` are given back, for their getters wait."""
        self._l1.count("invalidations", len(items))
        if self.outbox is None:
            # Twice: 1. a store takes a number, and looks; 2. ours is taken, and raised.
            # Was 2's number the lower one, the second is not.
            self._apply(items, floor=False)
            self._apply(items, floor=True)
            return {}
        numbers = self.outbox.add(items)
        self._apply(items, floor=False)
        told = None
        try:
            told = await self.outbox.tell(items)
        except TierUnavailable:
            self._l1.count("l2_errors")
        except asyncio.CancelledError:
            for key, token in (tokens or {}).items():
                self._give_back(key, token)
            raise
        finally:
            self._apply(items, floor=True)
            if told is not None:
                self.outbox.sent(numbers)
        if told is None:
            return None
        return {p: done.clock for p, done in told.items() if not done.lost}

    def _apply(self, items: Sequence[Invalidation], floor: bool) -> None:
        for item in items:
            raise_and_drop(self._l1.table, item.kind, item.name, floor=floor)

    async def _store_here(self, key: bytes, record: Record) -> None:
        """Raise and store in L1; what stood there goes, whatever becomes of the new."""
        stored = await self._l1.put_patiently(key, record, raising=True)
        if stored not in (OK, RAISED):
            self._apply([Invalidation(b"d", key)], floor=True)
        self._fits(record, stored)

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
        numbers = self.outbox.add(item) if self.outbox is not None else []
        stored = await self._l1.put_patiently(
            key, record, raising=True, absent_only=absent_only, if_nonce=if_nonce
        )
        if stored != OK and self.outbox is not None:  # nothing was done
            self.outbox.sent(numbers)
        self._fits(record, stored)
        return stored == OK

    def _fits(self, record: Record, stored: int) -> None:
        if stored == TOO_LARGE:
            raise ValueTooLarge(
                f"{self._l1.too_large(record)}; make the segment larger"
            )
