"""A small server that answers as the market does, and as a test wishes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.helpers import ROOT, free_port

PAGE = ROOT / "server" / "shmcache_server" / "market" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
VENDORS = {
    "btc": "coingecko",
    "global": "coingecko_global",
    "fear-greed": "alternative",
    "rsi": "taapi",
}


class Site:
    """The market before a browser."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {
            "btc_price_usd": 112884.0,
            "btc_change_24h": -0.7955129838191605,
            "market_cap_usd": 3912296730719.0854,
            "volume_24h_usd": 115403358622.58966,
            "fng_value": 50,
            "fng_classification": "Neutral",
            "rsi_14": 42.3291744124084,
        }
        self.states = dict.fromkeys(VENDORS, "fresh")
        self.tunnels = True
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.made = time.time()
        self._clients: set[web.WebSocketResponse] = set()

    async def start(self) -> None:
        app = web.Application()
        app.on_response_prepare.append(_policy)
        app.router.add_get("/", _file)
        app.router.add_get("/static/{name}", _file)
        app.router.add_get("/api/dashboard", self._dashboard)
        app.router.add_get("/api/rate-limits", self._limits)
        app.router.add_get("/ws", self._live)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        for client in list(self._clients):
            await client.close()
        await self._runner.cleanup()

    async def change(self, **values: Any) -> None:
        """These values, pushed to all clients."""
        self.values |= values
        self.made = time.time()
        for client in list(self._clients):
            await client.send_str(self._text())

    def _text(self) -> str:
        parts = {
            name: {"as_of": self.made - 3, "source": vendor, "state": self.states[name]}
            for name, vendor in VENDORS.items()
        }
        about = {"partial_failure": "unavailable" in self.states.values()}
        about |= {"fetch_duration_ms": 243.7, "last_updated": self.made}
        return json.dumps(self.values | {"parts": parts} | about)

    async def _dashboard(self, request: web.Request) -> web.Response:
        status = {"Age": "2", "Cache-Status": "shmcache; hit; ttl=12"}
        return web.Response(
            text=self._text(), content_type="application/json", headers=status
        )

    async def _limits(self, request: web.Request) -> web.Response:
        row = {"budget": 20, "used": 4, "left": 16, "breaker": "closed"}
        rows = {vendor: row | {"blocked_until": None} for vendor in VENDORS.values()}
        rows["binance"] = row | {"blocked_until": time.time() + 3600}
        return web.json_response(rows)

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if not self.tunnels:
            return web.Response(status=503)
        client = web.WebSocketResponse()
        await client.prepare(request)
        self._clients.add(client)
        await client.send_str(self._text())
        async for _ in client:
            pass
        self._clients.discard(client)
        return client


async def _policy(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Content-Security-Policy"] = POLICY


async def _file(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE / Path(request.match_info.get("name", "index.html")))
