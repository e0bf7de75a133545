"""Records, and fills of L2 under a lease, for tests of L2 and its scripts."""

from __future__ import annotations

import os

from shmcache.ask import WON, FleetClock
from shmcache.clock import SYSTEM
from shmcache.l2 import L2
from shmcache.record import FRESH, Record

SECOND = 10**9


def token() -> bytes:
    return os.urandom(16)


def record(
    value: bytes = b"v",
    *,
    ttl: float = 30,
    grace: float = 30,
    tags: tuple[int, ...] = (),
    kind: int = 0,
) -> Record:
    now = SYSTEM.now()
    fresh_until = now + round(ttl * SECOND)
    nonce = int.from_bytes(os.urandom(8), "little")
    dead_at = fresh_until + round(grace * SECOND)
    return Record(value, FRESH, kind, now, fresh_until, dead_at, 0, nonce, 42, tags)


async def won(l2: L2, key: bytes) -> tuple[bytes, FleetClock]:
    """A lease, also beside a fresh value."""
    mine = token()
    answer = await l2.acquire(key, offer=mine, early=True)
    assert answer.lease == WON
    return mine, answer.clock


async def fill(l2: L2, key: bytes, value: Record) -> None:
    mine, begun = await won(l2, key)
    assert await l2.put_fenced(key, mine, value, begun) == "stored"


async def read(l2: L2, key: bytes = b"k") -> Record:
    """What stands there."""
    found = (await l2.acquire(key)).record
    assert found is not None
    return found
