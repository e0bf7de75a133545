"""L2 on a real Redis: election, fencing, ages, and a Redis that fails."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from shmcache.ask import FAILED, NONE, WAIT, WON, FleetClock, Invalidation
from shmcache.breaker import THRESHOLD
from shmcache.clock import SYSTEM
from shmcache.errors import ConfigError, TierUnavailable
from shmcache.l2 import BATCH_BYTES, L2, READS, STORES, pieces
from shmcache.link import CONNECTIONS, Link, cut
from shmcache.record import ERROR, FOREVER, FRESH, PASS, STALE
from shmcache.scripts import Names
from tests.fills import fill, read, record, token, won
from tests.redis_server import RedisServer, eventually, redis_server

NAMES = Names("app")
SECOND = 10**9
DEADLINE = 0.25
SLACK = 0.15
"""What a busy machine adds to a deadline."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
async def l2(server: RedisServer) -> AsyncIterator[L2]:
    server.command("FLUSHALL")
    l2 = L2(server.url, "app", deadline=DEADLINE)
    await l2.start()
    yield l2
    await l2.close()


def free_connections(l2: L2) -> int:
    link = l2.topology.link(0)
    assert isinstance(link, Link)
    return link._free._value


# -- election


async def test_two_askers_one_wins_one_waits(l2: L2) -> None:
    answers = await asyncio.gather(*(l2.acquire(b"k", offer=token()) for _ in range(9)))
    leases = [answer.lease for answer in answers]
    assert sorted(leases) == [WON] + [WAIT] * 8
    waiting = next(a for a in answers if a.lease == WAIT)
    assert 0 < waiting.wait_ms <= 3000 and len(waiting.holder) == 16


async def test_fresh_value_asks_for_no_lease(l2: L2) -> None:
    await fill(l2, b"k", record())
    answer = await l2.acquire(b"k", offer=token())
    assert answer.lease == NONE and answer.record is not None


async def test_early_ask_wins_beside_a_fresh_value(l2: L2) -> None:
    await fill(l2, b"k", record())
    answer = await l2.acquire(b"k", offer=token(), early=True)
    assert answer.lease == WON and answer.record is not None
    assert answer.record.state == FRESH


async def test_stale_value_comes_with_the_lease(l2: L2) -> None:
    await fill(l2, b"k", record(ttl=0.001))

    async def stale() -> bool:
        return (await read(l2)).state == STALE

    await eventually(stale)
    answer = await l2.acquire(b"k", offer=token())
    assert answer.lease == WON and answer.record is not None
    assert answer.record.state == STALE


async def test_lease_is_taken_instead_of_a_dead_holders(l2: L2) -> None:
    dead, begun = await won(l2, b"k")
    mine = token()
    answer = await l2.acquire(b"k", offer=mine, instead_of=dead)
    assert answer.lease == WON
    assert await l2.put_fenced(b"k", dead, record(), begun) == "lost"
    assert await l2.put_fenced(b"k", mine, record(), answer.clock) == "stored"


# -- fencing


async def test_late_holder_is_refused(l2: L2, server: RedisServer) -> None:
    mine, begun = await won(l2, b"k")
    server.command("DEL", NAMES.lease(b"k"))  # its life ended
    heir, heirs = await won(l2, b"k")
    assert await l2.put_fenced(b"k", mine, record(b"late"), begun) == "lost"
    assert await l2.put_fenced(b"k", heir, record(b"heir"), heirs) == "stored"
    assert (await read(l2)).value == b"heir"


async def test_token_stores_once(l2: L2) -> None:
    mine, begun = await won(l2, b"k")
    assert await l2.put_fenced(b"k", mine, record(), begun) == "stored"
    assert await l2.put_fenced(b"k", mine, record(), begun) == "lost"


@pytest.mark.parametrize("kind", [b"d", b"x"], ids=["delete", "expire"])
async def test_delete_during_fill_refuses_the_fill(l2: L2, kind: bytes) -> None:
    mine, begun = await won(l2, b"k")
    await l2.invalidate([Invalidation(kind, b"k")])
    assert await l2.put_fenced(b"k", mine, record(), begun) == "lost"
    assert (await l2.acquire(b"k")).record is None


