"""A live response in the other workers of a host: two workers' lanes on one segment."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import pytest
import uvloop
from aiohttp import web

from shmcache_server import lives, relay
from shmcache_server.app import CacheRunner
from shmcache_server.config import Config
from shmcache_server.tables import L1Config, OriginConfig
from tests.helpers import segment_name
from tests.server.conftest import Front, Upstream, eventually, idle


class Slow:
    """A response whose pieces come when they are let, its head at once but where that
    is to be let, too."""

    def __init__(self, length: int | None = None, **fields: str) -> None:
        self.head = asyncio.Event()
        self.head.set()
        self.gates: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.fields = {"Cache-Control": "max-age=60"} | fields

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        await self.head.wait()
        response = web.StreamResponse(headers=self.fields)
        await response.prepare(request)
        while True:
            piece = await self.gates.get()
            if piece is None:
                return response
            if piece == b"break":
                request.transport.abort()
                return response
            await response.write(piece)


@asynccontextmanager
async def workers(url: str, count: int = 2):
    config = Config(origin=OriginConfig(url=url), l1=L1Config(size=8 << 20))
    cache = config.cache(segment_name(), None)
    async with AsyncExitStack() as stack:
        fronts = []
        for _ in range(count):
            runner = CacheRunner(config, cache)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            front = Front(runner, site.port)
            stack.push_async_callback(front.session.close)
            fronts.append(front)
        yield fronts


async def begin(front: Front):
    """A request whose head has come."""
    headers = {"Host": "one"}
    return await front.session.get(
        front.url, headers=headers, skip_auto_headers=("Accept-Encoding",)
    )


async def both_wait(
    upstream: Upstream, one: Front, two: Front
) -> tuple[asyncio.Future[aiohttp.ClientResponse], ...]:
    """Two requests: the one's fetch is at the origin, and the other worker has asked
    for its live response."""
    first = asyncio.ensure_future(begin(one))
    await eventually(lambda: upstream.seen)
    second = asyncio.ensure_future(begin(two))
    await eventually(lambda: one.runner.handler._fetches._lives._relay._serving)
    return first, second


async def test_other_worker_reads_along_while_it_comes(upstream) -> None:
    upstream.answer = slow = Slow(ETag='"1"')
    async with workers(upstream.url) as (one, two):
        slow.gates.put_nowait(b"first,")
        first = await begin(one)
        assert await first.content.readexactly(6) == b"first,"
        second = await begin(two)
        assert await second.content.readexactly(6) == b"first,"
        assert second.headers["ETag"] == '"1"'
        assert second.headers["Cache-Status"] == "shmcache; fwd=miss; collapsed"
        slow.gates.put_nowait(b"second")
        assert await second.content.readexactly(6) == b"second"
        late = await begin(two)
        slow.gates.put_nowait(None)
        assert await late.read() == b"first,second"
        assert await first.read() == b"second" and await second.read() == b""
        assert len(upstream.seen) == 1
        for front in (one, two):
            await idle(front)
            kept = front.runner.handler._fetches._lives
            await eventually(lambda kept=kept: not (kept._lives or kept._joining))


async def test_other_worker_is_not_told_a_private_field(upstream) -> None:
    said = {"Cache-Control": 'max-age=60, private="x-user"', "X-User": "alice"}
    upstream.answer = slow = Slow(**said)
    async with workers(upstream.url) as (one, two):
        slow.gates.put_nowait(b"now")
        first, second = await begin(one), await begin(two)
        assert first.headers["X-User"] == "alice"
        assert "collapsed" in second.headers["Cache-Status"]
        assert "X-User" not in second.headers
        slow.gates.put_nowait(None)
        assert await first.read() == await second.read() == b"now"


async def test_other_worker_waits_for_the_head(upstream) -> None:
    """It asks before there is a live response."""
    upstream.answer = slow = Slow()
    slow.head.clear()
    async with workers(upstream.url) as (one, two):
        first, second = await both_wait(upstream, one, two)
        slow.head.set()
        slow.gates.put_nowait(b"now")
        along = await second
        assert await along.content.readexactly(3) == b"now"
        slow.gates.put_nowait(None)
        assert await (await first).read() == b"now" and await along.read() == b""
        assert len(upstream.seen) == 1


async def test_what_is_validated_for_each_is_for_who_waited_there(upstream) -> None:
    """Who comes when the head is here is not answered by what was asked before."""
    upstream.answer = slow = Slow(**{"Cache-Control": "no-cache", "ETag": '"1"'})
    slow.head.clear()
    async with workers(upstream.url) as (one, two):
        first, second = await both_wait(upstream, one, two)
        slow.head.set()
        slow.gates.put_nowait(b"now")
        assert "collapsed" in (await second).headers["Cache-Status"]
        late = asyncio.ensure_future(begin(two))
        await eventually(lambda: two.cache._flights._waiters or late.done())
        for piece in (None, b"new", None):
            slow.gates.put_nowait(piece)
        assert await (await late).read() == b"new"
        assert await (await first).read() == await (await second).read() == b"now"
        assert len(upstream.seen) == 2


async def test_client_that_leaves_a_large_body_fails_nobody(upstream) -> None:
    """1. Its body is more than is stored. 2. A client of another worker comes too late
    to read along, and waits. 3. Its own leaves, and nobody is left to read."""
    slow = Slow()

    async def answer(request: web.Request) -> web.StreamResponse:
        if len(upstream.seen) == 1:
            return await slow(request)
        return web.Response(text="now", headers=slow.fields)

    upstream.answer = answer
    async with workers(upstream.url) as (one, two):
        for _ in range(40):
            slow.gates.put_nowait(bytes(1 << 16))
        first = await begin(one)
        await first.content.readexactly(30 << 16)
        second = asyncio.ensure_future(begin(two))
        await eventually(lambda: two.cache._flights._waiters or second.done())
        first.close()
        for _ in range(40):
            slow.gates.put_nowait(bytes(1 << 16))
        assert await (await second).read() == b"now"
        slow.gates.put_nowait(None)


async def test_body_that_breaks_off_breaks_off_everywhere(upstream) -> None:
    upstream.answer = slow = Slow()
    async with workers(upstream.url) as (one, two):
        slow.gates.put_nowait(b"half")
        both = [await begin(one), await begin(two)]
        slow.gates.put_nowait(b"break")
        for answer in both:
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
            answer.close()
        assert two.cache.entry(two.key("/")) is None


async def test_worker_that_is_stopped_breaks_its_readers_off(
    upstream, monkeypatch
) -> None:
    """Its socket stays open, and nothing comes."""
    upstream.answer = slow = Slow()
    async with workers(upstream.url) as (one, two):
        slow.gates.put_nowait(b"half")
        monkeypatch.setattr(lives, "PATIENCE", 0.1)
        monkeypatch.setattr(two.runner.handler._fetches._lives, "_stall", 0.1)
        first, second = await begin(one), await begin(two)
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(second.read(), 2)
        second.close()
        slow.gates.put_nowait(None)
        assert await first.read() == b"half"


async def test_worker_that_dies_breaks_its_readers_off(upstream) -> None:
    upstream.answer = slow = Slow()
    async with workers(upstream.url) as (one, two):
        slow.gates.put_nowait(b"half")
        first = await begin(one)
        second = await begin(two)
        for task in one.runner.handler._fetches._lives._relay._serving:
            task.cancel()
        with pytest.raises(aiohttp.ClientError):
            await second.read()
        second.close()
        slow.gates.put_nowait(None)
        assert await first.read() == b"half"


async def test_private_answer_is_not_given_away(upstream) -> None:
    both = [Slow(**{"Cache-Control": "private"}) for _ in range(2)]
    upstream.answer = lambda request: both[len(upstream.seen) - 1](request)
    async with workers(upstream.url) as (one, two):
        both[0].gates.put_nowait(b"mine")
        first = await begin(one)
        second = asyncio.ensure_future(begin(two))
        await eventually(lambda: len(upstream.seen) == 2)
        both[1].gates.put_nowait(b"yours")
        for slow in both:
            slow.gates.put_nowait(None)
        assert await (await second).read() == b"yours"
        assert await first.read() == b"mine"


async def test_reader_who_came_after_a_purge_does_not_read_along(upstream) -> None:
    """1. A body is on its way. 2. The URL is purged. 3. A client of the other worker
    asks."""
    both = [Slow(), Slow()]
    upstream.answer = lambda request: both[len(upstream.seen) - 1](request)
    async with workers(upstream.url) as (one, two):
        both[0].gates.put_nowait(b"old")
        first = await begin(one)
        key = next(iter(one.runner.handler._fetches._lives._lives))
        await two.cache.delete(key)
        second = asyncio.ensure_future(begin(two))
        await eventually(lambda: len(upstream.seen) == 2)
        both[1].gates.put_nowait(b"new")
        for slow in both:
            slow.gates.put_nowait(None)
        assert await (await second).read() == b"new"
        assert await first.read() == b"old"


async def test_nobody_listens_there() -> None:
    assert await relay.ask("no-such-segment", 3, "key") is None


@pytest.mark.parametrize(
    "loop",
    [asyncio.new_event_loop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)
def test_worker_can_be_asked_on_each_loop(loop) -> None:
    async def asked() -> list[str]:
        name, keys = segment_name(), []

        async def find(key: str) -> None:
            keys.append(key)

        listening = relay.Relay(name, 0, find)
        await listening.start()
        assert await relay.ask(name, 0, "key") is None
        await listening.close()
        return keys

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(asked()) == ["key"]


async def test_address_that_is_taken_keeps_no_worker_from_starting(upstream) -> None:
    config = Config(origin=OriginConfig(url=upstream.url), l1=L1Config(size=8 << 20))
    cache = config.cache(segment_name(), None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as taken:
        taken.bind(relay._address(cache.name, 0))
        runner = CacheRunner(config, cache)
        await runner.setup()
        await runner.cleanup()


async def test_who_says_nothing_is_let_go(monkeypatch) -> None:
    monkeypatch.setattr(relay, "_ASKED", 0.05)
    name = segment_name()

    async def find(key: str):
        raise AssertionError("nothing was asked for")

    listening = relay.Relay(name, 0, find)
    await listening.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        client.connect(relay._address(name, 0))
        receiving = asyncio.get_running_loop().sock_recv(client, 1)
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(receiving, 5) == b""
    await eventually(lambda: not listening._serving)
    await listening.close()


async def test_short_wait_asks_nobody(upstream, monkeypatch) -> None:
    monkeypatch.setattr(lives, "_SHORT", 60)
    upstream.answer = slow = Slow()
    async with workers(upstream.url) as (one, two):
        slow.gates.put_nowait(b"all")
        first = await begin(one)
        second = asyncio.ensure_future(begin(two))
        asking = two.runner.handler._fetches._lives._asking
        await eventually(lambda: asking)
        slow.gates.put_nowait(None)
        assert await first.read() == b"all"
        assert await (await second).read() == b"all"
        assert not asking
        assert len(upstream.seen) == 1
