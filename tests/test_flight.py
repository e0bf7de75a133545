"""Flights: joined, overtaken, followed by a successor, and gone when they land."""

import asyncio
import contextvars

import pytest

from shmcache import MISSING, CacheError, Fill, Overloaded, ReentrantCompute
from shmcache.clock import FakeClock
from shmcache.fill import Terms
from tests.caches import asking, held, landed, siblings, until
from tests.helpers import Origin

TERMS = Terms(10.0)


@pytest.fixture
async def pair():
    async with siblings(FakeClock()) as both:
        yield both


def resolve(cache, compute):
    return asking(cache._flights.resolve(b"k", compute, TERMS))


async def test_flight_leaves_nothing_when_it_lands(cache):
    flights = cache._flights
    await flights.resolve(b"k", lambda: 1, TERMS)
    await asyncio.gather(*flights._tasks)
    assert (len(flights), flights._flights, flights._waiters) == (0, {}, 0)


async def test_caller_joins_the_flight_under_way(cache):
    compute = held("v")
    asked = [resolve(cache, compute) for _ in range(3)]
    await compute.started.wait()
    assert len(cache._flights) == 1
    compute.gate.set()
    sources = [outcome.source for outcome in await asyncio.gather(*asked)]
    assert sources == ["compute", "flight", "flight"]


async def test_late_caller_is_not_answered_by_an_overtaken_flight(cache):
    """1. a flight notes its stamp; 2. an invalidation returns; 3. a caller joins."""
    old, new = held("old"), held("new")
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
    old, new = held("old"), held("new")
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


async def test_caller_is_not_answered_with_what_was_dead_as_it_came(pair):
    """1. A flight has its answer; 2. its process is stopped, and the answer's life
    ends; 3. a caller comes before the flight has landed."""
    cache, clock = pair[0], pair[0]._l1.clock
    flights, compute, terms = cache._flights, held("old"), Terms(1.0)
    first = asking(flights.resolve(b"k", compute, terms))
    await compute.started.wait()
    told = []

    def comes_late(_: object) -> None:
        clock.advance(2)
        assert b"k" in flights._flights
        late = flights.resolve(b"k", lambda: "new", terms)
        try:
            late.send(None)
        except StopIteration as end:
            told.append(end.value)
        late.close()

    flights._flights[b"k"].answer.add_done_callback(comes_late)
    compute.gate.set()
    assert (await first).record.value == b"\xa3old"
    assert told == []


async def test_callers_share_what_is_not_to_be_kept(pair):
    """Its life has no length, and had not ended as they came."""
    cache, clock = pair[0], pair[0]._l1.clock
    compute, terms = held("v"), Terms(0.0)
    asked = [asking(cache._flights.resolve(b"k", compute, terms)) for _ in range(3)]
    await compute.started.wait()
    clock.advance(1)
    compute.gate.set()
    outcomes = await asyncio.gather(*asked)
    assert {one.record.value for one in outcomes} == {b"\xa1v"}
    assert compute.calls == 1


async def test_landed_flight_does_not_take_its_successor_along(cache):
    old, new = held("old"), held("new")
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
    compute = held("v")
    flights = cache._flights
    for _ in range(3):
        flights.refresh(b"k", compute, TERMS)
    assert len(flights) == 1
    compute.gate.set()
    await asyncio.gather(*flights._tasks)
    assert cache.peek("k") == "v"
    assert cache.stats().refreshes == 1


# -- refreshes


async def refreshed(cache, origin):
    """A stale hit, and the end of what it starts."""
    assert await cache.get_or_set("k", origin, ttl=1, grace=100) == "old"
    await landed(cache)


async def test_failed_refresh_is_not_repeated_by_a_sibling(pair):
    one, other = pair
    await one.set("k", "old", ttl=1, grace=100)
    one._l1.clock.advance(2)
    origin = Origin(ValueError("down"))
    for cache in (one, other, one):
        await refreshed(cache, origin)
    assert origin.calls == 1
    one._l1.clock.advance(1.1)
    for cache in (other, one):
        await refreshed(cache, origin)
    assert origin.calls == 2
    one._l1.clock.advance(1.1)
    await refreshed(one, origin)
    assert origin.calls == 2  # now it is two seconds


async def test_back_off_ends_with_a_fill(pair):
    one, other = pair
    await one.set("k", "old", ttl=1, grace=100)
    one._l1.clock.advance(2)
    await refreshed(one, Origin(ValueError("down")))
    await other.set("k", "old", ttl=0, grace=100)
    one._l1.clock.advance(0.1)
    await other.set("k", "old", ttl=0.1, grace=100)
    one._l1.clock.advance(0.1)
    await refreshed(one, Origin("new"))
    assert other.peek("k") == "new"


