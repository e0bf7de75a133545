"""Who holds the claim: between two hosts (segments) and one real Redis."""

import asyncio
import os
import signal
import time

import pytest

from shmcache import (
    Cache,
    CacheConfig,
    CacheError,
    ComputeFailed,
    Fill,
    ReentrantCompute,
    TierUnavailable,
)
from shmcache.claim import Held
from shmcache.fill import Terms
from shmcache.l1 import BUSY, FREED_REFUSED, OK
from tests.caches import SIZE, asking, held, landed, siblings, two_hosts, until
from tests.helpers import Origin, segment_name
from tests.redis_server import redis_server
from tests.scene import forget

TERMS = Terms(60.0)


async def test_cold_key_is_computed_once_by_two_hosts(hosts):
    one, other = hosts
    origin = held("v")
    asked = [
        asking(c.get_or_set("k", origin, ttl=60)) for c in hosts for _ in range(20)
    ]
    await until(lambda: one.stats().leases_waited + other.stats().leases_waited)
    origin.gate.set()
    assert await asyncio.gather(*asked) == ["v"] * 40
    assert origin.calls == 1
    assert (one.peek("k"), other.peek("k")) == ("v", "v")


async def test_waiting_host_is_woken_within_milliseconds(hosts):
    one, other = hosts
    origin = held("v")
    first = asking(one.get_or_set("k", origin, ttl=60))
    await origin.started.wait()
    second = asking(other.get_or_set("k", origin, ttl=60))
    await until(lambda: other.stats().leases_waited)
    origin.gate.set()
    await first
    before = time.monotonic()
    assert await second == "v"
    assert time.monotonic() - before < 0.4  # a wait that is not woken takes 0.5


async def test_value_of_another_host_is_promoted_at_its_true_age(hosts):
    one, other = hosts
    await one.get_or_set("k", Origin(Fill("v", ttl=60, age=20)))
    entry = await other.get_or_set_entry("k", held("never"), ttl=60)
    assert (entry.value, entry.source) == ("v", "l2")
    assert entry.age >= 20 and entry.ttl <= 40
    assert await other.get("k") == "v"


async def test_failure_is_told_to_the_waiting_host_and_not_repeated(hosts):
    one, other = hosts
    origin = held(ValueError("no"))
    first = asking(one.get_or_set("k", origin))
    await origin.started.wait()
    second = asking(other.get_or_set("k", origin))
    await until(lambda: other.stats().leases_waited)
    origin.gate.set()
    with pytest.raises(ValueError, match="no"):
        await first
    with pytest.raises(ComputeFailed, match="ValueError: no"):
        await second
    assert origin.calls == 1


async def test_private_answer_lets_the_other_host_compute_at_once(hosts):
    one, other = hosts
    mine = held(Fill("mine", shareable=False))
    theirs = Origin(Fill("theirs", shareable=False))
    first = asking(one.get_or_set("k", mine))
    await mine.started.wait()
    second = asking(other.get_or_set("k", theirs))
    await until(lambda: other.stats().leases_waited)
    mine.gate.set()
    assert await asyncio.gather(first, second) == ["mine", "theirs"]


async def test_delete_on_one_host_reaches_the_other(hosts):
    one, other = hosts
    await one.set("k", "v")
    assert await other.get("k") == "v"
    await one.delete("k")
    await until(lambda: not other.peek("k"))
    assert not await other.get("k")


async def test_set_on_one_host_replaces_what_the_other_holds(hosts):
    one, other = hosts
    await one.set("k", "old")
    assert await other.get("k") == "old"
    await one.set("k", "new")
    assert one.peek("k") == "new"
    await until(lambda: other.peek("k") != "old")
    assert await other.get("k") == "new"
    assert one.peek("k") == "new"


async def test_fetch_overtaken_by_another_hosts_delete_is_stored_nowhere(hosts):
    """1. a host fetches; 2. another host deletes; 3. the fetch ends: refused."""
    one, other = hosts
    origin = held("old")
    fetching = asking(one.get_or_set("k", origin, ttl=60))
    await origin.started.wait()
    await other.delete("k")
    origin.gate.set()
    assert await fetching == "old"
    assert not one.peek("k")
    assert not await other.get("k")
    assert one.stats().fills_refused == 1