@pytest.mark.parametrize(
    ("kind", "name", "answer"),
    [(b"t", 5, "raised"), (b"t", 6, "stored"), (b"c", b"", "raised")],
    ids=["its-tag", "another-tag", "clear"],
)
async def test_raise_during_fill_refuses_what_bears_it(
    l2: L2, kind: bytes, name: bytes | int, answer: str
) -> None:
    mine, begun = await won(l2, b"k")
    await l2.invalidate([Invalidation(kind, name)])
    assert await l2.put_fenced(b"k", mine, record(tags=(4, 5)), begun) == answer
    assert (await l2.acquire(b"k", offer=token())).lease != WAIT


@pytest.mark.parametrize(
    ("kind", "name"), [(b"u", 5), (b"y", b"")], ids=["its-tag", "clear"]
)
async def test_soft_raise_during_fill_stores_it_stale(
    l2: L2, kind: bytes, name: bytes | int
) -> None:
    mine, begun = await won(l2, b"k")
    await l2.invalidate([Invalidation(kind, name)])
    assert await l2.put_fenced(b"k", mine, record(tags=(5,)), begun) == "stored"
    assert (await read(l2)).state == STALE


# -- invalidation


@pytest.mark.parametrize(
    ("kind", "name"), [(b"d", b"k"), (b"t", 5), (b"c", b"")], ids=["key", "tag", "all"]
)
async def test_value_is_gone_after_a_hard_invalidation(
    l2: L2, kind: bytes, name: bytes | int
) -> None:
    await fill(l2, b"k", record(tags=(4, 5)))
    await l2.invalidate([Invalidation(kind, name)])
    assert (await l2.acquire(b"k")).record is None
    await fill(l2, b"k", record(tags=(4, 5)))
    assert (await read(l2)).state == FRESH


@pytest.mark.parametrize(
    ("kind", "name"), [(b"x", b"k"), (b"u", 5), (b"y", b"")], ids=["key", "tag", "all"]
)
async def test_value_is_stale_after_a_soft_invalidation(
    l2: L2, kind: bytes, name: bytes | int
) -> None:
    await fill(l2, b"k", record(tags=(5,)))
    await l2.invalidate([Invalidation(kind, name)])
    found = await read(l2)
    assert found.state == STALE and found.fresh_until <= SYSTEM.now() < found.dead_at


async def test_endless_value_expires_into_its_grace(l2: L2) -> None:
    endless = record()._replace(fresh_until=FOREVER, dead_at=FOREVER)
    await fill(l2, b"k", endless)
    assert (await read(l2)).dead_at == FOREVER
    await l2.invalidate([Invalidation(b"x", b"k")])
    found = await read(l2)
    assert found.state == STALE and found.dead_at < FOREVER


async def test_set_takes_the_lease_for_its_token(l2: L2) -> None:
    holder, begun = await won(l2, b"k")
    mine = token()
    clock = (await l2.invalidate([Invalidation(b"d", b"k", 7, mine)])).clock
    assert (await l2.acquire(b"k", offer=token())).holder == mine
    assert await l2.put_fenced(b"k", holder, record(), begun) == "lost"
    assert await l2.put_fenced(b"k", mine, record(b"set"), clock) == "stored"


async def test_batch_larger_than_a_script_is_done_in_order(
    l2: L2, server: RedisServer
) -> None:
    keys = [b"%d" % i for i in range(2 * STORES + 1)]
    await fill(l2, keys[-1], record())
    done = await l2.invalidate([Invalidation(b"d", key) for key in keys])
    assert (done.clock.clock, done.lost) == (len(keys), frozenset())
    entries = server.command("XRANGE", NAMES.stream, "-", "+")
    assert [fields[b"n"] for _, fields in entries] == keys
    assert (await l2.acquire(keys[-1])).record is None


