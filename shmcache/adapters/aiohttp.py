"""aiohttp: a cache under a key of the application, opened and closed with it.

app.cleanup_ctx.append(opened("shop", size="64MiB"))
...
await request.app[CACHE].get_or_set("items", load, ttl=30)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from shmcache import Cache

CACHE = web.AppKey("shmcache", Cache)


def opened(
    name: str, *, at: web.AppKey[Cache] = CACHE, **settings: Any
) -> Callable[[web.Application], AsyncIterator[None]]:
    """For `app.cleanup_ctx`; the rest as of `Cache.open`. `at`: for a second cache."""

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with Cache.open(name, **settings) as cache:
            app[at] = cache
            yield

    return context
