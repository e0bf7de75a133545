"""Which upstream is asked, and when again. Real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from multidict import CIMultiDict

from shmcache_server import origins, upstreams
from shmcache_server.answering import Answering, OriginError, OriginTimeout
from shmcache_server.config import Config
from shmcache_server.origins import Asking, Origin, OriginDown
from shmcache_server.tables import OriginConfig
from shmcache_server.upstreams import RESERVE, SHARE
from tests.server.conftest import eventually
from tests.server.test_answering import whole


async def test_refused_connection_is_an_error() -> None:
    origin = Origin(Config(origin=OriginConfig(url="http://127.0.0.1:1")))
    with pytest.raises(OriginError) as caught:
        await origin.ask(Asking("GET", "/", CIMultiDict()))
    assert caught.value.status == 502
    await origin.close()


class Plain(asyncio.Protocol):
    """Answers each request as told, and counts."""

    def __init__(self, servers: Servers, name: str) -> None:
        self._servers, self._name = servers, name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._servers.count[self._name] += 1
        self._servers.heads.append(data)
        if self._servers.said:
            self._transport.write(self._servers.said)
        else:
            self._transport.close()


class Servers:
    """Several servers of one origin; `None` for one is a port where nobody listens."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.heads: list[bytes] = []
        self.said = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
        self._open: list[asyncio.Server] = []

    async def start(self, port: int = 0) -> str:
        loop = asyncio.get_running_loop()
        url = f"http://127.0.0.1:{port or free_port()}"
        server = await loop.create_server(
            lambda: Plain(self, url), "127.0.0.1", int(url.rpartition(":")[2])
        )
        self._open.append(server)
        return url

    def stop(self) -> None:
        for server in self._open:
            server.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


def nobody() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    servers = Servers()
    yield servers
    servers.stop()


@asynccontextmanager
async def asking(*urls: str, **settings: Any) -> AsyncIterator[Origin]:
    origin = Origin(Config(origin=OriginConfig(url=urls, **settings)))
    try:
        yield origin
    finally:
        await origin.close()


async def get(origin: Origin, method: str = "GET") -> Answering:
    answering = await origin.ask(Asking(method, "/", CIMultiDict()))
    await whole(answering)
    return answering


async def test_requests_are_spread_over_the_upstreams(servers) -> None:
    urls = [await servers.start() for _ in range(3)]
    async with asking(*urls) as origin:
        for _ in range(60):
            await get(origin)
        assert [u["asked"] for u in origin.stats()["upstreams"]] == [
            servers.count[url] for url in urls
        ]
    assert all(servers.count[url] >= 5 for url in urls), servers.count
    sent = {head.split(b"Host: ")[1].split(b"\r")[0] for head in servers.heads}
    assert sent == {url.removeprefix("http://").encode() for url in urls}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_next_upstream_is_asked_where_one_refuses(servers, method) -> None:
    """Nothing was sent to the first one, so that any method may go on."""
    async with asking(nobody(), await servers.start(), retries=0) as origin:
        for _ in range(40):
            assert (await get(origin, method)).status == 200
        first, second = origin.stats()["upstreams"]
        assert first["breaker"] == "open" and first["opened"] == 1
        assert second["asked"] == 40 and second["breaker"] == "closed"


async def test_unsafe_request_asked_again_is_no_probe(servers) -> None:
    """Where another upstream is well: what it may cost is not an unsafe one's."""
    urls = nobody(), await servers.start(), await servers.start()
    async with asking(*urls, breaker_failures=1) as origin:
        gone, well, down = origin.upstreams.all
        while not gone.asked:
            gone.probe_at, down.probe_at = 0.0, 1e-9  # long due
            assert (await get(origin, "POST")).status == 200
        assert gone.opened == 1 and well.asked and not down.asked


async def test_upstream_that_is_down_is_left_alone() -> None:
    async with asking(nobody(), retries=0, breaker_failures=2) as origin:
        for _ in range(2):
            with pytest.raises(OriginError, match="Connect") as caught:
                await get(origin)
            assert caught.value.status == 502
        with pytest.raises(OriginDown) as caught:
            await get(origin)
        assert caught.value.status == 503 and origin.stats()["refused"] == 1
        assert origin.stats()["upstreams"][0]["asked"] == 2


async def test_probe_closes_the_breaker(servers, monkeypatch) -> None:
    monkeypatch.setattr(upstreams, "PAUSE_MIN", 0.05)
    url = nobody()
    async with asking(url, retries=0, breaker_failures=1) as origin:
        with pytest.raises(OriginError):
            await get(origin)
        await servers.start(int(url.rpartition(":")[2]))
        upstream = origin.upstreams.all[0]
        await eventually(lambda: upstream.state == "half-open")
        assert (await get(origin)).status == 200
        assert upstream.state == "closed"


async def test_safe_request_is_tried_again_while_a_server_restarts(servers) -> None:
    url = nobody()
    async with asking(url, retries=5) as origin:
        get_ = asyncio.ensure_future(get(origin))
        await eventually(lambda: origin.retried)
        await servers.start(int(url.rpartition(":")[2]))
        assert (await get_).status == 200


async def test_unsafe_request_is_not_tried_again() -> None:
    async with asking(nobody(), retries=5) as origin:
        with pytest.raises(OriginError):
            await get(origin, "POST")
        assert origin.retried == 0


async def test_retries_have_a_budget(monkeypatch) -> None:
    """However many ask, an outage is asked a tenth more at most, beside a reserve."""
    monkeypatch.setattr(origins, "PAUSE", 0.0)
    async with asking(nobody(), retries=10, breaker_failures=0) as origin:
        for _ in range(100):
            with pytest.raises(OriginError):
                await get(origin)
            if origin.retried >= RESERVE:
                break
        before = origin.retried
        for _ in range(50):
            with pytest.raises(OriginError):
                await get(origin)
        assert origin.retried - before <= 50 * SHARE / (1 - SHARE) + 1


@pytest.mark.parametrize(("counted", "state"), [(True, "open"), (False, "closed")])
async def test_errors_open_the_breaker_by_setting(servers, counted, state) -> None:
    servers.said = b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nhi"
    url = await servers.start()
    async with asking(url, breaker_failures=2, breaker_5xx=counted) as origin:
        for _ in range(2):
            assert (await get(origin)).status == 503
        assert origin.upstreams.all[0].state == state


async def test_silence_opens_the_breaker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = {"breaker_failures": 2, "first_byte_timeout": 0.05}
        async with asking(url, **settings) as origin:
            for _ in range(2):
                with pytest.raises(OriginTimeout, match="no answer in time"):
                    await get(origin)
            with pytest.raises(OriginDown):
                await get(origin)


async def test_caller_that_leaves_is_no_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with asking(url, breaker_failures=1) as origin:
            leaving = asyncio.ensure_future(get(origin))
            await eventually(lambda: origin.upstreams.all[0].pool.taken)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            upstream = origin.upstreams.all[0]
            assert (upstream.state, upstream.pool.taken) == ("closed", 0)
