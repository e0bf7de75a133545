"""The cache's verbs, on one segment opened twice as two processes would open it."""

import asyncio
import math
import subprocess
import sys

import pytest

from shmcache import (
    MISSING,
    Cache,
    CacheConfig,
    CacheError,
    CodecError,
    ComputeFailed,
    ConfigError,
    Fill,
    KeyRejected,
    SegmentError,
    ValueTooLarge,
)
from shmcache.clock import FakeClock
from shmcache.record import FOREVER, Record
from shmcache.segment import SHM
from tests.helpers import Origin, segment_name

SIZE = 2 << 20


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def pair(clock):
    config = CacheConfig(segment_name(), SIZE)
    async with Cache(config, clock=clock) as one, Cache(config, clock=clock) as other:
        yield one, other


@pytest.fixture
def cache(pair):
    return pair[0]


async def test_value_set_by_one_is_a_hit_in_the_other(pair):
    one, other = pair
    await one.set("k", {"a": [1, 2.5, None]})
    assert other.peek("k") == {"a": [1, 2.5, None]}
    assert await other.get("k") == {"a": [1, 2.5, None]}


async def test_cached_none_is_a_hit(cache):
    await cache.set("k", None)
    assert cache.peek("k") is None
    assert await cache.get("k", "default") is None
    origin = Origin("computed")
    assert await cache.get_or_set("k", origin) is None
    assert origin.calls == 0


async def test_absence_is_missing_or_the_default(cache):
    assert cache.peek("k") is MISSING
    assert not MISSING
    assert await cache.get("k") is MISSING
    assert await cache.get("k", 7) == 7


@pytest.mark.parametrize("callers", [1, 50])
async def test_cold_key_is_computed_once(pair, callers):
    origin = Origin("v", hold=True)
    asked = [
        asyncio.ensure_future(cache.get_or_set("k", origin, ttl=10))
        for cache in pair
        for _ in range(callers)
    ]
    await origin.started.wait()
    origin.gate.set()
    assert await asyncio.gather(*asked) == ["v"] * 2 * callers
    assert origin.calls == 1


async def test_fresh_hit_computes_nothing(cache, clock):
    origin = Origin("v")
    for _ in range(3):
        assert await cache.get_or_set("k", origin, ttl=10) == "v"
        clock.advance(3)
    assert origin.calls == 1


async def test_value_dies_with_its_ttl(cache, clock):
    origin = Origin("old", "new")
    assert await cache.get_or_set("k", origin, ttl=0.4) == "old"
    clock.advance(0.4)
    assert cache.peek("k") is MISSING
    assert await cache.get_or_set("k", origin, ttl=0.4) == "new"


async def test_stale_hit_is_answered_at_once_and_starts_one_refresh(cache, clock):
    assert await cache.get_or_set("k", Origin("old"), ttl=1, grace=10) == "old"
    clock.advance(2)
    origin = Origin("new", hold=True)
    for _ in range(5):
        assert await cache.get_or_set("k", origin, ttl=1, grace=10) == "old"
    await origin.started.wait()
    assert origin.calls == 1
    origin.gate.set()
    await cache._flights._flights[b"k"].task
    assert cache.peek("k") == "new"


async def test_failed_refresh_is_not_tried_again_before_a_second(cache, clock):
    await cache.get_or_set("k", Origin("old"), ttl=1, grace=100)
    clock.advance(2)
    origin = Origin(ValueError("down"))

    async def stale_hit():
        assert await cache.get_or_set("k", origin, ttl=1, grace=100) == "old"
        await asyncio.gather(*cache._flights._tasks)

    await stale_hit()
    await stale_hit()
    assert origin.calls == 1
    clock.advance(1.1)
    await stale_hit()
    assert origin.calls == 2
    clock.advance(1.1)
    await stale_hit()
    assert origin.calls == 2
    clock.advance(1)
    await stale_hit()
    assert origin.calls == 3


