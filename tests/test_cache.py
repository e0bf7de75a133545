"""The cache's verbs, on one segment opened twice as two processes would open it."""

import asyncio
import math

import pytest

from shmcache import (
    MISSING,
    Cache,
    CacheConfig,
    ComputeFailed,
    ConfigError,
    Fill,
    KeyRejected,
)
from shmcache.record import FOREVER, Record
from tests.caches import SIZE, asking, landed
from tests.helpers import Origin, segment_name


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


@pytest.mark.parametrize("callers", [1, 50])
async def test_cold_key_is_computed_once(pair, callers):
    origin = Origin("v", hold=True)
    asked = [
        asking(cache.get_or_set("k", origin, ttl=10))
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
        await landed(cache)

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
    early = asking(one.get_or_set("k", origin))
    await origin.started.wait()
    await other.delete("k")
    late_origin = Origin("new")
    assert await one.get_or_set("k", late_origin) == "new"
    origin.gate.set()
    assert await early == "old"  # it joined before the delete
    assert one.peek("k") == other.peek("k") == "new"


async def test_caller_that_leaves_does_not_end_the_fetch(cache):
    origin = Origin("v", hold=True)
    first = asking(cache.get_or_set("k", origin))
    second = asking(cache.get_or_set("k", origin))
    await origin.started.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    origin.gate.set()
    assert await second == "v"
    assert origin.calls == 1


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
    asked = [asking(cache.get_or_set("k", origin, ttl=0)) for _ in "ab"]
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


async def test_invalidation_after_a_note_is_told(pair):
    one, other = pair
    note = one.note()
    await other.delete("k")
    assert one.raised("k", note)
    assert not one.raised("k", one.note())
    note = one.note()
    await other.delete_tags("t")
    assert one.raised("k", note, ("u", "t")) and not one.raised("k", note)


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


async def test_value_too_large_to_store_is_answered_and_shared(cache):
    origin = Origin(bytes(SIZE), hold=True)
    asked = [asking(cache.get_or_set("k", origin)) for _ in "ab"]
    await origin.started.wait()
    origin.gate.set()
    assert await asyncio.gather(*asked) == [bytes(SIZE)] * 2
    assert origin.calls == 1
    assert cache.peek("k") is MISSING


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
        await landed(cache)
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


async def test_many_are_got_by_their_own_names(pair):
    one, other = pair
    await one.set("a", 1)
    await other.set(b"b", 2)
    assert await one.get_many(["a", b"b", "absent"]) == {"a": 1, b"b": 2}


async def test_many_are_deleted(pair):
    one, other = pair
    await one.set_many({"a": 1, "b": 2, "c": 3})
    await other.delete_many(["a", "b"])
    assert await one.get_many(list("abc")) == {"c": 3}


async def test_expired_value_is_stale_and_refreshed(pair):
    one, other = pair
    await one.set("k", "old", ttl=50, grace=50)
    await other.expire("k")
    assert one.entry("k").state == "stale"
    assert await one.get_or_set("k", Origin("new"), ttl=50) == "old"
    await landed(one)
    assert other.entry("k")[:1] == ("new",) and other.entry("k").state == "fresh"


async def test_clear_removes_all_of_a_namespace_or_of_the_cache(pair):
    one, other = pair
    users, posts = one.namespace("users"), one.namespace("posts")
    for view in (one, users, posts):
        await view.set("k", "v")
    await other.namespace("users").clear()
    assert [v.peek("k", None) for v in (one, users, posts)] == ["v", None, "v"]
    await other.clear()
    assert [v.peek("k", None) for v in (one, users, posts)] == [None] * 3


async def test_soft_clear_leaves_it_stale(pair):
    one, other = pair
    users = one.namespace("users")
    await users.set("k", "v", ttl=9, grace=9)
    await one.set("k", "v", ttl=9, grace=9)
    await other.namespace("users").clear(soft=True)
    assert (users.entry("k").state, one.entry("k").state) == ("stale", "fresh")
    await other.clear(soft=True)
    assert one.entry("k").state == "stale"


async def test_chosen_error_stands_in_place_of_a_value(pair, clock):
    one, other = pair
    origin = Origin(LookupError("no such user"), "there")

    def ask(cache):
        return cache.get_or_set("k", origin, errors=(LookupError,), error_ttl=2)

    with pytest.raises(LookupError, match="no such user"):
        await ask(one)
    for cache in (one, other):
        with pytest.raises(ComputeFailed, match="LookupError: no such user"):
            await ask(cache)
    assert other.peek("k") is MISSING and other.entry("k") is None
    assert origin.calls == one.stats().errors_stored == 1
    clock.advance(2)
    assert await ask(other) == "there"


async def test_chosen_error_reaches_those_who_wait(pair):
    one, other = pair
    origin = Origin(LookupError("no"), hold=True)
    asked = [
        asking(c.get_or_set("k", origin, errors=LookupError)) for c in (one, one, other)
    ]
    await origin.started.wait()
    origin.gate.set()
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(e) for e in errors] == [LookupError, LookupError, ComputeFailed]
    assert origin.calls == 1


async def test_other_error_and_one_of_no_life_are_not_stored(cache):
    for settings in ({"errors": LookupError}, {"errors": ValueError, "error_ttl": 0}):
        origin = Origin(ValueError("no"), "v")
        with pytest.raises(ValueError, match="no"):
            await cache.get_or_set("k", origin, **settings)
        assert await cache.get_or_set("k", origin, **settings) == "v"
        await cache.delete("k")


async def test_chosen_error_is_an_answer_to_a_refresh_too(cache, clock):
    await cache.get_or_set("k", Origin("old"), ttl=1, grace=99)
    clock.advance(2)
    gone = Origin(LookupError("gone"))
    assert await cache.get_or_set("k", gone, errors=LookupError) == "old"
    await landed(cache)
    with pytest.raises(ComputeFailed, match="gone"):
        await cache.get_or_set("k", gone, errors=LookupError)


