"""A lease is renewed, lost and told of; its end wakes those who wait."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable

import pytest

from shmcache.ask import WAIT, WON, Invalidation
from shmcache.clock import SYSTEM
from shmcache.l2 import L2
from shmcache.lease import HEARTBEAT, POLL, Lease, Leases
from shmcache.record import FRESH, Record
from shmcache.scripts import Names
from tests.fleets import redis_cluster
from tests.helpers import free_port
from tests.redis_server import RedisServer, eventually, redis_server

NAMES = Names("app")
SOON = 0.1
"""Seconds for a wake-up to arrive: milliseconds, on a busy machine more."""


class Process:
    """What one process of a host has to do with Redis."""

    def __init__(
        self, url: str, life: float, expects: Callable[[int], int] | None = None
    ) -> None:
        self.l2 = L2(url, "app", lease_life=life, expects=expects)
        self.leases = Leases(self.l2)

    async def start(self) -> Process:
        await self.leases.start()
        await self.subscribed(1)
        return self

    async def subscribed(self, times: int) -> None:
        await eventually(lambda: self.leases.subscriptions >= times, 10)

    async def won(self, key: bytes) -> Lease:
        token = os.urandom(16)
        answer = await self.l2.acquire(key, offer=token)
        assert answer.lease == WON
        return self.leases.hold(key, token, answer.clock)

    async def waits(self, key: bytes) -> int:
        channel = self.leases.channel
        answer = await self.l2.acquire(key, offer=os.urandom(16), channel=channel)
        assert answer.lease == WAIT
        return answer.wait_ms

    async def close(self) -> None:
        await self.leases.close()
        await self.l2.close()


@pytest.fixture
async def pair(server: RedisServer) -> AsyncIterator[tuple[Process, Process]]:
    server.command("FLUSHALL")
    holder = await Process(server.url, 3.0).start()
    waiter = await Process(server.url, 3.0).start()
    yield holder, waiter
    await holder.close()
    await waiter.close()


def record() -> Record:
    now = SYSTEM.now()
    return Record(b"v", FRESH, 0, now, now + 10**10, now + 10**10, 0, 1, 1, ())


async def waited(process: Process, key: bytes, wait_ms: int) -> float:
    began = time.monotonic()
    await process.leases.wait(key, wait_ms)
    return time.monotonic() - began


@pytest.mark.parametrize("end", ["store", "abandon", "delete"])
async def test_end_of_a_lease_wakes_the_waiter(
    pair: tuple[Process, Process], end: str
) -> None:
    holder, waiter = pair
    lease = await holder.won(b"k")
    wait = asyncio.create_task(waited(waiter, b"k", await waiter.waits(b"k")))
    await asyncio.sleep(0)
    if end == "store":
        await holder.l2.put_fenced(b"k", lease.token, record(), lease.clock)
    elif end == "abandon":
        await holder.l2.abandon(b"k", lease.token)
    else:
        await holder.l2.invalidate([Invalidation(b"d", b"k")])
    lease.stop()
    assert await wait < SOON


async def test_wake_up_before_the_wait_is_not_lost(
    pair: tuple[Process, Process],
) -> None:
    """1. The ask notes the channel. 2. The message comes. 3. The wait begins."""
    holder, waiter = pair
    lease = await holder.won(b"k")
    wait_ms = await waiter.waits(b"k")
    await holder.l2.abandon(b"k", lease.token)
    lease.stop()
    await eventually(lambda: b"k" in waiter.leases._early)
    assert await waited(waiter, b"k", wait_ms) < SOON
    assert await waited(waiter, b"k", wait_ms) >= POLL * 0.9  # and counts once


async def test_wake_up_of_another_key_wakes_nobody(
    pair: tuple[Process, Process],
) -> None:
    holder, waiter = pair
    lease, other = await holder.won(b"k"), await holder.won(b"other")
    await waiter.waits(b"other")
    wait = asyncio.create_task(waited(waiter, b"k", await waiter.waits(b"k")))
    await asyncio.sleep(0)
    await holder.l2.abandon(b"other", other.token)
    assert await wait >= POLL * 0.9
    lease.stop()
    other.stop()


@pytest.mark.parametrize(("wait_ms", "most"), [(0, 0.05), (100, 0.15), (60_000, POLL)])
async def test_lost_wake_up_costs_the_lease_or_a_poll(
    pair: tuple[Process, Process], wait_ms: int, most: float
) -> None:
    _, waiter = pair
    seconds = await waited(waiter, b"k", wait_ms)
    assert min(POLL, wait_ms / 1000) * 0.9 <= seconds < most + SOON


async def test_new_subscription_wakes_all_who_wait(
    pair: tuple[Process, Process], server: RedisServer
) -> None:
    _, waiter = pair
    waits = [asyncio.create_task(waited(waiter, b"%d" % i, 60_000)) for i in range(3)]
    await asyncio.sleep(0)
    server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await waiter.subscribed(2)
    assert max(await asyncio.gather(*waits)) < POLL


async def test_hung_subscription_is_noticed_and_renewed(
    pair: tuple[Process, Process], server: RedisServer
) -> None:
    """A stopped Redis keeps its connections alive: only a missing PONG tells."""
    _, waiter = pair
    before = waiter.l2.topology.connects
    server.stop()
    began = time.monotonic()
    try:
        await eventually(lambda: waiter.l2.topology.connects > before, 4 * HEARTBEAT)
    finally:
        server.cont()
    assert time.monotonic() - began < 3 * HEARTBEAT + 0.2
    await waiter.subscribed(2)


async def test_subscription_that_is_refused_is_told_once(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Without wake-ups all works, but slower: nothing else would tell."""
    caplog.set_level("DEBUG", "shmcache.lease")
    server.command(
        *("ACL", "SETUSER", "deaf", "reset", "on", ">x", "~*", "+@all"),
        *("resetchannels",),
    )
    process = Process(server.url + "?username=deaf&password=x", 3.0)
    await process.leases.start()
    await eventually(lambda: len(caplog.records) >= 3)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING"] + ["DEBUG"] * (len(levels) - 1)
    assert "NOPERM" in caplog.messages[0]
    server.command("ACL", "SETUSER", "deaf", "allchannels")
    await process.subscribed(1)
    await process.close()


