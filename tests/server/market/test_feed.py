"""A part through the cache: its sources, its deadline, its failures."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from loadtest.vendors import running
from shmcache import CacheError
from shmcache_server.market import settings
from shmcache_server.market.feed import Failed, Unavailable
from tests.server.market.vendor import (
    CMC_BTC,
    FNG,
    KEYS,
    PRICE,
    QUOTE,
    RSI,
    TICKER,
)


async def failure(feed, name: str) -> Failed:
    with pytest.raises((CacheError, Failed)) as raised:
        await feed.entry(name)
    return Failed.of(raised.value)


async def test_part_is_fetched_once(vendors, opened) -> None:
    feed = (await opened(vendors.settings())).feed
    entries = await asyncio.gather(*(feed.entry("btc") for _ in range(20)))
    assert {entry.version for entry in entries} == {entries[0].version}
    assert entries[0].value["values"]["btc_price_usd"] == 112884.0
    assert entries[0].value["source"] == "coingecko"
    assert entries[0].value["as_of"] == pytest.approx(time.time(), abs=2)
    assert 27.0 <= entries[0].ttl <= 30.0  # the jitter takes a tenth at most
    assert vendors.calls == {PRICE: 1}


async def test_vendors_time_is_told_and_never_the_future(vendors, opened) -> None:
    feed = (await opened(vendors.settings())).feed
    assert (await feed.entry("fear-greed")).value["as_of"] == 1746148800.0
    vendors.bodies[PRICE]["bitcoin"]["last_updated_at"] = time.time() + 1000
    assert (await feed.entry("btc")).value["as_of"] <= time.time()


@pytest.mark.parametrize(
    ("refused", "source", "price"),
    [((PRICE,), "binance", 112885.0), ((PRICE, TICKER), "cmc", 112886.0)],
)
async def test_next_source_is_tried(vendors, opened, refused, source, price) -> None:
    vendors.refuse(*refused)
    entry = await (await opened(vendors.settings())).feed.entry("btc")
    assert entry.value["source"] == source
    assert entry.value["values"]["btc_price_usd"] == price


async def test_silent_vendor_leaves_time_for_the_next(vendors, opened) -> None:
    vendors.bodies[TICKER] = None  # not asked in vain: CoinMarketCap is the last
    told = vendors.settings(attempt_timeout=0.2, deadline=2.0)
    feed = (await opened(told)).feed
    asked = asyncio.ensure_future(feed.entry("btc"))
    vendors.open.clear()
    await vendors.called.wait()
    while not vendors.calls[TICKER]:
        vendors.called.clear()
        await vendors.called.wait()
    vendors.open.set()
    assert (await asked).value["source"] == "cmc"


async def test_failure_is_tried_again_within_the_deadline(vendors, opened) -> None:
    vendors.refuse(RSI, status=503)
    feed = (await opened(vendors.settings(taapi={"calls": 5}))).feed
    asked = asyncio.ensure_future(feed.entry("rsi"))
    await vendors.called.wait()
    vendors.refusals.clear()
    assert (await asked).value["values"] == {"rsi_14": 42.3291744124084}
    assert vendors.calls == {RSI: 2}


async def test_deadline_ends_a_fetch(vendors, opened) -> None:
    vendors.open.clear()
    told = vendors.settings(deadline=0.3, taapi={"calls": 9})
    began = time.monotonic()
    failed = await failure((await opened(told)).feed, "rsi")
    assert failed.why == "taapi: no answer in time"
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("status", "fields"), [(429, {"Retry_After": "9"}), (503, {"Retry_After": "9"})]
)
async def test_retry_after_is_heeded(vendors, opened, status, fields) -> None:
    vendors.refuse(FNG, status=status, **fields)
    short = {"negative_ttl": 0.1}
    feed = (await opened(vendors.settings(short=short))).feed
    failed = await failure(feed, "fear-greed")
    assert failed.until == pytest.approx(time.time() + 9, abs=2)
    await asyncio.sleep(0.15)  # the stored failure is over, the vendor's time is not
    vendors.refusals.clear()
    again = await failure(feed, "fear-greed")
    assert again.why == "alternative: over budget" and 7 <= again.seconds <= 11
    assert vendors.calls == {FNG: 1}


async def test_dead_vendor_is_not_called_by_each_request(vendors, opened) -> None:
    vendors.refuse(FNG, status=404)
    feed = (await opened(vendors.settings())).feed
    for _ in range(20):
        assert (await failure(feed, "fear-greed")).why == "alternative: status 404"
    assert vendors.calls == {FNG: 1}


async def test_stale_value_stands_while_its_vendor_fails(vendors, opened) -> None:
    told = vendors.settings(long={"ttl": 1.0, "jitter": 0.0}, taapi={"calls": 9})
    feed = (await opened(told)).feed
    first = await feed.entry("rsi")
    vendors.refuse(RSI, status=404)
    await asyncio.sleep(first.ttl)
    for _ in range(10):
        entry = await feed.entry("rsi")
        assert (entry.state, entry.version) == ("stale", first.version)
        assert entry.age >= 1.0 and entry.value == first.value
    assert vendors.calls == {RSI: 2}


async def test_value_is_never_invented(vendors, opened) -> None:
    vendors.bodies[RSI] = {"value": None}
    failed = await failure((await opened(vendors.settings())).feed, "rsi")
    assert failed.why == "taapi: value is no number"


async def test_failure_is_told_to_another_process(vendors, opened) -> None:
    """As a worker that has not asked itself gets it: as words."""
    vendors.refuse(FNG, status=429, Retry_After="9")
    one = await opened(vendors.settings())
    other = await opened(vendors.settings(), name=one.cache.config.name)
    mine = await failure(one.feed, "fear-greed")
    theirs = await failure(other.feed, "fear-greed")
    assert type(mine) is Unavailable and theirs.why == mine.why
    assert theirs.until == pytest.approx(mine.until, abs=0.01)
    assert vendors.calls == {FNG: 1}


async def test_indices_are_asked_one_by_one(vendors, opened) -> None:
    one = await opened(vendors.settings())
    entry = await one.feed.entry("indices")
    assert [*entry.value["values"]] == ["DIA", "SPY", "QQQM"]
    assert {request.query["symbol"] for request in vendors.seen} == {
        *entry.value["values"]
    }
    assert (await one.gates["finnhub"].budget.standing()).used == 3


async def test_vendor_gets_its_key_and_an_agent(vendors, opened) -> None:
    vendors.refuse(PRICE, TICKER)
    feed = (await opened(vendors.settings())).feed
    for name in ("btc", "rsi", "indices"):
        await feed.entry(name)
    asked = {request.path: request for request in vendors.seen}
    assert asked[RSI].query["secret"] == KEYS["TAAPI_KEY"]
    assert asked[RSI].query["symbol"] == "BTC/USDT"
    assert asked[CMC_BTC].headers["X-CMC_PRO_API_KEY"] == KEYS["CMC_API_KEY"]
    assert asked[QUOTE].query["token"] == KEYS["FINNHUB_KEY"]
    assert all(r.headers["User-Agent"] for r in vendors.seen)


async def test_missing_key_asks_nobody(vendors, opened, monkeypatch) -> None:
    monkeypatch.delenv("TAAPI_KEY")
    failed = await failure((await opened(vendors.settings())).feed, "rsi")
    assert failed.why == "taapi: TAAPI_KEY is not set" and not vendors.calls


async def test_key_is_in_no_log_and_no_error(vendors, opened, caplog) -> None:
    """Whatever goes wrong: an address that is none, a redirect, a vendor that repeats
    its key, a connection that breaks off."""
    caplog.set_level(logging.DEBUG)
    said = []
    for url in ("http://127.0.0.1:1", "http://no-such-host.invalid", vendors.url):
        told = vendors.settings(taapi={"url": url, "calls": 9})
        feed = (await opened(told)).feed
        if url == vendors.url:
            body = b'{"error": "sesame-t may not"}'
            vendors.refusals[RSI] = (302, {"Location": f"{url}/x?secret=y"}, body)
        said.append(str(await failure(feed, "rsi")))
    vendors.refusals[RSI] = (200, {}, b'{"error": "sesame-t may not"}')
    said.append(str(await failure((await opened(vendors.settings())).feed, "rsi")))
    told_all = "\n".join([*said, caplog.text])
    assert "sesame" not in told_all and "taapi" in told_all
    assert "/x" not in vendors.calls  # a redirect would be told the key


async def test_payload_that_no_parser_takes_is_a_failure(vendors, opened) -> None:
    """Whatever a parser raises: its part has failed, no other has."""
    vendors.refuse(PRICE, status=404)
    vendors.bodies[TICKER]["closeTime"] = 10**400
    one = await opened(vendors.settings())
    assert (await one.feed.entry("btc")).value["source"] == "cmc"


async def test_source_that_has_no_time_left_is_not_asked(vendors, opened) -> None:
    """Cut off at once, it would be called in vain, and taken for a vendor that
    fails."""
    vendors.open.clear()
    told = vendors.settings(deadline=0.6, attempt_timeout=0.2)
    one = await opened(told)
    failed = await failure(one.feed, "btc")
    assert failed.why == "coingecko: no answer in time; binance: no answer in time"
    assert not vendors.calls[CMC_BTC]
    assert (await one.gates["cmc"].budget.standing()).used == 0


async def test_vendor_that_does_not_serve_here_is_asked_elsewhere(opened) -> None:
    """And not asked here again by each fetch."""
    with running("--still", "--latency", "0") as here, running("--still") as there:
        here.fault("binance", "blocked")
        row = {"url": here.url("binance"), "elsewhere": there.url("binance")}
        told = settings.of({"vendors": {"binance": row}})
        one = await opened(told)
        for _ in range(2):
            entry = await one.feed.entry("coins")
            assert entry.value["source"] == "binance"
            assert entry.value["values"]["BTCUSDT"]["price_usd"] == 112884.0
            await one.cache.delete("coins_binance_30s")
        calls = [each.calls()["binance"]["calls"] for each in (here, there)]
        assert calls == [1, 2]
        assert (await one.gates["binance"].budget.standing()).used == 6  # by weight


async def test_vendor_that_serves_nowhere_has_failed(opened) -> None:
    with running("--still", "--latency", "0") as vendors:
        vendors.fault("binance", "blocked")
        row = dict.fromkeys(("url", "elsewhere"), vendors.url("binance"))
        one = await opened(settings.of({"vendors": {"binance": row}}))
        failed = await failure(one.feed, "coins")
        assert failed.why == "binance: not served from here (status 451)"
        assert vendors.calls()["binance"]["calls"] == 2


async def test_part_lives_by_its_class(vendors, opened) -> None:
    told = vendors.settings(parts={"rsi": "custom"}, custom={"ttl": 5.0, "jitter": 0.0})
    one = await opened(told)
    assert (await one.feed.entry("rsi")).ttl == pytest.approx(5.0, abs=0.5)


async def test_reason_is_logged_once(vendors, opened, caplog) -> None:
    """With the address that was asked: it may be the wrong one."""
    caplog.set_level(logging.INFO)
    vendors.refuse(FNG, status=401)
    told = vendors.settings(short={"negative_ttl": 0.1}, alternative={"failures": 99})
    feed = (await opened(told)).feed
    for _ in range(3):
        await failure(feed, "fear-greed")
        await asyncio.sleep(0.12)
    line = f"fng_alternative_5m: alternative at {vendors.url}: its key is refused"
    assert vendors.calls[FNG] > 1 and caplog.text.count(line) == 1


async def test_reason_between_others_is_logged_once(vendors, opened, caplog) -> None:
    """1. Its key is refused. 2. Its budget has no call left. 3. As 1."""
    caplog.set_level(logging.INFO)
    vendors.refuse(FNG, status=401)
    told = vendors.settings(
        short={"negative_ttl": 0.1}, alternative={"calls": 1, "seconds": 0.4}
    )
    feed = (await opened(told)).feed
    seen = set()
    while vendors.calls[FNG] < 3:
        seen.add((await failure(feed, "fear-greed")).why)
        await asyncio.sleep(0.05)
    assert len(seen) == 2
    assert caplog.text.count("its key is refused") == 1
    assert caplog.text.count("over budget") == 1
    del vendors.refusals[FNG]
    entry = None
    while entry is None:
        try:
            entry = await feed.entry("fear-greed")
        except (CacheError, Failed):
            await asyncio.sleep(0.05)
    assert not feed._told
