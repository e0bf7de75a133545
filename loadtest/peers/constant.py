"""A constant body from bare aiohttp, on uvloop: `constant.py application|server PORT`.

`application` is `web.Application` with one route, `server` the low-level `web.Server`
with one handler: what a hit costs where there is no cache at all. The body is the 898
bytes of JSON that every row of the benchmark answers. As `origin` it says so in a
Cache-Control that keeps it fresh for a day.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop
from aiohttp import web

SIZE = 898
HEADERS = {"Content-Type": "application/json"}


def document() -> bytes:
    """898 bytes of JSON."""
    bare = {"symbol": "BTCUSDT", "price": "64250.10", "padding": ""}
    bare["padding"] = "x" * (SIZE - len(json.dumps(bare)))
    return json.dumps(bare).encode()


BODY = document()


def application(headers: dict[str, str]) -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=BODY, headers=headers)

    app = web.Application()
    app.router.add_get("/bench", answer)
    return app


async def server_runner() -> web.ServerRunner:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=BODY, headers=HEADERS)

    return web.ServerRunner(web.Server(answer))  # type: ignore[arg-type]


async def main(kind: str, port: int) -> None:
    runner: web.BaseRunner
    if kind == "server":
        runner = await server_runner()
    else:
        fresh = {"Cache-Control": "max-age=86400"} if kind == "origin" else {}
        runner = web.AppRunner(application(HEADERS | fresh), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
