"""A key to be filled: what L1 has for it by now, how long it waits, how it failed."""

import asyncio

import pytest

from shmcache import Fill
from shmcache.clock import FakeClock
from shmcache.fill import Terms, mark, pass_mark
from shmcache.job import (
    Job,
    Outcome,
    WaitedTooLong,
    failures_in,
    found,
    patience,
    tags_of,
)
from shmcache.keys import error_key
from shmcache.l1 import tag_number
from shmcache.record import ERROR, FRESH, PASS, STALE, VALUE, Record
from tests.caches import landed, siblings
from tests.helpers import Origin


@pytest.fixture
async def cache():
    async with siblings(FakeClock()) as (one, _):
        yield one


def job(refresh=False, seen=None, until=None):
    return Job(b"k", lambda: 1, Terms(1.0), refresh, 7, seen, until)


async def test_found_is_what_the_job_is_for(cache):
    l1 = cache._l1
    assert found(l1, job()) is None
    await cache.set("k", "v", ttl=1, grace=1)
    fresh = l1.look(b"k")
    assert found(l1, job()).record == found(l1, job(True)).record == fresh
    assert found(l1, job(True, seen=fresh)) is None
    assert found(l1, job(True, seen=fresh._replace(nonce=1))).record == fresh
    l1.clock.advance(1)
    assert found(l1, job()).record.value == fresh.value
    assert found(l1, job(True)) is None
    l1.clock.advance(1)
    assert found(l1, job()) is None


async def test_found_mark_says_to_compute_alone(cache):
    now = cache._l1.clock.now()
    cache._l1.put(b"k", pass_mark(now=now, stamp=cache.note(), nonce=1))
    assert found(cache._l1, job()).record is None


async def test_found_error_is_a_record(cache):
    now = cache._l1.clock.now()
    cache._l1.put(b"k", mark(ERROR, b"x", 1, now=now, stamp=cache.note()))
    assert found(cache._l1, job()).record.kind == ERROR


async def test_found_is_no_stale_failure_or_mark(cache):
    l1 = cache._l1
    for kind in (ERROR, PASS):
        record = mark(kind, b"x", 1, now=l1.clock.now(), stamp=cache.note())
        l1.put(b"k", record._replace(dead_at=2 * record.dead_at))
        assert found(l1, job()) is not None
        l1.clock.advance(1)
        assert l1.look(b"k").state == STALE
        assert found(l1, job()) is None


@pytest.mark.parametrize(("source", "over"), [("l1", True), ("compute", False)])
def test_stale_outcome_is_over_with_its_grace(source, over):
    """But what a compute just made is told however short its life is."""
    stale = Record(b"x", STALE, VALUE, 0, 5, 9, 0, 0, 0, ())
    outcome = Outcome(stale, source, 0)
    assert not outcome.over(8)
    assert outcome.over(9) == over
    assert not outcome._replace(record=stale._replace(state=FRESH)).over(9)


async def test_patience_ends_a_wait_for_others():
    now = asyncio.get_running_loop().time()
    with pytest.raises(WaitedTooLong):
        async with patience(job(until=now)):
            await asyncio.Event().wait()
    async with patience(job(until=now + 60)):
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):  # not its own
        async with patience(job()):
            raise TimeoutError


async def test_failures_are_forgotten_by_a_fill(cache):
    l1 = cache._l1
    for n in (1, 2):
        with pytest.raises(ValueError, match="no"):
            await cache.get_or_set("k", Origin(ValueError("no")))
        assert failures_in(l1, b"k") == n
    l1.clock.advance(1)
    await cache.get_or_set("k", Origin("v"), ttl=1, grace=9)
    assert failures_in(l1, b"k") == 0
    l1.clock.advance(2)
    await cache.get_or_set("k", Origin("w"), ttl=1, grace=9)
    await landed(cache)
    assert l1.look(error_key(b"k")) is None


def test_tags_are_the_fills_own_else_the_callers():
    wanted = Terms(1.0, tags=(5,), prefix=b"\x1fn\x1f")
    assert tags_of(Fill(1), wanted) == (5,)
    number = tag_number(b"\x1fn\x1f")
    assert tags_of(Fill(1, tags=()), wanted) == (number,)
    assert tags_of(Fill(1, tags=["a"]), wanted) == (number, tag_number(b"\x1fn\x1fa"))