async def test_lost_items_of_a_batch_are_told_by_their_place(l2: L2) -> None:
    mine, _ = await won(l2, b"k")
    items = [Invalidation(b"d", b"%d" % i) for i in range(STORES)]
    passed_on = Invalidation(b"d", b"k", 7, token(), token())
    stands = Invalidation(b"d", b"k", 7, token(), mine)
    done = await l2.invalidate([*items, passed_on, stands, passed_on])
    assert done.lost == {STORES, STORES + 2}
    assert done.clock.clock == STORES + 1


async def test_nothing_to_invalidate_tells_the_clock(l2: L2) -> None:
    done = await l2.invalidate([])
    assert done.clock.clock == 0 and len(done.clock.incarnation) == 8


async def test_other_redis_of_a_partition_makes_every_value_void(
    l2: L2, server: RedisServer
) -> None:
    wire = await l2.topology.link(0).connect()
    first = await l2.settle_identity(wire, 0, b"")
    await fill(l2, b"k", record())
    await l2.invalidate([Invalidation(b"d", b"other")])
    was = wire.identity.to_bytes(8, "little")
    assert server.command("HGET", NAMES.generations, "r") == was
    same = await l2.settle_identity(wire, 0, was)
    assert same.incarnation == first.incarnation
    wire.identity += 1  # a failover
    late = await l2.settle_identity(wire, 0, b"12345678")  # another was quicker
    assert late.incarnation == first.incarnation
    assert (await l2.acquire(b"k")).record is not None
    moved = await l2.settle_identity(wire, 0, was)
    assert moved.incarnation != first.incarnation and moved.clock == 1
    assert (await l2.acquire(b"k")).record is None
    assert not server.command("EXISTS", NAMES.stream)
    await wire.hang_up()


async def test_generations_bear_the_expected_identity(server: RedisServer) -> None:
    plain = L2(server.url, "app")
    wire = await plain.topology.link(0).connect()
    for make in (
        lambda l2: l2.acquire(b"k", offer=token()),
        lambda l2: l2.invalidate([Invalidation(b"t", 1)]),
    ):
        server.command("FLUSHALL")
        l2 = L2(server.url, "app", expects=lambda _: wire.identity)
        await make(l2)
        identity = wire.identity.to_bytes(8, "little")
        assert server.command("HGET", NAMES.generations, "r") == identity
        await l2.close()
    await wire.hang_up()
    await plain.close()


# -- many keys


async def test_get_many_finds_what_stands(l2: L2) -> None:
    for key, value in {
        b"fresh": record(b"1"),
        b"stale": record(b"2", ttl=0),
        b"pass": record(b"3", kind=PASS),
        b"gone": record(b"4"),
        b"error": record(b"5", kind=ERROR),
    }.items():
        await fill(l2, key, value)
    await l2.invalidate([Invalidation(b"d", b"gone")])
    found = await l2.get_many(
        [b"fresh", b"stale", b"fresh", b"pass", b"gone", b"error"]
    )
    assert {key: one.value for key, one in found.items()} == {
        b"fresh": b"1",
        b"stale": b"2",
        b"pass": b"3",
        b"error": b"5",
    }
    assert found[b"stale"].state == STALE and found[b"fresh"].state == FRESH
    assert await l2.get_many([]) == {}


async def test_many_keys_travel_in_few_scripts(l2: L2, server: RedisServer) -> None:
    keys = [b"%d" % i for i in range(sum(READS) + 1)]
    begun = [(key, *await won(l2, key)) for key in keys]
    server.command("CONFIG", "RESETSTAT")
    answers = await l2.put_many([(k, mine, record(k), at) for k, mine, at in begun])
    assert answers == ["stored"] * len(keys)
    found = await l2.get_many(keys)
    assert {key: one.value for key, one in found.items()} == {k: k for k in keys}
    stats = server.command("INFO", "commandstats")
    assert stats["cmdstat_mget"]["calls"] == 3


async def test_put_many_answers_for_each(l2: L2, server: RedisServer) -> None:
    mine, begun = await won(l2, b"k")
    tagged, since = await won(l2, b"tagged")
    await l2.invalidate([Invalidation(b"t", 5)])
    server.command("SCRIPT", "FLUSH")
    answers = await l2.put_many(
        [
            (b"lost", token(), record(), begun),
            (b"k", mine, record(), begun),
            (b"tagged", tagged, record(tags=(5,)), since),
        ]
    )
    assert answers == ["lost", "stored", "raised"]