async def test_negative_ttl_holds_for_an_absent_value(cache, clock):
    origin = Origin(None, "there")
    assert await cache.get_or_set("k", origin, ttl=100, negative_ttl=1) is None
    assert await cache.get_or_set("k", origin, ttl=100, negative_ttl=1) is None
    clock.advance(1)
    assert await cache.get_or_set("k", origin, ttl=100, negative_ttl=1) == "there"


async def test_delete_reaches_the_other(pair):
    one, other = pair
    await one.set("k", 1)
    await other.delete("k")
    assert one.peek("k") is MISSING


async def test_fetch_overtaken_by_a_delete_is_not_stored(pair):
    """1. a fetch begins; 2. a delete returns; 3. the fetch ends with the old value."""
    one, other = pair
    origin = Origin("old", hold=True)
    early = asyncio.ensure_future(one.get_or_set("k", origin))
    await origin.started.wait()
    await other.delete("k")
    late_origin = Origin("new")
    assert await one.get_or_set("k", late_origin) == "new"
    origin.gate.set()
    assert await early == "old"  # it joined before the delete
    assert one.peek("k") == other.peek("k") == "new"


async def test_set_wins_over_a_fetch_that_began_before(pair):
    one, other = pair
    origin = Origin("fetched", hold=True)
    early = asyncio.ensure_future(one.get_or_set("k", origin))
    await origin.started.wait()
    await other.set("k", "set")
    origin.gate.set()
    await early
    assert one.peek("k") == "set"
    assert one.stats().fills_refused == 1


async def test_caller_that_leaves_does_not_end_the_fetch(cache):
    origin = Origin("v", hold=True)
    first = asyncio.ensure_future(cache.get_or_set("k", origin))
    second = asyncio.ensure_future(cache.get_or_set("k", origin))
    await origin.started.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    origin.gate.set()
    assert await second == "v"
    assert origin.calls == 1


async def test_failure_reaches_all_who_waited_and_is_not_repeated(pair):
    one, other = pair
    origin = Origin(ValueError("no"), hold=True)
    asked = [
        asyncio.ensure_future(c.get_or_set("k", origin)) for c in (one, one, other)
    ]
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


async def test_private_answer_goes_to_its_own_caller_only(pair):
    def private(answer):
        return Origin(Fill(answer, shareable=False))

    one, other = pair
    origins = [private("a"), private("b"), private("c")]
    caches = (one, one, other)
    asked = [c.get_or_set("k", o, ttl=10) for c, o in zip(caches, origins, strict=True)]
    assert await asyncio.gather(*asked) == ["a", "b", "c"]
    assert one.peek("k") is MISSING
    assert await one.get_or_set("k", Origin("shared"), ttl=10) == "shared"


async def test_ttl_of_zero_is_shared_with_who_waits_and_stored_nowhere(cache):
    origin = Origin("v", hold=True)
    asked = [asyncio.ensure_future(cache.get_or_set("k", origin, ttl=0)) for _ in "ab"]
    await origin.started.wait()
    origin.gate.set()
    assert await asyncio.gather(*asked) == ["v", "v"]
    assert origin.calls == 1
    assert cache.peek("k") is MISSING


async def test_fill_overrides_ttl_and_brings_its_age(cache, clock):
    origin = Origin(Fill("v", ttl=10, age=4))
    entry = await cache.get_or_set_entry("k", origin, ttl=1)
    assert (entry.source, entry.state) == ("compute", "fresh")
    assert entry.age == pytest.approx(4)
    assert entry.ttl == pytest.approx(6)
    clock.advance(5.9)
    assert cache.peek("k") == "v"
    clock.advance(0.2)
    assert cache.peek("k") is MISSING


