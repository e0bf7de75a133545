"""Connections that do what they are told, once, and are made only as fast as they
may be."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shmcache.address import Address
from shmcache.errors import ConfigError
from shmcache.link import (
    CONNECTIONS,
    PAUSE_MAX,
    STRANGER_SECONDS,
    Link,
    Pace,
    StrangerError,
    check,
    cut,
    forever,
    pauses,
)
from shmcache.wire import NotMasterError, Wire
from tests.fleets import SentinelServer, replicate
from tests.helpers import free_port
from tests.redis_server import RedisServer, eventually, redis_server

TIMEOUT = 0.5


def linked(server: RedisServer) -> Link:
    address = Address(path=str(server.socket))
    return Link(lambda: address.open(TIMEOUT))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(port=free_port()) as running:
        yield running


@pytest.fixture
async def link(server: RedisServer) -> AsyncIterator[Link]:
    link = linked(server)
    yield link
    await link.close()


async def test_failed_exchange_is_not_repeated(link: Link, server: RedisServer) -> None:
    await link.exchange(("PING",))
    server.command("CONFIG", "RESETSTAT")
    with pytest.raises(Exception, match=r"closed|reset"):
        await link.exchange(
            ("INCR", "ran"), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"),
            ("PING",), ("PING",),
        )  # fmt: skip
    assert await link.exchange(("GET", "ran")) == [b"1"]


async def test_connection_the_server_closed_is_replaced_unnoticed(
    link: Link, server: RedisServer
) -> None:
    await link.exchange(("PING",))
    server.command("CLIENT", "KILL", "TYPE", "normal")
    await eventually(lambda: not link._idle[0].quiet)
    assert await link.exchange(("PING",)) == [b"PONG"]


async def test_connection_with_unread_bytes_is_replaced(link: Link) -> None:
    """Else the next command would be answered by somebody else's reply."""
    await link.exchange(("PING",))
    await link._idle[0].send("ECHO", "foreign")
    await eventually(lambda: not link._idle[0].quiet)
    assert await link.exchange(("ECHO", "own")) == [b"own"]
    assert link.connects == 2


async def test_cancelled_exchange_costs_its_connection_only(link: Link) -> None:
    for turns in range(40):
        task = asyncio.create_task(link.exchange(("ECHO", f"{turns}"), ("GET", "k")))
        for _ in range(turns % 8):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await link.exchange(("ECHO", "own")) == [b"own"]
    assert len(link._idle) <= CONNECTIONS
    assert link._free._value == CONNECTIONS


async def test_hung_server_costs_each_exchange_its_timeout(
    link: Link, server: RedisServer
) -> None:
    await link.exchange(("PING",))
    server.stop()
    try:
        with pytest.raises(TimeoutError):
            await link.exchange(("PING",))
        assert not link._idle and link._free._value == CONNECTIONS
    finally:
        server.cont()
    assert await link.exchange(("PING",)) == [b"PONG"]


async def test_exchange_begins_at_once_where_a_connection_is_at_hand(
    link: Link,
) -> None:
    told: list[object] = []
    assert link.begin([("PING",)], told.append) is None
    await link.exchange(("PING",))
    assert link.begin([("PING",), ("NONSENSE",)], told.append)
    assert link.begin([("PING",)], told.append) is None  # it is in use
    assert link._free._value == CONNECTIONS - 1
    await eventually(lambda: told)
    assert str(told).startswith("[[b'PONG', ReplyError(")
    assert link._free._value == CONNECTIONS and len(link._idle) == 1


async def test_exchange_that_began_at_once_and_is_ended_costs_its_connection(
    link: Link,
) -> None:
    await link.exchange(("PING",))
    told: list[object] = []
    wire = link.begin([("PING",)], told.append)
    assert wire is not None
    wire.end(ConnectionError("cut"))
    assert str(told) == "[ConnectionError('cut')]"
    assert link._free._value == CONNECTIONS and not link._idle


async def test_exchange_does_not_begin_with_a_stranger(link: Link) -> None:
    await link.exchange(("PING",))
    link.expects = lambda: 1
    assert link.begin([("PING",)], print) is None


async def test_connections_are_bounded_and_exchanges_wait(link: Link) -> None:
    many = [link.exchange(("ECHO", i)) for i in range(200)]
    answers = await asyncio.gather(*many)
    assert [int(answer) for (answer,) in answers] == list(range(200))
    assert link.connects <= CONNECTIONS


# --- settings ---------------------------------------------------------------------


async def test_other_kind_of_redis_is_a_setting(
    server: RedisServer, tmp_path: Path
) -> None:
    sentinel = SentinelServer(tmp_path, free_port(), server)
    with redis_server("--cluster-enabled", "yes") as node, closing(sentinel):
        sentinel.start()
        for other, expected in ((sentinel, "redis+sentinel"), (node, "redis+cluster")):
            address = Address(path=str(other.socket))
            with pytest.raises(ConfigError, match=re.escape(expected)):
                await check(lambda address=address: address.open(TIMEOUT), "standalone")


# --- strangers --------------------------------------------------------------------


async def test_stranger_is_not_read_until_it_is_the_one_expected(link: Link) -> None:
    expected = 1
    link.expects = lambda: expected
    for _ in range(3):
        with pytest.raises(StrangerError):
            await link.exchange(("PING",))
    assert link.connects == 1
    expected = link._idle[0].identity
    assert await link.exchange(("PING",)) == [b"PONG"]
    assert link.connects == 1


