"""All vendors in one small server of this process: each answers what it is told to.

The payloads are the least that the parsers take. `loadtest/vendors.py` is the whole.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from shmcache_server.market.settings import Settings, of

PRICE, GLOBAL = "/api/v3/simple/price", "/api/v3/global"
FNG, RSI, TICKER = "/fng/", "/rsi", "/api/v3/ticker/24hr"
CMC_BTC = "/v1/cryptocurrency/quotes/latest"
CMC_GLOBAL = "/v1/global-metrics/quotes/latest"
QUOTE = "/api/v1/quote"
KEYS = {"TAAPI_KEY": "sesame-t", "CMC_API_KEY": "sesame-c", "FINNHUB_KEY": "sesame-f"}
CALLED = (PRICE, GLOBAL, FNG, RSI)
"""For the dashboard, where all is well."""


def payloads(price: float = 112884.0) -> dict[str, Any]:
    usd = {"total_market_cap": 3912296730719.0854, "total_volume_24h": 115403358622.5}
    coin = {"price": price + 2, "percent_change_24h": 0.5}
    day = {"value": "50", "value_classification": "Neutral", "timestamp": "1746148800"}
    return {
        PRICE: {"bitcoin": {"usd": price, "usd_24h_change": -0.7955129838191605}},
        GLOBAL: {
            "data": {
                "total_market_cap": {"usd": 3912296730719.0854},
                "total_volume": {"usd": 115403358622.58966},
            }
        },
        FNG: {"data": [day]},
        RSI: {"value": 42.3291744124084},
        TICKER: {
            "symbol": "BTCUSDT",
            "lastPrice": f"{price + 1:.8f}",
            "priceChangePercent": "-0.795",
        },
        CMC_BTC: {"data": {"BTC": {"quote": {"USD": coin}}}},
        CMC_GLOBAL: {"data": {"quote": {"USD": usd}}},
        QUOTE: {"c": 261.74, "dp": -0.46, "t": 1582641000},
    }


class Vendors:
    """What they answer, and what they were asked."""

    def __init__(self) -> None:
        self.bodies = payloads()
        self.refusals: dict[str, tuple[int, Mapping[str, str], bytes]] = {}
        """By path, in place of its payload."""
        self.calls: Counter[str] = Counter()
        self.seen: list[web.BaseRequest] = []
        self.called = asyncio.Event()
        self.open = asyncio.Event()
        """While it is not set nobody is answered."""
        self.open.set()
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.calls[request.path] += 1
        self.seen.append(request)
        self.called.set()
        await self.open.wait()
        if request.path in self.refusals:
            status, fields, body = self.refusals[request.path]
            return web.Response(status=status, headers=fields, body=body)
        return web.Response(body=json.dumps(self.bodies[request.path]))

    def refuse(self, *paths: str, status: int = 500, **fields: str) -> None:
        told = {name.replace("_", "-"): value for name, value in fields.items()}
        self.refusals |= dict.fromkeys(paths, (status, told, b"{}"))

    def table(self, **changes: Any) -> dict[str, Any]:
        """[app.settings] with all vendors here; a class or vendor that `changes` name
        is changed."""
        names = Settings().vendors
        rows: dict[str, Any] = {name: {"url": self.url} for name in names}
        classes: dict[str, Any] = {name: {} for name in Settings().classes}
        told: dict[str, Any] = {}
        for name, change in changes.items():
            if name in rows or name in classes:
                (rows if name in rows else classes)[name].update(change)
            else:
                told[name] = change
        return {**told, "vendors": rows, "classes": classes}

    def settings(self, **changes: Any) -> Settings:
        return of(self.table(**changes))


@asynccontextmanager
async def vending() -> AsyncIterator[Vendors]:
    vendors = Vendors()
    app = web.Application()
    app.router.add_get("/{path:.*}", vendors.answer)
    server = TestServer(app)
    await server.start_server(access_log=None)
    vendors.url = str(server.make_url("")).rstrip("/")
    try:
        yield vendors
    finally:
        vendors.open.set()
        await server.close()