async def test_stale_value_of_l2_is_answered_while_it_is_refreshed(hosts):
    one, other = hosts
    await one.get_or_set("k", Origin(Fill("old", ttl=5, grace=60, age=6)))
    origin = held(Fill("new", ttl=60))
    entry = await other.get_or_set_entry("k", origin)
    assert (entry.value, entry.state, entry.source) == ("old", "stale", "l2")
    origin.gate.set()
    await until(lambda: other.peek("k") == "new")


@pytest.fixture
async def frail():
    """A Redis of its own to harm, and a host on it."""
    with redis_server() as server:
        config = CacheConfig(segment_name(), SIZE, l2=server.url)
        async with Cache(config) as cache:
            yield server, cache
            forget(cache._l1)


async def test_dead_redis_costs_no_answer(frail):
    server, cache = frail
    await cache.set("k", "v")
    server.kill()
    assert await cache.get_or_set("k", held("x")) == "v"
    for i in range(20):
        assert await cache.get_or_set(f"k{i}", Origin(i)) == i
        assert cache.peek(f"k{i}") == i
    await cache.delete("k")
    assert not cache.peek("k")
    await cache.set("k", "w")
    assert cache.peek("k") == "w"
    assert cache.stats().l2 == "down"


async def test_stopped_redis_costs_one_deadline(frail):
    server, cache = frail
    await cache.get_or_set("warm", Origin(0))
    server.stop()
    try:
        for i in range(8):
            before = time.monotonic()
            assert await cache.get_or_set(f"k{i}", Origin(i)) == i
            assert time.monotonic() - before < 0.25 + 0.1
    finally:
        server.cont()


async def test_redis_that_is_back_is_used_again(frail):
    server, cache = frail
    server.kill()
    for i in range(8):
        await cache.get_or_set(f"k{i}", Origin(i))
    server.restart()
    won = cache.stats().leases_won
    for i in range(1000):
        await cache.get_or_set(f"again{i}", Origin(i))
        if cache.stats().leases_won > won:
            break
        await asyncio.sleep(0.01)
    assert cache.stats().leases_won > won
    assert cache.stats().l2 == "up"


