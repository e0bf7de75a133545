"""The market service: vendors' figures in one dashboard, as a hosted application.

vendors    a vendor's payload to a reading; pure
parts      what there is, where it comes from, how it is asked for; data
feed       a part through the cache, inside the limits of its vendors (gates, calls)
dashboard  all parts in one value
stream     its changes in Redis, for any reader
live       its changes to the clients of /ws
views      its URLs, and how long the server may keep them (files: the page)

shmcache serve --config deploy/market.toml
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from shmcache import Cache
from shmcache_server.hosted import Context
from shmcache_server.limits import Limits

from . import settings
from .calls import Calls
from .dashboard import Dashboard, numbers
from .feed import Feed
from .files import Files
from .gates import gates
from .live import Live
from .stream import Stream
from .views import Views

_SLACK = 2.0
"""Seconds beyond the deadline: a dashboard waits for its parts, its readers for it."""


def check(table: Mapping[str, Any]) -> list[str]:
    """What is to be said of [app.settings] before a worker is forked."""
    return settings.keyless(settings.of(table))


def application(context: Context) -> web.Application:
    """What `app.factory` names; called in each worker, in its loop."""
    told = settings.of(context.settings)
    cache = Cache(
        replace(
            context.cache,
            # Readers wait for the fresh value: the server in front has answered its
            # clients with the stale one, if there is one.
            soft_timeout=told.deadline + _SLACK,
            hard_timeout=told.deadline + 2 * _SLACK,
        )
    )
    limits = Limits(cache)
    doors = gates(limits, told.vendors)
    calls = Calls()
    feed = Feed(cache, told, doors, calls)
    stream = Stream(context.cache, told.stream_length, numbers)
    dashboard = Dashboard(cache, feed, stream, told)
    views = Views(told, feed, dashboard, stream, doors)
    live = Live(dashboard, told.clients)
    files = Files()

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        async with calls, cache:
            yield
            await dashboard.close()
        await limits.close()
        await stream.close()

    async def goodbye(_: web.Application) -> None:
        await live.close()

    app = web.Application()
    app.cleanup_ctx.append(lifetime)
    app.on_shutdown.append(goodbye)
    app.add_routes(
        [
            web.get("/api/dashboard", views.dashboard),
            web.get("/api/crypto/dashboard-summary", views.dashboard),
            web.get("/api/market/{name}", views.part),
            web.get("/api/stream/latest", views.latest),
            web.get("/api/rate-limits", views.rate_limits),
            web.get("/ws", live.serve),
            web.get("/", files.index),
            web.get("/static/{name}", files.static),
        ]
    )
    return app
