"""The fleet's tally, by a real Redis: exact by its clock, however that is set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgpack
import pytest

from shmcache import TierUnavailable
from shmcache_server.allowance import SECOND, Terms
from shmcache_server.tally import Tally
from tests.fleets import add_user, redis_cluster, redis_watched
from tests.helpers import free_port, until
from tests.redis_server import RedisServer, eventually, redis_server
from tests.tls import speaks_tls, tls_cluster, tls_redis, tls_watched

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
TERMS = Terms(5, MINUTE)
KEY = "shmcache:{app:limits:b}"


@pytest.fixture
async def tally(server: RedisServer) -> AsyncIterator[Tally]:
    server.command("FLUSHALL")
    tally = Tally(server.url, "app", 5.0)
    yield tally
    await tally.close()


async def took(tally: Tally, times: int, terms: Terms = TERMS) -> int:
    return sum([(await tally.ask("b", terms, 1)).granted for _ in range(times)])


def set_clock(server: RedisServer, by: int) -> None:
    """As Redis' clock set forward by so many microseconds, or back: what it has noted
    is the other way."""
    born, at, blocked, calls = msgpack.unpackb(server.command("GET", KEY))
    calls = [c if i % 2 else c - by for i, c in enumerate(calls)]
    shifted = [born - by, at - by, blocked and blocked - by, calls]
    ttl = server.command("PTTL", KEY)
    server.command("SET", KEY, msgpack.packb(shifted), "PX", ttl)


async def test_no_more_than_the_budget(tally) -> None:
    assert await took(tally, 9) == 5
    told = await tally.ask("b", TERMS, 1)
    assert not told.granted
    assert (told.used, told.wait) == (5, told.none)
    assert MINUTE - 5 * SECOND < told.wait <= MINUTE


async def test_budgets_and_apps_are_apart(server, tally) -> None:
    await took(tally, 5)
    assert (await tally.ask("other", TERMS, 1)).granted
    other = Tally(server.url, "elsewhere", 5.0)
    assert (await other.ask("b", TERMS, 1)).granted
    await other.close()


async def test_many_at_once_get_no_more(server, tally) -> None:
    tallies = [Tally(server.url, "app", 5.0) for _ in range(8)]
    asked = (t.ask("b", TERMS, 1) for t in tallies for _ in range(10))
    told = await asyncio.gather(*asked)
    assert sum(one.granted for one in told) == 5
    for one in tallies:
        await one.close()


async def test_window_slides(server, tally) -> None:
    assert await took(tally, 3) == 3
    set_clock_by_passing(server, 50 * SECOND)
    assert await took(tally, 9) == 2
    set_clock_by_passing(server, 9 * SECOND)
    assert await took(tally, 9) == 0
    set_clock_by_passing(server, 2 * SECOND)
    assert await took(tally, 9) == 3, "those of the beginning have left, no others"


def set_clock_by_passing(server: RedisServer, by: int) -> None:
    """So much time passes, in which the tally was looked at."""
    born, at, blocked, calls = msgpack.unpackb(server.command("GET", KEY))
    calls = [c if i % 2 else c - by for i, c in enumerate(calls)]
    server.command("SET", KEY, msgpack.packb([born - by, at, blocked, calls]))


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])
async def test_clock_that_is_set_frees_nothing_and_blocks_nobody(
    server, tally, by
) -> None:
    assert await took(tally, 9) == 5
    set_clock(server, by)
    told = await tally.ask("b", TERMS, 1)
    assert not told.granted
    assert MINUTE - 10 * SECOND < told.wait <= MINUTE
    assert 0 <= told.age < MINUTE


async def test_cost_is_all_or_none(tally) -> None:
    assert (await tally.ask("b", TERMS, 3)).granted
    told = await tally.ask("b", TERMS, 3)
    assert (told.granted, told.used, told.none) == (False, 3, 0)
    assert told.wait > 0
    assert (await tally.ask("b", TERMS, 2)).granted


async def test_look_takes_nothing(tally) -> None:
    for _ in range(9):
        told = await tally.ask("b", TERMS, 0)
    assert told.used == 0
    assert await took(tally, 9) == 5


async def test_block_is_for_all_and_the_longer_one_counts(tally) -> None:
    await tally.ask("b", TERMS, 0, 30 * SECOND)
    await tally.ask("b", TERMS, 0, SECOND)
    told = await tally.ask("b", TERMS, 1)
    assert not told.granted
    assert 29 * SECOND < told.blocked == told.wait <= 30 * SECOND


async def test_calls_granted_elsewhere_are_counted_at_their_age(tally) -> None:
    assert await took(tally, 1) == 1
    alone = [(50 * SECOND, 3), (61 * SECOND, 9), (SECOND, 1)]
    assert (await tally.ask("b", TERMS, 0, 0, alone)).used == 5
    assert 9 * SECOND < (await tally.ask("b", TERMS, 1)).wait <= 10 * SECOND


async def test_tally_that_was_lost_is_young(server, tally) -> None:
    await took(tally, 5)
    set_clock_by_passing(server, 2 * MINUTE)
    assert (await tally.ask("b", TERMS, 0)).age > 2 * MINUTE
    server.command("FLUSHALL")
    assert (await tally.ask("b", TERMS, 0)).age < SECOND


async def test_key_has_an_end(server, tally) -> None:
    await took(tally, 1)
    assert 60_000 < server.command("PTTL", KEY) <= 200_000


async def test_large_budget_is_kept_in_pieces(server, tally) -> None:
    terms = Terms(100_000, 10 * SECOND)
    for _ in range(3000):
        assert (await tally.ask("b", terms, 20)).granted
    calls = msgpack.unpackb(server.command("GET", KEY))[3]
    assert len(calls) // 2 <= 1025
    assert sum(calls[1::2]) == (await tally.ask("b", terms, 0)).used <= 60_000


async def test_script_that_redis_forgot_is_sent_again(server, tally) -> None:
    await took(tally, 1)
    server.command("SCRIPT", "FLUSH")
    assert await took(tally, 9) == 4


async def test_redis_that_hangs_costs_the_deadline_and_no_answer_is_mixed_up(
    server, tally
) -> None:
    await took(tally, 2)
    tally._deadline = 0.05
    server.stop()
    try:
        with pytest.raises(TierUnavailable):
            await tally.ask("b", TERMS, 0, 7 * SECOND)
    finally:
        server.cont()
    tally._deadline = 5.0
    assert await took(tally, 9) == 0, "it was counted, though nobody heard of it"
    assert (await tally.ask("other", TERMS, 0)).blocked == 0


async def test_redis_that_is_gone_is_no_error_of_its_own(tmp_path) -> None:
    tally = Tally(f"unix://{tmp_path}/none.sock", "app", 1.0)
    with pytest.raises(TierUnavailable, match="limits: "):
        await tally.ask("b", TERMS, 1)
    await tally.close()


# -- every URL that L2 takes


async def granted(url: str) -> bool:
    tally = Tally(url, "app", 5.0)
    try:
        return (await tally.ask("b", TERMS, 1)).granted
    finally:
        await tally.close()


async def test_one_redis_by_tcp_with_a_user_and_a_database() -> None:
    with redis_server(port=free_port()) as server:
        rules = "~shmcache:* -@all +evalsha +eval +time +get +set +select +ping"
        add_user(server, "us:er", "p@ss", rules)
        assert await granted(f"redis://us%3Aer:p%40ss@127.0.0.1:{server.port}/2")
        assert "db2" in server.command("INFO", "keyspace")


async def test_one_redis_by_socket_with_a_database(server) -> None:
    server.command("FLUSHALL")
    assert await granted(f"{server.url}?db=3")
    assert server.command("DBSIZE") == 0


async def test_one_redis_by_tls() -> None:
    with tls_redis(lambda relay: relay.demand_client_certificate()) as redis:
        pair = f"&ssl_certfile={redis.client_file}&ssl_keyfile={redis.client_file}"
        assert await granted(f"{redis.url}{pair}&ssl_min_version=TLSv1.2")
        with pytest.raises(TierUnavailable):
            await granted(redis.url)


async def test_tls_of_another_name_is_refused_unless_told() -> None:
    with tls_redis() as redis:
        by_address = redis.url.replace("localhost", "127.0.0.1")
        with pytest.raises(TierUnavailable):
            await granted(by_address)
        assert await granted(f"{by_address}&ssl_check_hostname=false")


async def test_sentinel_and_the_master_that_it_names_later() -> None:
    with redis_watched() as watched:
        tally = Tally(watched.url, "app", 5.0)
        assert (await tally.ask("b", TERMS, 1)).granted
        until(lambda: watched.replica.command("EXISTS", KEY), 5, "it is replicated")
        watched.fail_over()
        assert await eventually(lambda: asked(tally), 15) == 2
        await tally.close()


async def asked(tally: Tally) -> int:
    try:
        told = await tally.ask("b", TERMS, 1)
    except TierUnavailable:
        return 0
    return told.used


@pytest.mark.skipif(not speaks_tls(), reason="this redis-server has no TLS")
async def test_sentinel_by_tls() -> None:
    with tls_watched(native=True) as watched:
        assert await granted(watched.url)


async def test_cluster_has_each_budget_on_one_node() -> None:
    with redis_cluster() as nodes:
        tally = Tally(nodes.url, "app", 5.0)
        for name in "abcdefgh":
            assert (await tally.ask(name, TERMS, 1)).granted
        await tally.close()
        assert sum(node.command("DBSIZE") for node in nodes.nodes) == 8


async def test_cluster_by_tls() -> None:
    with tls_cluster(native=False) as (_, url):
        assert await granted(url)


async def test_question_is_not_asked_again_by_the_client(server, tally) -> None:
    """A connection that is cut after the question may have counted it."""
    await took(tally, 1)
    asked = server.command("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    server.command("CLIENT", "KILL", "TYPE", "normal")
    with pytest.raises(TierUnavailable):
        await tally.ask("b", TERMS, 1)
    after = server.command("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    assert after == asked
