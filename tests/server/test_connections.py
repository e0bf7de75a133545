"""What an origin sends unasked, on raw sockets: nobody's answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from multidict import CIMultiDict

from shmcache_server import connections
from shmcache_server.config import Config, OriginConfig
from shmcache_server.origins import Asking, Origin, OriginError, OriginTimeout
from tests.server.conftest import eventually

OWN = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown"
OLD = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


class Sockets:
    """An origin whose connections the test serves by hand."""

    def __init__(self, host: str = "127.0.0.1", **settings: Any) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        port = self._listener.getsockname()[1]
        settings["url"] = f"http://{host}:{port}"
        self.origin = Origin(Config(origin=OriginConfig(**settings)))
        self.accepted: list[socket.socket] = []

    async def accept(self) -> socket.socket:
        connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        connection.setblocking(False)
        self.accepted.append(connection)
        return connection

    async def answer(self, connection: socket.socket, said: bytes) -> None:
        """Read one request and answer it."""
        loop = asyncio.get_running_loop()
        assert b"\r\n\r\n" in await loop.sock_recv(connection, 65536)
        connection.sendall(said)

    async def get(self, method: str = "GET") -> bytes:
        answering = await self.origin.ask(Asking(method, "/", CIMultiDict()))
        body = b"".join([chunk async for chunk in answering.chunks()])
        answering.close()
        return body

    @property
    def pooled(self) -> int:
        return len(self.origin._pool)

    async def close(self) -> None:
        await self.origin.close()
        for s in [self._listener, *self.accepted]:
            s.close()


@pytest.fixture
async def sockets() -> AsyncIterator[Sockets]:
    sockets = Sockets()
    yield sockets
    await sockets.close()


async def first(sockets: Sockets, said: bytes, method: str = "GET") -> socket.socket:
    asking = asyncio.ensure_future(sockets.get(method))
    connection = await sockets.accept()
    await sockets.answer(connection, said)
    await asking
    return connection


async def second(sockets: Sockets) -> bytes:
    """Ask again; a new connection is served by the book."""
    asking = asyncio.ensure_future(sockets.get())
    accepting = asyncio.ensure_future(sockets.accept())
    await asyncio.wait((asking, accepting), return_when=asyncio.FIRST_COMPLETED)
    if accepting.done():
        await sockets.answer(accepting.result(), OWN)
    accepting.cancel()
    return await asking


async def test_answer_by_the_book_leaves_a_connection_to_reuse(sockets) -> None:
    connection = await first(sockets, OWN)
    assert sockets.pooled == 1
    asking = asyncio.ensure_future(sockets.get())
    await sockets.answer(connection, OWN)
    assert await asking == b"own" and len(sockets.accepted) == 1


async def test_bytes_nobody_asked_for_close_the_connection(sockets) -> None:
    connection = await first(sockets, OWN)
    connection.sendall(EVIL)
    receiving = asyncio.get_running_loop().sock_recv(connection, 1)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(receiving, 5) == b"", "closed"
    assert await second(sockets) == b"own"


@pytest.mark.parametrize("late", [EVIL, b""], ids=["bytes", "end"])
async def test_connection_with_something_unread_is_not_taken(sockets, late) -> None:
    """As if it had come this moment: the loop has had no turn to see it."""
    connection = await first(sockets, OWN)
    if late:
        connection.sendall(late)
    else:
        connection.shutdown(socket.SHUT_WR)
    assert await second(sockets) == b"own"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        (
            "GET",
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
        ),
        ("GET", OWN + EVIL),
    ],
    ids=["304", "204", "head", "1.0", "two"],
)
async def test_connection_whose_answer_may_go_on_is_closed(
    sockets, method, said
) -> None:
    await first(sockets, said, method)
    assert sockets.pooled == 0


async def test_request_is_sent_once(sockets) -> None:
    """The kept connection dies with the request on its way: the origin may have acted
    on it."""
    connection = await first(sockets, OWN)
    asking = asyncio.ensure_future(sockets.get())
    await sockets.answer(connection, b"")
    connection.shutdown(socket.SHUT_RDWR)
    accepting = asyncio.ensure_future(sockets.accept())
    await asyncio.wait((asking, accepting), return_when=asyncio.FIRST_COMPLETED)
    accepting.cancel()
    with pytest.raises(OriginError):
        await asking
    assert len(sockets.accepted) == 1


async def test_idle_connection_is_closed_in_time(sockets, monkeypatch) -> None:
    monkeypatch.setattr(connections, "KEPT", 0.05)
    connection = await first(sockets, OWN)
    assert sockets.pooled == 1
    receiving = asyncio.get_running_loop().sock_recv(connection, 1)
    assert await asyncio.wait_for(receiving, 5) == b"", "closed"
    assert sockets.pooled == 0 and not sockets.origin._pool._open


async def test_connection_used_meanwhile_is_kept(sockets, monkeypatch) -> None:
    """1. Two are idle. 2. One is asked again. 3. The other's time is up."""
    monkeypatch.setattr(connections, "KEPT", 0.3)
    asking = [asyncio.ensure_future(sockets.get()) for _ in range(2)]
    both = [await sockets.accept() for _ in asking]
    for one in both:
        await sockets.answer(one, OWN)
    await asyncio.gather(*asking)
    await asyncio.sleep(0.2)
    again = asyncio.ensure_future(sockets.get())
    late = sockets.origin._pool
    await eventually(lambda: len(late) == 1)
    used = next(c for c in late._open if c.asked)
    number = used.transport.get_extra_info("sockname")
    one = next(c for c in both if c.getpeername() == number)
    await sockets.answer(one, OWN)
    await again
    await eventually(lambda: len(late) == 1)
    assert list(late._open) == [used]


async def test_no_more_connections_than_allowed() -> None:
    sockets = Sockets(connections=1)
    asking = [asyncio.ensure_future(sockets.get()) for _ in range(3)]
    connection = await sockets.accept()
    for _ in asking:
        await sockets.answer(connection, OWN)
    assert await asyncio.gather(*asking) == [b"own"] * 3
    assert len(sockets.accepted) == 1
    await sockets.close()


async def test_body_that_the_origin_does_not_take_ends_in_time() -> None:
    sockets = Sockets(timeout=0.3)

    async def much() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)

    with pytest.raises(OriginTimeout):
        await sockets.origin.ask(Asking("POST", "/", CIMultiDict(), much()))
    assert sockets.pooled == 0
    await sockets.close()


async def test_answer_before_the_body_was_sent_ends_the_connection(sockets) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    asking = asyncio.ensure_future(
        sockets.origin.ask(Asking("POST", "/", CIMultiDict(), slow()))
    )
    await sockets.answer(await sockets.accept(), OWN)
    answering = await asking
    assert b"".join([chunk async for chunk in answering.chunks()]) == b"own"
    answering.close()
    answering.close()
    assert sockets.pooled == 0


async def test_caller_that_leaves_gives_its_turn_back() -> None:
    sockets = Sockets(connections=1)
    leaving = asyncio.ensure_future(sockets.get())
    await sockets.accept()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await second(sockets) == b"own"
    await sockets.close()


async def test_name_is_resolved() -> None:
    sockets = Sockets(host="localhost")
    assert await second(sockets) == b"own"
    await sockets.close()