async def test_put_many_of_large_values_travels_in_pieces(l2: L2) -> None:
    value = os.urandom(BATCH_BYTES // 2)
    items = []
    for i in range(5):
        mine, begun = await won(l2, b"%d" % i)
        items.append((b"%d" % i, mine, record(value), begun))
    assert await l2.put_many(items) == ["stored"] * 5
    assert [len(some) for some in pieces(items, 3, lambda i: len(i[2].value))] == [
        2,
        2,
        1,
    ]


async def test_many_without_redis_is_a_tier_unavailable() -> None:
    l2 = L2("unix:///nowhere/redis.sock", "app")
    item = (b"k", token(), record(), FleetClock(b"incarnat", 0, 0))
    with pytest.raises(TierUnavailable):
        await l2.put_many([item, item])
    with pytest.raises(TierUnavailable):
        await l2.get_many([b"%d" % i for i in range(sum(READS) + 1)])
    await l2.close()


# -- seals

SECRET = b"0123456789abcdef"


async def test_sealed_values_are_read_with_the_secret_alone(
    l2: L2, server: RedisServer
) -> None:
    sealed = L2(server.url, "app", secret=SECRET, deadline=DEADLINE)
    try:
        await fill(sealed, b"k", record(b"sealed"))
        assert (await read(sealed)).value == b"sealed"
        assert (await l2.acquire(b"k")).record is None and l2.foreign == 1
        await fill(l2, b"k", record(b"plain"))
        answer = await sealed.acquire(b"k", offer=token())
        assert (answer.record, answer.lease, sealed.foreign) == (None, WON, 1)
        assert not server.command("EXISTS", NAMES.value(b"k"))
    finally:
        await sealed.close()


async def test_swapped_and_brought_back_values_are_misses(server: RedisServer) -> None:
    sealed = L2(server.url, "app", secret=SECRET, deadline=DEADLINE)
    try:
        await fill(sealed, b"one", record(b"1"))
        await fill(sealed, b"two", record(b"2"))
        one, two = (server.command("GET", NAMES.value(k)) for k in (b"one", b"two"))
        server.command("MSET", NAMES.value(b"one"), two, NAMES.value(b"two"), one)
        assert await sealed.get_many([b"one", b"two"]) == {} and sealed.foreign == 2
        await fill(sealed, b"one", record(b"new"))
        await sealed.invalidate([Invalidation(b"t", 1), Invalidation(b"c", b"")])
        server.command("SET", NAMES.value(b"one"), one, "PX", 30_000)
        assert await sealed.get_many([b"one"]) == {}
    finally:
        await sealed.close()


@pytest.mark.parametrize("size", [1, 15, 65])
def test_secret_of_a_wrong_length_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="l2_secret"):
        L2("redis://nowhere", "app", secret=bytes(size))


# -- ages


async def test_record_comes_back_as_it_was(l2: L2) -> None:
    put = record(b"bytes", tags=(1, 2**20 - 1), kind=PASS)
    await fill(l2, b"k", put)
    got = await read(l2)
    same = ("value", "kind", "nonce", "fill_us", "tags")
    assert [getattr(got, f) for f in same] == [getattr(put, f) for f in same]
    assert got.stamp == 0 and got.state == FRESH


async def test_promotion_never_lengthens_a_life(l2: L2) -> None:
    put = record(ttl=20, grace=10)
    await fill(l2, b"k", put)
    for _ in range(50):
        got = await read(l2)
        assert got.birth <= put.birth and got.dead_at <= put.dead_at
        assert put.birth - got.birth < SECOND  # and hardly shortens it


async def test_held_up_store_does_not_lengthen_the_life(
    l2: L2, server: RedisServer
) -> None:
    mine, begun = await won(l2, b"k")
    put = record(ttl=20, grace=0)
    server.stop()
    with pytest.raises(TierUnavailable):
        await l2.put_fenced(b"k", mine, put, begun)
    server.cont()
    # it arrives late, and is stored all the same
    await eventually(lambda: server.command("EXISTS", NAMES.value(b"k")))
    assert (await read(l2)).dead_at <= put.dead_at


