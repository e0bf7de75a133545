"""Which connections are kept, taken and closed. Raw sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from multidict import CIMultiDict

from shmcache_server import pool
from shmcache_server.answering import Answering, OriginError, OriginTimeout
from shmcache_server.origins import Asking
from tests.server.conftest import eventually
from tests.server.sockets import OWN, Sockets, first, second

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


@pytest.fixture
async def sockets() -> AsyncIterator[Sockets]:
    sockets = Sockets()
    yield sockets
    await sockets.close()


async def test_no_more_connections_than_allowed() -> None:
    sockets = Sockets(connections=1)
    asking = [asyncio.ensure_future(sockets.get()) for _ in range(3)]
    connection = await sockets.accept()
    for _ in asking:
        await sockets.answer(connection, OWN)
    assert await asyncio.gather(*asking) == [b"own"] * 3
    assert len(sockets.accepted) == 1
    await sockets.close()


async def test_caller_that_leaves_gives_its_turn_back() -> None:
    sockets = Sockets(connections=1)
    leaving = asyncio.ensure_future(sockets.get())
    await sockets.accept()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await second(sockets) == b"own"
    await sockets.close()


async def test_bodies_leave_half_of_the_connections() -> None:
    """A body comes as slowly as its client likes."""
    sockets = Sockets(connections=2, connect_timeout=0.2)
    sending = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await sending.wait()

    def post() -> asyncio.Task[Answering]:
        asking = Asking("POST", "/", CIMultiDict(), slow())
        return asyncio.ensure_future(sockets.origin.ask(asking))

    held = post()
    connection = await sockets.accept()
    with pytest.raises(OriginTimeout, match="taken"):
        await post()
    assert await second(sockets) == b"own"
    sending.set()
    async with asyncio.timeout(5):
        while b"0\r\n\r\n" not in await asyncio.get_running_loop().sock_recv(
            connection, 65536
        ):
            pass
    next_one = post()  # the first is not answered yet, but has sent its body
    await eventually(lambda: sockets.pool.taken == 2)
    await sockets.answer(sockets.accepted[1], OWN)
    connection.sendall(OWN)
    for asking in (held, next_one):
        answering = await asking
        answering.close()
    assert sockets.pool._bodies._value == 1 and sockets.pool.taken == 0
    await sockets.close()


async def test_name_is_resolved() -> None:
    sockets = Sockets(host="localhost")
    assert await second(sockets) == b"own"
    await sockets.close()


class Names:
    """In the resolver's place, which cannot be made to hang or to fail."""

    def __init__(self, monkeypatch) -> None:
        self.asked = 0
        self.failing = False
        self.answers = asyncio.Event()
        self.answers.set()
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._find)

    async def _find(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked += 1
        await self.answers.wait()
        if self.failing:
            raise socket.gaierror("no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


async def test_name_is_resolved_once_for_all_who_wait(monkeypatch) -> None:
    names = Names(monkeypatch)
    names.answers.clear()
    sockets = Sockets(host="origin.test")
    leaving, *staying = [asyncio.ensure_future(sockets.pool.take(5)) for _ in range(20)]
    await eventually(lambda: names.asked)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    names.answers.set()
    taken = await asyncio.gather(*staying)
    assert names.asked == 1
    for connection in taken:
        connection.done()
    await sockets.close()


@pytest.mark.parametrize("fault", ["fails", "hangs"])
async def test_addresses_outlive_a_resolver_that_fails(monkeypatch, fault) -> None:
    monkeypatch.setattr(pool, "_RESOLVED", 0.0)
    monkeypatch.setattr(pool, "_RESOLVING", 0.05)
    names = Names(monkeypatch)
    sockets = Sockets(host="origin.test", connect_timeout=2.0, retries=0)
    holding = await sockets.pool.take(5)
    names.failing = fault == "fails"
    if fault == "hangs":
        names.answers.clear()
    (await sockets.pool.take(5)).done()
    assert names.asked == 2
    holding.done()
    await sockets.close()


async def test_time_spent_waiting_is_no_fault_of_the_origin(monkeypatch) -> None:
    """1. All are taken. 2. One comes free late. 3. No time is left to connect."""
    names = Names(monkeypatch)
    settings = {"connections": 1, "connect_timeout": 0.4, "breaker_failures": 1}
    sockets = Sockets(host="origin.test", retries=0, **settings)
    monkeypatch.setattr(pool, "_RESOLVED", 0.0)
    holding = await sockets.pool.take(5)
    asking = asyncio.ensure_future(sockets.get())
    await eventually(lambda: sockets.pool.taken == 2)
    names.answers.clear()
    sockets.pool._addresses = 0.0, []
    await asyncio.sleep(0.2)
    holding.force_close()
    holding.done()
    with pytest.raises(OriginTimeout, match="taken"):
        await asking
    assert names.asked == 2
    assert sockets.origin.upstreams.all[0].state == "closed"
    await sockets.close()


async def test_name_that_was_never_resolved_is_an_error(monkeypatch) -> None:
    names = Names(monkeypatch)
    names.failing = True
    sockets = Sockets(host="origin.test", retries=0)
    with pytest.raises(OriginError, match="no answer"):
        await sockets.get()
    names.failing = False
    assert await second(sockets) == b"own"
    await sockets.close()


async def test_idle_connection_is_closed_in_time(sockets, monkeypatch) -> None:
    monkeypatch.setattr(pool, "KEPT", 0.05)
    connection = await first(sockets, OWN)
    assert sockets.pooled == 1
    receiving = asyncio.get_running_loop().sock_recv(connection, 1)
    assert await asyncio.wait_for(receiving, 5) == b"", "closed"
    assert sockets.pooled == 0 and not sockets.pool._open


async def test_connection_used_meanwhile_is_kept(sockets, monkeypatch) -> None:
    """1. Two are idle. 2. One is asked again. 3. The other's time is up."""
    monkeypatch.setattr(pool, "KEPT", 0.3)
    asking = [asyncio.ensure_future(sockets.get()) for _ in range(2)]
    both = [await sockets.accept() for _ in asking]
    for one in both:
        await sockets.answer(one, OWN)
    await asyncio.gather(*asking)
    await asyncio.sleep(0.2)
    again = asyncio.ensure_future(sockets.get())
    late = sockets.pool
    await eventually(lambda: len(late) == 1)
    used = next(c for c in late._open if c.asked)
    number = used.transport.get_extra_info("sockname")
    one = next(c for c in both if c.getpeername() == number)
    await sockets.answer(one, OWN)
    await again
    await eventually(lambda: len(late) == 1)
    assert list(late._open) == [used]


async def test_none_free_in_time_is_no_fault_of_the_origin() -> None:
    sockets = Sockets(connections=1, connect_timeout=0.1, breaker_failures=1)
    holding = asyncio.ensure_future(sockets.get())
    connection = await sockets.accept()
    with pytest.raises(OriginTimeout, match="taken"):
        await sockets.get()
    await sockets.answer(connection, OWN)
    assert await holding == b"own"
    assert sockets.origin.upstreams.all[0].state == "closed"
    await sockets.close()


@pytest.mark.parametrize("late", [EVIL, b""], ids=["bytes", "end"])
async def test_connection_with_something_unread_is_not_taken(sockets, late) -> None:
    """As if it had come this moment: the loop has had no turn to see it."""
    connection = await first(sockets, OWN)
    if late:
        connection.sendall(late)
    else:
        connection.shutdown(socket.SHUT_WR)
    assert await second(sockets) == b"own"


async def test_turns_go_to_those_who_wait_in_order() -> None:
    """1. One is asked, three wait. 2. The second leaves. 3. The first ends."""
    sockets = Sockets(connections=1)
    holding = asyncio.ensure_future(sockets.get())
    connection = await sockets.accept()
    order: list[int] = []

    async def waiting(number: int) -> None:
        await sockets.get()
        order.append(number)

    rest = [asyncio.ensure_future(waiting(number)) for number in range(3)]
    await eventually(lambda: sockets.pool.taken == 4)
    rest[1].cancel()
    await asyncio.wait([rest[1]])
    for _ in range(3):
        await sockets.answer(connection, OWN)
    await asyncio.gather(holding, rest[0], rest[2])
    assert order == [0, 2] and sockets.pool.taken == 0
    await sockets.close()


async def test_turn_that_came_as_its_owner_left_is_passed_on() -> None:
    """1. A turn is given to one who waits. 2. He leaves before he knows of it."""
    sockets = Sockets(connections=1)
    holding = await sockets.pool.take(5)
    leaving = asyncio.ensure_future(sockets.pool.take(5))
    await eventually(lambda: sockets.pool.taken == 2)
    holding.force_close()
    holding.done()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert sockets.pool.taken == 0
    (await sockets.pool.take(5)).done()
    await sockets.close()


async def test_one_who_leaves_as_a_turn_comes_has_left() -> None:
    """1. One who waits leaves. 2. A turn ends before he knows of it, and is not his."""
    sockets = Sockets(connections=1)
    holding = await sockets.pool.take(5)
    leaving = asyncio.ensure_future(sockets.pool.take(5))
    await eventually(lambda: sockets.pool.taken == 2)
    leaving.cancel()
    holding.force_close()
    holding.done()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert sockets.pool.taken == 0
    await sockets.close()


async def test_one_opened_beside_the_turns_takes_none() -> None:
    sockets = Sockets(connections=1)
    beside = await sockets.pool.open(5)
    await sockets.accept()
    assert sockets.pool.taken == 0
    assert await second(sockets) == b"own"
    beside.discard()
    await sockets.close()
    assert not sockets.pool._open
