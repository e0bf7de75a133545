"""The dashboard: all parts in one value, and its life."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from shmcache import CacheError
from shmcache_server.market.dashboard import KEY, RETRY
from shmcache_server.market.feed import Failed
from tests.redis_server import eventually
from tests.server.market.vendor import (
    CALLED,
    CMC_BTC,
    CMC_GLOBAL,
    FNG,
    GLOBAL,
    PRICE,
    RSI,
    TICKER,
)

SAMPLE = {
    "btc_price_usd": 112884.0,
    "btc_change_24h": -0.7955129838191605,
    "market_cap_usd": 3912296730719.0854,
    "volume_24h_usd": 115403358622.58966,
    "fng_value": 50,
    "fng_classification": "Neutral",
    "rsi_14": 42.3291744124084,
}
ALL = (PRICE, TICKER, CMC_BTC, GLOBAL, CMC_GLOBAL, FNG, RSI)


async def test_dashboard_has_all_parts(vendors, opened) -> None:
    entry = await (await opened(vendors.settings())).dashboard.entry()
    shown = entry.value["shown"]
    assert {name: shown[name] for name in SAMPLE} == SAMPLE
    assert json.loads(json.dumps(shown)) == shown  # to the last digit
    assert shown["partial_failure"] is False
    assert shown["last_updated"] == pytest.approx(time.time(), abs=2)
    assert 0 < shown["fetch_duration_ms"] < 5000
    assert shown["parts"]["fear-greed"] == {
        "as_of": 1746148800.0,
        "source": "alternative",
        "state": "fresh",
    }


async def test_parts_are_fetched_at_once(vendors, opened) -> None:
    vendors.open.clear()
    asked = asyncio.ensure_future((await opened(vendors.settings())).dashboard.entry())
    await eventually(lambda: {*vendors.calls} == {*CALLED})
    vendors.open.set()
    await asked
    assert vendors.calls == dict.fromkeys(CALLED, 1)


async def test_life_is_that_of_the_shortest_part(vendors, opened) -> None:
    one = await opened(vendors.settings(real_time={"ttl": 4.0, "grace": 20.0}))
    entry = await one.dashboard.entry()
    lives = [(await one.feed.entry(name)).ttl for name in entry.value["shown"]["parts"]]
    assert entry.ttl == pytest.approx(min(lives), abs=0.05)
    assert entry.value["grace"] == pytest.approx(20.0, abs=0.05)


async def test_failed_part_is_null_and_told(vendors, opened) -> None:
    vendors.refuse(FNG, status=404)
    shown = (await (await opened(vendors.settings())).dashboard.entry()).value["shown"]
    assert (shown["fng_value"], shown["fng_classification"]) == (None, None)
    assert shown["partial_failure"] is True
    assert shown["parts"]["fear-greed"]["state"] == "unavailable"
    assert shown["btc_price_usd"] == 112884.0


async def test_late_part_does_not_hold_up_the_others(vendors, opened) -> None:
    told = vendors.settings(deadline=0.4, taapi={"url": "http://127.0.0.1:1"})
    one = await opened(told)
    vendors.open.clear()
    began = time.monotonic()
    with pytest.raises((Failed, CacheError)):
        await one.dashboard.entry()
    assert time.monotonic() - began < 2


async def test_all_parts_failed_is_no_dashboard(vendors, opened) -> None:
    vendors.refuse(*ALL, status=404)
    dashboard = (await opened(vendors.settings())).dashboard
    with pytest.raises((Failed, CacheError)) as raised:
        await dashboard.entry()
    failed = Failed.of(raised.value)
    assert "rsi" not in failed.why and "taapi: status 404" in failed.why
    calls = vendors.calls.copy()
    with pytest.raises((Failed, CacheError)):
        await dashboard.entry()
    assert vendors.calls == calls


async def expired(one) -> None:
    """The dashboard, and its parts of real time."""

    def stale() -> bool:
        parts = map(one.feed.standing, ("btc", "global"))
        return {e.state for e in (one.dashboard.standing(), *parts)} == {"stale"}

    await eventually(stale)


async def test_stale_part_counts_until_it_is_tried_again(vendors, opened) -> None:
    told = vendors.settings(real_time={"ttl": 1.0, "jitter": 0.0, "grace": 30.0})
    one = await opened(told)
    await one.dashboard.entry()
    vendors.refuse(*ALL, status=404)
    await expired(one)
    entry = await one.dashboard.entry()
    shown = entry.value["shown"]
    assert shown["parts"]["btc"]["state"] == "stale"
    assert shown["parts"]["rsi"]["state"] == "fresh"
    assert shown["parts"]["btc"]["as_of"] < shown["last_updated"] - 0.9
    assert shown["partial_failure"] is False and shown["btc_price_usd"] == 112884.0
    assert entry.ttl == pytest.approx(RETRY, abs=0.1)
    # dead with its first part: no part is shown longer for being in a dashboard
    part = await one.feed.entry("btc")
    assert entry.ttl + entry.value["grace"] == pytest.approx(part.ttl + 30, abs=0.1)


async def test_silent_vendor_of_a_stale_part_is_not_waited_for(
    vendors, opened, monkeypatch
) -> None:
    monkeypatch.setattr("shmcache_server.market.dashboard.PATIENCE", 0.2)
    told = vendors.settings(real_time={"ttl": 1.0, "jitter": 0.0})
    one = await opened(told)
    first = await one.dashboard.entry()
    vendors.open.clear()
    await expired(one)
    began = time.monotonic()
    entry = await one.dashboard.entry()
    assert time.monotonic() - began < 1.0
    assert entry.version != first.version
    assert entry.value["shown"]["parts"]["global"]["state"] == "stale"


async def test_fresh_value_is_waited_for(vendors, opened) -> None:
    """So that a dashboard's life is not spent on parts that have just ended."""
    told = vendors.settings(real_time={"ttl": 1.0, "jitter": 0.0})
    one = await opened(told)
    await one.dashboard.entry()
    await expired(one)
    shown = (await one.dashboard.entry()).value["shown"]
    assert {part["state"] for part in shown["parts"].values()} == {"fresh"}
    assert vendors.calls == {PRICE: 2, GLOBAL: 2, FNG: 1, RSI: 1}