async def test_life_that_is_over_is_not_stored(l2: L2) -> None:
    mine, begun = await won(l2, b"k")
    old = record(ttl=1, grace=1)
    old = old._replace(birth=old.birth - 3 * SECOND)
    old = old._replace(fresh_until=old.birth + SECOND, dead_at=old.birth + 2 * SECOND)
    assert await l2.put_fenced(b"k", mine, old, begun) == "raised"
    assert (await l2.acquire(b"k", offer=token())).lease == WON


# -- errors of a holder


async def test_error_is_told_to_those_who_waited_only(l2: L2) -> None:
    mine, _ = await won(l2, b"k")
    waiting = await l2.acquire(b"k", offer=token())
    assert await l2.abandon(b"k", mine, b"words")
    waited = await l2.acquire(b"k", offer=token(), waited=waiting.holder)
    assert (waited.lease, waited.error) == (FAILED, b"words")
    other = await l2.acquire(b"k", offer=token(), waited=token())
    assert (other.lease, other.error) == (WON, b"")
    late = await l2.acquire(b"k", offer=token(), waited=waiting.holder)
    assert (late.lease, late.error) == (FAILED, b"words")


async def test_abandon_frees_only_its_own_lease(l2: L2) -> None:
    mine, _ = await won(l2, b"k")
    assert not await l2.abandon(b"k", token(), b"words")
    assert (await l2.acquire(b"k", offer=token())).lease == WAIT
    l2.abandon_later(b"k", mine)

    async def free() -> bool:
        return (await l2.acquire(b"k", offer=token())).lease == WON

    await eventually(free)


# -- failure


async def timed(operation: object) -> float:
    began = time.monotonic()
    with pytest.raises(TierUnavailable):
        await operation  # type: ignore[misc]
    return time.monotonic() - began


async def test_stopped_redis_costs_the_deadline_then_nothing(
    l2: L2, server: RedisServer
) -> None:
    mine, begun = await won(l2, b"k")
    server.stop()
    try:
        assert await timed(l2.acquire(b"k", offer=token())) < DEADLINE + SLACK
        assert await timed(l2.put_fenced(b"k", mine, record(), begun)) < (
            DEADLINE + SLACK
        )
        await asyncio.gather(*(timed(l2.renew(b"k", mine, 3000)) for _ in range(5)))
        assert not l2.available and l2.state == "down"
        # a probe now and then pays the deadline, nobody else anything
        spent = [await timed(l2.acquire(b"k")) for _ in range(20)]
        assert sum(seconds > 0.05 for seconds in spent) <= 3
    finally:
        server.cont()
    await used_again(l2)


async def used_again(l2: L2) -> None:
    async def answers() -> bool:
        with contextlib.suppress(TierUnavailable):
            return bool(await l2.acquire(b"again", offer=token()))
        return False

    await eventually(answers, 15)


async def test_redis_killed_and_restarted_is_used_again() -> None:
    with redis_server() as own:
        l2 = L2(own.url, "app", deadline=DEADLINE)
        await l2.acquire(b"k")
        own.kill()
        for _ in range(20):
            assert await timed(l2.acquire(b"k")) < DEADLINE + SLACK
        assert not l2.available
        own.restart()
        await used_again(l2)
        assert l2.available
        await l2.close()


async def test_redis_that_was_never_there_is_no_error_at_start() -> None:
    l2 = L2("unix:///nowhere/redis.sock", "app")
    await l2.start()
    with pytest.raises(TierUnavailable, match="l2: "):
        await l2.acquire(b"k")
    with pytest.raises(TierUnavailable, match="l2: "):
        await l2.check()
    await l2.close()


async def test_check_of_a_hung_redis_tells_why(server: RedisServer) -> None:
    l2 = L2(server.url, "app", deadline=0.1)
    server.stop()
    try:
        with pytest.raises(TierUnavailable, match="no answer within"):
            await l2.check()
    finally:
        server.cont()
    await l2.close()


