"""Flights: joined, overtaken, followed by a successor, and gone when they land."""

import asyncio

import pytest

from shmcache import Cache, CacheConfig
from shmcache.clock import FakeClock
from shmcache.fill import Terms
from tests.helpers import segment_name

TERMS = Terms(10.0)


@pytest.fixture
async def cache():
    config = CacheConfig(segment_name(), 2 << 20)
    async with Cache(config, clock=FakeClock()) as opened:
        yield opened


class Held:
    """A compute that ends when its gate is opened."""

    def __init__(self, answer):
        self.answer = answer
        self.started = asyncio.Event()
        self.gate = asyncio.Event()

    async def __call__(self):
        self.started.set()
        await self.gate.wait()
        return self.answer


def resolve(cache, compute):
    return asyncio.ensure_future(cache._flights.resolve(b"k", compute, TERMS))


async def test_flight_leaves_nothing_when_it_lands(cache):
    flights = cache._flights
    await flights.resolve(b"k", lambda: 1, TERMS)
    await asyncio.gather(*flights._tasks)
    assert (len(flights), flights._flights, flights._backoff) == (0, {}, {})


async def test_caller_joins_the_flight_under_way(cache):
    compute = Held("v")
    asked = [resolve(cache, compute) for _ in range(3)]
    await compute.started.wait()
    assert len(cache._flights) == 1
    compute.gate.set()
    sources = [outcome.source for outcome in await asyncio.gather(*asked)]
    assert sources == ["compute", "flight", "flight"]


async def test_late_caller_is_not_answered_by_an_overtaken_flight(cache):
    """1. a flight notes its stamp; 2. an invalidation returns; 3. a caller joins."""
    old, new = Held("old"), Held("new")
    early = resolve(cache, old)
    await old.started.wait()
    await cache.delete("k")
    late = resolve(cache, new)
    await new.started.wait()
    assert len(cache._flights) == 2
    old.gate.set()
    new.gate.set()
    assert (await early).record.value == b"\xa3old"
    assert (await late).record.value == b"\xa3new"
    assert cache.peek("k") == "new"


async def test_caller_noted_after_the_stamp_looks_again(cache):
    """1. a flight notes its stamp; 2. the clock moves for another key; 3. a caller
    joins, its note above the stamp; 4. the key is invalidated; 5. the flight ends."""
    old, new = Held("old"), Held("new")
    first = resolve(cache, old)
    await old.started.wait()
    await cache.delete("other")
    second = resolve(cache, new)
    await asyncio.sleep(0)
    assert len(cache._flights) == 1
    await cache.delete("k")
    old.gate.set()
    new.gate.set()
    assert (await first).record.value == b"\xa3old"
    assert (await second).record.value == b"\xa3new"


async def test_landed_flight_does_not_take_its_successor_along(cache):
    old, new = Held("old"), Held("new")
    early = resolve(cache, old)
    await old.started.wait()
    await cache.delete("k")
    late = resolve(cache, new)
    await new.started.wait()
    successor = cache._flights._flights[b"k"]
    old.gate.set()
    await early
    await asyncio.sleep(0)
    assert cache._flights._flights[b"k"] is successor
    new.gate.set()
    await late


async def test_refresh_runs_once_and_joins_nobody(cache):
    compute = Held("v")
    flights = cache._flights
    for _ in range(3):
        flights.refresh(b"k", compute, TERMS)
    assert len(flights) == 1
    compute.gate.set()
    await asyncio.gather(*flights._tasks)
    assert cache.peek("k") == "v"
    assert cache.stats().refreshes == 1


async def test_backoff_is_forgotten_after_a_success_and_bounded(cache, monkeypatch):
    monkeypatch.setattr("shmcache.flight._BACKOFFS_MAX", 2)
    flights = cache._flights

    def fail():
        raise ValueError("no")

    for key in (b"a", b"b", b"c"):
        flights.refresh(key, fail, TERMS)
        await asyncio.gather(*flights._tasks)
    assert list(flights._backoff) == [b"b", b"c"]
    cache._l1.clock.advance(2)
    flights.refresh(b"c", lambda: 1, TERMS)
    await asyncio.gather(*flights._tasks)
    assert list(flights._backoff) == [b"b"]
