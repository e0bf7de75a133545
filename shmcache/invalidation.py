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
    stream bears the nonce of the record, by which followers spare just that one; that
    of this host passes the entry over, once step 4 is done and the script answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

from .ask import FleetClock, Invalidation
from .errors import TierUnavailable, ValueTooLarge
from .follower import HOST, Follower
from .hosts import Confirmation, Heard, confirmation
from .l1 import L1, OK, RAISED, TOO_LARGE
from .l2 import FULL, L2, STORED
from .outbox import Outbox
from .record import Record
from .stream import Place, Settled, position_of, raise_and_drop
from .stream import piece_of as piece_in

BATCH = 128
"""Names of one round; a longer list takes several."""
LOOK = 0.02
"""Seconds between two looks at what hosts confirm."""
T = TypeVar("T", bytes, int)


class Invalidations:
    """The sender of this process, and its part in following."""

    def __init__(self, l1: L1, l2: L2 | None = None) -> None:
        """Without L2 the host is the fleet."""
        self._l1 = l1
        self._l2 = l2
        self.closed = False
        self.follower: Follower | None = None
        self.outbox: Outbox | None = None
        self._settled = Settled(l1.table.words("stream"))
        if l2 is not None:
            self.outbox = Outbox(l1, l2, os.urandom(8))
            self.follower = Follower(l1, l2, self.outbox)
            l2.drain = self.outbox.drain

    @property
    def unsent(self) -> int:
        """Invalidations of this host that Redis has not confirmed."""
        return self._l1.unsent

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
        """Leave the role to a sibling, and nothing unsent if that can be."""
        self.closed = True
        if self.follower is not None:
            await self.follower.close()
        if self.outbox is not None and self._l2 is not None and self._l1.unsent:
            with contextlib.suppress(Exception):  # whoever comes next sends it
                async with asyncio.timeout(2 * self._l2.deadline):
                    for partition in range(self._l2.partitions):
                        await self.outbox.drain(partition)
                    await self.outbox.send_left()

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

    async def confirmed(self, wait: float) -> Confirmation:
        """How many hosts have applied all that was invalidated on this host before,
        once it is all of them, or after `wait` seconds and an operation of L2."""
        l2, outbox = self._l2, self.outbox
        if l2 is None or outbox is None:
            return Confirmation(1, 1, told=True)
        loop, before = asyncio.get_running_loop(), self._l1.clock.now() + 1
        ends: list[Heard] | None = None
        until = loop.time() + wait
        while True:
            found = Confirmation(1, None, told=not outbox.keeps(before))
            if found.told:
                with contextlib.suppress(TierUnavailable):
                    heard = await l2.heard()
                    ends = ends or heard
                    found = confirmation(ends, heard, self._me())
            if found.confirmed == found.hosts or loop.time() >= until:
                return found
            await asyncio.sleep(min(LOOK, until - loop.time()))

    async def caught_up(self, within: float) -> bool:
        """Whether this host has applied all that Redis was told before this was called;
        waits for it at most `within` seconds."""
        l2, follower = self._l2, self.follower
        if l2 is None or follower is None:
            return True
        try:
            ends = await l2.heard()
        except TierUnavailable:
            return False
        until = asyncio.get_running_loop().time() + within
        while not all(map(_at_end, follower.places, ends)):
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(LOOK)
        return True

    def _me(self) -> bytes:
        """This host's name in Redis."""
        return b"%x" % self._l1.table.words("stream").load(HOST)

    async def _all(self, kind: bytes, names: Sequence[T]) -> bool:
        told = True
        for i in range(0, len(names), BATCH):
            items = [Invalidation(kind, name) for name in names[i : i + BATCH]]
            told = await self.send(items) is not None and told
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
        begun = await self.send(
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
        stamp = self._l1.table.clock()
        stamped = {key: r._replace(stamp=stamp) for key, r in records.items()}
        answers = await self.finish(stamped, tokens, begun)
        return all(answer in (STORED, FULL) for answer in answers)

    async def finish(
        self,
        records: Mapping[bytes, Record],
        tokens: Mapping[bytes, bytes],
        begun: Mapping[int, FleetClock],
    ) -> list[str]:
        """The second half of sets: fills, under leases that their first half took, and
        stamps noted since. What L2 answered to each; "" nothing: it is not known
        whether it has it. In L1 each takes the place of what stands here now, and of
        nothing that comes before the answer: that is of who set the key after us."""
        l1, l2 = self._l1, self._l2
        assert l2 is not None
        stood = {key: l1.standing(key) for key in records}
        puts = [
            (key, tokens[key], record, begun[l2.partition(key)])
            for key, record in records.items()
        ]
        try:
            answers = await l2.put_many(puts)
        except TierUnavailable:
            answers = [""] * len(puts)
        except asyncio.CancelledError:
            for key, token in tokens.items():
                self.give_back(key, token)
            raise
        for (key, _, record, _), answer in zip(puts, answers, strict=True):
            if answer in (STORED, FULL):
                there = stood[key]
                await l1.put_patiently(
                    key, record, absent_only=not there, if_nonce=there
                )
        return answers

    def give_back(self, key: bytes, token: bytes) -> None:
        if self._l2 is not None and token:
            self._l2.abandon_later(key, token)

    # -- inside

    async def send(
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
                self.give_back(key, token)
            raise
        finally:
            self._apply(items, floor=True)
            if told is not None:
                self.outbox.sent(numbers)
        if told is None:
            return None
        for item in items:
            if item.nonce:
                self._settled.add(item.nonce)
        return {p: done.clock for p, done in told.items() if not done.lost}

    def _apply(self, items: Sequence[Invalidation], floor: bool) -> None:
        for item in items:
            raise_and_drop(self._l1.table, item.kind, item.name, floor=floor)

    async def _store_here(self, key: bytes, record: Record) -> None:
        """Raise and store in L1; what stood there goes, whatever becomes of the new.

        The fleet is to hear of it, and what a set wrote into the outbox at first may
        be sent by now: 1. its sender is stopped; 2. a sibling sends the entry, and
        sets the key in both tiers; 3. the sender has no answer, and stores here alone.
        """
        if self.outbox is not None:
            self.outbox.add([Invalidation(b"d", key)])
        stored = await self._l1.put_patiently(key, record, raising=True)
        if stored not in (OK, RAISED):
            self._apply([Invalidation(b"d", key)], floor=True)
        self.fits(record, stored)

    def fits(self, record: Record, stored: int) -> None:
        if stored == TOO_LARGE:
            raise ValueTooLarge(
                f"{self._l1.too_large(record)}; make the segment larger"
            )


def _at_end(place: Place, end: Heard) -> bool:
    mark = place.mark
    return piece_in(mark) == end.piece and position_of(mark) >= end.clock
