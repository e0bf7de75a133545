"""The master is found by its Sentinels, and followed when it is another."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from shmcache import Cache
from shmcache.address import refusal
from shmcache.scripts import Names
from shmcache.sentinel import Sentinels
from shmcache.target import parse
from shmcache.topology import open_topology
from shmcache.wire import NotMasterError
from tests.caches import SIZE
from tests.fleets import SERVICE, Watched, info, redis_watched, replicate
from tests.helpers import Origin, free_port, segment_name
from tests.redis_server import RedisServer, eventually

TIMEOUT = 0.5


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with redis_watched() as running:
        yield running


@pytest.fixture
async def sentinels() -> AsyncIterator[Callable[[str], Sentinels]]:
    made: list[Sentinels] = []

    def make(url: str) -> Sentinels:
        made.append(Sentinels(parse(url), TIMEOUT))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def test_master_is_the_one_that_sentinel_names(
    watched: Watched, sentinels
) -> None:
    wire = await sentinels(watched.url).open()
    assert wire._transport is not None
    assert wire._transport.get_extra_info("peername")[1] == watched.named()
    await wire.hang_up()


async def test_sentinel_that_is_away_is_asked_last(watched: Watched, sentinels) -> None:
    away = f"127.0.0.1:{free_port()}"
    known = sentinels(watched.url.replace("://", f"://{away},"))
    await (await known.open()).hang_up()
    assert repr(known._sentinels[-1]) == away


async def test_hung_sentinel_costs_a_part_of_the_timeout(
    watched: Watched, sentinels
) -> None:
    """Also where the operation that waited for it was cut."""
    with socket.create_server(("127.0.0.1", 0)) as hung:  # it never accepts
        place = f"127.0.0.1:{hung.getsockname()[1]}"
        known = sentinels(watched.url.replace("://", f"://{place},"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(TIMEOUT / 20):
                await known.open()
        async with asyncio.timeout(TIMEOUT / 5):
            await (await known.open()).hang_up()


async def test_master_is_asked_for_once_by_many(watched: Watched, sentinels) -> None:
    before = _connections(watched)
    known = sentinels(watched.url)
    for wire in await asyncio.gather(*(known.open() for _ in range(8))):
        await wire.hang_up()
    assert _connections(watched) - before <= 3  # with the watch, and who counts them


def _connections(watched: Watched) -> int:
    """That the Sentinel ever received."""
    return int(info(watched.sentinel, "stats")["total_connections_received"])


async def test_unknown_service_is_a_setting(watched: Watched, sentinels) -> None:
    with pytest.raises(Exception, match="no Sentinel knows the service") as failed:
        await sentinels(watched.url.replace(SERVICE, "other")).open()
    assert refusal(failed.value)


async def test_nobody_there_is_no_wrong_setting(sentinels) -> None:
    with pytest.raises(OSError) as failed:
        await sentinels(f"redis+sentinel://127.0.0.1:{free_port()}/name").open()
    assert refusal(failed.value) is None


async def test_failover_is_followed_and_is_another_identity() -> None:
    """First one that was asked for, then one because the master hangs."""
    with redis_watched() as watched:
        topology = open_topology(watched.url, "app", timeout=TIMEOUT)
        await topology.check()
        link, hints = topology.link(0), await topology.connect()
        identities = [hints.identity]
        await link.exchange(("PING",))

        async def answers(port: int) -> bool:
            try:
                await link.exchange(("SET", "port", port))
            except (OSError, NotMasterError):
                return False
            at = link._idle[-1]._transport.get_extra_info("peername")[1]
            return bool(at == port)

        watched.fail_over()
        assert info(watched.master, "replication")["role"] == "master"  # for a while
        await eventually(lambda: not hints.quiet, 3)
        await eventually(lambda: answers(watched.replica.port), 1)
        hints = await topology.connect()
        identities.append(hints.identity)

        replicate(watched.master, watched.replica)  # Sentinel would, ten seconds later
        os.kill(watched.replica.pid, signal.SIGSTOP)
        await eventually(lambda: answers(watched.master.port), 20)
        after = await topology.connect()
        identities.append(after.identity)
        assert len(set(identities)) == 3
        for wire in (hints, after):
            await wire.hang_up()
        await topology.close()


# --- several Sentinels ------------------------------------------------------------


async def used(cache: Cache, on: RedisServer) -> bool:
    """Whether what is computed now stands in that Redis."""
    key = os.urandom(8).hex()
    assert await cache.get_or_set(key, Origin("v"), ttl=60) == "v"
    name = Names(cache.config.app).value(key.encode())
    return bool(await asyncio.to_thread(on.command, "EXISTS", name))


@pytest.mark.parametrize("fault", ["hangs", "is gone"])
async def test_first_of_three_sentinels_may_fail_and_so_may_the_master(
    fault: str,
) -> None:
    """1. it failed before anybody opened the cache; 2. the others promote the replica
    for the master that hangs; 3. another one fails, which was asked until then."""
    with redis_watched(sentinels=3) as watched:
        first, second, third = watched.sentinels
        os.kill(first.pid, signal.SIGSTOP if fault == "hangs" else signal.SIGKILL)
        settings = {"size": SIZE, "l2": watched.url, "app": segment_name()}
        async with Cache.open(segment_name(), **settings) as cache:
            await eventually(lambda: used(cache, watched.master), 3)
            assert await cache.check_l2() is None
            os.kill(watched.master.pid, signal.SIGSTOP)
            await eventually(lambda: used(cache, watched.replica), 20)
            os.kill(second.pid, signal.SIGSTOP)
            asked = cache._l2.topology._link._open.__self__._sentinels
            await eventually(lambda: repr(asked[0]) == f"127.0.0.1:{third.port}", 5)
            errors = cache.stats().l2_errors
            assert await used(cache, watched.replica)
            assert cache.stats().l2_errors == errors
            await eventually(lambda: cache.stats().following, 5)


async def test_sentinels_that_all_hang_cost_no_caller_the_value() -> None:
    with ExitStack() as stack:  # they never accept
        listening = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(3)
        ]
        hosts = ",".join(f"127.0.0.1:{s.getsockname()[1]}" for s in listening)
        url = f"redis+sentinel://{hosts}/{SERVICE}"
        async with Cache.open(segment_name(), size=SIZE, l2=url) as cache:
            for i in range(8):
                assert await cache.get_or_set(f"k{i}", Origin(i), ttl=60) == i
            assert cache.stats().l2 == "down" and cache.stats().l2_errors >= 5
            assert "no answer" in str(await cache.check_l2())
