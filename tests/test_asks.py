"""Asks travel together, and each is answered by what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Sequence,
)
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmcache.ask import NONE, WAIT, WON, Invalidation
from shmcache.clock import SYSTEM
from shmcache.errors import TierUnavailable
from shmcache.l2 import L2
from shmcache.link import Command
from shmcache.record import FRESH, Record
from shmcache.scripts import Names
from shmcache.wire import Took
from tests.fills import SECOND, fill, record, token, won
from tests.redis_server import RedisServer, eventually

NAMES = Names("app")


@pytest.fixture
async def l2(server: RedisServer) -> AsyncIterator[L2]:
    server.command("FLUSHALL")
    l2 = L2(server.url, "app", deadline=2.0)
    yield l2
    await l2.close()


Exchange = Callable[..., Awaitable[list[Any]]]


def stand_between(
    l2: L2, monkeypatch: pytest.MonkeyPatch, exchange: Exchange, direct: bool
) -> None:
    """Have asks go by `exchange`: where `direct`, as if a connection was at hand."""
    link = l2.topology.link(0)
    tasks: list[asyncio.Task[None]] = []

    def begin(commands: Sequence[Command], took: Took) -> Any:
        async def later() -> None:
            took(await exchange(*commands))

        tasks.append(asyncio.create_task(later()))
        return "a wire"

    monkeypatch.setattr(link, "exchange", exchange)
    monkeypatch.setattr(link, "begin", begin if direct else lambda *_: None)


async def test_answers_of_a_batch_belong_to_their_keys(l2: L2) -> None:
    for i in range(20):
        await fill(l2, b"%d" % i, record(b"value %d" % i))
    keys = [b"%d" % i for i in range(40)]
    answers = await asyncio.gather(*(l2.acquire(key, offer=token()) for key in keys))
    for i, answer in enumerate(answers):
        value = answer.record.value if answer.record else None
        assert value == (b"value %d" % i if i < 20 else None)
        assert answer.lease == (NONE if i < 20 else WON)


async def test_asks_of_all_sorts_in_one_turn(l2: L2) -> None:
    await fill(l2, b"fresh", record(b"1"))
    await fill(l2, b"stale", record(b"2", ttl=0))
    await won(l2, b"leased")
    read, lease, stale, wait, none = await asyncio.gather(
        l2.acquire(b"fresh"),
        l2.acquire(b"absent", offer=token()),
        l2.acquire(b"stale", offer=token()),
        l2.acquire(b"leased", offer=token()),
        l2.acquire(b"fresh", offer=token()),
    )
    values = [a.record and a.record.value for a in (read, lease, stale, wait, none)]
    assert values == [b"1", None, b"2", None, b"1"]
    leases = [a.lease for a in (read, lease, stale, wait, none)]
    assert leases == [NONE, WON, WON, WAIT, NONE]


async def test_two_asks_of_one_batch_for_one_key_have_one_winner(l2: L2) -> None:
    one, two = await asyncio.gather(
        *(l2.acquire(b"k", offer=token()) for _ in range(2))
    )
    assert {one.lease, two.lease} == {WON, WAIT}


@pytest.mark.parametrize("way", ["ask", "ask at once", "set"])
async def test_lease_won_after_its_caller_left_is_given_back(
    l2: L2, server: RedisServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """1. The ask is on its way. 2. Its caller is cancelled, the lease abandoned.
    3. The ask arrives."""
    link, released, mine = l2.topology.link(0), asyncio.Event(), token()
    exchange, sent = link.exchange, []

    async def held_up(*commands: Command) -> list[Any]:
        sent.append(commands)
        if len(sent) == 1:
            await released.wait()
        return await exchange(*commands)

    stand_between(l2, monkeypatch, held_up, way == "ask at once")
    if way != "set":
        caller = asyncio.ensure_future(l2.acquire(b"k", offer=mine))
    else:
        item = Invalidation(b"d", b"k", 7, mine)
        caller = asyncio.ensure_future(l2.invalidate([item]))  # type: ignore[arg-type]
    await eventually(lambda: sent)
    caller.cancel()
    l2.abandon_later(b"k", mine)
    with pytest.raises(asyncio.CancelledError):
        await caller
    released.set()
    await eventually(lambda: not l2.under_way)
    assert not server.command("EXISTS", NAMES.lease(b"k"))
    assert (await l2.acquire(b"k", offer=token())).lease == WON


async def test_token_of_another_length_is_refused(l2: L2) -> None:
    with pytest.raises(ValueError, match="expected 16"):
        await l2.acquire(b"k", offer=b"short")


@pytest.fixture(params=[False, True], ids=["task", "at once"])
async def torn(
    l2: L2,
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> AsyncIterator[list[Record]]:
    """Between a script and the GET behind it, another process stores one of these."""
    other, exchange = L2(server.url, "app", deadline=2), l2.topology.link(0).exchange
    records: list[Record] = []

    async def exchange_torn(*commands: Command) -> list[Any]:
        replies = await exchange(commands[0])
        if records and len(commands) > 1:
            server.command("DEL", NAMES.lease(b"k"))
            await fill(other, b"k", records.pop())
        return replies + (await exchange(*commands[1:]) if len(commands) > 1 else [])

    stand_between(l2, monkeypatch, exchange_torn, request.param)
    yield records
    await other.close()


async def test_value_that_changed_behind_the_script_is_asked_again(
    l2: L2, torn: list[Record]
) -> None:
    """Else one value would be told the age of another."""
    await fill(l2, b"k", record(ttl=20, grace=0))
    torn.append(record(b"next", ttl=2000, grace=0))
    got = (await l2.acquire(b"k", offer=token())).record
    assert got is not None and (got.value, got.state) == (b"next", FRESH)
    assert SYSTEM.now() - got.birth < SECOND


async def test_winner_takes_no_value_that_changed(l2: L2, torn: list[Record]) -> None:
    await fill(l2, b"k", record())
    await l2.invalidate([Invalidation(b"x", b"k")])
    torn.append(record(b"next"))
    answer = await l2.acquire(b"k", offer=token())
    assert (answer.lease, answer.record) == (WON, None)


async def test_value_that_changes_all_the_time_is_given_up(
    l2: L2, torn: list[Record]
) -> None:
    await fill(l2, b"k", record())
    torn += [record() for _ in range(10)]
    with pytest.raises(TierUnavailable, match="changes"):
        await l2.acquire(b"k", offer=token())
    assert l2.available


async def test_script_that_redis_forgot_is_run_all_the_same(
    l2: L2, server: RedisServer
) -> None:
    await fill(l2, b"k", record())
    server.command("SCRIPT", "FLUSH")
    answer = await l2.acquire(b"k", offer=token())
    assert (answer.record and answer.record.value, answer.lease) == (b"v", NONE)
    assert l2.available


async def test_ask_at_once_of_a_hung_redis_is_given_up(server: RedisServer) -> None:
    """And its token is abandoned when the ask is not under way any more."""
    l2, mine = L2(server.url, "app", deadline=0.1), token()
    await l2.acquire(b"k")
    (part,) = l2._parts
    server.stop()
    try:
        caller = asyncio.ensure_future(l2.acquire(b"k", offer=mine))
        await eventually(lambda: mine in part.operations.granting)
        assert not part.operations._tasks
        with pytest.raises(TierUnavailable, match="no answer within"):
            await caller
        l2.abandon_later(b"k", mine)
        await asyncio.sleep(0)
        assert mine in part.operations.granting
        assert not part.operations.breaker.probe()
        await eventually(lambda: mine not in part.operations.granting)
        assert not l2.link._idle  # type: ignore[attr-defined]
    finally:
        server.cont()
    await l2.close()
    assert not l2.under_way


# -- what cannot be read


async def test_damaged_value_is_deleted_and_asked_again(
    l2: L2, server: RedisServer
) -> None:
    await fill(l2, b"k", record())
    server.command("APPEND", NAMES.value(b"k"), "x")
    answer = await l2.acquire(b"k", offer=token())
    assert (answer.record, answer.lease) == (None, WON)
    assert l2.foreign == 1 and l2.available
    assert not server.command("EXISTS", NAMES.value(b"k"))


async def test_winner_of_a_damaged_stale_value_computes(
    l2: L2, server: RedisServer
) -> None:
    await fill(l2, b"k", record(ttl=0))
    server.command("APPEND", NAMES.value(b"k"), "x")
    answer = await l2.acquire(b"k", offer=token())
    assert (answer.record, answer.lease) == (None, WON)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_whatever_stands_in_redis_is_a_miss_or_the_value(
    server: RedisServer, data: st.DataObject
) -> None:
    """Flipped, cut, spliced: never an error, and never another value."""
    asyncio.run(_read_what_is_there(server, data))


async def _read_what_is_there(server: RedisServer, data: st.DataObject) -> None:
    server.command("FLUSHALL")
    l2 = L2(server.url, "app", deadline=2.0)
    try:
        await fill(l2, b"k", record(b"value", tags=(1, 2)))
        raw = bytearray(server.command("GET", NAMES.value(b"k")))
        for _ in range(data.draw(st.integers(1, 3))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(
                st.integers(0, 255)
            )
        cut = data.draw(st.integers(0, len(raw)) | st.none())
        tail = data.draw(st.binary(max_size=40) | st.just(b""))
        server.command("SET", NAMES.value(b"k"), bytes(raw[:cut]) + tail, "PX", 9000)
        found = (await l2.get_many([b"k"])).get(b"k")
        assert found is None or found.value == b"value"
        answer = await l2.acquire(b"k", offer=token(), early=True)
        assert answer.lease == WON and l2.available
    finally:
        await l2.close()
