"""The market's dashboard without shmcache: an aiohttp application for gunicorn.

    CONFIG=market.toml CACHE=none|process gunicorn loadtest.plain:application \\
        -k aiohttp.GunicornUVLoopWebWorker -w 4

It asks the same vendors by the same code, reads them by the same parsers and composes
the same dashboard as `shmcache_server.market`. What is left out is what shmcache adds:
in place of its cache stands none, or a dictionary in each process, whose misses wait
for the one fetch of that process. There are no budgets and no breakers.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from aiohttp import web

from shmcache import Cache, Entry, Fill
from shmcache_server.config import load
from shmcache_server.market import settings
from shmcache_server.market.calls import Calls
from shmcache_server.market.dashboard import Dashboard
from shmcache_server.market.feed import Feed
from shmcache_server.market.gates import Gate, Sending
from shmcache_server.market.stream import Stream
from shmcache_server.market.views import Views

Compute = Callable[[], Awaitable[Fill]]


class Uncached:
    """As much of a `Cache` as the market asks for, that keeps nothing."""

    async def get_or_set_entry(self, key: str, compute: Compute, **_: Any) -> Entry:
        return _entry(await compute())

    def look(self, key: str) -> None:
        return None


class PerProcess(Uncached):
    """What a program without a shared cache keeps: a dictionary with lives, and one
    fetch a key at a time."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Entry, float]] = {}
        self._flights: dict[str, asyncio.Future[Entry]] = {}

    async def get_or_set_entry(self, key: str, compute: Compute, **_: Any) -> Entry:
        now = time.monotonic()
        if (kept := self._kept.get(key)) and now < kept[1]:
            return kept[0]._replace(ttl=kept[1] - now)
        if (flight := self._flights.get(key)) is None:
            flight = asyncio.ensure_future(self._fetch(key, compute))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key))
        return await asyncio.shield(flight)

    async def _fetch(self, key: str, compute: Compute) -> Entry:
        entry = _entry(await compute())
        self._kept[key] = entry, time.monotonic() + (entry.ttl or 0.0)
        return entry


def _entry(fill: Fill) -> Entry:
    return Entry(fill.value, 0.0, cast("float", fill.ttl), "fresh", "flight")


class _Open:
    """A gate that anybody passes."""

    @asynccontextmanager
    async def passing(self, cost: int) -> AsyncIterator[Sending]:
        yield _send


async def _send(cost: int) -> None:
    pass


class _Dry:
    """A stream without an entry."""

    async def latest(self) -> None:
        return None


CACHES = {"none": Uncached, "process": PerProcess}


async def application() -> web.Application:
    """What gunicorn is given; a worker's."""
    told = settings.of(load(os.environ["CONFIG"]).app.settings)
    cache = cast("Cache", CACHES[os.environ["CACHE"]]())
    gates = dict.fromkeys(told.vendors, cast("Gate", _Open()))
    stream = cast("Stream", _Dry())
    calls = Calls()
    feed = Feed(cache, told, gates, calls)
    dashboard = Dashboard(cache, feed, stream, told)

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        async with calls:
            yield

    app = web.Application()
    app.cleanup_ctx.append(lifetime)
    views = Views(told, feed, dashboard, stream, gates)
    app.router.add_get("/api/dashboard", views.dashboard)
    return app