# -- the soft timeout


@pytest.fixture
async def soft():
    async with siblings(FakeClock(), soft_timeout=60) as both:
        await both[0].set("k", "old", ttl=1, grace=100)
        both[0]._l1.clock.advance(2)
        yield both


async def test_stale_hit_waits_for_the_refresh(soft):
    origin = held("new")
    asked = [asking(c.get_or_set("k", origin, ttl=9)) for c in (soft[0], *soft)]
    await origin.started.wait()
    await until(lambda: soft[0].stats().claim_waits)
    assert not any(task.done() for task in asked)
    origin.gate.set()
    assert await asyncio.gather(*asked) == ["new"] * 3
    assert origin.calls == 1
    assert soft[0].stats().soft_timeouts == 0


async def test_stale_hit_whose_refresh_fails_is_answered_stale(soft):
    origin = Origin(ValueError("down"))
    assert await soft[0].get_or_set("k", origin, ttl=9) == "old"
    assert await soft[0].get_or_set("k", origin, ttl=9) == "old"
    assert origin.calls == 1


async def test_stale_hit_is_answered_stale_after_the_soft_timeout():
    async with siblings(FakeClock(), soft_timeout=0.02) as (cache, _):
        await cache.set("k", "old", ttl=1, grace=100)
        cache._l1.clock.advance(2)
        origin = held("new")
        assert await cache.get_or_set("k", origin, ttl=9) == "old"
        assert cache.stats().soft_timeouts == 1
        origin.gate.set()
        await landed(cache)
        assert cache.peek("k") == "new"


async def test_stale_hit_after_an_invalidation_is_not_told_from_before(soft):
    """1. a refresh begins; 2. its tag is deleted, and a stale value stands again; 3. a
    stale hit waits for that refresh, which began too early."""
    one, other = soft
    origin = held("before")
    first = asking(one.get_or_set("k", origin, ttl=9, tags=("t",)))
    await origin.started.wait()
    await other.delete_tags("t")
    second = asking(one.get_or_set("k", Origin("after"), ttl=9, tags=("t",)))
    await asyncio.sleep(0)
    origin.gate.set()
    assert await asyncio.gather(first, second) == ["before", "old"]


async def test_private_answer_of_a_refresh_is_its_own_callers(soft):
    mine, theirs = held(Fill("mine", shareable=False)), Origin("theirs")
    first = asking(soft[0].get_or_set("k", mine))
    await mine.started.wait()
    second = asking(soft[0].get_or_set("k", theirs))
    await asyncio.sleep(0)
    mine.gate.set()
    assert await asyncio.gather(first, second) == ["mine", "old"]


# -- early refresh


@pytest.fixture
async def early():
    """Two caches whose clock stands just before the end of a value that took a
    second to compute."""
    async with siblings(FakeClock(), early_refresh=1.0) as both:
        clock = both[0]._l1.clock

        async def compute():
            clock.advance(1)
            return "old"

        await both[0].get_or_set("k", compute, ttl=100)
        clock.advance(99.5)
        for cache in both:
            cache._l1.beat()  # or it would be taken for a stopped process
        yield both


def draw(monkeypatch, number):
    """What chance says; the rest of a draw, as `random.random()` gives it."""
    monkeypatch.setattr("shmcache.cache.random.random", lambda: 1 - number)


async def test_fresh_value_is_refreshed_early_where_chance_says_so(early, monkeypatch):
    one, other = early
    draw(monkeypatch, 0.61)  # -log(0.61) < 0.5 of a fill
    for cache in early:
        assert await cache.get_or_set("k", Origin("never"), ttl=100) == "old"
    assert len(one._flights) == len(other._flights) == 0
    draw(monkeypatch, 0.6)
    origin = held("new")
    for cache in (one, other, one):
        assert await cache.get_or_set("k", origin, ttl=100) == "old"
    await origin.started.wait()
    origin.gate.set()
    await landed(one)
    await landed(other)
    assert one.peek("k") == other.peek("k") == "new"
    stats = one.stats()
    assert (origin.calls, stats.refreshes, stats.early_refreshes) == (1, 1, 1)


async def test_value_far_from_its_end_is_one_look(early, monkeypatch):
    one = early[0]
    await one.set("far", "v", ttl=100)
    monkeypatch.setattr(one, "_standing", None)
    assert await one.get_or_set("far", Origin("never")) == "v"


