"""Misses that share a fetch: what `test_handler.py` cannot see from outside."""

from __future__ import annotations

import asyncio
import os

import pytest
from aiohttp import web

from tests.server.conftest import Front, Upstream, eventually, fronting


async def test_nothing_is_kept_of_a_fetch_that_ended(front: Front, upstream) -> None:
    await asyncio.gather(*(front.get(f"/{i}") for i in range(20)))
    upstream.fields = {"Cache-Control": "private"}
    await asyncio.gather(*(front.get("/p") for i in range(20)))
    fetches = front.runner.handler._fetches
    await eventually(lambda: not fetches._tasks)
    assert not fetches._lives and not fetches._joining


async def test_failed_fetch_fails_all_who_wait_once(upstream: Upstream) -> None:
    gate = asyncio.Event()

    async def hang_up(request: web.Request) -> web.Response:
        await gate.wait()
        request.transport.abort()
        return web.Response()

    upstream.answer = hang_up
    async with fronting(upstream.url) as front:
        asking = [asyncio.ensure_future(front.get()) for _ in range(20)]
        await eventually(lambda: upstream.seen)
        gate.set()
        assert {g.status for g in await asyncio.gather(*asking)} == {502}
        assert len(upstream.seen) == 1


async def test_private_answers_are_fetched_in_parallel(front, upstream) -> None:
    """The first one takes the flight; those behind it do not queue for it in turn."""
    asked, all_asked = 0, asyncio.Event()

    async def private(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked > 1:
            if asked == 10:
                all_asked.set()
            await asyncio.wait_for(all_asked.wait(), 5)
        return web.Response(headers={"Cache-Control": "private"}, text="mine")

    upstream.answer = private
    got = await asyncio.gather(*(front.get() for _ in range(10)))
    assert {g.status for g in got} == {200} and asked == 10


async def test_slow_body_flows_on_after_the_time_to_store_it(upstream) -> None:
    """The flight ends by its time-out; a client that reads is not cut off by that."""
    gate = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=upstream.fields)
        await response.prepare(request)
        await response.write(b"first,")
        await gate.wait()
        await response.write(b"second")
        return response

    upstream.answer = slow
    async with fronting(upstream.url, timeout=5.0) as front:
        async with front.session.get(front.url) as answer:
            assert await answer.content.readexactly(6) == b"first,"
            (coming,) = front.runner.handler._fetches._lives.values()
            assert coming.stored
            flight = next(iter(front.cache._flights._flights.values()))
            flight.task.cancel()
            await eventually(lambda: not front.cache._flights._flights)
            assert not coming.stored, "no longer held for storing"
            gate.set()
            assert await answer.read() == b"second"
        assert front.cache.entry(front.key("/", "gzip")) is None


@pytest.mark.parametrize(
    ("l1_size", "length"),
    [(64 << 20, 0), (64 << 20, 700_000), (256 << 20, 2 << 20)],
)
async def test_body_of_any_length_is_a_hit_the_second_time(upstream, l1_size, length):
    upstream.body = os.urandom(length)
    async with fronting(upstream.url, l1_size) as front:
        first = await front.get()
        assert first.told == "shmcache; fwd=miss; stored"
        await eventually(lambda: front.cache.entry(front.key("/")))
        second = await front.get()
    assert "hit" in second.told
    assert first.body == second.body == upstream.body
    assert len(upstream.seen) == 1


async def test_body_above_the_limit_passes_through(upstream: Upstream) -> None:
    async with fronting(upstream.url) as front:
        upstream.body = os.urandom(front.cache.stats().value_max + 1)
        for asked in (1, 2):
            got = await front.get()
            assert got.told == "shmcache; fwd=miss" and got.body == upstream.body
            assert len(upstream.seen) == asked
        assert front.cache.stats().too_large == 0, "known before it was tried"