async def test_stopped_holder_of_another_host_is_refused_when_it_goes_on(server):
    """1. a process wins the lease; 2. it is stopped for longer than the lease lives;
    3. another host computes and stores; 4. it goes on: its store is refused."""
    app = segment_name()
    name = segment_name()
    code = f"""
import asyncio, sys
from shmcache import Cache, CacheConfig
async def compute():
    print("computing", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    return "late"
async def main():
    config = CacheConfig({name!r}, {SIZE}, l2={server.url!r}, app={app!r}, lease_life=2)
    async with Cache(config) as cache:
        print(await cache.get_or_set("k", compute, ttl=60), flush=True)
        print(cache.peek("k", None), cache.stats().fills_refused, flush=True)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        *(os.sys.executable, "-c", code), stdin=-1, stdout=-1
    )
    assert await process.stdout.readline() == b"computing\n"
    process.send_signal(signal.SIGSTOP)
    config = CacheConfig(segment_name(), SIZE, l2=server.url, app=app, lease_life=2)
    async with Cache(config) as cache:
        assert await cache.get_or_set("k", Origin("new"), ttl=60) == "new"
        process.send_signal(signal.SIGCONT)
        process.stdin.write(b"\n")
        assert await process.stdout.readline() == b"late\n"
        assert await process.stdout.readline() == b"None 1\n"
        assert cache.peek("k") == "new"
    assert await process.wait() == 0


async def test_closing_host_gives_its_lease_back_at_once(server):
    app = segment_name()
    one, other = (
        Cache(CacheConfig(segment_name(), SIZE, l2=server.url, app=app)) for _ in "ab"
    )
    origin = held("never")
    asked = asking(one.get_or_set("k", origin))
    await origin.started.wait()
    waiting = asking(other.get_or_set("k", Origin("v")))
    await until(lambda: other.stats().leases_waited)
    await one.close()
    assert await asyncio.wait_for(waiting, 1.5) == "v"  # a lease lives 3 s
    with pytest.raises(CacheError, match="closed"):
        await asked
    await other.close()


async def test_value_too_large_for_l1_is_taken_from_l2_by_all(hosts):
    one, other = hosts
    config = other.config
    big = bytes(300_000)
    await one.get_or_set("k", Origin(big), ttl=60)
    async with Cache(config) as sibling:
        asked = [c.get_or_set("k", held("never")) for c in (other, sibling, other)]
        assert await asyncio.gather(*asked) == [big] * 3


async def test_shareable_answer_removes_the_pass_mark_everywhere(hosts):
    one, other = hosts
    await one.get_or_set("k", Origin(Fill("mine", shareable=False)))
    assert await one.get_or_set("k", Origin("shared")) == "shared"
    origin = Origin("next")
    assert await other.get_or_set("k", origin, ttl=60) == "next"
    assert await one.get_or_set("k", held("never"), ttl=60) == "next"


async def test_token_of_an_unanswered_ask_is_abandoned_at_the_end(hosts, monkeypatch):
    """1. an ask gets no answer; 2. the compute runs without a lease; 3. the ask is
    granted late; 4. the compute ends: only now would an abandon free what 3 left."""
    one, _ = hosts
    await one.start()
    order = []

    async def unanswered(*_, offer=b"", **__):
        order.append(offer)
        raise TierUnavailable("no answer")

    monkeypatch.setattr(one._l2, "acquire", unanswered)
    monkeypatch.setattr(
        one._l2, "abandon_later", lambda key, token, words: order.append(token)
    )

    def compute():
        order.append("computed")
        return "v"

    assert await one.get_or_set("k", compute) == "v"
    offered, *rest = order
    assert rest == ["computed", offered]


# -- invalidations that Redis was not told of


@pytest.fixture
async def mute(hosts, monkeypatch):
    """The first host cannot tell Redis of its invalidations; both hold `k`, as L2
    does."""
    one, other = hosts
    await other.set("k", "old", ttl=60, grace=60, tags=("t",))
    await one.start()

    async def refuse(*_):
        raise TierUnavailable("mute")

    monkeypatch.setattr(one._invalidations.outbox, "tell", refuse)
    yield hosts


VERBS = {
    "delete": lambda cache: cache.delete("k"),
    "expire": lambda cache: cache.expire("k"),
    "delete_tags": lambda cache: cache.delete_tags("t"),
    "expire_tags": lambda cache: cache.expire_tags("t"),
    "clear": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_value_that_an_unsent_invalidation_meant_is_computed_anew(mute, verb):
    """1. a value stands in L2; 2. it is invalidated here, and Redis cannot be told;
    3. a get begins: what L2 has is not used, and the compute goes under its lease."""
    one, other = mute
    await VERBS[verb](one)
    assert await one.get_or_set("k", Origin("new"), ttl=60) == "new"
    assert one.stats().leases_won == 1
    assert one.peek("k") == "new"
    other._l1.table.drop("k")
    assert await other.get("k") == "new"


async def test_unsent_invalidation_of_another_key_costs_nothing(mute):
    one, _ = mute
    await one.delete("other")
    assert await one.get_or_set("k", held("never")) == "old"


async def test_lease_of_another_is_waited_for_in_spite_of_an_unusable_value(mute):
    one, other = mute
    await one.delete("k")
    origin = held("new")
    other._flights.refresh(b"k", origin, TERMS, other._l1.look(b"k"))
    await origin.started.wait()
    asked = asking(one.get_or_set("k", Origin("mine"), ttl=60))
    await until(lambda: one.stats().leases_waited)
    origin.gate.set()
    await landed(other)
    # what came since may still be of before the delete: it computes for itself
    assert await asked == "mine"


# -- early refresh between hosts


async def test_early_refresh_on_two_hosts_is_one_compute(hosts):
    one, other = hosts
    await one.set("k", "old", ttl=60)
    assert await other.get("k") == "old"
    origin = held("new")
    for cache in hosts:
        cache._flights.refresh(b"k", origin, TERMS, cache._l1.look(b"k"))
    await origin.started.wait()
    await until(lambda: one.stats().leases_waited + other.stats().leases_waited)
    assert one.peek("k") == other.peek("k") == "old"
    origin.gate.set()
    for cache in hosts:
        await landed(cache)
        assert cache.peek("k") == "new"
    assert origin.calls == 1


async def test_early_refresh_promotes_a_younger_value_and_returns_the_lease(
    hosts, server
):
    one, other = hosts
    await one.set("k", "old", ttl=60)
    assert await other.get("k") == "old"
    one._flights.refresh(b"k", Origin("new"), TERMS, one._l1.look(b"k"))
    await landed(one)
    assert other.peek("k") == "old"
    never = Origin("never")
    other._flights.refresh(b"k", never, TERMS, other._l1.look(b"k"))
    await landed(other)
    assert (other.peek("k"), never.calls) == ("new", 0)
    lease = other._l2.names_of(other._l2.partition(b"k")).lease(b"k")
    await until(lambda: not server.command("EXISTS", lease))


async def test_early_refresh_replaces_a_value_that_l2_has_as_well(hosts):
    one, other = hosts
    await one.set("k", "old", ttl=60)
    one._flights.refresh(b"k", Origin("new"), TERMS, one._l1.look(b"k"))
    await landed(one)
    assert one.peek("k") == "new"
    assert await other.get("k") == "new"


# -- the soft timeout and L2


async def test_stale_value_of_l2_waits_for_the_soft_timeout(server):
    async with two_hosts(server.url, soft_timeout=60) as (one, other):
        for key in ("a", "b"):
            await one.get_or_set(key, Origin(Fill("old", ttl=5, grace=60, age=6)))
        origin = held("new")
        asked = asking(other.get_or_set("a", origin, ttl=60))
        await origin.started.wait()
        assert not asked.done()
        origin.gate.set()
        assert await asked == "new"
        assert await other.get_or_set("b", Origin(ValueError("down"))) == "old"


# -- negative entries and nested computes in the fleet


async def test_chosen_error_stands_on_the_other_host_too(hosts):
    one, other = hosts
    origin = Origin(LookupError("no"))
    with pytest.raises(LookupError):
        await one.get_or_set("k", origin, errors=LookupError, error_ttl=60)
    for _ in "ab":
        with pytest.raises(ComputeFailed, match="LookupError: no"):
            await other.get_or_set("k", origin)
    assert origin.calls == 1
    assert await other.get("k", None) is None
    await other.delete("k")
    assert await other.get_or_set("k", Origin("v"), ttl=60) == "v"


async def test_computes_that_wait_for_each_others_leases_end(hosts, monkeypatch):
    """1. one host computes a, the other b; 2. each asks for the other's key; 3. each
    waits too long for the lease, and computes for itself: a inside of a, an error."""
    monkeypatch.setattr("shmcache.flight.NESTED_WAIT", 0.1)
    one, other = hosts
    both = asyncio.Barrier(2)

    def compute(cache, key, wanted):
        async def first():
            await both.wait()
            return await cache.get_or_set(wanted, second, ttl=60)

        async def second():
            return await cache.get_or_set(key, first, ttl=60)

        return cache.get_or_set(key, first, ttl=60)

    asked = compute(one, "a", "b"), compute(other, "b", "a")
    async with asyncio.timeout(10):
        ended = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(e) for e in ended} <= {ReentrantCompute, ComputeFailed}
    assert ReentrantCompute in {type(e) for e in ended}
    assert one.stats().soft_timeouts + other.stats().soft_timeouts >= 1


# -- fills that do not get through at once


async def test_fill_at_a_stopped_writers_lock_is_tried_again(monkeypatch):
    async with siblings() as (cache, other):
        put, answers = cache._l1.put, [BUSY] * 19

        def busy(key, record, **rules):
            if key == b"k" and answers:
                assert isinstance(other._claims.take(b"k"), Held)
                return answers.pop()
            return put(key, record, **rules)

        monkeypatch.setattr(cache._l1, "put", busy)
        assert await cache.get_or_set("k", Origin("v")) == "v"
        assert other.peek("k") == "v"


async def test_fill_that_never_gets_through_lets_the_others_go_on(monkeypatch):
    async with siblings() as (cache, other):
        monkeypatch.setattr(cache._l1, "put", lambda *_, **__: BUSY)
        assert await cache.get_or_set("k", Origin("v")) == "v"
        assert cache.stats().fills_full == 1
        assert await other.get_or_set("k", Origin("w")) == "w"


async def test_waiter_that_was_refused_twice_goes_as_after_pass(monkeypatch):
    """1. a waiter sees a claim end as refused; 2. another process takes it first;
    3. that ends as refused too, and is taken again: the waiter waits no longer."""
    async with siblings() as (one, other):
        wait, claims = other._claims.wait, [one._claims.take(b"k")]

        async def slow(held):
            ended = await wait(held)
            claims.append(one._claims.take(b"k"))
            return ended

        monkeypatch.setattr(other._claims, "wait", slow)
        asked = asking(other.get_or_set("k", Origin("v")))
        for n in (1, 2):
            await until(lambda n=n: one.stats().claim_waits == n)
            one._claims.free(claims[-1], FREED_REFUSED)
        assert await asyncio.wait_for(asked, 2) == "v"
        assert len(claims) == 3
        one._claims.free(claims[-1])


# -- a stale value of L2 and the end of its grace


async def stale_in_l2(host, seconds):
    """`k` in L2, stale, for so many seconds more."""
    await host.get_or_set("k", Origin(Fill("old", ttl=5, grace=5, age=10 - seconds)))


async def test_stale_answer_is_not_given_to_who_joins_after_its_grace(hosts):
    """1. a flight answers with L2's stale value, and computes on; 2. the grace ends;
    3. a caller joins the flight: it is told what is computed."""
    one, other = hosts
    await stale_in_l2(one, 0.3)
    origin = held("new")
    assert await other.get_or_set("k", origin, ttl=60) == "old"
    await until(lambda: other.entry("k").state == "dead")
    asked = asking(other.get_or_set("k", Origin("never"), ttl=60))
    await until(lambda: other._flights._waiters == 1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not asked.done()
    origin.gate.set()
    assert await asked == "new"


async def test_wait_inside_a_compute_for_what_was_stale_ends(hosts, monkeypatch):
    """As above, but the caller is inside a compute: it may be waited for itself."""
    monkeypatch.setattr("shmcache.flight.NESTED_WAIT", 0.02)
    one, other = hosts
    await stale_in_l2(one, 0.3)
    origin = held("new")
    assert await other.get_or_set("k", origin, ttl=60) == "old"
    await until(lambda: other.entry("k").state == "dead")

    async def compute():
        return await other.get_or_set("k", Origin("own"), ttl=60)

    assert await asyncio.wait_for(other.get_or_set("a", compute), 2) == "own"
    origin.gate.set()
    await landed(other)
    assert other.peek("k") == "new"


@pytest.mark.parametrize("answer", ["new", ValueError("down")])
@pytest.mark.parametrize("soft_timeout", [0.4, 60])
async def test_stale_value_whose_grace_ended_is_no_answer_any_more(
    server, soft_timeout, answer
):
    """1. a caller waits for a fresh value, for the soft timeout at most; 2. the grace
    of the stale one ends; 3. the timeout does; 4. the compute does."""
    async with two_hosts(server.url, soft_timeout=soft_timeout) as (one, other):
        await stale_in_l2(one, 0.3)
        origin = held(answer)
        asked = asking(other.get_or_set("k", origin, ttl=60))
        await origin.started.wait()
        await until(lambda: other.entry("k").state == "dead")
        await asyncio.wait((asked,), timeout=0.3)
        assert not asked.done()
        origin.gate.set()
        if answer == "new":
            assert await asked == "new"
        else:
            with pytest.raises(ValueError, match="down"):
                await asked
        assert origin.calls == 1


# -- refused, failed, made stale


async def test_refresh_that_was_overtaken_is_no_failure(hosts):
    """1. a value is expired, and refreshed; 2. it is expired again; 3. the refresh is
    refused; 4. the next stale hit starts another one, at once."""
    one, _ = hosts
    await one.set("k", "old", ttl=60, grace=60)
    for new in ("v1", "v2"):
        await one.expire("k")
        origin = held(new)
        assert await one.get_or_set("k", origin, ttl=60, grace=60) == "old"
        await asyncio.wait_for(origin.started.wait(), 0.5)
        await one.expire("k")
        origin.gate.set()
        await landed(one)
    assert one.stats().fills_refused == 2
    origin = Origin("v3")
    assert await one.get_or_set("k", origin, ttl=60) == "old"
    await landed(one)
    assert origin.calls == 1


@pytest.mark.parametrize("verb", ["expire", "expire_tags", "clear"])
async def test_chosen_error_that_is_expired_is_computed_anew(hosts, verb):
    one, other = hosts
    no = Origin(LookupError("no"))
    with pytest.raises(LookupError):
        await one.get_or_set("k", no, tags=("t",), errors=LookupError, error_ttl=60)
    with pytest.raises(ComputeFailed):
        await other.get_or_set("k", no)
    await {
        "expire": lambda: one.expire("k"),
        "expire_tags": lambda: one.expire_tags("t"),
        "clear": lambda: one.clear(soft=True),
    }[verb]()
    assert await one.get_or_set("k", Origin("v"), ttl=60) == "v"
    await until(lambda: other.stats().entries_applied)
    assert await other.get_or_set("k", held("never"), ttl=60) == "v"


async def test_chosen_error_is_not_told_to_who_came_after_its_expiry(
    hosts, monkeypatch
):
    """1. a flight asks L2, which has a failure; 2. that is expired; 3. a caller joins;
    4. the flight has its answer."""
    one, other = hosts
    with pytest.raises(LookupError):
        await other.get_or_set(
            "k", Origin(LookupError("no")), errors=LookupError, error_ttl=60
        )
    await one.start()
    acquire, answered, go = one._l2.acquire, asyncio.Event(), asyncio.Event()

    async def slow(*args, **rules):
        answer = await acquire(*args, **rules)
        answered.set()
        await go.wait()
        return answer

    monkeypatch.setattr(one._l2, "acquire", slow)
    early = asking(one.get_or_set("k", Origin("never")))
    await answered.wait()
    await one.expire("k")
    late = asking(one.get_or_set("k", Origin("v"), ttl=60))
    await until(lambda: one._flights._waiters == 2)
    assert len(one._flights) == 1
    go.set()
    with pytest.raises(ComputeFailed, match="LookupError: no"):
        await early
    assert await late == "v"


async def test_failure_keeps_its_kind_on_its_way(hosts):
    """1. a host computes; 2. another waits for its lease; 3. a third process waits for
    the claim of 2; 4. the compute fails."""
    one, other = hosts
    async with Cache(other.config) as sibling:
        origin = held(ValueError("boom"))
        asked = [asking(one.get_or_set("k", origin))]
        await origin.started.wait()
        asked.append(asking(other.get_or_set("k", held("never"))))
        await until(lambda: other.stats().leases_waited)
        asked.append(asking(sibling.get_or_set("k", held("never"))))
        await until(lambda: other.stats().claim_waits)
        origin.gate.set()
        _, *told = await asyncio.gather(*asked, return_exceptions=True)
    assert [(e.kind, e.message) for e in told] == [("ValueError", "boom")] * 2


# -- a lease that is lost


@pytest.fixture
async def losing(server):
    """Two processes of one host; the first computes `k`, the second waits for it."""
    app = segment_name()
    config = CacheConfig(segment_name(), SIZE, l2=server.url, app=app, lease_life=2)
    async with Cache(config) as one, Cache(config) as other:
        slow = held("late")
        first = asking(one.get_or_set("k", slow, ttl=60))
        await slow.started.wait()
        second = asking(other.get_or_set("k", Origin("new"), ttl=60))
        await until(lambda: one.stats().claim_waits)
        yield one, slow, first, second
        await asyncio.gather(first, second, return_exceptions=True)


async def test_claim_ends_with_the_lease(losing, server):
    one, slow, first, second = losing
    lease = one._l2.names_of(one._l2.partition(b"k")).lease(b"k")
    assert server.command("DEL", lease) == 1
    assert await asyncio.wait_for(second, 3) == "new"  # its compute goes on for ever
    slow.gate.set()
    assert await first == "late"
    assert one.peek("k") == "new"
    assert one.stats().fills_refused == 1


async def test_claim_outlives_the_lease_while_l2_is_away(losing, server, monkeypatch):
    """Who asked again would learn nothing, and compute too."""
    one, slow, first, second = losing
    monkeypatch.setattr(one._l2, "up", lambda partition: False)
    await until(lambda: watches())
    (watch,) = watches()
    lease = one._l2.names_of(one._l2.partition(b"k")).lease(b"k")
    assert server.command("DEL", lease) == 1
    await asyncio.wait_for(watch, 3)
    await asyncio.wait((second,), timeout=0.1)
    assert not second.done()
    slow.gate.set()
    assert await asyncio.gather(first, second) == ["late", "new"]


def watches():
    tasks = asyncio.all_tasks()
    return [task for task in tasks if task.get_name() == "shmcache-lease-watch"]


# -- what comes into L1 while L2 answers


def younger_meanwhile(monkeypatch, one, verb, record):
    """Before that answer of L2 is read, a sibling promotes what another host has set
    since; this host has not heard of it."""
    asked = getattr(one._l2, verb)

    async def answer(*args, **named):
        answer = await asked(*args, **named)
        promoted = record._replace(stamp=one._l1.table.clock())
        assert one._l1.put(b"k", promoted, newer_only=True) == OK
        return answer

    monkeypatch.setattr(one._l2, verb, answer)


async def theirs(other):
    await other.get_or_set("other", lambda: "theirs", ttl=60)
    return other._l1.look(b"other")


async def test_fill_that_was_stored_leaves_what_is_younger(hosts, monkeypatch):
    one, other = hosts
    younger_meanwhile(monkeypatch, one, "put_fenced", await theirs(other))
    assert await one.get_or_set("k", lambda: "ours", ttl=60) == "ours"
    assert one.peek("k") == "theirs"
    assert one.stats().fills_refused == 1


async def test_value_of_an_ask_leaves_what_is_younger(hosts, monkeypatch):
    one, other = hosts
    await other.set("k", "old", ttl=60)
    record = await theirs(other)
    await one.start()
    younger_meanwhile(monkeypatch, one, "acquire", record)
    assert await one.get_or_set("k", held("never"), ttl=60) == "theirs"
    assert one.peek("k") == "theirs"


@pytest.mark.parametrize("verb", ["set", "add"])
async def test_set_leaves_what_is_younger_though_it_was_made_before(
    hosts, monkeypatch, verb
):
    """Another host's set began before ours, and came to Redis after it."""
    one, other = hosts
    record = await theirs(other)
    younger_meanwhile(monkeypatch, one, "put_many", record)
    await getattr(one, verb)("k", "ours", ttl=60)
    assert one.peek("k") == "theirs"


