"""Cancelled at every await: a verb leaves nothing behind, and costs the others nothing.

The number of cancellations is SHMCACHE_REPEATS, where it is set.
"""

import asyncio
import itertools
import os
import types
from functools import partial

from shmcache import CacheError
from shmcache.flight import Flight
from shmcache.link import CONNECTIONS
from tests.caches import two_hosts, until

REPEATS = int(os.environ.get("SHMCACHE_REPEATS", "200"))


@types.coroutine
def cancelled_at(work, place):
    """Await `work`; when it waits for the `place`-th time the task is cancelled."""
    go_on = partial(work.send, None)
    for step in itertools.count():
        try:
            waited = go_on()
        except StopIteration as end:
            return end.value
        if step == place:
            asyncio.current_task().cancel()
        try:
            go_on = partial(work.send, (yield waited))
        except BaseException as error:
            go_on = partial(work.throw, error)


async def compute():
    await asyncio.sleep(0)
    return "v"


async def rewritten(cache, key):
    """What it wrote may be gone at any time: by a late entry of a `clear`."""
    await cache.set(key, 1, ttl=60)
    await cache.touch(key, 60)
    entry = cache.entry(key)
    await cache.compare_and_set(key, "v", version=entry.version if entry else 1)


VERBS = {
    "get_or_set": lambda c, k: c.get_or_set(k, compute, ttl=60, tags=("t",)),
    "get_or_set stale": lambda c, k: c.get_or_set("stale", compute, ttl=0.001),
    "get": lambda c, k: c.get(k),
    "get_many": lambda c, k: c.get_many([k, "stale", "absent"]),
    "set": lambda c, k: c.set(k, "v"),
    "set_many": lambda c, k: c.set_many({k: "v", "other": "w"}),
    "add": lambda c, k: c.add(k, "v"),
    "set, touch, compare_and_set": rewritten,
    "delete": lambda c, k: c.delete(k),
    "expire": lambda c, k: c.expire("there"),
    "delete_tags": lambda c, k: c.delete_tags("t"),
    "clear": lambda c, k: c.clear(),
}


class Left:
    """What a cache has under way."""

    def __init__(self, cache):
        self.cache = cache
        self.count = cache._l1.table.geometry["claim_sets"] * 8

    def claims(self):
        word = self.cache._l1.table.claim_word
        return sum(word(i) & 0b111 in (1, 2) for i in range(self.count))

    def sockets(self):
        """Descriptors beside those of L2's kept connections, which are bounded: how
        many of them there are tells how many were wanted at once."""
        return len(os.listdir("/proc/self/fd")) - len(self.cache._l2.link._idle)

    def all(self):
        """Flights, waiters, claims, operations on L2, connections in use."""
        cache, link = self.cache, self.cache._l2.link
        return (
            len(cache._flights),
            cache._flights._waiters,
            self.claims(),
            cache._l2.under_way,
            CONNECTIONS - link._free._value,
        )


async def test_verb_cancelled_at_every_await_leaves_nothing(server):
    async with two_hosts(server.url, soft_timeout=0.01, lease_life=5) as (cache, other):
        await cache.set_many({"there": 1}, ttl=60, tags=("t",))
        left = Left(cache)
        tasks, cancelled, sockets = len(asyncio.all_tasks()), 0, None
        for verb in itertools.cycle(VERBS.values()):
            for place in itertools.count():  # until it ends before it waits so often
                work = verb(cache, f"k{cancelled}")
                try:
                    await asyncio.create_task(_awaited(work, place))
                    break
                except asyncio.CancelledError:
                    cancelled += 1
            if cancelled >= REPEATS // 2 and sockets is None:
                await until(lambda: left.all() == (0, 0, 0, 0, 0))
                sockets = left.sockets()
            if cancelled >= REPEATS:
                break
        await until(lambda: left.all() == (0, 0, 0, 0, 0))
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert left.sockets() <= sockets
        leases = partial(server.command, "KEYS", "*:l:*")
        async with asyncio.timeout(3):  # or others would wait for their ends
            await until(lambda: not leases())
        async with asyncio.timeout(1):
            for n in range(20):
                assert await other.get_or_set(f"k{n}", compute, ttl=9) in ("v", 1)


async def _awaited(work, place):
    return await cancelled_at(work, place)


async def test_flight_cancelled_at_every_await_leaves_nothing(server, monkeypatch):
    """As `close` does, or a compute that ends the task it runs in."""
    run, place = Flight._run, 0
    monkeypatch.setattr(Flight, "_run", lambda flight: _awaited(run(flight), place))
    async with two_hosts(server.url) as (cache, other):
        left, ended = Left(cache), 0
        for n in range(min(REPEATS, 2000) // 2):
            place = n % 12
            try:
                assert await cache.get_or_set(f"k{n}", compute, ttl=60) == "v"
            except CacheError:
                ended += 1
            await until(lambda: left.all() == (0, 0, 0, 0, 0))
        assert ended > 10
        place = 10**9
        async with asyncio.timeout(3):
            for n in range(0, 36, 5):
                assert await other.get_or_set(f"k{n}", compute, ttl=9) == "v"
