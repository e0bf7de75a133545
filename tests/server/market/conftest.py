"""Vendors, and a worker's share of the service before them, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from shmcache import Cache, CacheConfig
from shmcache_server.limits import Limits
from shmcache_server.market.calls import Calls
from shmcache_server.market.dashboard import Dashboard, numbers
from shmcache_server.market.feed import Feed
from shmcache_server.market.gates import Gate, gates
from shmcache_server.market.settings import Settings
from shmcache_server.market.stream import Stream
from tests.helpers import segment_name
from tests.server.market.vendor import KEYS, Vendors, vending

Opened = Callable[..., Any]


@dataclass
class Market:
    """What one worker has."""

    cache: Cache
    settings: Settings
    gates: dict[str, Gate]
    feed: Feed
    stream: Stream
    dashboard: Dashboard


@asynccontextmanager
async def market(
    settings: Settings, *, l2: str | None = None, name: str = "", app: str = "market"
) -> AsyncIterator[Market]:
    """Of a host of its own, unless `name` is another's segment."""
    config = CacheConfig(name or segment_name(), 2 << 20, l2=l2, app=app)
    config = replace(config, soft_timeout=settings.deadline + 1)
    cache = Cache(config)
    limits = Limits(cache)
    doors = gates(limits, settings.vendors)
    calls = Calls()
    feed = Feed(cache, settings, doors, calls)
    stream = Stream(config, settings.stream_length, numbers)
    dashboard = Dashboard(cache, feed, stream, settings)
    try:
        async with calls, cache:
            yield Market(cache, settings, doors, feed, stream, dashboard)
            await dashboard.close()
    finally:
        await limits.close()
        await stream.close()


@pytest.fixture
async def vendors(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Vendors]:
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    async with vending() as vendors:
        yield vendors


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """Opens one `market` after the other; all are closed at the end."""
    async with AsyncExitStack() as stack:

        async def open_one(settings: Settings, **options: Any) -> Market:
            return await stack.enter_async_context(market(settings, **options))

        yield open_one
