"""Caches for users' tests: the real ones, on a segment of their own, with a clock that
stands until it is advanced. Without Redis, and gone when they are closed.

    async with MemoryCache() as cache:
        await cache.set("a", 1, ttl=60, grace=60)
        cache.advance(61)
        assert cache.entry("a").state == "stale"

    with SyncMemoryCache() as cache: ...
"""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import Any

from .cache import Cache
from .clock import FakeClock
from .config import CacheConfig
from .sync import SyncCache

SIZE_BYTES = 4 * 1024**2


class MemoryCache(Cache):
    """A `Cache` that no other process or test has."""

    def __init__(self, *, size_bytes: int = SIZE_BYTES, **settings: Any) -> None:
        self._clock = FakeClock()
        super().__init__(
            CacheConfig(_name(), size_bytes, **settings), clock=self._clock
        )

    def advance(self, seconds: float) -> None:
        """Let seconds pass for ttl and grace. Timeouts of what runs are real ones."""
        self._clock.advance(seconds)

    async def settled(self) -> None:
        """Wait until no compute and no background refresh is under way."""
        await _settled(self)


class SyncMemoryCache(SyncCache):
    """A `SyncCache` that no other process or test has."""

    def __init__(self, *, size_bytes: int = SIZE_BYTES, **settings: Any) -> None:
        self._clock = FakeClock()
        super().__init__(
            CacheConfig(_name(), size_bytes, **settings), clock=self._clock
        )

    def advance(self, seconds: float) -> None:
        """Let seconds pass for ttl and grace. Timeouts of what runs are real ones."""
        self._clock.advance(seconds)

    def settled(self) -> None:
        """Wait until no compute and no background refresh is under way."""
        self._run(_settled(self._view or self._opened()))


async def _settled(cache: Cache) -> None:
    while cache._flights._tasks:
        await asyncio.wait(cache._flights._tasks)


def _name() -> str:
    return f"testing-{os.getpid()}-{secrets.token_hex(6)}"
