"""Values that callers bring: set, add, compare-and-set, touch, many at once."""

import asyncio
from dataclasses import replace
from typing import NamedTuple

import pytest

from shmcache import MISSING, Cache, CacheConfig, CodecError, ValueTooLarge
from shmcache.ask import Invalidation
from tests.caches import SIZE, asking, until
from tests.helpers import Origin, segment_name
from tests.redis_server import redis_server
from tests.scene import forget


async def test_value_too_large_is_refused_and_the_old_one_is_gone(cache):
    await cache.set("k", "old")
    longest = cache.stats().value_max
    with pytest.raises(ValueTooLarge, match=rf"takes {longest} at most"):
        await cache.set("k", bytes(SIZE))
    assert cache.peek("k") is MISSING


async def test_set_wins_over_a_fetch_that_began_before(pair):
    one, other = pair
    origin = Origin("fetched", hold=True)
    early = asking(one.get_or_set("k", origin))
    await origin.started.wait()
    await other.set("k", "set")
    origin.gate.set()
    await early
    assert one.peek("k") == "set"
    assert one.stats().fills_refused == 1


async def test_value_that_cannot_be_encoded_is_refused_and_loses_nothing(cache):
    await cache.set("k", "old")
    with pytest.raises(CodecError, match="object"):
        await cache.set("k", object())
    assert cache.peek("k") == "old"
    with pytest.raises(CodecError, match="object"):
        await cache.get_or_set("other", Origin(object()))


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


async def test_set_of_no_life_deletes(pair):
    one, other = pair
    await one.set("k", 1)
    await other.set("k", 2, ttl=0)
    assert one.peek("k") is MISSING
    await one.set_many({"a": 1})
    await one.set_many({"a": 2, "b": 2}, ttl=0)
    assert await one.get_many(["a", "b"]) == {}


async def test_set_many_reaches_the_other(pair):
    one, other = pair
    await one.set_many({"a": 1, b"b": None}, ttl=5)
    assert await other.get_many(["a", "b", "c"]) == {"a": 1, "b": None}


async def test_set_many_with_one_bad_value_stores_nothing(cache):
    with pytest.raises(CodecError):
        await cache.set_many({"a": 1, "b": object()})
    assert cache.peek("a") is MISSING


async def test_add_stores_only_where_nothing_stands(pair, clock):
    one, other = pair
    assert await one.add("k", "first", ttl=2)
    assert not await other.add("k", "second", ttl=2)
    assert other.peek("k") == "first"
    clock.advance(2)
    assert await other.add("k", "second", ttl=2)
    assert one.peek("k") == "second"


async def test_add_under_way_twice_stores_one(pair):
    added = await asyncio.gather(*(c.add("k", i) for i, c in enumerate(pair * 5)))
    assert sorted(added) == [False] * 9 + [True]
    assert pair[0].peek("k") == added.index(True)


async def test_compare_and_set_takes_the_version_that_stands(pair):
    one, other = pair
    await one.set("k", 1)
    version = other.entry("k").version
    assert await other.compare_and_set("k", 2, version=version, ttl=9)
    assert one.peek("k") == 2
    assert not await one.compare_and_set("k", 3, version=version)
    assert one.peek("k") == 2


async def test_compare_and_set_after_a_delete_is_refused(cache):
    await cache.set("k", 1)
    version = cache.entry("k").version
    await cache.delete("k")
    assert not await cache.compare_and_set("k", 2, version=version)
    assert cache.peek("k") is MISSING


async def test_counter_by_compare_and_set_loses_no_step(pair):
    async def add_one(cache):
        while True:
            entry = cache.entry("k")
            new = entry.value + 1
            if await cache.compare_and_set("k", new, version=entry.version):
                return

    await pair[0].set("k", 0)
    await asyncio.gather(*(add_one(c) for c in pair * 10))
    assert pair[0].peek("k") == 20


async def test_touch_lengthens_the_life_and_not_the_youth(cache, clock):
    await cache.set("k", "v", ttl=2, grace=3)
    clock.advance(1)
    assert await cache.touch("k", 10)
    entry = cache.entry("k")
    assert (entry.value, entry.age, entry.ttl) == ("v", 1, 10)
    clock.advance(11)
    assert cache.entry("k").state == "stale"
    clock.advance(2)
    assert cache.entry("k").state == "dead"


