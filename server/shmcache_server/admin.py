"""Admin: what an operator may ask, on a listener of its own, off unless named.

    GET /stats      counters of the host since its segment was made, and occupancy;
                    and the origin, as the worker that answers sees it; how its
                    budget of calls stands in the fleet, if there is one
    GET /healthz    this worker answers
    POST /purge     removes what it names, on every host (`purge.py`); wants the token

Every worker answers it, for the counters are the host's: they stand in the segment.
Breakers and connections are a worker's own.
The listener is on the loopback only, and answers only to a loopback Host, so that no
page in an operator's browser can read it under another name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict

from aiohttp import hdrs, web

from shmcache import Cache

from .addresses import loopback
from .forwarded import plain_host
from .origins import Origin
from .purges import Purges

CACHE: web.AppKey[Cache] = web.AppKey("cache", Cache)
ORIGIN: web.AppKey[Origin] = web.AppKey("origin", Origin)
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(cache: Cache, origin: Origin, purges: Purges) -> web.Application:
    """The admin listener's answers."""
    app = web.Application(middlewares=[_own_host])
    app[CACHE], app[ORIGIN] = cache, origin
    app.router.add_get("/stats", _stats)
    app.router.add_get("/healthz", _healthz)
    app.router.add_post("/purge", purges.on_admin)
    return app


@web.middleware
async def _own_host(request: web.Request, handler: Next) -> web.StreamResponse:
    host = plain_host(request.headers.get(hdrs.HOST, "")) or ""
    if not loopback(host.strip("[]")):
        raise web.HTTPMisdirectedRequest(text="Host: expected a loopback address\n")
    return await handler(request)


async def _stats(request: web.Request) -> web.Response:
    stats, origin = asdict(request.app[CACHE].stats()), request.app[ORIGIN]
    stats["origin"] = origin.stats()
    if origin.calls is not None:
        stats["budget"] = (await origin.calls.standing())._asdict()
    return web.json_response(stats)


async def _healthz(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")
