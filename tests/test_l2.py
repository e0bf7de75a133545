"""L2 on a real Redis: election, fencing, ages, and a Redis that fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from shmcache.ask import FAILED, NONE, WAIT, WON, FleetClock
from shmcache.clock import SYSTEM
from shmcache.errors import ConfigError, TierUnavailable
from shmcache.l2 import BATCH, L2
from shmcache.link import Command
from shmcache.record import FOREVER, FRESH, PASS, STALE, Record
from shmcache.scripts import Names
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


def token() -> bytes:
    return os.urandom(16)


def record(
    value: bytes = b"v",
    *,
    ttl: float = 30,
    grace: float = 30,
    tags: tuple[int, ...] = (),
    kind: int = 0,
) -> Record:
    now = SYSTEM.now()
    fresh_until = now + round(ttl * SECOND)
    nonce = int.from_bytes(os.urandom(8), "little")
    dead_at = fresh_until + round(grace * SECOND)
    return Record(value, FRESH, kind, now, fresh_until, dead_at, 0, nonce, 42, tags)


async def won(l2: L2, key: bytes, *, early: bool = False) -> tuple[bytes, FleetClock]:
    mine = token()
    answer = await l2.acquire(key, offer=mine, early=early)
    assert answer.lease == WON
    return mine, answer.clock


async def fill(l2: L2, key: bytes, value: Record) -> None:
    mine, begun = await won(l2, key, early=True)
    assert await l2.put_fenced(key, mine, value, begun) == "stored"


async def read(l2: L2, key: bytes = b"k") -> Record:
    found = (await l2.acquire(key)).record
    assert found is not None
    return found


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


async def test_asks_of_one_turn_travel_together(l2: L2, server: RedisServer) -> None:
    await l2.acquire(b"k")
    server.command("CONFIG", "RESETSTAT")
    keys = [b"%d" % i for i in range(2 * BATCH)]
    await asyncio.gather(*(l2.acquire(key, offer=token()) for key in keys))
    stats = server.command("INFO", "commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 2
    assert len(set(keys)) == server.command("EXISTS", *map(NAMES.lease, keys))


async def test_answers_of_a_batch_belong_to_their_keys(l2: L2) -> None:
    for i in range(20):
        await fill(l2, b"%d" % i, record(b"value %d" % i))
    keys = [b"%d" % i for i in range(40)]
    answers = await asyncio.gather(*(l2.acquire(key, offer=token()) for key in keys))
    for i, answer in enumerate(answers):
        value = answer.record.value if answer.record else None
        assert value == (b"value %d" % i if i < 20 else None)
        assert answer.lease == (NONE if i < 20 else WON)


@pytest.fixture
async def torn(
    l2: L2, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Record]]:
    """Between a script and the GET behind it, another process stores one of these."""
    other, exchange = L2(server.url, "app", deadline=2), l2.link.exchange
    records: list[Record] = []

    async def exchange_torn(*commands: Command) -> list[Any]:
        replies = await exchange(commands[0])
        if records and len(commands) > 1:
            server.command("DEL", NAMES.lease(b"k"))
            await fill(other, b"k", records.pop())
        return replies + (await exchange(*commands[1:]) if len(commands) > 1 else [])

    monkeypatch.setattr(l2.link, "exchange", exchange_torn)
    yield records
    await other.close()


async def test_value_that_changed_behind_the_script_is_asked_again(
    l2: L2, torn: list[Record]
) -> None:
    """Else one value would be told the age of another."""
    await fill(l2, b"k", record(ttl=20, grace=0))
    torn.append(record(b"next", ttl=2000, grace=0))
    got = await read(l2)
    assert (got.value, got.state) == (b"next", FRESH)
    assert SYSTEM.now() - got.birth < SECOND


async def test_winner_takes_no_value_that_changed(l2: L2, torn: list[Record]) -> None:
    await fill(l2, b"k", record())
    await l2.invalidate(b"x", [b"k"])
    torn.append(record(b"next"))
    answer = await l2.acquire(b"k", offer=token())
    assert (answer.lease, answer.record) == (WON, None)


async def test_value_that_changes_all_the_time_is_given_up(
    l2: L2, torn: list[Record]
) -> None:
    await fill(l2, b"k", record())
    torn += [record() for _ in range(10)]
    with pytest.raises(TierUnavailable, match="changes"):
        await l2.acquire(b"k")
    assert l2.available


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
    await l2.invalidate(kind, [b"k"])
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
    await l2.invalidate(kind, [name])
    assert await l2.put_fenced(b"k", mine, record(tags=(4, 5)), begun) == answer
    assert (await l2.acquire(b"k", offer=token())).lease != WAIT


@pytest.mark.parametrize(
    ("kind", "name"), [(b"u", 5), (b"y", b"")], ids=["its-tag", "clear"]
)
async def test_soft_raise_during_fill_stores_it_stale(
    l2: L2, kind: bytes, name: bytes | int
) -> None:
    mine, begun = await won(l2, b"k")
    await l2.invalidate(kind, [name])
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
    await l2.invalidate(kind, [name])
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
    await l2.invalidate(kind, [name])
    found = await read(l2)
    assert found.state == STALE and found.fresh_until <= SYSTEM.now() < found.dead_at


async def test_endless_value_expires_into_its_grace(l2: L2) -> None:
    endless = record()._replace(fresh_until=FOREVER, dead_at=FOREVER)
    await fill(l2, b"k", endless)
    assert (await read(l2)).dead_at == FOREVER
    await l2.invalidate(b"x", [b"k"])
    found = await read(l2)
    assert found.state == STALE and found.dead_at < FOREVER


async def test_set_takes_the_lease_for_its_token(l2: L2) -> None:
    holder, begun = await won(l2, b"k")
    mine = token()
    clock = await l2.invalidate(b"d", [b"k"], sets=[(mine, 7)])
    assert (await l2.acquire(b"k", offer=token())).holder == mine
    assert await l2.put_fenced(b"k", holder, record(), begun) == "lost"
    assert await l2.put_fenced(b"k", mine, record(b"set"), clock) == "stored"


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
    assert await l2.put_fenced(b"k", mine, old, begun) == "stored"
    assert (await l2.acquire(b"k")).record is None


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


async def test_answer_that_is_always_late_opens_the_breaker(
    l2: L2, server: RedisServer
) -> None:
    """Each command ends well in the end; it is of no use all the same."""
    await l2.acquire(b"k")
    for _ in range(5):
        server.command("CLIENT", "PAUSE", round(DEADLINE * 1400))
        await timed(l2.acquire(b"k"))
    assert not l2.available
    assert l2.link.connects <= 3  # a late answer does not cost the connection


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
    assert not l2._tasks and l2.link._free._value == 8


async def test_close_waits_for_leases_given_back(server: RedisServer) -> None:
    l2 = L2(server.url, "app")
    mine, _ = await won(l2, b"given-back")
    l2.abandon_later(b"given-back", mine)
    await l2.close()
    assert not server.command("EXISTS", NAMES.lease(b"given-back"))