async def test_each_early_hit_is_counted_once(early, monkeypatch):
    draw(monkeypatch, 1.0)
    hits = early[0].stats().hits
    await early[0].get_or_set("k", Origin("never"), ttl=100)
    assert early[0].peek("k") == "old"
    assert early[0].entry("k").value == "old"
    assert early[0].stats().hits == hits + 3


async def test_early_refresh_that_fails_leaves_the_value(early, monkeypatch):
    draw(monkeypatch, 0.001)
    origin = Origin(ValueError("down"))
    for _ in range(3):
        assert await early[0].get_or_set("k", origin, ttl=100) == "old"
        await landed(early[0])
    assert origin.calls == 1  # backed off
    assert early[1].peek("k") == "old"


async def test_early_refresh_finds_that_a_sibling_was_there(early, monkeypatch):
    """1. two processes see the old value; 2. one refreshes it; 3. the other begins."""
    one, other = early
    seen = other._l1.look(b"k")
    draw(monkeypatch, 0.001)
    await one.get_or_set("k", Origin("new"), ttl=100)
    await landed(one)
    other._flights.refresh(b"k", Origin("never"), TERMS, seen)
    await landed(other)
    assert other.peek("k") == "new"
    assert one.stats().early_refreshes == 1


# -- inside a compute


async def test_compute_that_asks_for_its_own_key_is_told(cache):
    async def compute():
        return await cache.get_or_set("k", compute, ttl=1)

    async with asyncio.timeout(5):
        with pytest.raises(ReentrantCompute, match=r"the compute of b'k' asks"):
            await cache.get_or_set("k", compute, ttl=1)
    assert cache.stats().reentrant == 1
    assert await cache.get_or_set("k", Origin("v")) == "v"


async def test_compute_that_asks_for_its_own_key_by_a_detour_is_told(cache):
    async def a():
        asked = (cache.get_or_set(key, b) for key in ("x", "y"))
        return (await asyncio.gather(*asked))[0]

    async def b():
        return await asyncio.create_task(cache.get_or_set("a", a))

    async with asyncio.timeout(5):
        with pytest.raises(ReentrantCompute):
            await cache.get_or_set("a", a)


async def test_compute_may_ask_for_other_keys_and_namespaces(cache):
    users = cache.namespace("users")

    async def compute():
        return await cache.get_or_set("b", Origin(1)) + (
            await users.get_or_set("a", Origin(2))
        )

    assert await cache.get_or_set("a", compute) == 3


async def test_compute_may_read_its_stale_value(cache):
    await cache.set("k", 1, ttl=1, grace=9)
    cache._l1.clock.advance(2)

    async def compute():
        return await cache.get_or_set("k", compute, ttl=1, grace=9) + 1

    assert await cache.get_or_set("k", compute, ttl=1, grace=9) == 1
    await landed(cache)
    assert cache.peek("k") == 2


async def test_task_that_outlives_a_compute_may_ask_for_its_key(cache):
    gate = asyncio.Event()
    tasks = []

    async def later():
        await gate.wait()
        return await cache.get_or_set("k", Origin("later"))

    async def compute():
        tasks.append(asyncio.create_task(later()))
        return "v"

    assert await cache.get_or_set("k", compute) == "v"
    await cache.delete("k")
    gate.set()
    assert await tasks[0] == "later"


async def test_refresh_that_a_compute_starts_is_not_inside_of_it(cache):
    """1. a's compute hits a stale b; 2. the refresh of b asks for a, and waits for it;
    3. a's compute ends: nobody waited for himself."""
    await cache.set("b", "stale", ttl=1, grace=9)
    cache._l1.clock.advance(2)
    asks = asyncio.Event()

    async def b():
        asks.set()
        return "b of " + await cache.get_or_set("a", Origin("never"))

    async def a():
        found = await cache.get_or_set("b", b, ttl=1, grace=9)
        await asks.wait()
        return "a of " + found

    assert await cache.get_or_set("a", a) == "a of stale"
    await landed(cache)
    assert cache.peek("b") == "b of a of stale"
    assert cache.stats().reentrant == 0


async def test_two_computes_that_wait_for_each_other_end(monkeypatch, cache):
    """1. a and b compute; 2. each asks for the other's flight; 3. both wait too long,
    and compute for themselves: a is asked for inside of a. An error, no deadlock."""
    monkeypatch.setattr("shmcache.flight.NESTED_WAIT", 0.05)
    both = asyncio.Barrier(2)

    async def a():
        await both.wait()
        return await cache.get_or_set("b", b)

    async def b():
        await both.wait()
        return await cache.get_or_set("a", a)

    asked = [cache.get_or_set("a", a), cache.get_or_set("b", b)]
    async with asyncio.timeout(5):
        ended = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(e) for e in ended] == [ReentrantCompute] * 2
    await landed(cache)
    assert len(cache._flights) == 0


