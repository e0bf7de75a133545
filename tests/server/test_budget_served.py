"""The origin's budget as clients and the origin see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from shmcache import ComputeFailed
from shmcache_server.origins import OverBudget
from tests.helpers import SHM
from tests.server.conftest import Front, Upstream, eventually, fronting
from tests.server.test_origins import Servers


@pytest.fixture
async def limited(upstream: Upstream) -> AsyncIterator[Front]:
    """Two calls a minute."""
    async with fronting(upstream.url, budget=2) as front:
        yield front


async def used(front: Front) -> int:
    budget = front.runner._origin.calls
    return (await budget.standing()).used


async def test_miss_over_the_budget_is_not_sent(limited, upstream) -> None:
    for path in ("/a", "/b"):
        assert (await limited.get(path)).status == 200
    refused = await limited.get("/c")
    assert (refused.status, len(upstream.seen)) == (503, 2)
    assert 50 < int(refused.fields["Retry-After"]) <= 61
    assert refused.told == "shmcache; fwd=miss"
    assert (await limited.get("/a")).status == 200, "a hit is no call"
    origin = limited.runner._origin
    assert origin.stats()["over_budget"] == 1
    assert origin.upstreams.all[0].pool.taken == 0


async def test_without_a_budget_there_is_no_ledger(front) -> None:
    await front.get()
    assert front.runner._limits is None
    assert not list(SHM.glob(f"*{front.cache.config.name}.limits*"))


async def test_stale_stands_for_what_is_over_the_budget(limited, upstream) -> None:
    upstream.fields["Cache-Control"] = "max-age=1"
    await limited.get("/a")
    await limited.get("/b")
    key = limited.key("/a")
    await eventually(lambda: limited.cache.entry(key).state == "dead")
    stale = await limited.get("/a")
    assert (stale.status, stale.body, len(upstream.seen)) == (200, b"hello", 2)
    assert stale.told.startswith("shmcache; hit; ttl=-")


async def test_refreshes_are_calls(limited, upstream) -> None:
    upstream.fields["Cache-Control"] = "max-age=1, stale-while-revalidate=60"
    await limited.get("/a")
    key = limited.key("/a")
    await eventually(lambda: limited.cache.entry(key).state == "stale")
    await limited.get("/a")
    await eventually(lambda: len(upstream.seen) == 2)
    assert (await limited.get("/b")).status == 503
    await eventually(lambda: limited.cache.entry(key).state == "stale")
    assert (await limited.get("/a")).status == 200
    await eventually(lambda: limited.runner._origin.over_budget == 2)
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE", "OPTIONS"])
async def test_what_is_passed_through_is_a_call(limited, upstream, method) -> None:
    statuses = [(await limited.ask(method, "/a")).status for _ in range(3)]
    assert statuses == [200, 200, 503]
    assert len(upstream.seen) == 2


async def test_handshake_of_a_websocket_is_a_call(limited, upstream) -> None:
    fields = {"Connection": "upgrade", "Upgrade": "websocket"}
    fields |= {"Sec-WebSocket-Key": "A" * 22 + "==", "Sec-WebSocket-Version": "13"}
    asked = [await limited.ask("GET", "/ws", headers=fields) for _ in range(3)]
    assert [got.status for got in asked] == [200, 200, 503]
    assert len(upstream.seen) == 2


async def test_what_is_asked_again_is_a_call() -> None:
    """A kept connection that ended unheard: sent once more, and counted twice."""
    servers = Servers()
    try:
        url = await servers.start()
        async with fronting(url, budget=9) as front:
            await front.get("/a")
            await eventually(lambda: len(front.runner._origin.upstreams.all[0].pool))
            servers.said = b""  # it hears the request, and hangs up
            assert (await front.get("/b")).status == 502
            assert sum(servers.count.values()) == await used(front) == 3
    finally:
        servers.stop()


async def test_call_that_is_late_for_want_of_a_connection_takes_another_grant(
    upstream,
) -> None:
    """1. A call is granted. 2. No connection comes free for longer than a call may be
    on its way. 3. It would be counted in a window that has no room for it."""
    held = asyncio.Event()

    async def hold(request: web.Request) -> web.Response:
        await held.wait()
        return web.Response()

    upstream.answer = hold
    settings = {"budget": 5, "budget_seconds": 1.0, "connections": 1}
    async with fronting(upstream.url, **settings) as front:
        first = asyncio.ensure_future(front.get("/a"))
        await eventually(lambda: upstream.seen)
        second = asyncio.ensure_future(front.get("/b"))
        budget = front.runner._origin.calls
        await eventually(lambda: len(budget._state().grants) == 2)
        await asyncio.sleep(0.06)  # half of a lag is 0.05
        held.set()
        await asyncio.gather(first, second)
        assert len(upstream.seen) == 2
        assert sum(n for _, n in budget._state().grants) == 3


async def test_failure_that_another_process_told_of_says_when(limited) -> None:
    for path in ("/a", "/b"):
        await limited.get(path)
    error = ComputeFailed(OverBudget.__name__, "")
    answer = limited.runner.handler._failures.answer(error, "told")
    assert answer.status == 503
    assert b"Retry-After: 6" in answer.head
