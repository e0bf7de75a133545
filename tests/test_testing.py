"""Caches for users' tests: the real ones, alone, with a clock to advance."""

from __future__ import annotations

import pytest

from shmcache import MISSING
from shmcache.testing import MemoryCache, SyncMemoryCache
from tests.helpers import SHM


async def test_clock_is_advanced() -> None:
    async with MemoryCache() as cache:
        await cache.set("a", 1, ttl=60, grace=60)
        cache.advance(61)
        assert cache.entry("a").state == "stale"  # type: ignore[union-attr]
        assert await cache.get_or_set("a", lambda: 2, ttl=60) == 1
        await cache.settled()
        assert cache.peek("a") == 2


async def test_two_have_nothing_in_common_and_leave_nothing() -> None:
    async with MemoryCache() as one, MemoryCache() as other:
        await one.set("a", 1)
        assert other.peek("a") is MISSING
    assert not list(SHM.glob("*testing-*"))


def test_blocking_one_is_alike() -> None:
    with SyncMemoryCache(jitter=0.0) as cache:
        cache.set("a", 1, ttl=60)
        cache.advance(61)
        assert cache.peek("a") is MISSING
        cache.settled()


def test_settings_are_those_of_a_cache() -> None:
    with pytest.raises(ValueError, match="codec"):
        MemoryCache(codec="pickle")
