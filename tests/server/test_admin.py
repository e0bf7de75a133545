"""The admin listener: the host's counters, told to this machine alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestClient

from shmcache import Cache, CacheConfig
from shmcache_server.admin import application
from shmcache_server.config import Config
from shmcache_server.key import Keys
from shmcache_server.limits import Limits
from shmcache_server.origins import Origin
from shmcache_server.purges import Purges
from shmcache_server.tables import OriginConfig
from tests.helpers import free_port, get, segment_name, served


@pytest.fixture
async def client(aiohttp_client) -> AsyncIterator[TestClient]:
    async with Cache(CacheConfig(segment_name(), 2 << 20)) as cache:
        await cache.set("k", 1)
        config = Config(origin=OriginConfig(url="http://127.0.0.1:1"))
        purges = Purges(cache, Keys(config), config)
        origin = Origin(config)
        yield await aiohttp_client(application(cache, origin, purges))
        await origin.close()


async def test_stats_are_those_of_the_cache(client) -> None:
    stats = await (await client.get("/stats")).json()
    assert (stats["records"], stats["counters"]["stores"], stats["l2"]) == (
        1,
        1,
        "none",
    )
    assert (stats["l1"], stats["following"]) == ("up", None)
    (shard,) = stats["shards"]
    assert (shard["records"], shard["disabled"]) == (1, False)
    assert shard["capacity_bytes"] == 64 * stats["geometry"]["extent_bytes"]


async def test_stats_tell_how_the_budget_stands(aiohttp_client) -> None:
    config = Config(origin=OriginConfig(url="http://127.0.0.1:1"))
    async with Cache(CacheConfig(segment_name(), 2 << 20)) as cache:
        limits = Limits(cache)
        origin = Origin(config, limits.budget("origin", 20, 60))
        await origin.calls.take(3)
        purges = Purges(cache, Keys(config), config)
        client = await aiohttp_client(application(cache, origin, purges))
        budget = (await (await client.get("/stats")).json())["budget"]
        assert (budget["calls"], budget["used"], budget["left"]) == (20, 3, 17)
        assert (budget["blocked"], budget["wait"], budget["fleet"]) == (0, 0, False)
        await origin.close()
        await limits.close()


@pytest.mark.parametrize(
    ("method", "path", "host", "status"),
    [
        ("GET", "/healthz", "localhost", 200),
        ("GET", "/stats", "[::1]:80", 200),
        ("GET", "/stats", "example.org", 421),
        ("GET", "/stats", "[::1", 421),
        ("GET", "/stats", "127.0.0.1:evil", 421),
        ("GET", "/nowhere", "localhost", 404),
        ("POST", "/stats", "localhost", 405),
        ("POST", "/purge?all=1", "example.org", 421),
        ("POST", "/purge?all=1", "localhost", 403),
    ],
)
async def test_admin_answers(client, method, path, host, status) -> None:
    answer = await client.request(method, path, headers={"Host": host})
    assert answer.status == status


def test_admin_listens_beside_the_server(tmp_path) -> None:
    port = free_port()
    flags = ("--admin", f"127.0.0.1:{port}")
    with served(tmp_path / "log", "http://127.0.0.1:1", flags=flags) as server:
        assert server.get("/nowhere").status == 502
        stats = json.loads(get(port, "/stats").body)
        (origin,) = stats["origin"]["upstreams"]
        assert (origin["url"], origin["breaker"]) == ("http://127.0.0.1:1", "closed")
        assert (origin["under_way"], origin["idle"]) == (0, 0)
        # of the one of two workers that answered
        assert origin["asked"] == origin["errors"] == origin["failures"]
        assert stats["counters"]["compute_errors"] == 1
        assert (stats["processes"], stats["l2"]) == (2, "none")
        assert server.get("/stats").status == 502  # the origin's, not ours
