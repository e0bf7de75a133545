"""Caches for tests: two on one segment, as processes have; two hosts on one Redis."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from shmcache import Cache, CacheConfig
from shmcache.clock import SYSTEM, Clock
from shmcache.l1 import L1
from tests.helpers import Origin, segment_name

SIZE = 2 << 20


@asynccontextmanager
async def siblings(
    clock: Clock = SYSTEM, **settings: Any
) -> AsyncIterator[tuple[Cache, Cache]]:
    """Two caches on one segment."""
    config = CacheConfig(segment_name(), SIZE, **settings)
    async with Cache(config, clock=clock) as one, Cache(config, clock=clock) as other:
        yield one, other


@asynccontextmanager
async def two_hosts(url: str, **settings: Any) -> AsyncIterator[tuple[Cache, Cache]]:
    """Two segments, as two hosts have, on one Redis; an app that nobody else has."""
    app = segment_name()
    one, other = (
        CacheConfig(segment_name(), SIZE, l2=url, app=app, **settings) for _ in "ab"
    )
    async with Cache(one) as first, Cache(other) as second:
        yield first, second


def held(answer: Any) -> Origin:
    """An origin that answers when it is let."""
    return Origin(answer, hold=True)


def asking(work: Any) -> asyncio.Task[Any]:
    """A verb of a cache, under way."""
    return asyncio.ensure_future(work)


async def until(probe: Callable[[], Any]) -> None:
    """Wait for a condition that other tasks bring about."""
    for _ in range(2500):
        if probe():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("not within 5 s")


def die(l1: L1) -> None:
    """Let go of the process slot, as the kernel does for one that is killed."""
    os.close(l1.segment._slot_fd)
    l1.segment._slot_fd = l1.segment._slot_byte = -1


async def landed(cache: Cache) -> None:
    """All of the cache's flights have ended."""
    await asyncio.gather(*cache._flights._tasks)
