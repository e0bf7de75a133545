"""A bare aiohttp Application that answers a constant body: `constant PORT SIZE`."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web

from .document import document

HEADERS = {"Content-Type": "application/json", "Cache-Control": "max-age=3600"}


def application(size: int) -> web.Application:
    body = document(size)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, headers=HEADERS)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    return app


async def main(port: int, size: int) -> None:
    runner = web.AppRunner(application(size), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
