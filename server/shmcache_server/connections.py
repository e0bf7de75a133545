"""Connections to an origin: each carries one answer at a time, asked for by us.

What an origin sends unasked (the rest of a body longer than announced, the body of a
304) must never be taken for the answer to the next request. So a connection that
receives anything while nobody asks is closed, one on which something waits to be read
is not taken from the pool, and one whose last answer may have a body that its head
denies is not put back.

aiohttp's protocol reads: its parser in C, its streams with their back-pressure. Its
session is left out. It follows redirects, keeps cookies, asks twice; and it costs as
much as all the rest of a miss.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import select
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from aiohappyeyeballs import addr_to_addr_infos, start_connection
from aiohttp import HttpVersion11
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.streams import StreamReader
from multidict import CIMultiDict
from yarl import URL

from .config import Config

NO_BODY = frozenset({204, 304})
_INTERIM = range(100, 200)
KEPT = 15.0
"""Seconds that an idle connection is kept: shorter than servers keep theirs."""
_RESOLVED = 10.0
"""Seconds for which a name's addresses are believed."""
_NEXT_ADDRESS = 0.25
"""Seconds after which another address is tried too: RFC 8305 §5."""


class Connection(ResponseHandler):
    """One connection; `asked` while it is somebody's."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(asyncio.get_running_loop())
        self.asked = False
        self.idle_since = 0.0
        self._pool = pool
        self._heads_only: bool | None = None
        self._upload: asyncio.Task[None] | None = None
        self._poll = select.poll()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        super().connection_made(transport)
        self._poll.register(transport.get_extra_info("socket"), select.POLLIN)

    def usable(self) -> bool:
        """Whether it can be asked: it is open, and neither bytes nor the end have come
        that the loop has not looked at."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        return not self._poll.poll(0)

    async def ask(
        self,
        method: str,
        target: str,
        fields: CIMultiDict[str],
        body: AsyncIterator[bytes] | None,
    ) -> tuple[RawResponseMessage, StreamReader]:
        """Send a request and await the final head of its answer; raises `ClientError`,
        `HttpProcessingError`, `OSError`. Whoever asks calls `done` in the end."""
        self._expect(heads_only=method == "HEAD")
        writer = StreamWriter(self, self._loop)
        await writer.write_headers(f"{method} {target} HTTP/1.1", fields)
        if body is None:
            writer.send_headers()
            self.start_timeout()
        else:
            length = fields.get("Content-Length")
            if length is None:
                writer.enable_chunking()
            else:
                writer.length = int(length)
            self._upload = self._loop.create_task(self._send(writer, body))
        while True:
            message, content = await self.read()
            if message.code == 101 or message.code not in _INTERIM:
                return message, content

    def done(self) -> None:
        """Nobody reads its answer any more; asked again if that was read to the end."""
        upload, self._upload = self._upload, None
        if upload is not None and not upload.done():
            self.force_close()
            upload.cancel()
        self.asked = False
        self._pool.put_back(self)

    def data_received(self, data: bytes) -> None:
        """Bytes from the origin; empty where the parser goes on with those it has."""
        if data and not self.asked:
            self.force_close()
            self.close()
            return
        super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head: RFC 9112 §6.3 says when nothing may follow it, and §6.1 that the
        framing of HTTP/1.0 may be wrong."""
        message = data[0]
        empty = self._skip_payload or message.code in NO_BODY
        if empty or message.version < HttpVersion11:
            self.force_close()
        super().feed_data(data, size)

    def _expect(self, *, heads_only: bool) -> None:
        """From here on an answer is expected."""
        self.asked = True
        if self._heads_only != heads_only:
            self._heads_only = heads_only
            self.set_response_params(
                skip_payload=heads_only,
                read_until_eof=True,
                auto_decompress=False,
                read_timeout=self._pool.timeout,
                max_line_size=self._pool.line_max,
                max_field_size=self._pool.field_max,
            )

    async def _send(self, writer: StreamWriter, body: AsyncIterator[bytes]) -> None:
        """A request's body, as it comes. Its failure is told to who awaits the head."""
        try:
            async for chunk in body:
                await writer.write(chunk, drain=False)
                if self.writing_paused:
                    async with asyncio.timeout(self._pool.timeout):
                        await writer.drain()
            await writer.write_eof()
            self.start_timeout()
        except TimeoutError as e:
            late = aiohttp.SocketTimeoutError("the origin takes nothing")
            self.set_exception(late, e)
        except Exception as e:
            self.set_exception(aiohttp.ClientConnectionError(str(e)), e)


class Pool:
    """At most so many connections to one origin; those idle are asked first."""

    def __init__(self, config: Config) -> None:
        origin, url = config.origin, URL(config.origin.base)
        self.host = url.host_port_subcomponent or ""
        """As the Host field names it."""
        self.timeout = origin.timeout
        self.line_max = config.limits.line
        self.field_max = config.limits.field
        self._name, self._port = url.raw_host or "", url.port
        self._tls = _client_context() if url.scheme == "https" else None
        self._patience = origin.connect_timeout
        self._turns = asyncio.Semaphore(origin.connections)
        self._addresses = _numeric(self._name, self._port or 0)
        """Until when they are believed, by the loop's clock; and they themselves."""
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many are idle."""
        return len(self._idle)

    async def take(self) -> Connection:
        """A connection, for who calls its `done`; raises `OSError`, and `TimeoutError`
        where none is to be had in time."""
        connection = None if self._turns.locked() else self._reusable()
        if connection is not None:
            await self._turns.acquire()  # at once
            return connection
        async with asyncio.timeout(self._patience):
            await self._turns.acquire()
            try:
                connection = self._reusable()
                return await self._connect() if connection is None else connection
            except BaseException:
                self._turns.release()
                raise

    def put_back(self, connection: Connection) -> None:
        """It is nobody's any more."""
        self._turns.release()
        transport = connection.transport
        if transport is None or transport.is_closing() or connection.should_close:
            self._drop(connection)
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(KEPT, self._sweep)

    async def close(self) -> None:
        """Close all."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._idle.clear()
        for connection in list(self._open):
            self._drop(connection)

    def _reusable(self) -> Connection | None:
        """The one that was used last, so that those too many grow old."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        raw = await start_connection(
            await self._resolved(), happy_eyeballs_delay=_NEXT_ADDRESS, interleave=1
        )
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self),
                sock=raw,
                ssl=self._tls,
                server_hostname=self._name if self._tls else None,
            )
        except BaseException:
            raw.close()
            raise
        self._open.add(connection)
        return connection

    async def _resolved(self) -> list[Any]:
        loop = asyncio.get_running_loop()
        until, found = self._addresses
        if loop.time() < until:
            return found
        found = await loop.getaddrinfo(self._name, self._port, type=socket.SOCK_STREAM)
        self._addresses = (loop.time() + _RESOLVED, found)
        return found

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.close()

    def _sweep(self) -> None:
        """Close those that were idle for long; the eldest stand first."""
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_since <= loop.time() - KEPT:
            self._drop(self._idle.pop(0))
        self._sweeper = None
        if self._idle:
            until = self._idle[0].idle_since + KEPT
            self._sweeper = loop.call_at(until, self._sweep)


def _numeric(name: str, port: int) -> tuple[float, list[Any]]:
    """The address that a name is, for ever; none for a name to be resolved."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return 0.0, []
    return math.inf, addr_to_addr_infos((name, port)) or []


def _client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
