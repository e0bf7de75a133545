"""An origin that answers as told and a worker's whole lane before it, in this process:
real sockets, a real cache, no mocks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict, CIMultiDictProxy

from shmcache_server.app import CacheRunner
from shmcache_server.config import Config
from tests.helpers import segment_name

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """One request as the origin got it."""

    method: str
    target: str
    fields: CIMultiDictProxy[str]
    body: bytes


class Upstream:
    """The origin: what it answers is set by the test, what it was asked is kept."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.answer: Answer = self._plain
        self.fields: dict[str, str] = {"Cache-Control": "max-age=60"}
        self.body = b"hello"
        self.status = 200
        self.url = ""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        fields = CIMultiDictProxy(CIMultiDict(request.headers))
        self.seen.append(Seen(request.method, request.raw_path, fields, body))
        return await self.answer(request)

    async def _plain(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.body, status=self.status, headers=self.fields)


@dataclass
class Got:
    """An answer, read to its end."""

    status: int
    fields: CIMultiDictProxy[str]
    body: bytes

    @property
    def told(self) -> str:
        return self.fields["Cache-Status"]


class Front:
    """One worker's server and a client of it."""

    def __init__(self, runner: CacheRunner, port: int) -> None:
        self.runner = runner
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.session = aiohttp.ClientSession(auto_decompress=False)

    @property
    def cache(self) -> Any:
        return self.runner.cache

    def key(self, path: str, accept: str | None = None) -> str:
        handler = self.runner.handler
        assert handler
        fields = {"Host": "127.0.0.1"} | ({"Accept-Encoding": accept} if accept else {})
        return handler.keys.prefix(CIMultiDictProxy(CIMultiDict(fields))) + path

    async def ask(self, method: str, path: str = "/", **options: Any) -> Got:
        options.setdefault("skip_auto_headers", ("Accept-Encoding",))
        async with self.session.request(method, self.url + path, **options) as answer:
            return Got(answer.status, answer.headers, await answer.read())

    async def get(self, path: str = "/", **fields: str) -> Got:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        return await self.ask("GET", path, headers=headers)

    async def raw(self, request: bytes) -> bytes:
        """Everything that comes back until the connection closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        try:
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()


@asynccontextmanager
async def fronting(
    url: str,
    l1_size: int = 8 * 1024**2,
    settings: Config | None = None,
    l2: str | None = None,
    **changes: Any,
) -> AsyncIterator[Front]:
    """A front before the origin at `url`; `changes` are of [origin], `settings` say
    all the rest."""
    config = settings or Config()
    config = replace(
        config,
        origin=replace(config.origin, url=url, **changes),
        l1=replace(config.l1, size=l1_size),
    )
    runner = CacheRunner(config, config.cache(segment_name(), l2))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    front = Front(runner, site.port)
    try:
        yield front
    finally:
        await front.session.close()
        await runner.cleanup()


class RawOrigin:
    """An origin that sends what it is told, byte for byte, and closes when let go."""

    def __init__(self, said: bytes = b"") -> None:
        self.said = said
        self.count = 0
        self.close = asyncio.Event()
        self.url = ""
        self._serving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[RawOrigin]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            self.close.set()
            server.close()
            await asyncio.gather(*self._serving)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        await reader.readuntil(b"\r\n\r\n")
        self.count += 1
        writer.write(self.said)
        await self.close.wait()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def eventually(probe: Callable[[], Any], within: float = 5.0) -> Any:
    """The first truthy answer of `probe`."""
    async with asyncio.timeout(within):
        while not (answer := probe()):  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.005)
        return answer


async def idle(front: Front) -> None:
    """When nothing goes on that a request of its has begun."""
    await eventually(lambda: not front.runner.handler._fetches._tasks)


@pytest.fixture
async def upstream(aiohttp_server: Any) -> Upstream:
    upstream = Upstream()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", upstream.serve)
    server: TestServer = await aiohttp_server(app)
    upstream.url = str(server.make_url("")).rstrip("/")
    return upstream


@pytest.fixture
async def front(upstream: Upstream) -> AsyncIterator[Front]:
    async with fronting(upstream.url) as front:
        yield front