async def test_touch_may_change_the_grace_and_end_never(cache, clock):
    await cache.set("k", "v", ttl=2)
    assert await cache.touch("k", 1, grace=5)
    clock.advance(3)
    assert cache.entry("k").state == "stale"
    assert await cache.touch("k", None)
    assert cache.entry("k").ttl is None


async def test_touch_of_nothing_is_refused(cache, clock):
    assert not await cache.touch("k", 10)
    await cache.set("k", "v", ttl=2)
    clock.advance(2)
    assert not await cache.touch("k", 10)


@pytest.mark.parametrize("verb", ["add", "compare_and_set", "touch"])
async def test_write_of_no_life_is_refused(cache, verb):
    rest = {"add": (1,), "compare_and_set": (1,), "touch": ()}[verb]
    more = {"version": 1} if verb == "compare_and_set" else {}
    with pytest.raises(ValueError, match="ttl=0"):
        await getattr(cache, verb)("k", *rest, ttl=0, **more)


async def test_add_on_two_hosts_stores_one(hosts):
    added = await asyncio.gather(*(c.add("k", i) for i, c in enumerate(hosts)))
    assert sorted(added) == [False, True]
    for cache in hosts:
        assert await cache.get("k") == added.index(True)


async def test_compare_and_set_on_two_hosts_stores_one(hosts):
    one, other = hosts
    await one.set("k", "old")
    await other.get("k")
    version = other.entry("k").version
    swapped = await asyncio.gather(
        *(c.compare_and_set("k", i, version=version) for i, c in enumerate(hosts))
    )
    assert sorted(swapped) == [False, True]
    assert await one.get("k") == swapped.index(True)


async def test_touch_reaches_the_other_host(hosts):
    one, other = hosts
    await one.set("k", "v", ttl=1)
    assert await other.touch("k", 500)
    await until(lambda: not one.peek("k"))  # by the stream
    entry = await one.get_or_set_entry("k", Origin("x"))
    assert entry.value == "v" and entry.ttl > 400


async def test_set_many_of_more_than_a_batch_reaches_the_other_host(hosts):
    one, other = hosts
    values = {f"k{i}": i for i in range(300)}
    await one.set_many(values, ttl=60)
    assert await other.get_many(values) == values
    assert {k: other.peek(k) for k in values} == values


@pytest.mark.parametrize("verb", ["expire", "expire_tags", "clear"])
async def test_expired_value_without_grace_is_gone_in_both_tiers(hosts, verb):
    """There is no time in which it may be served stale."""
    one, other = hosts
    await one.set("k", "old", ttl=3600, tags=("t",))
    await {
        "expire": lambda: one.expire("k"),
        "expire_tags": lambda: one.expire_tags("t"),
        "clear": lambda: one.clear(soft=True),
    }[verb]()
    assert await one.get("k", None) is None
    assert await other.get("k", None) is None


@pytest.mark.parametrize("verb", ["expire", "expire_tags", "clear"])
async def test_touch_of_what_was_expired_is_refused(pair, verb):
    one, other = pair
    await one.set("k", "old", ttl=60, grace=60, tags=("t",))
    await {
        "expire": lambda: one.expire("k"),
        "expire_tags": lambda: one.expire_tags("t"),
        "clear": lambda: one.clear(soft=True),
    }[verb]()
    assert not await other.touch("k", 60)
    assert one.entry("k").state == "stale"


async def test_touch_of_what_is_in_doubt_asks_l2():
    """1. entries of the stream may have been missed; 2. Redis is there, and knows the
    value; 3. they may have been missed again, and Redis is away."""
    with redis_server() as server:
        config = CacheConfig(segment_name(), SIZE, l2=server.url)
        async with Cache(config) as cache:
            await cache.set("k", "old", ttl=60, grace=60)
            table = cache._l1.table
            table.raise_gap(table.number())
            assert cache.entry("k").state == "stale"
            assert await cache.touch("k", 500)
            assert await cache.get("k") == "old"  # its own entry may have come between
            entry = cache.entry("k")
            assert entry.state == "fresh" and entry.ttl > 400
            table.raise_gap(table.number())
            server.kill()
            assert not await cache.touch("k", 900)
            assert cache.entry("k").state == "stale"
            assert cache.entry("k").version == entry.version
            forget(cache._l1)


