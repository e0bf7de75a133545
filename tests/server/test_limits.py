"""Budgets of a host and a fleet, with a real Redis, its faults, and real segments."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from shmcache import Cache, CacheConfig
from shmcache_server import allowance, limits
from shmcache_server.limits import Budget, Limits
from tests.helpers import segment_name
from tests.redis_server import RedisServer, eventually

SIZE = 2 << 20
MINUTE = 60.0


class Worker:
    """A process' limits, and the budget of 20 calls that it takes from."""

    def __init__(self, cache: Cache, made: Limits, calls: int, seconds: float) -> None:
        self.cache, self.limits = cache, made
        self.budget: Budget = made.budget("b", calls, seconds)

    async def take(self, times: int = 1) -> int:
        return sum([(await self.budget.take()).granted for _ in range(times)])

    @property
    def state(self) -> allowance.State:
        return self.budget._state()


Make = Callable[..., Any]


@pytest.fixture
async def host(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Makes a host of so many workers; those with one `app` are a fleet. Their beats
    are the test's to order."""
    monkeypatch.setattr(Limits, "_beat", _never)
    async with AsyncExitStack() as stack:

        async def make(
            workers: int = 1,
            url: str | None = None,
            app: str = "",
            calls: int = 20,
            seconds: float = MINUTE,
        ) -> list[Worker]:
            config = CacheConfig(segment_name(), SIZE, l2=url, app=app)
            made = []
            for _ in range(workers):
                cache = await stack.enter_async_context(Cache(config))
                one = Limits(cache)
                stack.push_async_callback(one.close)
                made.append(Worker(cache, one, calls, seconds))
            return made

        yield make


async def _never(self: Limits) -> None:
    pass


@pytest.fixture
async def fleet(host: Make, server: RedisServer) -> tuple[Worker, Worker]:
    """A worker of each of two hosts, whose tally has been whole for a window."""
    return await _fleet(host, server)


async def _fleet(
    host: Make, server: RedisServer, calls: int = 20, seconds: float = MINUTE
) -> tuple[Worker, Worker]:
    server.command("FLUSHALL")
    terms = {"calls": calls, "seconds": seconds, "url": server.url}
    app = segment_name()
    (one,), (other,) = await host(app=app, **terms), await host(app=app, **terms)
    await one.limits._tally.ask("b", one.budget._terms, 0)
    age(server, app)
    for worker in (one, other):
        await worker.budget.beat(2)
        assert (worker.state.hosts, worker.state.lost_at) == (2, 0)
    return one, other


def age(server: RedisServer, app: str) -> None:
    """A tally that was begun an hour ago."""
    import msgpack

    key = f"shmcache:{{{app}:limits:b}}"
    born, *rest = msgpack.unpackb(server.command("GET", key))
    server.command("SET", key, msgpack.packb([born - 3600 * 10**6, *rest]))


def later(worker: Worker, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hosts' clock goes on by so many seconds."""
    now = limits._now() + round(seconds * 1e6)
    monkeypatch.setattr(limits, "_now", lambda: now)


# -- one host, without Redis


async def test_workers_of_a_host_share_the_budget(host) -> None:
    one, other = await host(2)
    assert await one.take(12) == 12
    assert await other.take(12) == 8
    grant = await one.budget.take()
    assert not grant.granted
    assert MINUTE < grant.wait <= MINUTE + limits.LAG


async def test_two_workers_take_the_last_one_at_once(host) -> None:
    """1. Both see one left. 2. The other takes it. 3. The first finds the record
    changed, and looks again."""
    one, other = await host(2)
    assert await one.take(19) == 19
    ledger = one.limits._ledger._cache
    inner, took = ledger.compare_and_set, []

    async def late(*args: Any, **kwargs: Any) -> bool:
        if not took:
            took.append(await other.take())
        return await inner(*args, **kwargs)

    ledger.compare_and_set = late
    assert await one.take() == 0
    assert took == [1]


async def test_cost_is_all_or_none_and_bounded(host) -> None:
    (one,) = await host()
    assert (await one.budget.take(15)).granted
    assert not (await one.budget.take(6)).granted
    assert (await one.budget.take(5)).granted
    for wrong in (0, -1, 21):
        with pytest.raises(ValueError, match="cost="):
            await one.budget.take(wrong)


async def test_calls_are_free_again_one_by_one(host, monkeypatch) -> None:
    (one,) = await host()
    assert await one.take(20) == 20
    later(one, MINUTE, monkeypatch)
    assert await one.take() == 0, "it may have been on its way for a lag"
    later(one, 1.5, monkeypatch)
    assert await one.take(30) == 20


async def test_grant_is_late_before_its_call_could_leave_its_window(host) -> None:
    (one,) = await host(seconds=0.5)
    grant = await one.budget.take()
    assert not grant.late
    assert grant.until - time.monotonic() < 0.05 / 2
    await eventually(lambda: grant.late)


async def test_wall_clock_plays_no_part(host, monkeypatch) -> None:
    (one,) = await host()
    assert await one.take(20) == 20
    for wrong in (0.0, 1e12):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
        assert await one.take() == 0


async def test_restart_forgets_nothing(host) -> None:
    (one,) = await host()
    assert await one.take(15) == 15
    await one.limits.close()
    again = Worker(one.cache, Limits(one.cache), 20, MINUTE)
    assert await again.take(9) == 5
    await again.limits.close()


async def test_host_that_has_no_redis_any_more_keeps_to_no_share(
    host, tmp_path
) -> None:
    (one,) = await host(url=f"unix://{tmp_path}/none.sock", app=segment_name())
    assert await one.take() == 0
    await one.limits.close()
    async with Cache(CacheConfig(one.cache.config.name, SIZE)) as cache:
        again = Worker(cache, Limits(cache), 20, MINUTE)
        assert await again.take(30) == 20
        await again.limits.close()


async def test_close_ends_a_beat_that_forgets_a_cancellation(
    server, monkeypatch
) -> None:
    """As the client does where one comes together with a deadline."""
    looks = 0

    async def look(self: Limits) -> None:
        nonlocal looks
        looks += 1
        looking.set()
        with contextlib.suppress(*[asyncio.CancelledError] if looks == 1 else ()):
            await asyncio.Event().wait()

    looking = asyncio.Event()
    monkeypatch.setattr(Limits, "_look", look)
    async with Cache(CacheConfig(segment_name(), SIZE, l2=server.url)) as cache:
        limits = Limits(cache)
        limits.budget("any", 20, MINUTE)
        async with asyncio.timeout(5):
            await looking.wait()
            await limits.close()
    assert looks == 1


async def test_block_and_standing_are_the_hosts(host) -> None:
    one, other = await host(2)
    await one.take(3)
    standing = await other.budget.standing()
    assert (standing.calls, standing.used, standing.left) == (20, 3, 17)
    assert (standing.blocked, standing.wait) == (0, 0)
    await one.budget.block(30)
    assert 29 < (await other.budget.take()).wait <= 30
    assert 29 < (await other.budget.standing()).blocked <= 30
    assert 29 < other.budget.wait() <= 30


# -- a fleet


async def test_hosts_share_the_budget(fleet) -> None:
    one, other = fleet
    assert await one.take(17) == 17
    assert await other.take(9) == 3
    assert await one.take() == 0


async def test_last_one_of_the_fleet_is_taken_once(host, server) -> None:
    one, other = await _fleet(host, server)
    await one.take(19)
    took = await asyncio.gather(*(w.take() for w in (one, other) for _ in range(20)))
    assert sum(took) == 1


async def test_refusal_is_known_to_the_whole_host_without_asking(
    host, server, fleet
) -> None:
    one, other = fleet
    await one.take(20)
    assert await other.take() == 0
    asked = server.command("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    assert await other.take(50) + await one.take(50) == 0
    after = server.command("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    assert after == asked


async def test_standing_is_the_fleets(fleet) -> None:
    one, other = fleet
    await one.take(4)
    await other.take(2)
    for worker in fleet:
        standing = await worker.budget.standing()
        assert (standing.used, standing.left, standing.fleet) == (6, 14, True)


async def test_block_is_the_fleets(fleet) -> None:
    one, other = fleet
    await one.budget.block(30)
    grant = await other.budget.take()
    assert 29 < grant.wait <= 30
    assert 29 < (await other.budget.standing()).blocked <= 30


async def test_block_while_redis_is_away_is_told_when_it_is_back(fleet, server) -> None:
    one, other = fleet
    server.kill()
    try:
        assert not await one.budget.beat(2)
        await one.budget.block(30)
        assert not (await one.budget.take()).granted
    finally:
        server.start()
    assert await one.budget.beat(2)
    assert (await other.budget.standing()).blocked > 25


# -- b) Redis goes away in the middle of a window, and comes back


async def test_redis_away_leaves_each_host_its_share_of_what_was_left(
    fleet, server
) -> None:
    one, other = fleet
    await one.take(12)
    await other.budget.beat(2)
    server.stop()
    try:
        assert await one.take(30) + await other.take(30) == 4 + 4 - 1 - 1
    finally:
        server.cont()


async def test_redis_away_after_a_burst_elsewhere_leaves_nothing(fleet, server) -> None:
    one, other = fleet
    assert await one.take(20) == 20
    await other.budget.beat(2)
    server.stop()
    try:
        assert await other.take(30) == 0
    finally:
        server.cont()


async def test_redis_away_for_a_window_leaves_each_host_its_share(
    fleet, server, monkeypatch
) -> None:
    one, other = fleet
    await one.take(20)
    server.stop()
    try:
        for worker in fleet:
            await worker.budget.beat(2)
        later(one, MINUTE + 2, monkeypatch)
        assert await one.take(30) == 10
        assert await other.take(30) == 10
    finally:
        server.cont()


async def test_dead_redis_costs_one_question(fleet, server) -> None:
    one, _ = fleet
    asked, inner = [], one.limits._tally.ask

    async def counted(*args: Any) -> Any:
        asked.append(args)
        return await inner(*args)

    one.limits._tally.ask = counted
    server.stop()
    try:
        began = time.monotonic()
        await asyncio.gather(*(one.budget.take() for _ in range(200)))
        assert len(asked) == 1
        assert time.monotonic() - began < 2 * one.cache.config.l2_deadline + 0.5
    finally:
        server.cont()


async def test_what_was_granted_alone_is_told_when_redis_is_back(fleet, server) -> None:
    one, other = fleet
    server.stop()
    try:
        alone = await one.take(5)
    finally:
        server.cont()
    assert alone == 5
    assert await one.budget.beat(2)
    assert (await other.budget.standing()).used == 6, "with the one that was lost"
    assert await one.budget.beat(2)
    assert (await other.budget.standing()).used == 6, "and it is told once"


async def test_share_holds_for_a_window_after_redis_is_back(
    fleet, server, monkeypatch
) -> None:
    """1. Both are cut off. 2. Redis is back, with its memory. 3. One host has told of
    what it granted alone, the other has not yet."""
    one, other = fleet
    server.stop()
    try:
        for worker in fleet:
            await worker.budget.beat(2)
        assert await other.take(30) == 10
    finally:
        server.cont()
    assert await one.budget.beat(2)
    assert await one.take(30) == 10, "though the tally has twenty"
    later(one, MINUTE + 2, monkeypatch)
    await one.budget.beat(2)
    assert one.state.lost_at == 0


# -- c) Redis lost its memory


async def test_forgetful_redis_gives_no_second_budget(fleet, server) -> None:
    one, other = fleet
    assert await one.take(12) == 12
    assert await other.take(8) == 8
    await one.budget.beat(2)  # as each host does, once a second
    server.command("FLUSHALL")
    assert await one.take(30) + await other.take(30) == 0


async def test_grant_of_a_forgetful_redis_beyond_the_share_is_not_used(
    fleet, server
) -> None:
    """1. One call is left. 2. Redis forgets. 3. Each host asks before it knows."""
    one, other = fleet
    await one.take(12)
    await other.take(7)
    await one.budget.beat(2)
    server.command("FLUSHALL")
    assert [await one.take(), await other.take()] == [0, 0]


async def test_workers_that_ask_a_forgetful_redis_at_once_get_the_share(
    host, server
) -> None:
    app = segment_name()
    server.command("FLUSHALL")
    workers = await host(3, url=server.url, app=app)
    await workers[0].budget.beat(4)
    took = await asyncio.gather(*(w.take(9) for w in workers))
    assert sum(took) == 5, "a quarter"


async def test_last_grant_that_is_noted_first_voids_none_of_before(
    host, server
) -> None:
    """1. The tally grants one of two, 2. the last one, 3. which is noted, and that
    none is left. 4. The first is noted."""
    server.command("FLUSHALL")
    one, other = await host(2, url=server.url, app=segment_name(), calls=2)
    await one.budget.beat(1)
    inner, took = one.limits._tally.ask, []

    async def late(*args: Any) -> Any:
        told = await inner(*args)
        took.append(await other.take())
        return told

    one.limits._tally.ask = late
    assert await one.take() == 1
    assert took == [1]


async def test_forgetful_redis_gives_half_of_what_was_left_to_each_of_two(
    fleet, server
) -> None:
    one, other = fleet
    await one.take(10)
    await other.budget.beat(2)
    server.restart()
    took = [await one.take(30), await other.take(30)]
    assert all(n <= 5 for n in took)
    assert sum(took) + 10 <= 20
    assert took != [0, 0]


async def test_forgetful_redis_is_believed_when_it_is_a_window_old(
    fleet, server, monkeypatch
) -> None:
    one, _ = fleet
    await one.take(20)
    server.command("FLUSHALL")
    await one.budget.beat(2)
    assert await one.take() == 0
    later(one, MINUTE + 2, monkeypatch)
    age(server, one.cache.config.app)
    await one.budget.beat(2)
    assert one.state.lost_at == 0
    assert await one.take(30) == 20


# -- d) a worker is killed between grant and call; f) the answer was lost


async def test_grant_that_is_never_used_is_lost_not_doubled(fleet) -> None:
    """The tally has granted it, and the ledger was never told."""
    one, other = fleet
    told = await one.limits._tally.ask("b", one.budget._terms, 1)
    assert told.granted
    assert await one.take(30) + await other.take(30) == 19


async def test_answer_that_was_lost_counts_as_taken(fleet, server) -> None:
    one, other = fleet
    inner = one.limits._tally._run

    async def cut(words: Any) -> Any:
        await inner(words)
        raise ConnectionError("cut after the script ran")

    one.limits._tally._run = cut
    alone = await one.take(30)
    one.limits._tally._run = inner
    assert alone == 9, "half of the nineteen that were left"
    await one.budget.beat(2)
    assert alone + await other.take(30) + 1 <= 20


async def test_cancelled_question_leaves_the_budget_usable(fleet) -> None:
    one, _ = fleet
    asking = asyncio.ensure_future(one.budget.take())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert await one.take(30) in (19, 20)


async def test_host_that_starts_while_redis_is_away_waits_for_it(
    host, tmp_path
) -> None:
    (one,) = await host(url=f"unix://{tmp_path}/none.sock", app=segment_name())
    grant = await one.budget.take()
    assert not grant.granted
    assert grant.wait > 0


# -- the beat


async def test_beats_see_the_fleet(server, monkeypatch) -> None:
    server.command("FLUSHALL")
    monkeypatch.setattr(limits, "BEAT", 0.05)
    app = segment_name()
    async with AsyncExitStack() as stack:
        workers = []
        for _ in range(2):
            config = CacheConfig(segment_name(), SIZE, l2=server.url, app=app)
            cache = await stack.enter_async_context(Cache(config))
            made = Limits(cache)
            stack.push_async_callback(made.close)
            workers.append(Worker(cache, made, 20, MINUTE))
        await eventually(lambda: all(w.state.hosts == 2 for w in workers))
        server.stop()
        try:
            await eventually(lambda: all(w.state.away for w in workers))
        finally:
            server.cont()
        await eventually(lambda: not any(w.state.away for w in workers))
        assert all(w.state.lost_at for w in workers)


async def test_budget_that_not_every_worker_knows_has_its_beats(
    server, monkeypatch
) -> None:
    server.command("FLUSHALL")
    monkeypatch.setattr(limits, "BEAT", 0.05)
    config = CacheConfig(segment_name(), SIZE, l2=server.url)
    async with Cache(config) as cache:
        doors = [Limits(cache) for _ in range(3)]
        looked: dict[str, int] = {}
        for i, door in enumerate(doors):
            budget = door.budget(f"b{i}", 20, MINUTE)

            async def counted(hosts: int, name: str = budget.name) -> bool:
                looked[name] = looked.get(name, 0) + 1
                return True

            budget.beat = counted
        await eventually(lambda: len(looked) == 3 and min(looked.values()) >= 5)
        for door in doors:
            await door.close()
