"""One holder in the fleet, whatever dies."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from shmcache import Cache, CacheError, LockTimeout, Overloaded, TierUnavailable
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
    async with hosts[0].lock("l", wait=0):
        for cache in hosts:  # in this process, and on another host
            with pytest.raises(LockTimeout, match="somebody else"):
                await cache.lock("l", wait=0).acquire()
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
        with pytest.raises(CacheError, match="was held already"):
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
    lock._watching.cancel()  # type: ignore[union-attr]
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


async def test_close_ends_locks_and_those_who_wait_for_them(
    pair: tuple[Cache, Cache],
) -> None:
    one, other = pair
    mine = one.lock("l")
    await mine.acquire()
    theirs = one.lock("m")
    async with other.lock("m"):
        waiting = [asking(one.lock("l").acquire()), asking(theirs.acquire())]
        await until(lambda: one._claims._parked)
        await one.close()
        failures = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(f) for f in failures] == [CacheError, CacheError]
    assert mine.lost.is_set() and not mine.token
    mine.release()
    async with other.lock("l", wait=1):
        pass


async def test_forked_child_leaves_its_parents_lock_alone(cache: Cache) -> None:
    lock = cache.lock("l")
    await lock.acquire()
    segment = cache._l1.segment
    segment.forked, kept = True, lock.token
    child = copy.copy(lock)
    child.release()
    segment.forked = False
    assert not child.token and lock.token == kept
    assert cache._parts.locks and not lock.freed.done()
    lock.release()


async def test_holder_that_was_stopped_before_it_knew_does_not_hold(
    hosts: tuple[Cache, Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. A lease is won; 2. its process is stopped, and a sibling takes the claim over;
    3. it goes on."""
    one = hosts[0]
    await one.start()
    claims, notes = one._claims, []
    note = claims.note

    def lost_once(*args: Any) -> bool:
        notes.append(args[-1])
        return len(notes) != 2 and note(*args)

    monkeypatch.setattr(claims, "note", lost_once)
    async with one.lock("l", wait=2) as lock:
        # a token is offered once
        assert notes[0] == notes[1] and lock.token not in notes[:2]


async def test_host_without_a_claim_left_says_so(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmcache.lock.RETRY", 0.001)
    locks = [cache.lock(f"l{i}") for i in range(4000)]
    with pytest.raises(Overloaded, match="no claim"):
        for lock in locks:
            await lock.acquire()
    for lock in locks:
        lock.release()
    async with cache.lock("l", wait=1):
        pass
