"""What tests of streams, followers and invalidations share: hosts and their records."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shmcache.ask import Invalidation
from shmcache.conditional import Conditional
from shmcache.follower import Follower
from shmcache.invalidation import Invalidations
from shmcache.l1 import L1, OK
from shmcache.l2 import L2
from shmcache.record import FRESH, STALE, Record
from tests.helpers import segment_name
from tests.redis_server import eventually

SECOND = 10**9


def record(
    l1: L1, value: bytes = b"v", *, nonce: int = 0, tags: tuple[int, ...] = ()
) -> Record:
    """Fresh for a minute, and a minute more in grace."""
    now, stamp = l1.clock.now(), l1.table.clock()
    until = now + 60 * SECOND
    nonce = nonce or int.from_bytes(os.urandom(8), "little")
    dead = until + 60 * SECOND
    return Record(value, FRESH, 0, now, until, dead, stamp, nonce, 1, tags)


def store(l1: L1, key: bytes, *, nonce: int = 0, tags: tuple[int, ...] = ()) -> None:
    assert l1.put(key, record(l1, nonce=nonce, tags=tags)) == OK


def gone(l1: L1, key: bytes) -> bool:
    return l1.look(key) is None


def stale(l1: L1, key: bytes) -> bool:
    found = l1.look(key)
    return found is not None and found.state == STALE


def gaps(l1: L1) -> int:
    """What all processes of the host have found, the first position among them."""
    return l1.stats().gaps


def applied(l1: L1) -> int:
    return l1.stats().entries_applied


async def tell(l2: L2, kind: bytes, *names: bytes | int) -> int:
    """As another host would. The clock after it."""
    done = await l2.invalidate([Invalidation(kind, name) for name in names])
    return done.clock.clock


def forget(l1: L1) -> None:
    """Take the outbox for sent, so that its segment may go."""
    for number, *_ in l1.table.outbox_unsent(2**63 - 1, 2**31 - 1):
        l1.table.outbox_sent(number)
    l1.table.outbox_overflowed(l1.table.outbox_overflow())


@asynccontextmanager
async def following(l1: L1, l2: L2, *, at_once: bool = True) -> AsyncIterator[Follower]:
    follower = Follower(l1, l2)
    await follower.start()
    try:
        if at_once:
            await eventually(follower.caught_up.is_set)
        yield follower
    finally:
        await follower.close()


class Host:
    """A segment, and one process of it."""

    def __init__(self, url: str | None, name: str = "") -> None:
        self.l1 = L1.open(name or segment_name(), 2 << 20)
        self.l1.join()
        self.l2 = L2(url, "app", deadline=1.0) if url else None  # on a busy machine
        self.invalidations = Invalidations(self.l1, self.l2)
        self.conditional = Conditional(self.l1, self.l2, None, self.invalidations)

    async def follows(self) -> None:
        await self.invalidations.start()
        assert self.invalidations.follower is not None
        await eventually(self.invalidations.follower.caught_up.is_set)

    async def close(self) -> None:
        await self.invalidations.close()
        if self.l2 is not None:
            await self.l2.close()
        forget(self.l1)
        self.l1.close(keep=False)

    def record(self, value: bytes = b"v", tags: tuple[int, ...] = ()) -> Record:
        return record(self.l1, value, tags=tags)

    def store(self, key: bytes, value: bytes = b"v", tags: tuple[int, ...] = ()) -> int:
        return self.l1.put(key, self.record(value, tags))

    def state(self, key: bytes = b"k") -> int | None:
        found = self.l1.look(key)
        return None if found is None else found.state

    async def from_l2(self, key: bytes = b"k") -> bytes | None:
        assert self.l2 is not None
        found = (await self.l2.acquire(key)).record
        return None if found is None else found.value
