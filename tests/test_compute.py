"""A user's function: run within its time, its failure told to those who waited."""

import asyncio

import pytest

from shmcache import Cache, CacheConfig, ComputeFailed, Fill
from shmcache.compute import shared_error, words_of
from tests.caches import SIZE, asking
from tests.helpers import Origin, segment_name


async def test_compute_that_hangs_ends_at_the_hard_timeout():
    config = CacheConfig(segment_name(), SIZE, hard_timeout=0.05)
    async with Cache(config) as cache:
        with pytest.raises(TimeoutError, match=r"0\.05"):
            await cache.get_or_set("k", Origin("v", hold=True))
        assert await cache.get_or_set("k", Origin("next")) == "next"


async def test_own_timeout_of_a_compute_is_its_own(cache):
    origin = Origin(TimeoutError("the database"))
    with pytest.raises(TimeoutError, match="the database"):
        await cache.get_or_set("k", origin)


async def test_blocking_compute_is_taken_too(cache):
    assert await cache.get_or_set("k", lambda: 3) == 3


async def test_compute_that_is_cancelled_from_within_fails_and_is_told(pair):
    one, other = pair

    async def compute():
        raise asyncio.CancelledError

    with pytest.raises(ComputeFailed, match="CancelledError"):
        await one.get_or_set("k", compute)
    assert await other.get_or_set("k", Origin("next")) == "next"


async def test_failure_with_unprintable_words_is_told_all_the_same(pair):
    one = pair[0]
    origin = Origin(ValueError("cannot read \udcff"), hold=True)
    asked = [asking(c.get_or_set("k", origin)) for c in pair]
    await origin.started.wait()
    for _ in range(1000):
        await asyncio.sleep(0)
        if one.stats().claim_waits:
            break
    origin.gate.set()
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(e) for e in errors} == {ValueError, ComputeFailed}
    assert origin.calls == 1


async def test_compute_of_one_alone_counts_its_failure(pair):
    """After `pass` each computes for itself, and fails for itself."""
    one, other = pair
    await one.get_or_set("k", Origin(Fill("mine", shareable=False)))
    assert one.stats().compute_errors == 0
    with pytest.raises(ValueError, match="no"):
        await other.get_or_set("k", Origin(ValueError("no")))
    stats = one.stats()
    assert (stats.computes, stats.compute_errors) == (2, 1)


async def test_failure_reaches_all_who_waited_and_is_not_repeated(pair):
    one, other = pair
    origin = Origin(ValueError("no"), hold=True)
    asked = [asking(c.get_or_set("k", origin)) for c in (one, one, other)]
    await origin.started.wait()
    for _ in range(1000):
        await asyncio.sleep(0)
        if one.stats().claim_waits:
            break
    origin.gate.set()
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert [str(e) for e in errors] == ["no", "no", "ValueError: no"]
    assert origin.calls == 1
    assert await one.get_or_set("k", Origin("next")) == "next"


def test_failure_told_by_others_keeps_its_words():
    told = shared_error(words_of(ComputeFailed("ValueError", "boom")))
    assert (told.kind, told.message) == ("ValueError", "boom")
    assert shared_error(words_of(ComputeFailed("ValueError", ""))).message == ""
