"""Applications for tests, each worker's origin."""

from __future__ import annotations

import os

from aiohttp import WSCloseCode, WSMsgType, web

from shmcache import Cache
from shmcache_server.hosted import Context, Next

CLOSED: web.AppKey[list[str]] = web.AppKey("closed", list)


def counting(context: Context) -> web.Application:
    """Counts in a cache of its own, and says what it was given."""
    cache = Cache(context.cache)
    closed: list[str] = []
    sockets: list[web.WebSocketResponse] = []

    async def count(request: web.Request) -> web.Response:
        value = await cache.get_or_set("count", lambda: 0) + 1
        await cache.set("count", value)
        return web.json_response(
            {"count": value, "pid": os.getpid(), "said": context.settings["say"]},
            headers={"Cache-Control": "max-age=60"},
        )

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sockets.append(socket)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data.upper())
        return socket

    async def open_and_close(_: web.Application):
        async with cache:
            yield
        closed.append("closed")

    async def goodbye(_: web.Application) -> None:
        closed.append("goodbye")
        for socket in sockets:
            await socket.close(code=WSCloseCode.GOING_AWAY)

    app = web.Application()
    app.cleanup_ctx.append(open_and_close)
    app.on_shutdown.append(goodbye)
    app.router.add_get("/count", count)
    app.router.add_get("/echo", echo)
    app[CLOSED] = closed
    return app


def answered_by_a_middleware(context: Context) -> web.Application:
    """Each request, before any handler."""

    @web.middleware
    async def answer(request: web.Request, handler: Next) -> web.StreamResponse:
        return web.Response(text="mine")

    return web.Application(middlewares=[answer])


def none(context: Context) -> str:
    return "none"