# --- the stream


@pytest.fixture
def redis(server):
    server.command("FLUSHALL")
    return server


async def test_change_is_appended_once(vendors, opened, redis) -> None:
    told = vendors.settings(real_time={"ttl": 1.0, "jitter": 0.0})
    one = await opened(told, l2=redis.url)
    await asyncio.gather(*(one.dashboard.entry() for _ in range(5)))
    await eventually(lambda: redis.command("XLEN", one.stream.key) == 1)
    await expired(one)
    await one.dashboard.entry()  # the same numbers
    vendors.bodies[PRICE]["bitcoin"]["usd"] = 113000.5
    await expired(one)
    await one.dashboard.entry()
    await one.dashboard.close()
    entries = redis.command("XRANGE", one.stream.key, "-", "+")
    prices = [json.loads(fields[b"data"])["btc_price_usd"] for _, fields in entries]
    assert prices == [112884.0, 113000.5]
    assert {*entries[1][1]} == {b"data", b"as_of"}


async def test_new_host_starts_from_the_stream(vendors, opened, redis) -> None:
    """As after a Redis that lost all but the stream: at its true age, and fetched at
    once."""
    one = await opened(vendors.settings(), l2=redis.url)
    last = (await one.dashboard.entry()).value["shown"]
    await one.dashboard.close()
    aged = {**last, "last_updated": last["last_updated"] - 60, "btc_price_usd": 7.5}
    redis.command("DEL", one.stream.key)
    words = ("data", json.dumps(aged), "as_of", repr(aged["last_updated"]))
    redis.command("XADD", one.stream.key, "*", *words)
    other = await opened(vendors.settings(), l2=redis.url, app="other")
    other.stream.key = one.stream.key
    vendors.open.clear()
    first = await other.dashboard.entry()
    assert first.value["shown"] == aged and first.state == "stale"
    assert first.age == pytest.approx(60, abs=3)
    vendors.open.set()
    await eventually(
        lambda: (entry := other.dashboard.standing()) and entry.state == "fresh"
    )
    assert other.dashboard.standing().value["shown"]["btc_price_usd"] == 112884.0


async def test_cancelled_asker_leaves_its_change_to_the_stream(
    vendors, opened, redis
) -> None:
    """As the last client of /ws, or a worker's that drains."""
    one = await opened(vendors.settings(), l2=redis.url)
    vendors.open.clear()
    asked = asyncio.ensure_future(one.dashboard.entry())
    await eventually(lambda: {*vendors.calls} == {*CALLED})
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    vendors.open.set()
    await eventually(lambda: redis.command("XLEN", one.stream.key) == 1)