async def test_fill_that_a_sibling_has_promoted_is_stored(hosts, monkeypatch):
    one, _ = hosts
    asked = one._l2.put_fenced

    async def answer(key, token, record, clock):
        answer = await asked(key, token, record, clock)
        assert one._l1.put(key, record, newer_only=True) == OK
        return answer

    monkeypatch.setattr(one._l2, "put_fenced", answer)
    assert await one.get_or_set("k", lambda: "ours", ttl=60) == "ours"
    assert one.peek("k") == "ours"
    assert one.stats().fills_refused == 0


async def test_failure_that_is_an_answer_gives_way_to_an_add(hosts):
    """What stands when the store is sent is replaced, be it no value."""
    one, _ = hosts
    with pytest.raises(ValueError, match="no"):
        await one.get_or_set("k", Origin(ValueError("no")), errors=ValueError)
    assert await one.add("k", "new", ttl=60)
    assert one.peek("k") == "new"


# -- L2 does not say whether the lease still stands


@pytest.mark.parametrize("promoted", [False, True])
async def test_fill_that_nobody_confirmed_leaves_what_is_younger(
    hosts, monkeypatch, promoted
):
    """1. we compute; 2. another host sets the key, of which this host has not heard;
    3. a sibling reads that, and promotes it; 4. our compute ends, and L2 is silent."""
    one, other = hosts
    compute = held("ours")
    asked = asking(one.get_or_set("k", compute, ttl=60))
    await compute.started.wait()

    async def silent(*_, **__):
        raise TierUnavailable("no answer")

    monkeypatch.setattr(one._l2, "put_fenced", silent)
    if promoted:
        await other.get_or_set("other", lambda: "theirs", ttl=60)
        record = other._l1.look(b"other")
        assert one._l1.put(b"k", record._replace(stamp=one._l1.table.clock())) == OK
    compute.gate.set()
    assert await asked == "ours"
    assert one.peek("k") == ("theirs" if promoted else "ours")


async def test_refresh_that_nobody_confirmed_takes_the_place_of_the_stale(
    hosts, monkeypatch
):
    one, _ = hosts
    await one.get_or_set("k", lambda: "old", ttl=0.05, grace=60)
    await asyncio.sleep(0.1)

    async def silent(*_, **__):
        raise TierUnavailable("no answer")

    monkeypatch.setattr(one._l2, "put_fenced", silent)
    assert await one.get_or_set("k", lambda: "new", ttl=60, grace=60) == "old"
    await landed(one)
    assert one.peek("k") == "new"