async def test_check_names_a_wrong_password() -> None:
    with redis_server("--requirepass", "sesame") as guarded:
        l2 = L2(guarded.url + "?password=hunter2", "app")
        with pytest.raises(ConfigError, match="l2: ") as refused:
            await l2.check()
        assert "hunter2" not in str(refused.value)
        with pytest.raises(TierUnavailable) as away:
            await l2.acquire(b"k")
        assert "hunter2" not in str(away.value)
        await l2.close()


async def refused(l2: L2, times: int) -> None:
    """As a flight asks: the lease may have been granted, so it is given back."""
    for _ in range(times):
        mine = token()
        with contextlib.suppress(TierUnavailable):
            await l2.acquire(b"k", offer=mine)
        with contextlib.suppress(TierUnavailable):
            await l2.abandon(b"k", mine)


@pytest.mark.parametrize("denied", ["-evalsha", "-set", "-mget", "-hmget"])
async def test_redis_that_refuses_our_scripts_is_left_alone(
    server: RedisServer, denied: str
) -> None:
    user = ("reset", "on", ">x", "~*", "&*", "+@all", denied)
    server.command("FLUSHALL")
    server.command("ACL", "SETUSER", "poor", *user)
    l2 = L2(server.url + "?username=poor&password=x", "app", deadline=DEADLINE)
    try:
        await refused(l2, THRESHOLD)
        assert not l2.available
        if denied == "-set":  # what a probe does not try
            return
        (part,) = l2._parts
        l2.alive(0)
        await eventually(lambda: not l2.under_way)
        assert not l2.available and part.operations.breaker.trip() is False
        server.command("ACL", "SETUSER", "poor", "+@all")
        l2.alive(0)
        await eventually(lambda: l2.available)
    finally:
        await l2.close()


async def test_disk_that_is_full_opens_the_breaker() -> None:
    """Redis refuses all writes then, and answers reads."""
    with redis_server("--dir", "/proc") as own:
        own.command("BGSAVE")
        await eventually(
            lambda: own.command("INFO", "persistence")["rdb_last_bgsave_status"] != "ok"
        )
        l2 = L2(own.url, "app", deadline=DEADLINE)
        await l2.acquire(b"k", offer=token())
        own.command("CONFIG", "SET", "save", "1 1")
        await refused(l2, THRESHOLD)
        assert not l2.available
        l2.alive(0)
        await eventually(lambda: not l2.under_way)
        assert not l2.available
        own.command("CONFIG", "SET", "save", "")
        l2.alive(0)
        await eventually(lambda: l2.available)
        await l2.close()


async def test_renewal_of_a_lease_that_is_lost_proves_nothing(
    l2: L2, server: RedisServer
) -> None:
    breaker = l2._parts[0].operations.breaker
    mine, _ = await won(l2, b"k")
    for _ in range(THRESHOLD - 1):
        breaker.failed()
    assert not await l2.renew(b"k", token(), 3000)
    assert not await l2.abandon(b"k", token())
    assert breaker.failed() and not l2.available
    assert breaker.probed(_probe(l2), good=True)
    for _ in range(THRESHOLD - 1):
        breaker.failed()
    assert await l2.renew(b"k", mine, 3000)
    assert not breaker.failed() and l2.available


def _probe(l2: L2) -> int:
    breaker = l2._parts[0].operations.breaker
    breaker.hurry()
    return breaker.probe()


async def test_answer_that_is_always_late_opens_the_breaker(
    l2: L2, server: RedisServer
) -> None:
    """Each command ends well in the end; it is of no use all the same."""
    await l2.acquire(b"k")
    for _ in range(5):
        server.command("CLIENT", "PAUSE", round(DEADLINE * 1400))
        await timed(l2.acquire(b"k"))
    assert not l2.available
    assert l2.topology.connects <= 3  # a late answer does not cost the connection