async def test_what_follows_the_streams_start_is_appended(
    vendors, opened, redis
) -> None:
    """Though nobody has asked again."""
    one = await opened(vendors.settings(), l2=redis.url)
    last = (await one.dashboard.entry()).value["shown"]
    await one.dashboard.close()
    aged = {**last, "last_updated": last["last_updated"] - 60, "btc_price_usd": 7.5}
    redis.command("DEL", one.stream.key)
    words = ("data", json.dumps(aged), "as_of", repr(aged["last_updated"]))
    redis.command("XADD", one.stream.key, "*", *words)
    other = await opened(vendors.settings(), l2=redis.url, app="other")
    other.stream.key = one.stream.key
    assert (await other.dashboard.entry()).value["shown"] == aged
    await eventually(lambda: redis.command("XLEN", one.stream.key) == 2)


async def test_closing_waits_for_no_vendor(vendors, opened) -> None:
    one = await opened(vendors.settings())
    vendors.open.clear()
    asked = asyncio.ensure_future(one.dashboard.entry())
    await eventually(lambda: {*vendors.calls} == {*CALLED})
    async with asyncio.timeout(1):
        await one.dashboard.close()
        with pytest.raises(asyncio.CancelledError):
            await asked


async def test_entry_that_is_too_old_is_no_start(vendors, opened, redis) -> None:
    one = await opened(vendors.settings(), l2=redis.url)
    shown = (await one.dashboard.entry()).value["shown"]
    await one.dashboard.close()
    old = {**shown, "last_updated": time.time() - 601, "btc_price_usd": 7.5}
    redis.command("DEL", one.stream.key)
    await one.cache.delete(KEY)
    words = ("data", json.dumps(old), "as_of", repr(old["last_updated"]))
    redis.command("XADD", one.stream.key, "*", *words)
    entry = await one.dashboard.entry()
    assert entry.value["shown"]["btc_price_usd"] == 112884.0


async def test_paused_holder_appends_nothing(vendors, opened, redis) -> None:
    """Its store is refused: what another has set meanwhile stands."""
    one = await opened(vendors.settings(), l2=redis.url)
    vendors.open.clear()
    asked = asyncio.ensure_future(one.dashboard.entry())
    await eventually(lambda: {*vendors.calls} == {*CALLED})
    newer = {"shown": {"last_updated": time.time() + 5, "rsi_14": 1.5}, "grace": 9.0}
    await one.cache.set(KEY, newer, ttl=30)
    vendors.open.set()
    entry = await asked
    assert entry.value["shown"]["rsi_14"] == 42.3291744124084  # its caller's answer
    await one.dashboard.close()
    assert redis.command("XLEN", one.stream.key) == 0


async def test_redis_that_hangs_costs_the_stream_alone(vendors, opened, redis) -> None:
    told = vendors.settings(real_time={"ttl": 1.0, "jitter": 0.0})
    one = await opened(told, l2=redis.url)
    await one.dashboard.entry()
    await eventually(one.stream.latest)
    hosts = one.gates["coingecko"].budget
    await eventually(lambda: hosts._state().hosts)
    redis.stop()
    try:
        vendors.bodies[PRICE]["bitcoin"]["usd"] = 7.5
        await expired(one)
        entry = await one.dashboard.entry()
        assert entry.value["shown"]["btc_price_usd"] == 7.5
        assert await one.stream.latest() is None
    finally:
        redis.cont()


@pytest.mark.parametrize("lost", ["parts", "rsi_14"])
async def test_entry_of_another_version_is_no_start(
    vendors, opened, redis, lost
) -> None:
    one = await opened(vendors.settings(), l2=redis.url)
    shown = (await one.dashboard.entry()).value["shown"]
    await one.dashboard.close()
    made = time.time() - 5
    other = {**shown, "last_updated": made, "btc_price_usd": 7.5}
    del other[lost]
    words = ("data", json.dumps(other), "as_of", repr(made))
    redis.command("DEL", one.stream.key)
    redis.command("XADD", one.stream.key, "*", *words)
    await one.cache.delete(KEY)
    assert (await one.dashboard.entry()).value["shown"]["btc_price_usd"] == 112884.0
