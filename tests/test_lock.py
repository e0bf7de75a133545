"""One holder in the fleet, whatever dies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shmcache import Cache, CacheError, LockTimeout, TierUnavailable
from tests.caches import asking, die, until
from tests.redis_server import RedisServer


class Inside:
    """Who is inside, and that there was never more than one."""

    def __init__(self) -> None:
        self.now = self.most = self.times = 0

    async def work(self, cache: Cache) -> None:
        async with cache.lock("l"):
            self.now += 1
            self.times += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.001)
            self.now -= 1


async def test_one_is_inside_on_a_host(pair: tuple[Cache, Cache]) -> None:
    inside = Inside()
    await asyncio.gather(*(inside.work(pair[i % 2]) for i in range(40)))
    assert (inside.most, inside.times) == (1, 40)


async def test_one_is_inside_in_the_fleet(hosts: tuple[Cache, Cache]) -> None:
    inside = Inside()
    await asyncio.gather(*(inside.work(hosts[i % 2]) for i in range(20)))
    assert (inside.most, inside.times) == (1, 20)


async def test_other_names_and_namespaces_are_other_locks(cache: Cache) -> None:
    async with cache.lock("a"), cache.lock("b"), cache.namespace("n").lock("a"):
        pass


async def test_waiter_gives_up_in_time_and_leaves_nothing(
    pair: tuple[Cache, Cache],
) -> None:
    async with pair[0].lock("l") as lock:
        assert len(lock.token) == 16
        for cache in pair:
            with pytest.raises(LockTimeout, match=r"'l'.*within 0.05 s"):
                async with cache.lock("l", wait=0.05):
                    pass
    for cache in pair:
        async with cache.lock("l", wait="1s"):
            pass


async def test_nobody_waits_at_wait_zero(pair: tuple[Cache, Cache]) -> None:
    async with pair[0].lock("l", wait=1):
        with pytest.raises(LockTimeout):
            await pair[1].lock("l", wait=0).acquire()


async def test_free_lock_is_had_at_wait_zero(hosts: tuple[Cache, Cache]) -> None:
    lock = hosts[0].lock("l", wait=0)
    with pytest.raises(LockTimeout):  # it takes a round trip
        await lock.acquire()
    async with hosts[1].lock("l", wait=1):
        pass


async def test_next_one_is_woken_at_once(pair: tuple[Cache, Cache]) -> None:
    async with pair[0].lock("l"):
        waiting = asking(pair[1].lock("l").acquire())
        await asyncio.sleep(0.02)
    await asyncio.wait_for(waiting, 0.04)  # before it would look by itself


async def test_cancelled_waiter_is_forgotten(pair: tuple[Cache, Cache]) -> None:
    async with pair[0].lock("l"):
        for cache in pair:
            waiting = asking(cache.lock("l").acquire())
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    assert not pair[0]._parts.locks and not pair[1]._parts.locks
    async with pair[1].lock("l", wait=1):
        pass


async def test_lock_is_released_where_its_block_fails(cache: Cache) -> None:
    with pytest.raises(OSError):
        async with cache.lock("l"):
            raise OSError
    async with cache.lock("l", wait=1):
        pass


async def test_one_lock_is_not_held_twice(cache: Cache) -> None:
    async with cache.lock("l") as lock:
        with pytest.raises(CacheError, match="held already"):
            await lock.acquire()


@pytest.mark.parametrize("verb", ["clear", "delete"])
async def test_invalidation_frees_no_lock(pair: tuple[Cache, Cache], verb: str) -> None:
    """1. A lock is held; 2. all is cleared, which voids every claim that computes have;
    3. another asks for the lock."""
    async with pair[0].lock("l") as lock:
        if verb == "clear":
            await pair[1].clear()
        else:
            await pair[1].delete_many([str(i) for i in range(4096)])
        with pytest.raises(LockTimeout):
            await pair[1].lock("l", wait=0.2).acquire()
        assert not lock.lost.is_set()


async def test_lock_of_a_dead_process_is_taken_over(pair: tuple[Cache, Cache]) -> None:
    lock = pair[0].lock("l")
    await lock.acquire()
    lock._telling.cancel()  # type: ignore[union-attr]
    die(pair[0]._l1)
    async with pair[1].lock("l", wait=1):
        pass
    lock.release()


async def test_lost_lease_is_told(
    hosts: tuple[Cache, Cache], server: RedisServer
) -> None:
    async with hosts[0].lock("l") as lock:
        server.command("FLUSHALL")  # as if it had been stopped for too long
        await asyncio.wait_for(lock.lost.wait(), 5)
        async with hosts[1].lock("l", wait=3):
            pass


async def test_no_host_decides_alone(
    hosts: tuple[Cache, Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    await hosts[0].start()
    l2: Any = hosts[0]._l2

    async def away(*_: Any, **__: Any) -> Any:
        raise TierUnavailable("l2: away")

    monkeypatch.setattr(l2, "acquire", away)
    with pytest.raises(TierUnavailable, match="lock 'l'"):
        await hosts[0].lock("l").acquire()
    monkeypatch.undo()
    async with hosts[1].lock("l", wait=2):
        pass


@pytest.mark.parametrize("wait", [-1, True, "soon"])
async def test_wrong_wait_is_named(cache: Cache, wait: Any) -> None:
    with pytest.raises(ValueError, match="wait="):
        cache.lock("l", wait=wait)


async def test_lock_under_way_ends_with_its_cache(pair: tuple[Cache, Cache]) -> None:
    async with pair[0].lock("l"):
        waiting = asking(pair[1].lock("l").acquire())
        await until(lambda: pair[1]._claims._parked)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