async def test_entry_tells_state_age_and_source(cache, clock):
    assert cache.entry("k") is None
    await cache.set("k", "v", ttl=2, grace=2)
    for state, age, ttl in (("fresh", 0, 2), ("stale", 2, 0), ("dead", 4, -2)):
        entry = cache.entry("k")
        assert (entry.value, entry.state, entry.source) == ("v", state, "l1")
        assert (entry.age, entry.ttl) == (age, ttl)
        clock.advance(2)
    await cache.set("k", "v")
    assert cache.entry("k").ttl is None


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


async def test_namespaces_hold_keys_of_their_own(pair):
    one, other = pair
    users, posts = one.namespace("users"), other.namespace("posts")
    await users.set("1", "u")
    await posts.set("1", "p")
    assert (users.peek("1"), posts.peek("1")) == ("u", "p")
    assert one.peek("1") is MISSING
    assert other.namespace("users").peek("1") == "u"
    with pytest.raises(KeyRejected):
        users.peek("x" * 1024)


@pytest.mark.parametrize("ttl", [-1, math.nan, math.inf, True, "30"])
async def test_wrong_ttl_is_refused_before_any_compute(cache, ttl):
    origin = Origin("v")
    with pytest.raises(ValueError, match="ttl"):
        await cache.get_or_set("k", origin, ttl=ttl)
    with pytest.raises(ValueError, match="ttl"):
        await cache.set("k", 1, ttl=ttl)
    assert origin.calls == 0


async def test_value_that_cannot_be_encoded_is_refused_and_loses_nothing(cache):
    await cache.set("k", "old")
    with pytest.raises(CodecError, match="object"):
        await cache.set("k", object())
    assert cache.peek("k") == "old"
    with pytest.raises(CodecError, match="object"):
        await cache.get_or_set("other", Origin(object()))


async def test_closed_cache_says_so_and_leaves_nothing(clock):
    name = segment_name()
    cache = Cache.open(name, size=SIZE)
    origin = Origin("v", hold=True)
    asked = asyncio.ensure_future(cache.get_or_set("k", origin))
    await origin.started.wait()
    await cache.close()
    with pytest.raises(CacheError, match="closed"):
        await asked
    with pytest.raises(CacheError, match="closed"):
        await cache.set("k", 1)
    assert not list(SHM.glob(f"*{name}*"))


def test_cache_belongs_to_one_loop():
    cache = Cache.open(segment_name(), size=SIZE)

    async def elsewhere():
        with pytest.raises(CacheError, match="one event loop"):
            await cache.set("k", 2)

    with asyncio.Runner() as loop:
        loop.run(cache.set("k", 1))
        asyncio.run(elsewhere())
        assert cache.peek("k") == 1
        loop.run(cache.close())


def test_master_prepares_what_workers_attach():
    config = CacheConfig(segment_name(), SIZE)
    prepared = Cache.prepare(config)
    assert prepared.note == "made"
    worker = Cache(config)
    assert not prepared.close(remove=True)
    worker._l1.close(keep=True)
    again = Cache.prepare(config)
    assert again.note == "attached"
    assert again.close(remove=True)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"size": "1KiB"}, SegmentError, "too small"),
        ({"size": "huge"}, ConfigError, "size"),
        ({"l2": "ftp://localhost"}, ConfigError, "l2"),
    ],
)
def test_wrong_setting_is_named(settings, error, words):
    with pytest.raises(error, match=words):
        Cache.open(segment_name(), **settings)


async def test_invalidation_after_a_note_is_told(pair):
    one, other = pair
    note = one.note()
    await other.delete("k")
    assert one.raised("k", note)
    assert not one.raised("k", one.note())


async def test_each_get_is_counted_once(cache, clock):
    origin = Origin("v")
    await cache.get_or_set("k", origin, ttl=1, grace=1)
    await cache.get_or_set_entry("k", origin, ttl=1, grace=1)
    await cache.get_or_set_entry("other", origin, ttl=1)
    assert cache.entry("absent") is None
    await cache.resolve("absent", origin, ttl=1)
    clock.advance(1.5)
    await cache.get_or_set_entry("k", origin, ttl=1, grace=1)
    stats = cache.stats()
    assert (stats.hits, stats.stale_hits, stats.misses) == (1, 1, 3)


