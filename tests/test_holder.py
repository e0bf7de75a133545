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
    TierUnavailable,
)
from tests.helpers import Origin, segment_name
from tests.redis_server import redis_server

SIZE = 2 << 20


@pytest.fixture(scope="module")
def redis():
    with redis_server() as server:
        yield server


@pytest.fixture
async def hosts(redis):
    """Two segments, as two hosts have, on one Redis."""
    app = segment_name()
    configs = [
        CacheConfig(segment_name(), SIZE, l2=redis.url, app=app) for _ in range(2)
    ]
    async with Cache(configs[0]) as one, Cache(configs[1]) as other:
        yield one, other


def held(answer):
    """An origin that answers when it is let."""
    return Origin(answer, hold=True)


async def until(probe):
    for _ in range(1000):
        if probe():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("not within 5 s")


async def test_cold_key_is_computed_once_by_two_hosts(hosts):
    one, other = hosts
    origin = held("v")
    asked = [
        asyncio.ensure_future(c.get_or_set("k", origin, ttl=60))
        for c in hosts
        for _ in range(20)
    ]
    await until(lambda: one.stats().leases_waited + other.stats().leases_waited)
    origin.gate.set()
    assert await asyncio.gather(*asked) == ["v"] * 40
    assert origin.calls == 1
    assert (one.peek("k"), other.peek("k")) == ("v", "v")


async def test_waiting_host_is_woken_within_milliseconds(hosts):
    one, other = hosts
    origin = held("v")
    first = asyncio.ensure_future(one.get_or_set("k", origin, ttl=60))
    await origin.started.wait()
    second = asyncio.ensure_future(other.get_or_set("k", origin, ttl=60))
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
    first = asyncio.ensure_future(one.get_or_set("k", origin))
    await origin.started.wait()
    second = asyncio.ensure_future(other.get_or_set("k", origin))
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
    first = asyncio.ensure_future(one.get_or_set("k", mine))
    await mine.started.wait()
    second = asyncio.ensure_future(other.get_or_set("k", theirs))
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
    fetching = asyncio.ensure_future(one.get_or_set("k", origin, ttl=60))
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


async def test_stopped_holder_of_another_host_is_refused_when_it_goes_on(redis):
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
    config = CacheConfig({name!r}, {SIZE}, l2={redis.url!r}, app={app!r}, lease_life=2)
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
    config = CacheConfig(segment_name(), SIZE, l2=redis.url, app=app, lease_life=2)
    async with Cache(config) as cache:
        assert await cache.get_or_set("k", Origin("new"), ttl=60) == "new"
        process.send_signal(signal.SIGCONT)
        process.stdin.write(b"\n")
        assert await process.stdout.readline() == b"late\n"
        assert await process.stdout.readline() == b"None 1\n"
        assert cache.peek("k") == "new"
    assert await process.wait() == 0


async def test_closing_host_gives_its_lease_back_at_once(redis):
    app = segment_name()
    one, other = (
        Cache(CacheConfig(segment_name(), SIZE, l2=redis.url, app=app)) for _ in "ab"
    )
    origin = held("never")
    asked = asyncio.ensure_future(one.get_or_set("k", origin))
    await origin.started.wait()
    waiting = asyncio.ensure_future(other.get_or_set("k", Origin("v")))
    await until(lambda: other.stats().leases_waited)
    await one.close()
    assert await asyncio.wait_for(waiting, 1.5) == "v"  # a lease lives 3 s
    with pytest.raises(CacheError, match="closed"):
        await asked
    await other.close()


async def test_set_that_is_cancelled_leaves_no_lease(hosts, monkeypatch):
    one, other = hosts
    await one.start()

    async def hang(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(one._l2, "put_fenced", hang)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(one.set("k", "v"), 0.1)
    before = time.monotonic()
    assert await other.get_or_set("k", Origin("w")) == "w"
    assert time.monotonic() - before < 0.7  # the lease of a set lives 1 s


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