async def test_old_connection_of_a_stranger_is_made_anew(link: Link) -> None:
    """The other way round: the expected one has changed, and it is of the old one."""
    await link.exchange(("PING",))
    (wire,) = link._idle
    right, wire.identity = wire.identity, 1
    wire.born -= STRANGER_SECONDS
    link.expects = lambda: right
    assert await link.exchange(("PING",)) == [b"PONG"]
    assert link.connects == 2


async def test_nothing_is_read_while_no_identity_is_noted(link: Link) -> None:
    link.expects = lambda: 0
    with pytest.raises(StrangerError):
        await link.exchange(("PING",))


async def test_own_connection_may_be_a_strangers(link: Link) -> None:
    """The follower has to meet the stranger, to note who it is."""
    link.expects = lambda: 1
    wire = await link.connect()
    assert await wire.ask(("PING",)) == [b"PONG"]
    await wire.hang_up()


@pytest.mark.parametrize(
    "command",
    [("SET", "k", "v"), ("EVAL", "return redis.call('SET', KEYS[1], 1)", 1, "k")],
    ids=["command", "script"],
)
async def test_connection_to_a_demoted_master_is_closed(
    link: Link, server: RedisServer, command: tuple[str | int, ...]
) -> None:
    with redis_server() as own:
        demoted = linked(own)
        await demoted.exchange(("PING",))
        replicate(own, server)
        (reply,) = await demoted.exchange(command)
        assert "READONLY" in str(reply) and not demoted._idle
        with pytest.raises(NotMasterError):
            await demoted.exchange(("GET", "k"))
        await demoted.close()


# --- pace -------------------------------------------------------------------------


async def test_failed_connects_are_paced_and_refuse_meanwhile() -> None:
    """As many as the pauses allow, however many exchanges want one."""
    link = Link(lambda: Address("127.0.0.1", port).open(TIMEOUT))
    port, refused = free_port(), 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < 1.0:
        outcomes = await asyncio.gather(
            *(link.exchange(("PING",)) for _ in range(20)), return_exceptions=True
        )
        refused += sum("a moment ago" in str(outcome) for outcome in outcomes)
        assert all(isinstance(outcome, OSError) for outcome in outcomes)
    assert link.connects <= CONNECTIONS + 10
    assert refused > 1000


async def test_server_that_is_back_is_met_by_one_connect_first() -> None:
    with redis_server() as own:
        link = linked(own)
        await link.exchange(("PING",))
        own.kill()
        await eventually(lambda: not link._idle[0].quiet)
        with pytest.raises(OSError):
            await link.exchange(("PING",))
        own.start()
        before = link.connects

        async def back() -> bool:
            many = [link.exchange(("PING",)) for _ in range(50)]
            ends = await asyncio.gather(*many, return_exceptions=True)
            return [b"PONG"] in ends

        await eventually(back)
        assert link.connects == before + 1
        await link.close()


async def test_own_connection_that_succeeds_ends_the_pause(server: RedisServer) -> None:
    wires: list[Exception | None] = [ConnectionError("away")]

    async def open() -> Wire:
        if wires:
            error = wires.pop()
            assert error is not None
            raise error
        return await Address(path=str(server.socket)).open(TIMEOUT)

    link = Link(open)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await link.exchange(("PING",))
    assert link.connects == 1
    await (await link.connect()).hang_up()
    assert await link.exchange(("PING",)) == [b"PONG"]
    await link.close()


async def test_pause_of_several_failures_at_once_is_one() -> None:
    pace = Pace()
    for _ in range(20):
        pace.failed(OSError("no route"))
    assert pace._until - asyncio.get_running_loop().time() < 0.06


async def test_cancelled_connect_leaves_the_way_free() -> None:
    pace = Pace()
    pace.failed(OSError("no route"))
    pace._until = 0
    pace.enter()
    with pytest.raises(ConnectionError):
        pace.enter()
    pace.failed(asyncio.CancelledError())
    pace.enter()
    assert pace._until == 0 and PAUSE_MAX < 1


# --- tasks ------------------------------------------------------------------------


async def test_task_that_forgets_a_cancellation_is_cut() -> None:
    async def deaf() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await cut([task])
    assert task.cancelled()


def test_pauses_double_to_their_limit_and_are_spread() -> None:
    runs = [[next(pause) for _ in range(10)] for pause in (pauses(), pauses())]
    assert runs[0] != runs[1]
    assert all(0.05 <= run[0] <= 0.1 and 2.5 <= run[-1] <= 5 for run in runs)


async def test_work_is_done_again_at_once_only_after_progress(monkeypatch) -> None:
    """A failure that comes again and again is waited for ever longer; one after some
    progress is as good as the first."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    slept: list[float] = []
    told: list[str] = []
    reached = 0

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def work() -> None:
        nonlocal reached
        if len(slept) == 5:
            reached += 1
        if len(slept) == 8:
            raise KeyboardInterrupt
        raise OSError(len(slept))

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        await forever(work, lambda: reached, lambda e: told.append(str(e)), high=1.0)
    assert slept == [0.1, 0.2, 0.4, 0.8, 1.0, 0.1, 0.2, 0.4]
    assert told == [str(n) for n in range(8)]


async def test_connect_that_is_held_back_tells_why_the_last_one_failed() -> None:
    pace = Pace()
    pace.enter()
    pace.failed(OSError("no route"))
    with pytest.raises(ConnectionError, match=r"a moment ago: .*no route"):
        pace.enter()