async def test_cancelled_caller_leaves_the_operation_to_end(
    l2: L2, server: RedisServer
) -> None:
    mine, begun = await won(l2, b"k")
    store = asyncio.create_task(l2.put_fenced(b"k", mine, record(), begun))
    await asyncio.sleep(0)
    store.cancel()
    await asyncio.gather(store, return_exceptions=True)

    async def stored() -> bool:
        return (await l2.acquire(b"k")).record is not None

    await eventually(stored)
    await eventually(lambda: not l2.under_way)
    assert free_connections(l2) == CONNECTIONS


async def test_close_waits_for_leases_given_back(server: RedisServer) -> None:
    l2 = L2(server.url, "app")
    mine, _ = await won(l2, b"given-back")
    l2.abandon_later(b"given-back", mine)
    await l2.close()
    assert not server.command("EXISTS", NAMES.lease(b"given-back"))


# -- cancellation


@pytest.fixture
async def patient(server: RedisServer) -> AsyncIterator[L2]:
    server.command("FLUSHALL")
    l2 = L2(server.url, "app", deadline=5.0)
    yield l2
    await l2.close()


CANCELLATIONS = int(os.environ.get("SHMCACHE_REPEATS", "100"))


@types.coroutine
def cancelled_at(work: Coroutine[Any, Any, Any], place: int) -> Any:
    """Await `work`; when it waits for the `place`-th time its task is cancelled."""
    go_on = partial(work.send, None)
    for step in itertools.count():
        try:
            waited = go_on()
        except StopIteration as end:
            return end.value
        if step == place:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            go_on = partial(work.send, (yield waited))
        except BaseException as error:
            go_on = partial(work.throw, error)


OPERATIONS: dict[str, Callable[[L2, bytes, FleetClock], Coroutine[Any, Any, Any]]] = {
    "read": lambda l2, mine, begun: l2.acquire(b"k"),
    "acquire": lambda l2, mine, begun: l2.acquire(b"k", offer=token(), early=True),
    "renew": lambda l2, mine, begun: l2.renew(b"k", mine, 3000),
    "put": lambda l2, mine, begun: l2.put_fenced(b"k", mine, record(), begun),
    "abandon": lambda l2, mine, begun: l2.abandon(b"k", mine, b"words"),
    "get_many": lambda l2, mine, begun: l2.get_many([b"k", b"other"]),
    "put_many": lambda l2, mine, begun: l2.put_many([(b"k", mine, record(), begun)]),
    "invalidate": lambda l2, mine, begun: l2.invalidate([Invalidation(b"x", b"k")]),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_cancelled_callers_cost_no_connection(
    patient: L2, name: str, place: int
) -> None:
    l2 = patient
    await fill(l2, b"k", record())
    connects, tasks = l2.topology.connects, len(asyncio.all_tasks())
    for _ in range(max(1, CANCELLATIONS // len(OPERATIONS) // 3)):
        work = OPERATIONS[name](l2, *await won(l2, b"k"))
        caller = asyncio.create_task(cancelled_at(work, place))
        with contextlib.suppress(asyncio.CancelledError):
            await caller
        await eventually(lambda: not l2.under_way)
        await l2.invalidate([Invalidation(b"x", b"k")])  # frees the lease
    assert free_connections(l2) == CONNECTIONS
    assert l2.topology.connects <= connects + 1
    assert len(asyncio.all_tasks()) == tasks
    await fill(l2, b"k", record(b"after"))
    assert (await read(l2)).value == b"after"


@pytest.mark.parametrize("turns", range(12))
async def test_operation_cut_anywhere_leaves_the_pool_whole(
    patient: L2, turns: int
) -> None:
    """As when the cache is closed: the connection may go, its place comes back."""
    l2 = patient
    await l2.acquire(b"k")
    for _ in range(max(1, CANCELLATIONS // 24)):
        caller = asyncio.create_task(l2.acquire(b"k", offer=token()))
        for _ in range(turns):
            await asyncio.sleep(0)
        await cut(list(l2._parts[0].operations._tasks))
        with contextlib.suppress(TierUnavailable):
            await asyncio.wait_for(caller, 1)
    assert free_connections(l2) == CONNECTIONS and not l2.under_way
    assert l2.available
    await fill(l2, b"other", record(b"after"))
    assert (await read(l2, b"other")).value == b"after"