async def test_touched_value_without_an_end_has_one_then(pair, clock):
    """It had no grace that could be told, so it gets none."""
    one, _ = pair
    await one.set("k", "v")
    assert await one.touch("k", 10)
    clock.advance(11)
    assert one.peek("k") is MISSING


@pytest.mark.parametrize("version", [0, -1, 1.0, True, None, "x", 2**64])
async def test_version_that_is_none_is_refused(cache, version):
    with pytest.raises(ValueError, match="version="):
        await cache.compare_and_set("k", "v", version=version)


# -- pop, incr


async def test_pop_takes_what_stands_away(pair, clock):
    one, other = pair
    await one.set("k", "v", ttl=1, grace=9)
    clock.advance(2)
    assert await other.pop("k") == "v"  # stale, too
    assert one.peek("k") is MISSING and one.entry("k") is None
    assert await other.pop("k") is MISSING
    assert await other.pop("k", None) is None


async def test_pop_of_what_many_want_is_had_by_one(pair):
    await pair[0].set("k", "v")
    got = await asyncio.gather(*(pair[i % 2].pop("k", None) for i in range(8)))
    assert sorted(got, key=str) == [*[None] * 7, "v"]


async def test_pop_on_two_hosts_is_had_by_one(hosts):
    for n in range(5):
        await hosts[0].set(f"k{n}", "v", ttl=60)
        got = await asyncio.gather(*(hosts[i % 2].pop(f"k{n}", 0) for i in range(4)))
        assert sorted(map(str, got)) == ["0", "0", "0", "v"]
    assert await hosts[1].get("k0") is MISSING


async def test_set_that_comes_before_a_pop_is_what_it_gets(pair, monkeypatch):
    """1. A pop looks; 2. the key is set anew; 3. the pop takes what it saw."""
    one, other = pair
    await one.set("k", "old")
    take, tries = one._parts.conditional.take, []

    async def slow(key, nonce):
        if not tries:
            await other.set("k", "new")
        tries.append(await take(key, nonce))
        return tries[-1]

    monkeypatch.setattr(one._parts.conditional, "take", slow)
    assert await one.pop("k") == "new"
    assert tries == [False, True]
    assert other.peek("k") is MISSING


async def test_set_that_comes_after_a_pop_stays(hosts, monkeypatch):
    """1. A pop has taken what stood; 2. another host sets the key; 3. it goes on."""
    one, other = hosts
    await one.set("k", "old", ttl=60)
    begun = one._parts.conditional._begun

    async def slow(item, tokens):
        told = await begun(item, tokens)
        await other.set("k", "new", ttl=60)
        return told

    monkeypatch.setattr(one._parts.conditional, "_begun", slow)
    assert await one.pop("k") == "old"
    assert other.peek("k") == "new"
    await until(lambda: one.peek("k") is MISSING)
    assert await one.get("k") == "new"


@pytest.mark.parametrize("after", [0.0, 0.0003, 0.001, 0.003])
async def test_incr_that_is_cancelled_leaves_the_counter(hosts, after):
    """Between its halves nothing stands."""
    one, other = hosts
    await one.incr("n", 1000, ttl=60)
    step = asking(one.incr("n"))
    await asyncio.sleep(after)
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)
    assert await other.incr("n") in (1001, 1002)


async def test_incr_and_pop_go_on_where_redis_evicted(hosts, server):
    """1. A counter stands in L1 and in L2; 2. Redis evicts it; 3. it is added to."""
    one, _ = hosts
    for verb in (lambda: one.incr("n", ttl=60), lambda: one.pop("n", 0)):
        await one.incr("n", 5, ttl=60)
        for name in server.command("KEYS", "*:v:*"):
            server.command("DEL", name)
        assert await verb() in (1, 0)
        await one.delete("n")


async def test_incr_goes_on_beside_what_redis_is_still_to_be_told(hosts):
    """1. A counter is written; 2. an invalidation is not told yet; 3. one more."""
    one, _ = hosts
    await one.incr("n", ttl=60)
    one._parts.invalidations.outbox.add([Invalidation(b"d", b"unrelated")])
    assert await one.incr("n") == 2
    one._parts.invalidations.outbox.add([Invalidation(b"d", b"unrelated")])
    assert await one.pop("n") == 2


class Point(NamedTuple):
    x: int