async def test_subscription_follows_the_host_to_another_master() -> None:
    """The old one may live on where nobody publishes any more."""
    expected = [0]
    with redis_server() as own:
        process = Process(own.url, 3.0, expected.__getitem__)
        await process.start()
        first = await process.l2.topology.connect()
        expected[0] = first.identity
        await first.hang_up()
        before = process.l2.topology.connects
        own.command("REPLICAOF", "127.0.0.1", free_port())
        own.command("REPLICAOF", "NO", "ONE")  # a master again, of another history
        second = await process.l2.topology.connect()
        assert second.identity != first.identity
        expected[0] = second.identity
        await second.hang_up()
        await process.subscribed(2)
        assert process.l2.topology.connects == before + 2
        await process.close()


async def test_waits_end_though_redis_is_away() -> None:
    process = Process("unix:///nowhere/redis.sock", 3.0)
    await process.leases.start()
    assert await waited(process, b"k", 100) < 0.15 + SOON
    await process.close()


async def test_lease_outlives_its_life_while_renewed(
    server: RedisServer,
) -> None:
    process = await Process(server.url, 0.3).start()
    lease = await process.won(b"renewed")
    await process.waits(b"renewed")
    ends = time.monotonic() + 1.6
    while time.monotonic() < ends:
        assert server.command("GET", NAMES.lease(b"renewed")) == lease.token
        assert server.command("EXISTS", NAMES.waiters(b"renewed"))
        await asyncio.sleep(0.02)
    assert not lease.lost.is_set()
    lease.stop()
    await eventually(lambda: not server.command("EXISTS", NAMES.lease(b"renewed")))
    await process.close()


async def test_lease_that_passed_on_is_lost_and_not_made_again(
    server: RedisServer,
) -> None:
    process = await Process(server.url, 0.3).start()
    lease = await process.won(b"passed-on")
    server.command("DEL", NAMES.lease(b"passed-on"))
    async with asyncio.timeout(2):
        await lease.lost.wait()
    assert not server.command("EXISTS", NAMES.lease(b"passed-on"))
    await process.close()


async def test_lease_is_lost_when_redis_is_gone_for_its_life() -> None:
    with redis_server() as own:
        process = await Process(own.url, 0.3).start()
        lease = await process.won(b"k")
        own.kill()
        async with asyncio.timeout(3):
            await lease.lost.wait()
        await process.close()


async def test_wake_up_crosses_the_nodes_of_a_cluster() -> None:
    """The waiter listens at one node; the lease may end at any."""
    with redis_cluster() as nodes:
        holder = await Process(nodes.url, 3.0).start()
        waiter = await Process(nodes.url, 3.0).start()
        for key in (b"%d" % i for i in range(24)):
            lease = await holder.won(key)
            wait = asyncio.create_task(waited(waiter, key, await waiter.waits(key)))
            await asyncio.sleep(0)
            stored = await holder.l2.put_fenced(key, lease.token, record(), lease.clock)
            lease.stop()
            assert (stored, await wait < POLL / 2) == ("stored", True)
        asked = {holder.l2.partition(b"%d" % i) for i in range(24)}
        assert len(asked) > 6
        await holder.close()
        await waiter.close()
