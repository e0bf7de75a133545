"""What stands in the cache's place where there is no shmcache."""

from __future__ import annotations

import asyncio

import pytest

from loadtest.plain import PerProcess, Uncached
from shmcache import Fill


class Vendor:
    """Counts, and answers when it is let."""

    def __init__(self, ttl: float = 60.0) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self.ttl = ttl

    async def __call__(self) -> Fill:
        self.calls += 1
        count = self.calls
        await self.gate.wait()
        return Fill(count, ttl=self.ttl)


async def wave(cache: Uncached, vendor: Vendor) -> list[int]:
    asked = [asyncio.ensure_future(cache.get_or_set_entry("k", vendor, ttl=1.0))
             for _ in range(5)]  # fmt: skip
    await asyncio.sleep(0)
    vendor.gate.set()
    return [entry.value for entry in await asyncio.gather(*asked)]


async def test_uncached_asks_each_time() -> None:
    vendor = Vendor()
    assert await wave(Uncached(), vendor) == [1, 2, 3, 4, 5]


async def test_one_fetch_a_process_at_a_time() -> None:
    cache, vendor = PerProcess(), Vendor()
    assert await wave(cache, vendor) == [1] * 5
    entry = await cache.get_or_set_entry("k", vendor)
    assert entry.value == 1 and 59 < entry.ttl < 60
    assert (await cache.get_or_set_entry("other", vendor)).value == 2


async def test_what_is_over_is_fetched_anew() -> None:
    cache, vendor = PerProcess(), Vendor(ttl=0.0)
    assert await wave(cache, vendor) == [1] * 5
    assert await wave(cache, vendor) == [2] * 5


async def test_failure_is_everybodys_and_not_kept() -> None:
    cache, vendor = PerProcess(), Vendor()

    async def failing() -> Fill:
        raise OSError

    for _ in range(2):
        with pytest.raises(OSError):
            await cache.get_or_set_entry("k", failing)
    assert await wave(cache, vendor) == [1] * 5
