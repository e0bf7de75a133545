"""Invalidations: raised on this host, appended to the stream that all hosts follow.

Order on the sender
    1. Take a number, raise, drop.
    2. The script: value and lease deleted, entry appended.
    3. Take a number, raise, drop again, *however the script ended*.
    Without 1 a fill that began before would still be accepted here during 2. Without 3
    a value promoted from Redis between 1 and 2, with a stamp above 1, would stand: so
    would one whose deletion in Redis was done by a script whose reply was lost.

A set is a delete that takes the lease, and a fill
    The script gives the key's lease to the set's token. Its reply, and step 3, come
    before the stamp is noted; then the value is stored as any other, under lease and
    stamp. A late first half is a miss, a late second half is refused. The entry in the
    stream bears the nonce of the record, by which followers spare just that one.

What if Redis is away
    The host's own records are void all the same; `unsent` counts what other hosts were
    not told. They serve theirs by ttl.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

from .ask import FleetClock
from .errors import TierUnavailable, ValueTooLarge
from .follower import Follower, raise_and_drop
from .l1 import L1, OK, RAISED, TOO_LARGE
from .l2 import L2, LOST
from .l2 import RAISED as L2_RAISED
from .record import Record


class Invalidations:
    """The sender of this process, and its part in following."""

    def __init__(self, l1: L1, l2: L2 | None = None) -> None:
        """Without L2 the host is the fleet."""
        self._l1 = l1
        self._l2 = l2
        self._origin = os.urandom(8)
        self.unsent = 0
        """Invalidations that Redis did not confirm."""
        self.follower: Follower | None = None
        if l2 is not None:
            words = l1.table.words("stream")
            self.follower = Follower(l1.table, l2, words, clock=l1.clock)

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

    async def delete(self, *keys: bytes) -> bool:
        """The keys' records are gone on this host. True if the fleet is told."""
        return await self._send(b"d", keys) is not None

    async def expire(self, *keys: bytes) -> bool:
        """As `delete`, but what stands is stale, and served so within its grace."""
        return await self._send(b"x", keys) is not None

    async def delete_tags(self, *numbers: int) -> bool:
        """All records that bear one of these tags or namespaces are gone."""
        return await self._send(b"t", numbers) is not None

    async def expire_tags(self, *numbers: int) -> bool:
        """All records that bear one of these tags or namespaces are stale."""
        return await self._send(b"u", numbers) is not None

    async def clear(self, *, soft: bool = False) -> bool:
        """Every record of the app is gone; with `soft`, stale."""
        return await self._send(b"y" if soft else b"c", (b"",)) is not None

    async def set(self, key: bytes, record: Record) -> bool:
        """Store the record in both tiers, in place of whatever stands or is on its way.

        The record's stamp is noted here. False if it stands on this host alone, or not
        at all because a later invalidation or set came between. `ValueTooLarge` if
        no tier can hold it; what stood there is gone then too.
        """
        token = os.urandom(16)
        if self._l2 is None:
            self._l1.count("invalidations")
            await self._store_here(key, record)
            return True
        begun = await self.begin_sets([(key, token, record.nonce)])
        if begun is None:
            await self._store_here(key, record)
            return False
        record = record._replace(stamp=self._l1.table.clock())
        try:
            answer = await self._l2.put_fenced(key, token, record, begun)
        except TierUnavailable:
            answer = ""
        except asyncio.CancelledError:  # or its getters would wait for the lease's end
            self._l2.abandon_later(key, token)
            raise
        if answer in (LOST, L2_RAISED):
            return False
        await self._l1.put_patiently(key, record, newer_only=True)
        return bool(answer)

    async def begin_sets(
        self, sets: Sequence[tuple[bytes, bytes, int]]
    ) -> FleetClock | None:
        """The first half of a set of each (key, token, nonce): the deletes, each of
        which takes its key's lease for a second. The clock for `put_fenced`; None: L2
        is away."""
        tokens = [(token, nonce) for _, token, nonce in sets]
        return await self._send(b"d", [key for key, _, _ in sets], tokens)

    async def _send(
        self,
        kind: bytes,
        names: Sequence[bytes | int],
        sets: Sequence[tuple[bytes, int]] = (),
    ) -> FleetClock | None:
        nothing = FleetClock(b"", 0, 0)
        if not names:
            return nothing
        self._l1.count("invalidations", len(names))
        if self._l2 is None:
            self._apply(kind, names, floor=True)
            return nothing
        self._apply(kind, names, floor=False)
        try:
            return await self._l2.invalidate(
                kind, names, sets=sets, origin=self._origin
            )
        except TierUnavailable:
            self.unsent += len(names)
            return None
        finally:
            self._apply(kind, names, floor=True)

    def _apply(self, kind: bytes, names: Sequence[bytes | int], floor: bool) -> None:
        for name in names:
            raise_and_drop(self._l1.table, kind, name, floor=floor)

    async def _store_here(self, key: bytes, record: Record) -> None:
        """Raise and store in L1; what stood there goes, whatever becomes of the new."""
        stored = await self._l1.put_patiently(key, record, raising=True)
        if stored not in (OK, RAISED):
            self._apply(b"d", (key,), floor=True)
        if stored == TOO_LARGE:
            raise ValueTooLarge(
                f"{self._l1.too_large(record)}; make the segment larger"
            )
