"""Both lanes of one worker, driven chunk by chunk, and what each sent back.

The protocols are the server's own and so is all behind them; the transport is one that
keeps what is written, so that a test says where each chunk ends. The clock stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

from multidict import CIMultiDict, CIMultiDictProxy

from shmcache import Cache, CacheConfig, Fill
from shmcache.clock import FakeClock
from shmcache_server import stored
from shmcache_server.app import CacheRunner
from shmcache_server.config import Config
from shmcache_server.fastlane import Connection, FastServer, Lane
from shmcache_server.tables import L1Config, OriginConfig, ServerConfig
from tests.helpers import segment_name

HOST = "example.org"
AGE, TTL, GRACE = 7, 60, 600
TURNS = 400
"""Of the loop without news, after which a request is taken to wait for more."""
DATE = "Mon, 30 Nov 2026 01:00:00 GMT"
_DATE = f"Date: {DATE}\r\n".encode()


def _head(status: bytes, size: int, *more: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, _DATE.strip(), *more, b"Via: 1.1 shmcache"]
    return b"\r\n".join([*lines, b"Content-Length: %d" % size, b""])


def _stored(status: bytes, body: bytes, *more: bytes) -> bytes:
    return stored.pack(_head(status, len(body), *more), int(status[:3]), body)


ETAG = b'ETag: "abc"'
MODIFIED = b"Last-Modified: Sun, 29 Nov 2026 01:00:00 GMT"
STORED = {
    "/": _stored(b"200 OK", b"hello", ETAG, MODIFIED),
    "/a?b=c%20d;e": _stored(b"200 OK", b"\x00\r\n\r\n\xff" * 9, ETAG),
    "/none": _stored(b"200 OK", b""),
    "/long": _stored(b"200 OK", b"x" * 100_000, MODIFIED),
    "/gone": _stored(b"410 Gone", b"gone", ETAG),
    "/moved": _stored(b"301 Moved Permanently", b"", b"Location: /a"),
    "//two": _stored(b"200 OK", b"two"),
    "/stale": _stored(b"200 OK", b"old", ETAG),
    '/"odd"{|}~': _stored(b"200 OK", b"odd"),
}
"""What the cache has, by target."""


class Origin(asyncio.Protocol):
    """Answers the same to all, which nobody may store; a refresh fails."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            fields = head.lower()
            if b"\r\ncontent-length: " in fields:
                size = fields.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0]
                size = int(size)
                if len(rest) < size:
                    return
                rest = rest[size:]
            elif b"\r\ntransfer-encoding: " in fields:
                if b"0\r\n\r\n" not in rest:
                    return
                rest = rest.partition(b"0\r\n\r\n")[2]
            self._data = rest
            refused = head.startswith(b"GET /stale ")
            body = b"" if head.startswith(b"HEAD ") else b"origin"
            self._transport.write(
                (b"HTTP/1.1 500 No\r\n" if refused else b"HTTP/1.1 200 OK\r\n")
                + _DATE
                + b"Cache-Control: no-store\r\nContent-Length: 6\r\n\r\n"
                + body
            )


class Kept(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.out = bytearray()
        self.closing = self.lost = self.paused = False
        self._connection = connection

    def write(self, data: Any) -> None:
        self.out += data

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.out += line

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    abort = close

    def _lose(self) -> None:
        self.lost = True
        self._connection.connection_lost(None)

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Runner(CacheRunner):
    """With a clock that stands."""

    clock = FakeClock()

    def _open_cache(self, config: CacheConfig) -> Cache:
        return Cache(config, clock=self.clock)


class Lanes:
    """One worker, with connections that may take the fast lane and others that not."""

    def __init__(self, runner: Runner, config: Config) -> None:
        assert runner.cache is not None and runner.handler is not None
        self.runner = runner
        self.cache = runner.cache
        self.config = config
        self.fast = runner.server
        closed = Config(
            server=ServerConfig(fast_lane=False),
            origin=config.origin,
            l1=config.l1,
        )
        self.slow = FastServer(
            Lane(runner.cache, runner.handler, closed),
            runner.handler,
            loop=asyncio.get_running_loop(),
            **runner._kwargs,
        )

    @property
    def fast_hits(self) -> int:
        return self.cache.stats().fast_hits

    def open(self, server: Any) -> Kept:
        connection = server()
        transport = Kept(connection)
        connection.connection_made(transport)
        return transport

    async def both(
        self, chunks: Sequence[bytes], patient: bool = True
    ) -> tuple[bytes, bytes]:
        """What the slow and the fast lane answer to the chunks."""
        await self.restore()
        slow = await self.talk(self.slow, chunks, patient)
        await self.restore()
        return slow, await self.talk(self.fast, chunks, patient)

    async def talk(
        self, server: Any, chunks: Sequence[bytes], patient: bool = True
    ) -> bytes:
        """All that comes back, and a mark where the connection was closed. A `patient`
        client sends a chunk when the one before is answered."""
        transport = self.open(server)
        await self.settle(transport)
        for chunk in chunks:
            if transport.closing:
                break
            transport._connection.data_received(chunk)
            if patient:
                await self.settle(transport)
        await self.settle(transport)
        closed = b"<closed>" if transport.closing else b""
        if not transport.closing:
            transport.close()
        while not transport.lost:  # noqa: ASYNC110 - it is told in the next turn
            await asyncio.sleep(0)
        return bytes(transport.out) + closed

    async def settle(self, transport: Kept) -> None:
        """Until nothing more comes of what was sent."""
        connection, quiet, seen = transport._connection, 0, -1
        while quiet < TURNS and not transport.lost:
            waiter = connection._waiter
            if waiter is not None and not waiter.done() and not connection._messages:
                return
            quiet = quiet + 1 if len(transport.out) == seen else 0
            seen = len(transport.out)
            await asyncio.sleep(0)

    async def restore(self) -> None:
        """What is stored, as old as it was; /stale is."""
        for target, document in STORED.items():
            key = self.key(target)
            if self.cache.entry(key) is None:
                age = AGE + (TTL if target == "/stale" else 0)
                fill = Fill(document, ttl=TTL, grace=GRACE, age=age)
                await self.cache.delete(key)  # it may be marked as not shared
                await self.cache.get_or_set(key, lambda fill=fill: fill)

    def key(self, target: str) -> str:
        assert self.runner.handler is not None
        fields = CIMultiDictProxy(CIMultiDict({"Host": HOST}))
        return self.runner.handler.keys.of(fields, target)


@asynccontextmanager
async def lanes(size: int = 16 * 1024**2, **server: Any) -> AsyncIterator[Lanes]:
    """Over a segment of `size` bytes; `server`: settings of [server]."""
    loop = asyncio.get_running_loop()
    origin = await loop.create_server(Origin, "127.0.0.1", 0)
    port = origin.sockets[0].getsockname()[1]
    config = Config(
        server=ServerConfig(**server),
        origin=OriginConfig(url=f"http://127.0.0.1:{port}"),
        l1=L1Config(size=size),
    )
    runner = Runner(config, config.cache(segment_name(), None))
    await runner.setup()
    try:
        # aiohttp's own answers bear the time, and a second may end between two
        with patch("aiohttp.web_response.rfc822_formatted_time", lambda: DATE):
            yield Lanes(runner, config)
    finally:
        await runner.cleanup()
        origin.close()
