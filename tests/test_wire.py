"""A connection is written and read once, and whose it is is known."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from shmcache.address import Address
from shmcache.resp import ProtocolError, ReplyError
from shmcache.wire import NotMasterError, Wire
from tests.fleets import replicate
from tests.helpers import free_port
from tests.redis_server import RedisServer, eventually, redis_server

TIMEOUT = 0.5


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(port=free_port()) as running:
        yield running


@pytest.fixture
async def wire(server: RedisServer) -> AsyncIterator[Wire]:
    wire = await Address("127.0.0.1", server.port).open(TIMEOUT)
    yield wire
    await wire.hang_up()


Serve = Callable[[bytes], Awaitable[Wire]]


@pytest.fixture
async def liar() -> AsyncIterator[Serve]:
    """A connection to what says just this, whatever it is asked."""
    wires: list[Wire] = []

    async def serve(words: bytes) -> Wire:
        async def accept(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            await reader.read(1)
            writer.write(words)
            await reader.read()
            writer.close()

        listening = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        wires.append(await Address("127.0.0.1", port).open(TIMEOUT, any_role=True))
        listening.close()
        return wires[-1]

    yield serve
    for wire in wires:
        await wire.hang_up()


async def test_error_reply_stands_in_its_place(wire: Wire) -> None:
    first, error, last = await wire.ask(("PING",), ("NONSENSE",), ("PING",))
    assert (first, last) == (b"PONG", b"PONG")
    assert isinstance(error, ReplyError) and error.code == "ERR"
    assert wire.quiet


async def test_large_values_travel_both_ways(wire: Wire) -> None:
    value = os.urandom(3 << 20)
    assert await wire.ask(("SET", "k", value), ("GET", "k")) == [b"OK", value]


async def test_hung_server_ends_an_exchange_by_its_timeout(
    wire: Wire, server: RedisServer
) -> None:
    server.stop()
    try:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await wire.ask(("PING",))
        assert TIMEOUT * 0.9 < time.monotonic() - began < 2 * TIMEOUT
    finally:
        server.cont()
    assert not wire.quiet
    with pytest.raises(TimeoutError):
        await wire.ask(("PING",))


async def test_exchange_may_be_given_longer(wire: Wire) -> None:
    (answer,) = await wire.ask(("BLPOP", "nothing", TIMEOUT * 1.5), within=5)
    assert answer is None


async def test_cancelled_exchange_closes(wire: Wire) -> None:
    task = asyncio.create_task(wire.ask(("PING",)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not wire.quiet


async def test_cancelled_read_has_taken_nothing(
    wire: Wire, server: RedisServer
) -> None:
    await wire.send("SUBSCRIBE", "c")
    assert (await wire.read())[0] == b"subscribe"
    task = asyncio.create_task(wire.read())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.command("PUBLISH", "c", "m")
    assert await wire.read() == [b"message", b"c", b"m"]


async def test_slow_reader_makes_the_sender_wait(
    wire: Wire, server: RedisServer
) -> None:
    """What is not read is bounded here, and the rest in Redis' own buffer."""
    await wire.send("SUBSCRIBE", "c")
    await wire.read()
    size, count = 1 << 14, 1500
    publish = f"redis.call('PUBLISH', 'c', string.rep('x', {size}))"
    server.command("EVAL", f"for i = 1, {count} do {publish} end", 0)
    await eventually(lambda: wire._transport and not wire._transport.is_reading())
    assert len(wire._unread) < count
    for _ in range(count):
        async with asyncio.timeout(5):
            assert (await wire.read())[0] == b"message"


async def test_reader_is_told_when_the_server_is_gone() -> None:
    with redis_server() as own:
        wire = await Address(path=str(own.socket)).open(TIMEOUT)
        read = asyncio.create_task(wire.read())
        await asyncio.sleep(0)
        own.kill()
        with pytest.raises(ConnectionError):
            await read
        await wire.hang_up()


async def test_reply_that_nobody_asked_for_is_not_taken_for_another(
    wire: Wire,
) -> None:
    await wire.send("ECHO", "foreign")
    await eventually(lambda: not wire.quiet)
    with pytest.raises(ProtocolError):
        await wire.ask(("ECHO", "own"))


async def test_replies_that_come_piecemeal_keep_their_order(wire: Wire) -> None:
    told: list[object] = []
    wire.begin(b"", 2, told.append)
    wire.data_received(b"+one\r\n+tw")
    assert not told
    wire.data_received(b"o\r\n+foreign\r\n")
    assert told == [[b"one", b"two"]] and not wire.quiet
    wire.drop()


async def test_excess_replies_are_not_taken_for_those_wanted(wire: Wire) -> None:
    told: list[object] = []
    wire.begin(b"", 2, told.append)
    wire.data_received(b"+one\r\n")
    wire.data_received(b"+two\r\n+foreign\r\n")
    assert told == [[b"one", b"two"]] and not wire.quiet
    wire.drop()


async def test_who_waits_for_replies_is_told_of_the_end_once(wire: Wire) -> None:
    told: list[object] = []
    why = ConnectionError("cut")
    wire.begin(b"", 1, told.append)
    wire.end(why)
    await wire.hang_up()
    assert told == [why]


async def test_other_protocol_ends_it(liar: Serve) -> None:
    wire = await liar(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ProtocolError):
        await wire.ask(("PING",))


async def test_half_a_reply_is_no_reply(liar: Serve) -> None:
    wire = await liar(b"$5\r\nhal")
    with pytest.raises(TimeoutError):
        await wire.ask(("GET", "k"))
    assert not wire.quiet


# --- identity ---------------------------------------------------------------------


async def identity(server: RedisServer) -> int:
    wire = await Address(path=str(server.socket)).open(TIMEOUT)
    await wire.hang_up()
    return wire.identity


async def test_identity_is_the_same_for_each_connection(
    wire: Wire, server: RedisServer
) -> None:
    assert 0 < wire.identity < 1 << 63
    assert await identity(server) == wire.identity == await wire.identify()
    assert (wire.mode, wire.version >= (6, 2)) == ("standalone", True)


async def test_identity_is_another_after_a_restart() -> None:
    with redis_server() as own:
        before = await identity(own)
        own.restart()
        assert await identity(own) != before


async def test_identity_is_another_after_a_promotion(tmp_path: Path) -> None:
    """And a replica has none, though a connection of its days as master stands."""
    with redis_server(port=free_port()) as master, redis_server() as replica:
        kept = await Address(path=str(replica.socket)).open(TIMEOUT)
        alone = kept.identity
        replicate(replica, master)
        with pytest.raises(NotMasterError):
            await kept.identify()
        with pytest.raises(NotMasterError):
            await identity(replica)
        of_master = await identity(master)
        replica.command("REPLICAOF", "NO", "ONE")
        promoted = await identity(replica)
        assert len({alone, of_master, promoted}) == 3
        await kept.hang_up()
