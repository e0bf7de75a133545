"""An origin on raw sockets, for those who say byte by byte what it does."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from multidict import CIMultiDict

from shmcache_server.config import Config
from shmcache_server.origins import Asking, Origin
from shmcache_server.pool import Pool
from shmcache_server.tables import OriginConfig

OWN = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown"


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
        return len(self.pool)

    @property
    def pool(self) -> Pool:
        return self.origin.upstreams.all[0].pool

    async def close(self) -> None:
        await self.origin.close()
        for s in [self._listener, *self.accepted]:
            s.close()


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
