"""Breakers of a host, and the fleet's one probe, with a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from shmcache import Cache
from shmcache_server import breakers
from shmcache_server.breakers import Breaker
from shmcache_server.ledger import Ledger
from tests.caches import two_hosts
from tests.redis_server import RedisServer, eventually


class Hosts:
    """A breaker on each of two hosts, and a second worker's on the first."""

    def __init__(self, one: Cache, other: Cache) -> None:
        names = (one.config.name, other.config.name, one.config.name)
        self.ledgers = [Ledger(name) for name in names]
        self.caches = (one, other, one)

    def make(self, seconds: float = 60.0, life: float = 30.0) -> list[Breaker]:
        terms = {"failures": 3, "successes": 2, "seconds": seconds, "probe_life": life}
        made = zip(self.ledgers, self.caches, strict=True)
        return [Breaker("v", ledger, cache, **terms) for ledger, cache in made]


@pytest.fixture
async def hosts(server: RedisServer) -> AsyncIterator[Hosts]:
    server.command("FLUSHALL")
    async with two_hosts(server.url) as (one, other):
        made = Hosts(one, other)
        yield made
        for ledger in made.ledgers:
            await ledger.close()


async def fail(breaker: Breaker, times: int = 3) -> None:
    for _ in range(times):
        await breaker.failed(await breaker.attempt())


async def half_open(breaker: Breaker) -> None:
    await eventually(lambda: breaker.state == "half-open")


async def test_failures_in_a_row_open_it_for_the_host(hosts) -> None:
    one, other, sibling = hosts.make()
    await fail(one, 2)
    assert (await sibling.attempt()).allowed
    await fail(sibling, 1)
    for breaker in (one, sibling):
        attempt = await breaker.attempt()
        assert not attempt.allowed
        assert 59 < attempt.wait <= 60
        assert breaker.state == "open"
    assert (await other.attempt()).allowed, "another host counts for itself"


async def test_success_between_failures_keeps_it_closed(hosts) -> None:
    one, *_ = hosts.make()
    for _ in range(4):
        await fail(one, 2)
        await one.succeeded(await one.attempt())
    assert one.state == "closed"


async def test_late_failures_do_not_keep_it_open_for_longer(hosts) -> None:
    one, *_ = hosts.make()
    under_way = [await one.attempt() for _ in range(9)]
    await fail(one)
    until = one.open_until
    for attempt in under_way:
        await one.failed(attempt)
        await one.succeeded(attempt)
    assert one.open_until == until


async def test_half_open_is_one_probe_of_the_fleet_at_a_time(hosts) -> None:
    breakers = hosts.make(seconds=0.05)
    await fail(breakers[0])
    await fail(breakers[1])
    for breaker in breakers:
        await half_open(breaker)
    tries = [b.attempt() for b in breakers for _ in range(4)]
    assert sum(one.allowed for one in await asyncio.gather(*tries)) == 1


async def test_successes_of_probes_close_it(hosts) -> None:
    one, _, sibling = hosts.make(seconds=0.05)
    await fail(one)
    await half_open(one)
    for state in ("half-open", "closed"):
        probe = await sibling.attempt()
        assert probe.probe_until
        await sibling.succeeded(probe)
        assert one.state == state
    assert (await one.attempt()).allowed


async def test_probe_that_fails_opens_it_anew(hosts) -> None:
    one, *_ = hosts.make(seconds=0.05)
    await fail(one)
    await half_open(one)
    await one.succeeded(await one.attempt())
    await one.failed(await one.attempt())
    assert one.state == "open"
    await half_open(one)
    await one.succeeded(await one.attempt())
    assert one.state == "half-open", "successes count in a row"


async def test_probe_that_died_is_followed_by_another_and_decides_nothing(
    hosts,
) -> None:
    one, other, _ = hosts.make(seconds=0.05, life=0.2)
    await fail(one)
    await fail(other)
    await half_open(other)
    dead = await one.attempt()
    assert dead.allowed
    assert not (await other.attempt()).allowed

    async def next_one() -> breakers.Attempt | None:
        attempt = await other.attempt()
        return attempt if attempt.allowed else None

    assert await eventually(next_one)
    # Redis' life of the key may be over before its owner's, where its answer was late
    await eventually(lambda: time.monotonic() > dead.probe_until)
    until = one.open_until
    await one.failed(dead)
    await one.succeeded(dead)
    assert one.open_until == until
    assert not (await one.attempt()).allowed, "it has not freed the other's key"


async def test_breaker_opened_between_look_and_probe_is_left_alone(hosts) -> None:
    """1. A worker finds it half-open. 2. Another one's probe fails, opens it and frees
    the key. 3. The first adds the key."""
    one, _, sibling = hosts.make(seconds=0.05)
    await fail(one)
    await half_open(one)
    probe = await sibling.attempt()
    inner = one._added

    async def late() -> bool:
        await sibling.open_for(60)
        await sibling.failed(probe)
        return await inner()

    one._added = late
    assert not (await one.attempt()).allowed
    one._added = inner
    assert one.state == "open"
    assert hosts.caches[0].peek(one._probe_key, None) is None


async def test_ban_opens_it_for_as_long_as_it_says(hosts) -> None:
    one, _, sibling = hosts.make()
    await one.open_for(600)
    await fail(one)
    assert 599 < (await sibling.attempt()).wait <= 600


async def test_without_redis_the_host_has_its_one_probe(hosts, server) -> None:
    one, _, sibling = hosts.make(seconds=0.05)
    await fail(one)
    await half_open(one)
    server.stop()
    try:
        tries = [await b.attempt() for b in (one, sibling) for _ in range(4)]
    finally:
        server.cont()
    assert sum(attempt.allowed for attempt in tries) == 1
