"""Asks of one turn of the loop travel together, and at once where one comes alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shmcache.l2 import L2
from shmcache.scripts import Names
from shmcache.turns import BATCH
from tests.fills import fill, record, token
from tests.redis_server import RedisServer, eventually

NAMES = Names("app")


@pytest.fixture
async def l2(server: RedisServer) -> AsyncIterator[L2]:
    server.command("FLUSHALL")
    l2 = L2(server.url, "app", deadline=2.0)
    yield l2
    await l2.close()


async def test_asks_of_one_turn_travel_together(l2: L2, server: RedisServer) -> None:
    """But the first goes at once: where asks came one by one, no other is expected."""
    await l2.acquire(b"k", offer=token())
    calls = 1 + 2, 2
    for n, expected in enumerate(calls):
        server.command("CONFIG", "RESETSTAT")
        keys = [b"%d:%d" % (n, i) for i in range(2 * BATCH)]
        await asyncio.gather(*(l2.acquire(key, offer=token()) for key in keys))
        stats = server.command("INFO", "commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == expected
        assert len(set(keys)) == server.command("EXISTS", *map(NAMES.lease, keys))


async def test_ask_whose_caller_left_at_once_is_not_sent(
    l2: L2, server: RedisServer
) -> None:
    await asyncio.gather(l2.acquire(b"k"), l2.acquire(b"k"), l2.acquire(b"k"))
    caller = asyncio.ensure_future(l2.acquire(b"k", offer=token()))
    other = asyncio.ensure_future(l2.acquire(b"k"))
    asyncio.get_running_loop().call_soon(caller.cancel)
    await other
    await eventually(lambda: not l2.under_way)
    assert not server.command("EXISTS", NAMES.lease(b"k"))


async def test_reads_of_one_turn_travel_together(l2: L2, server: RedisServer) -> None:
    keys = [b"%d" % i for i in range(BATCH)]
    for key in keys:
        await fill(l2, key, record(key))
    server.command("CONFIG", "RESETSTAT")
    answers = await asyncio.gather(*map(l2.acquire, keys))
    assert [a.record and a.record.value for a in answers] == keys
    stats = server.command("INFO", "commandstats")
    assert stats["cmdstat_mget"]["calls"] == 2  # the first alone
    assert "cmdstat_evalsha" not in stats