async def test_value_too_large_is_refused_and_the_old_one_is_gone(cache):
    await cache.set("k", "old")
    longest = cache.stats().value_max
    with pytest.raises(ValueTooLarge, match=rf"takes {longest} at most"):
        await cache.set("k", bytes(SIZE))
    assert cache.peek("k") is MISSING


async def test_value_too_large_to_store_is_answered_and_shared(cache):
    origin = Origin(bytes(SIZE), hold=True)
    asked = [asyncio.ensure_future(cache.get_or_set("k", origin)) for _ in "ab"]
    await origin.started.wait()
    origin.gate.set()
    assert await asyncio.gather(*asked) == [bytes(SIZE)] * 2
    assert origin.calls == 1
    assert cache.peek("k") is MISSING


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
    asked = [asyncio.ensure_future(c.get_or_set("k", origin)) for c in pair]
    await origin.started.wait()
    for _ in range(1000):
        await asyncio.sleep(0)
        if one.stats().claim_waits:
            break
    origin.gate.set()
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(e) for e in errors} == {ValueError, ComputeFailed}
    assert origin.calls == 1


async def test_unreadable_value_is_a_miss_and_computed_anew(cache, clock):
    now = clock.now()
    bad = Record(b"\xc1", 0, 0, now, FOREVER, FOREVER, cache.note(), 1, 0, ())
    cache._l1.put(b"k", bad)
    assert cache.peek("k") is MISSING
    assert cache.entry("k") is None
    assert await cache.get_or_set("k", Origin("good")) == "good"
    assert cache.peek("k") == "good"


async def test_refresh_that_stores_nothing_is_backed_off(cache, clock):
    await cache.get_or_set("k", Origin("old"), ttl=1, grace=100)
    clock.advance(2)
    origin = Origin(Fill("new", ttl=0))
    for _ in range(5):
        assert await cache.get_or_set("k", origin) == "old"
        await asyncio.gather(*cache._flights._tasks)
    assert origin.calls == 1


async def test_jitter_shortens_a_life_by_chance():
    config = CacheConfig(segment_name(), SIZE, jitter=0.5)
    async with Cache(config) as cache:
        ttls = {
            (await cache.get_or_set_entry(f"k{i}", Origin(1), ttl=100)).ttl
            for i in range(20)
        }
    assert len(ttls) == 20
    assert all(50 <= ttl <= 100 for ttl in ttls)


async def test_close_that_is_cancelled_goes_on(clock):
    name = segment_name()
    cache = Cache.open(name, size=SIZE)
    gate, started = asyncio.Event(), asyncio.Event()

    async def compute():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await gate.wait()

    asked = asyncio.ensure_future(cache.get_or_set("k", compute))
    await started.wait()
    closing = asyncio.ensure_future(cache.close())
    await asyncio.sleep(0)
    closing.cancel()
    gate.set()
    await cache.close()
    assert not list(SHM.glob(f"*{name}*"))
    with pytest.raises(CacheError):
        await asked


async def test_nothing_flies_on_a_closed_cache(clock):
    cache = Cache.open(segment_name(), size=SIZE)
    await cache.start()
    await cache.close()
    with pytest.raises(CacheError, match="closed"):
        cache.refresh("k", Origin("v"))
    with pytest.raises(CacheError, match="closed"):
        await cache.get_or_set("k", Origin("v"))


def test_cache_whose_loop_is_gone_still_closes():
    name = segment_name()
    cache = Cache.open(name, size=SIZE)
    asyncio.run(cache.set("k", 1))
    asyncio.run(cache.close())
    assert not list(SHM.glob(f"*{name}*"))