@pytest.mark.parametrize("joins", [0, 1])
async def test_cycle_of_others_is_none_of_a_joiners(pair, joins):
    """1. a computes, and begins b without need of it; 2. b's compute asks for a: a
    cycle; 3. who asks for b from outside, here or in a sibling, is in no cycle."""
    one = pair[0]
    begun, go = asyncio.Event(), asyncio.Event()

    async def b():
        begun.set()
        await go.wait()
        return await one.get_or_set("a", Origin("never"))

    async def a():
        prefetch = asking(one.get_or_set("b", b))
        with pytest.raises(ReentrantCompute):
            await prefetch
        return "A"

    asked = asking(one.get_or_set("a", a))
    await begun.wait()
    own = Origin("B")
    joiners = [asking(pair[joins].get_or_set("b", own)) for _ in range(3)]
    await until(lambda: pair[joins]._flights._waiters >= 3)
    await until(lambda: one.stats().claim_waits == joins)
    go.set()
    assert await asyncio.gather(asked, *joiners) == ["A", "B", "B", "B"]
    assert own.calls == 1


async def test_cycle_of_its_own_is_told_to_every_joiner(cache):
    origin = held("never")

    async def compute():
        origin.started.set()
        await origin.gate.wait()
        return await cache.get_or_set("k", compute)

    asked = [asking(cache.get_or_set("k", compute)) for _ in range(3)]
    await origin.started.wait()
    origin.gate.set()
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(e) for e in ended] == [ReentrantCompute] * 3
    assert cache.stats().computes == 1


async def test_wait_inside_a_compute_ends_and_stores_nothing(monkeypatch, cache):
    """1. b is computed elsewhere, for long; 2. a's compute asks for b; 3. it waits for
    a while, and computes b for itself."""
    monkeypatch.setattr("shmcache.flight.NESTED_WAIT", 0.02)
    slow = held("b of its own flight")
    flying = asking(cache.get_or_set("b", slow))
    await slow.started.wait()
    own = Origin("b of a")

    async def a():
        return await cache.get_or_set("b", own)

    assert await cache.get_or_set("a", a) == "b of a"
    assert cache.peek("b") is MISSING
    slow.gate.set()
    assert await flying == cache.peek("b") == "b of its own flight"
    assert (own.calls, cache.stats().soft_timeouts) == (1, 1)


async def test_wait_inside_a_compute_for_a_siblings_claim_ends(monkeypatch, pair):
    monkeypatch.setattr("shmcache.flight.NESTED_WAIT", 0.02)
    one, other = pair
    slow, joined = held("theirs"), []
    flying = asking(other.get_or_set("b", slow))
    await slow.started.wait()

    async def a():
        joined.append(asking(outside.run(one.get_or_set, "b", Origin("joined"))))
        return await one.get_or_set("b", Origin("mine"))

    outside = contextvars.copy_context()
    assert await one.get_or_set("a", a) == "mine"
    slow.gate.set()
    assert await flying == "theirs"
    assert await joined[0] in ("theirs", "joined")
    assert other.peek("b") == "theirs"


async def test_compute_of_its_own_inside_a_compute_is_not_cut_short(monkeypatch, cache):
    monkeypatch.setattr("shmcache.flight.NESTED_WAIT", 0.01)
    slow = held("b")

    async def a():
        return "a of " + await cache.get_or_set("b", slow)

    asked = asking(cache.get_or_set("a", a))
    await slow.started.wait()
    await asyncio.wait((asked,), timeout=0.05)
    slow.gate.set()
    assert await asked == "a of b"
    assert (slow.calls, cache.stats().soft_timeouts) == (1, 0)
    assert cache.peek("b") == "b"


# -- caps


async def test_flights_above_the_cap_are_refused_by_name():
    async with siblings(flights_max=2) as (cache, other):
        origin = held("v")
        asked = [asking(cache.get_or_set(f"k{i}", origin)) for i in range(2)]
        await until(lambda: origin.calls == 2)
        with pytest.raises(Overloaded, match="flights_max=2"):
            await cache.get_or_set("k2", origin)
        joined = asking(cache.get_or_set("k1", origin))  # needs no flight of its own
        assert await other.get_or_set("k3", Origin(3)) == 3
        origin.gate.set()
        assert await asyncio.gather(*asked, joined) == ["v"] * 3
        assert await cache.get_or_set("k2", origin) == "v"
        assert cache.stats().overloaded == 1