async def test_delete_removes_a_stored_error(pair):
    one, other = pair
    with pytest.raises(LookupError):
        await one.get_or_set("k", Origin(LookupError()), errors=LookupError)
    await other.delete("k")
    assert await one.get_or_set("k", Origin("v")) == "v"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda c: c.get_many([]), ValueError, "get_many: expected at least one"),
        (lambda c: c.get_many("abc"), ValueError, "get_many: expected several"),
        (lambda c: c.set_many({}), ValueError, "set_many"),
        (lambda c: c.delete_many([]), ValueError, "delete_many"),
        (lambda c: c.delete_tags(), ValueError, "delete_tags"),
        (lambda c: c.expire_tags(), ValueError, "expire_tags"),
        (lambda c: c.get_many(["a", ""]), KeyRejected, "key"),
        (lambda c: c.set("k", 1, ttl=-1), ValueError, "ttl=-1"),
        (lambda c: c.set("k", 1, grace=math.nan), ValueError, "grace=nan"),
        (lambda c: c.set_many({"k": 1}, ttl=True), ValueError, "ttl=True"),
        (lambda c: c.add("k", 1, ttl=math.inf), ValueError, "ttl=inf"),
        (lambda c: c.touch("k", "30"), ValueError, "ttl='30'"),
        (lambda c: c.touch("k", 1, grace=-1), ValueError, "grace=-1"),
        (lambda c: c.get_or_set("k", int, tags="abc"), ValueError, "tags='abc'"),
        (lambda c: c.get_or_set("k", int, tags=["t"] * 33), ValueError, "33 tags"),
        (lambda c: c.set("k", 1, tags=["x" * 129]), ValueError, "129 bytes"),
        (lambda c: c.delete_tags(""), ValueError, "0 bytes"),
        (lambda c: c.expire_tags(7), ValueError, "tag 7"),
        (lambda c: c.get_or_set("k", int, errors=KeyboardInterrupt), ValueError, "err"),
        (lambda c: c.get_or_set("k", int, error_ttl=-1), ValueError, "error_ttl=-1"),
    ],
)
async def test_bad_input_is_named_before_anything_starts(call, error, words):
    cache = Cache.open(segment_name(), size=SIZE)
    with pytest.raises(error, match=words):
        await call(cache)
    assert not cache._parts.ready
    await cache.close()


def test_unknown_scheme_is_refused_and_no_password_told():
    with pytest.raises(ConfigError, match="scheme") as told:
        CacheConfig("n", l2="ftp://:secret@host")
    assert "secret" not in str(told.value)


async def test_fill_may_say_that_its_value_stands_for_none(cache, clock):
    origin = Origin(Fill("nobody", negative=True), "somebody")
    for _ in "ab":
        asked = cache.get_or_set("k", origin, ttl=100, negative_ttl=1)
        assert await asked == "nobody"
    clock.advance(1)
    asked = cache.get_or_set("k", origin, ttl=100, negative_ttl=1)
    assert await asked == "somebody"


@pytest.mark.parametrize("verb", ["expire", "expire_tags", "clear", "gap"])
async def test_cached_error_that_is_expired_is_computed_anew(pair, verb):
    """Stale, it is no answer: what a caller asks for is a value."""
    one, other = pair
    no, rules = Origin(LookupError("no")), {"errors": LookupError, "error_ttl": 60}
    with pytest.raises(LookupError):
        await one.get_or_set("k", no, ttl=60, tags=("t",), **rules)
    with pytest.raises(ComputeFailed):
        await other.get_or_set("k", no, ttl=60)
    await {
        "expire": lambda: one.expire("k"),
        "expire_tags": lambda: one.expire_tags("t"),
        "clear": lambda: one.clear(soft=True),
        "gap": lambda: asyncio.to_thread(gap, one),
    }[verb]()
    assert await other.get_or_set("k", Origin("v"), ttl=60) == "v"
    assert one.peek("k") == "v"


def gap(cache):
    """Entries of the stream may have been missed."""
    cache._l1.table.raise_gap(cache._l1.table.number())


async def test_what_is_no_compute_is_told_before_anything_is_done(cache):
    await cache.set("k", 1)
    for wrong in (5, None, "price"):
        with pytest.raises(ValueError, match="not price"):
            await cache.get_or_set("k", wrong)


@pytest.mark.parametrize("verb", ["get_many", "set_many", "delete_many"])
@pytest.mark.parametrize("wrong", [5, None, "k", [], {}], ids=repr)
async def test_batch_of_nothing_or_of_no_names_is_refused(cache, verb, wrong):
    with pytest.raises(ValueError, match=verb):
        await getattr(cache, verb)(wrong)


async def test_key_by_two_names_is_found_by_both(hosts):
    one, other = hosts
    await one.set("k", 1, ttl=60)
    assert await other.get_many(["k", b"k", "absent"]) == {"k": 1, b"k": 1}


@pytest.mark.parametrize("key", ["\x1fn\x1fk", b"\x1fn\x1fk"])
async def test_value_of_a_namespace_is_not_read_from_outside(cache, key):
    """Where it stands in L1, too: keys may be a stranger's words."""
    await cache.namespace("n").set("k", "secret")
    for verb in (
        lambda: cache.peek(key),
        lambda: cache.entry(key),
        lambda: cache.get(key),
        lambda: cache.get_many([key]),
        lambda: cache.get_or_set(key, lambda: 1),
        lambda: cache.get_or_set_many([key], dict.fromkeys),
    ):
        with pytest.raises(KeyRejected, match="namespaces"):
            found = verb()
            await found