async def test_start_that_failed_is_tried_again(monkeypatch):
    cache = Cache.open(segment_name(), size=SIZE)
    start = cache._claims.start

    def fail():
        raise OSError("no descriptors")

    monkeypatch.setattr(cache._claims, "start", fail)
    with pytest.raises(OSError, match="no descriptors"):
        await cache.set("k", 1)
    monkeypatch.setattr(cache._claims, "start", start)
    await cache.set("k", 1)
    assert cache._claims._beating is not None
    await cache.close()


FORKED = """
import asyncio, os, sys
from shmcache import Cache, CacheError
cache = Cache.open(sys.argv[1], size="2MiB")
if sys.argv[2] == "started":
    asyncio.run(cache.set("x", 1))

def say(line):  # one write, or the lines of two children mix in the pipe
    os.write(1, f"{line}\\n".encode())

async def compute():
    say("computed")
    await asyncio.sleep(0.2)
    return os.getpid()

async def child():
    try:
        await cache.get_or_set("k", compute)
        say(f"slot {cache._l1.table.slot}")
    except CacheError as e:
        say("refused")
    await cache.close()

pids = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        asyncio.run(child())
        os._exit(0)
    pids.append(pid)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
say("there" if cache._l1.segment.path.exists() else "gone")
cache._l1.close(keep=False)
"""


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("opened", ["computed", "slot 1", "slot 2", "there"]),
        ("started", ["refused", "refused", "there"]),
    ],
)
def test_cache_opened_before_a_fork(state, said):
    """Only opened: each child takes a slot of its own, and they share one fetch.
    Started: its tasks and sockets are the parent's, so a child is refused."""
    run = subprocess.run(
        [sys.executable, "-c", FORKED, segment_name(), state],
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    assert run.returncode == 0
    assert sorted(run.stdout.splitlines()) == sorted(said)


async def test_compute_of_one_alone_counts_its_failure(pair):
    """After `pass` each computes for itself, and fails for itself."""
    one, other = pair
    await one.get_or_set("k", Origin(Fill("mine", shareable=False)))
    assert one.stats().compute_errors == 0
    with pytest.raises(ValueError, match="no"):
        await other.get_or_set("k", Origin(ValueError("no")))
    stats = one.stats()
    assert (stats.computes, stats.compute_errors) == (2, 1)


@pytest.mark.parametrize("length", [0, 1, 512 << 10])
async def test_value_from_nothing_to_half_a_megabyte_is_a_hit(length):
    async with Cache.open(segment_name(), size="64MiB") as cache:
        value = bytes(range(256)) * (length // 256) + bytes(length % 256)
        await cache.set("set", value, ttl=60)
        assert cache.peek("set") == value
        origin = Origin(value)
        for _ in range(2):
            assert await cache.get_or_set("computed", origin, ttl=60) == value
        assert origin.calls == 1


async def test_expected_record_reaches_the_segment():
    async with Cache.open(segment_name(), size=SIZE, record_bytes=4000) as cache:
        assert cache.stats().geometry["record_bytes"] == 4000


def test_replaced_segment_is_told_in_the_log(caplog):
    name = segment_name()
    asyncio.run(_opened(name, size=SIZE, keep=True))
    asyncio.run(_opened(name, size=2 * SIZE))
    (told,) = caplog.messages
    assert "replaced: it was made with another size or record size" in told


async def _opened(name, **settings):
    async with Cache.open(name, **settings) as cache:
        await cache.set("k", 1)


async def test_cache_whose_file_was_replaced_tells_nothing_old():
    """Its own process goes on computing: right answers, from no shared memory."""
    name = segment_name()
    async with Cache.open(name, size=SIZE) as old:
        await old.set("k", "old", ttl=60)
        old._l1.segment.path.unlink()
        async with Cache.open(name, size=SIZE) as new:
            await new.set("k", "new", ttl=60)
            old._l1.beat()
            assert old.peek("k") is MISSING
            assert await old.get_or_set("k", Origin("origin's"), ttl=60) == "origin's"
            await old.set("k", "again")
            assert old.peek("k") is MISSING and new.peek("k") == "new"
            assert old.stats().l1 == "off"