async def test_refresh_above_the_cap_is_left_out():
    async with siblings(FakeClock(), flights_max=1) as (cache, _):
        await cache.set("k", "old", ttl=1, grace=9)
        cache._l1.clock.advance(2)
        origin = held("v")
        asked = asking(cache.get_or_set("other", origin))
        await origin.started.wait()
        assert await cache.get_or_set("k", Origin("new")) == "old"
        origin.gate.set()
        await asked
        assert cache.peek("k") == "old"
        assert cache.stats().overloaded == 1


async def test_waiters_above_the_cap_are_refused_by_name():
    async with siblings(waiters_max=3) as (cache, _):
        origin = held("v")
        asked = [asking(cache.get_or_set("k", origin)) for _ in range(3)]
        await origin.started.wait()
        with pytest.raises(Overloaded, match="waiters_max=3"):
            await cache.get_or_set("k", origin)
        asked.pop().cancel()
        await asyncio.sleep(0)
        asked.append(asking(cache.get_or_set("k", origin)))
        await asyncio.sleep(0)
        origin.gate.set()
        assert await asyncio.gather(*asked) == ["v"] * 3
        assert await cache.get_or_set("k", origin) == "v"


async def test_close_ends_flights_that_wait_for_others(pair):
    one, other = pair
    slow = held("v")
    flying = asking(other.get_or_set("k", slow))
    await slow.started.wait()
    waiting = asking(one.get_or_set("k", slow))
    await until(lambda: one.stats().claim_waits)
    await one.close()
    with pytest.raises(CacheError, match="closed"):
        await waiting
    slow.gate.set()
    assert await flying == "v"


async def test_caller_that_was_answered_otherwise_leaves_the_flight_alone(cache):
    compute, told = held("v"), asyncio.get_running_loop().create_future()
    asked = asking(cache.resolve("k", compute, ttl=9, until=told))
    await compute.started.wait()
    told.set_result(None)
    assert await asked is None
    assert cache._flights._waiters == 0
    compute.gate.set()
    await landed(cache)
    assert cache.peek("k") == "v"


@pytest.mark.parametrize("cancelled", [False, True])
async def test_caller_answered_otherwise_leaves_its_own_compute_alone(cache, cancelled):
    """After `pass` each computes for itself."""
    await cache.get_or_set("k", lambda: Fill("mine", shareable=False), ttl=9)
    compute, told = held("v"), asyncio.get_running_loop().create_future()
    asked = asking(cache.resolve("k", compute, ttl=9, until=told))
    await compute.started.wait()
    (task,) = cache._flights._tasks
    if cancelled:
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        with pytest.raises(asyncio.CancelledError):
            await task
        return
    told.set_result(None)
    assert await asked is None
    compute.gate.set()
    assert (await task).record.value == b"\xa1v"
    assert not cache._flights._tasks


async def test_answer_that_is_there_first_is_told(cache):
    told = asyncio.get_running_loop().create_future()
    entry = await cache.resolve("k", lambda: "v", ttl=9, until=told)
    assert entry is not None and entry.value == "v" and not told.done()


@pytest.mark.parametrize(
    ("source", "own", "state"),
    [("l2", True, "stale"), ("compute", True, "fresh"), ("compute", False, "stale")],
)
async def test_what_a_stopped_process_found_is_told_as_it_is_now(
    pair, source, own, state
):
    """1. A flight finds a fresh value, or computes it. 2. Its process is stopped. 3. It
    goes on when the ttl is over, and answers. Who computed is told all the same; who
    came at 3 and joined is not."""
    cache, clock = pair[0], pair[0]._l1.clock
    outcome = await cache._flights.resolve(b"k", lambda: "v", Terms(1.0, 60.0))
    clock.advance(2)
    told = cache._flights._as_it_stands(b"k", outcome._replace(source=source), own)
    assert cache._entry_of(told).state == state


@pytest.mark.parametrize("late", [False, True])
async def test_fill_that_is_dead_when_it_comes_is_told_all_the_same(cache, late):
    """It is older than its ttl: whoever computes it would find it dead for ever."""
    compute = held("v")

    async def old() -> Fill:
        return Fill(await compute(), ttl=1, age=60)

    asked = [asking(cache.get_or_set("k", old, ttl=9)) for _ in range(3)]
    await compute.started.wait()
    if late:
        asked.append(asking(cache.get_or_set("k", old, ttl=9)))
    compute.gate.set()
    assert set(await asyncio.wait_for(asyncio.gather(*asked), 5)) == {"v"}
    assert compute.calls <= len(asked)
