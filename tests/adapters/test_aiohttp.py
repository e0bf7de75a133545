"""A cache under a key of the application, as long as the application lives."""

from __future__ import annotations

from aiohttp import web

from shmcache import Cache
from shmcache.adapters.aiohttp import CACHE, opened
from tests.helpers import segment_name, shm_names


async def _item(request: web.Request) -> web.Response:
    value = await request.app[CACHE].get_or_set("item", lambda: "v", ttl=30)
    return web.Response(text=value)


async def test_handlers_have_the_cache(aiohttp_client) -> None:
    name = segment_name()
    app = web.Application()
    app.router.add_get("/", _item)
    app.cleanup_ctx.append(opened(name, size="2MiB"))
    client = await aiohttp_client(app)
    for _ in range(2):
        assert await (await client.get("/")).text() == "v"
    assert app[CACHE].stats().computes == 1
    await client.close()
    assert not shm_names(name)


async def test_second_cache_has_a_key_of_its_own() -> None:
    other = web.AppKey("other", Cache)
    app = web.Application()
    app.cleanup_ctx.append(opened(segment_name(), size="2MiB"))
    app.cleanup_ctx.append(opened(segment_name(), at=other, size="2MiB"))
    runner = web.AppRunner(app)
    await runner.setup()
    await app[CACHE].set("k", 1)
    assert app[other].peek("k", None) is None
    await runner.cleanup()
