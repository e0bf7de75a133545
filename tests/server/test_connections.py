"""What an origin sends unasked, on raw sockets: nobody's answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from multidict import CIMultiDict

from shmcache_server.config import Config, OriginConfig
from shmcache_server.origins import Asking, Origin, OriginError

OWN = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown"
OLD = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


class Sockets:
    """An origin whose connections the test serves by hand."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        port = self._listener.getsockname()[1]
        self.origin = Origin(
            Config(origin=OriginConfig(url=f"http://127.0.0.1:{port}"))
        )
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