async def test_unreadable_value_is_none_for_those_who_write(clock):
    """Its class is not known here."""
    config = CacheConfig(segment_name(), SIZE, types=(Point,))
    async with (
        Cache(config, clock=clock) as knows,
        Cache(replace(config, types=()), clock=clock) as other,
    ):
        await knows.set("a", Point(1))
        assert other.peek("a") is MISSING
        assert await other.add("a", 1) and await other.get("a") == 1
        await knows.set("n", Point(1))
        with pytest.raises(LookupError):
            await other.incr("n", initial=None)
        await knows.set("p", Point(1))
        assert await other.pop("p", None) is None


@pytest.mark.parametrize("verb", ["delete", "tag"])
async def test_delete_between_the_halves_of_an_incr_is_not_undone(
    hosts, monkeypatch, verb
):
    """1. The first half is done; 2. the counter is deleted, which returns; 3. the
    second half is refused."""
    one, other = hosts
    await one.incr("n", 1000, ttl=60, tags=["t"])
    begun, done = one._parts.conditional._begun, []

    async def slow(item, tokens):
        told = await begun(item, tokens)
        if not done:
            done.append(
                await (other.delete("n") if verb == "delete" else one.delete_tags("t"))
            )
        return told

    monkeypatch.setattr(one._parts.conditional, "_begun", slow)
    assert await one.incr("n", ttl=60, tags=["t"]) == 1
    assert await other.incr("n") == 2


async def test_incr_of_what_must_stand_looks_behind_another_incr(hosts):
    """Between whose halves nothing stands."""
    await hosts[0].incr("n", ttl=60)
    steps = [hosts[i % 2].incr("n", initial=None) for i in range(24)]
    assert sorted(await asyncio.gather(*steps)) == list(range(2, 26))


async def test_incr_adds_and_keeps_the_life(cache, clock):
    assert await cache.incr("n", ttl=10, tags=["t"]) == 1
    clock.advance(6)
    assert await cache.incr("n", 2.5, ttl=99) == 3.5
    assert await cache.decr("n", 3) == 0.5
    clock.advance(5)
    assert cache.peek("n") is MISSING
    assert await cache.incr("n", initial=40) == 41
    await cache.incr("m", tags=["t"])
    await cache.delete_tags("t")
    assert cache.peek("m") is MISSING


async def test_incr_loses_no_step(pair):
    got = await asyncio.gather(*(pair[i % 2].incr("n") for i in range(30)))
    assert sorted(got) == list(range(1, 31))


async def test_incr_on_two_hosts_loses_no_step(hosts):
    got = await asyncio.gather(*(hosts[i % 2].incr("n", ttl=60) for i in range(12)))
    assert sorted(got) == list(range(1, 13))


async def test_incr_of_nothing_is_told_on_request(cache):
    with pytest.raises(LookupError, match="'n'"):
        await cache.incr("n", initial=None)
    assert cache.peek("n") is MISSING


@pytest.mark.parametrize("value", ["1", True, None, [1]])
async def test_incr_of_no_number_is_refused_and_loses_nothing(cache, value):
    await cache.set("n", value)
    with pytest.raises(TypeError, match="expected a number"):
        await cache.incr("n")
    assert cache.peek("n") == value


@pytest.mark.parametrize(
    "wishes", [{"delta": "1"}, {"delta": True}, {"initial": "0"}, {"ttl": -1}]
)
async def test_wrong_incr_is_named(cache, wishes):
    with pytest.raises(ValueError, match=f"{next(iter(wishes))}="):
        await cache.incr("n", **wishes)


async def test_sum_beyond_64_bits_is_refused(cache):
    await cache.set("n", 2**64 - 1)
    with pytest.raises(CodecError, match="64 bits"):
        await cache.incr("n")


async def test_ttl_of_the_value_holds_for_what_is_set(cache, clock):
    await cache.set("k", 5, ttl=lambda value: value)
    await cache.set_many({"a": 1, "b": 0}, ttl=lambda value: value)
    assert cache.peek("b") is MISSING
    clock.advance(2)
    assert (cache.peek("k"), cache.peek("a")) == (5, MISSING)
    with pytest.raises(ValueError, match="ttl=-1"):
        await cache.set("k", -1, ttl=lambda value: value)
    assert cache.peek("k") == 5
