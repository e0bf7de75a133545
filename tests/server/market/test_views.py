"""What the URLs answer, and for how long it may be kept."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from shmcache_server.market.views import Views
from tests.redis_server import eventually
from tests.server.market.vendor import CMC_BTC, CMC_GLOBAL, FNG, GLOBAL, PRICE, RSI
from tests.server.market.vendor import TICKER as BINANCE

ALL = (PRICE, BINANCE, CMC_BTC, GLOBAL, CMC_GLOBAL, FNG, RSI)


@pytest.fixture
async def serve(opened):
    """A client of the views of a worker; the worker."""
    clients = []

    async def start(settings, **options):
        one = await opened(settings, **options)
        views = Views(one.settings, one.feed, one.dashboard, one.stream, one.gates)
        app = web.Application()
        app.add_routes(
            [
                web.get("/api/dashboard", views.dashboard),
                web.get("/api/market/{name}", views.part),
                web.get("/api/stream/latest", views.latest),
                web.get("/api/rate-limits", views.rate_limits),
            ]
        )
        client = TestClient(TestServer(app))
        await client.start_server()
        clients.append(client)
        return client, one

    yield start
    for client in clients:
        await client.close()


def fine(answer: Any) -> dict[str, int]:
    """The server's own directives."""
    told = answer.headers["Shmcache-Cache-Control"]
    return {name: int(value) for name, value in re.findall(r"([a-z-]+)=(\d+)", told)}


def browsers(answer: Any) -> int:
    return int(answer.headers["Cache-Control"].removeprefix("public, max-age="))


async def test_life_is_told_to_server_and_browser(vendors, serve) -> None:
    client, one = await serve(vendors.settings())
    await one.dashboard.entry()
    left = one.dashboard.standing().ttl
    answer = await client.get("/api/dashboard")
    told = fine(answer)
    assert told["max-age-ms"] / 1000 == pytest.approx(left, abs=0.2)
    assert browsers(answer) == int(told["max-age-ms"] / 1000)
    assert told["stale-while-revalidate"] == told["stale-if-error"]
    assert told["stale-while-revalidate"] == pytest.approx(600, abs=2)
    assert "Age" not in answer.headers
    assert (await answer.json())["btc_price_usd"] == 112884.0


async def test_time_to_the_answer_is_counted_once(vendors, serve) -> None:
    """The server counts from its question, the value from its birth: both end at the
    same time."""
    client, one = await serve(vendors.settings(real_time={"jitter": 0.0}))
    vendors.open.clear()
    began = time.monotonic()
    asked = asyncio.ensure_future(client.get("/api/market/btc"))
    await vendors.called.wait()
    await asyncio.sleep(0.3)
    vendors.open.set()
    told = fine(await asked)
    ends = began + told["max-age-ms"] / 1000
    value_ends = time.monotonic() + one.feed.standing("btc").ttl
    assert ends == pytest.approx(value_ends, abs=0.1)
    assert ends <= value_ends + 0.02
    assert told["max-age-ms"] > 30_200


async def test_part_tells_its_time_source_and_state(vendors, serve) -> None:
    client, _ = await serve(vendors.settings())
    assert await (await client.get("/api/market/fear-greed")).json() == {
        "fng_value": 50,
        "fng_classification": "Neutral",
        "as_of": 1746148800.0,
        "source": "alternative",
        "state": "fresh",
    }
    indices = await (await client.get("/api/market/indices")).json()
    assert indices["QQQM"] == {"price_usd": 261.74, "change_24h": -0.46}
    assert (await client.get("/api/market/gold")).status == 404


async def test_figures_keep_their_digits(vendors, serve) -> None:
    client, _ = await serve(vendors.settings())
    text = await (await client.get("/api/dashboard")).text()
    for said in (
        *('"btc_price_usd": 112884.0,', '"btc_change_24h": -0.7955129838191605,'),
        *('"market_cap_usd": 3912296730719.0854,', '"fng_value": 50,'),
        *('"volume_24h_usd": 115403358622.58966,', '"rsi_14": 42.3291744124084,'),
    ):
        assert said in text


async def test_stale_value_is_kept_for_a_second(vendors, serve) -> None:
    told = vendors.settings(real_time={"ttl": 1.0, "jitter": 0.0, "grace": 20.0})
    client, one = await serve(told)
    first = await one.feed.entry("btc")
    vendors.refuse(*ALL, status=404)
    await asyncio.sleep(first.ttl)
    answer = await client.get("/api/market/btc")
    assert (await answer.json())["state"] == "stale"
    assert fine(answer)["max-age-ms"] <= 1100
    assert 18 <= fine(answer)["stale-while-revalidate"] <= 20
    assert browsers(answer) <= 1


@pytest.mark.parametrize("path", ["dashboard", "market/btc", "stream/latest"])
async def test_what_is_not_there_is_503(vendors, serve, path) -> None:
    vendors.refuse(*ALL, status=404)
    client, _ = await serve(vendors.settings())
    answer = await client.get(f"/api/{path}")
    assert answer.status == 503
    assert (await answer.json())["retry_after"] == int(answer.headers["Retry-After"])
    assert int(answer.headers["Retry-After"]) >= 1
    assert fine(answer) == {"max-age-ms": 1000} and browsers(answer) == 1


async def test_limits_are_told_by_vendor(vendors, serve) -> None:
    client, one = await serve(vendors.settings())
    await one.dashboard.entry()
    await one.gates["binance"].budget.block(60)
    rows = await (await client.get("/api/rate-limits")).json()
    assert [*rows] == [*one.settings.vendors]
    assert rows["coingecko"] == {
        "budget": 20,
        "used": 1,
        "left": 19,
        "blocked_until": None,
        "fleet": False,
        "breaker": "closed",
    }
    until = rows["binance"]["blocked_until"]
    assert until == pytest.approx(time.time() + 60, abs=3)


async def test_latest_of_the_stream_is_told(vendors, serve, server) -> None:
    server.command("FLUSHALL")
    client, one = await serve(vendors.settings(), l2=server.url)
    shown = (await one.dashboard.entry()).value["shown"]
    await eventually(one.stream.latest)
    answer = await client.get("/api/stream/latest")
    assert json.loads(await answer.text()) == shown
    assert fine(answer) == {"max-age-ms": 1000}
    rows = await (await client.get("/api/rate-limits")).json()
    assert rows["coingecko"]["fleet"] is True
