"""The simulated vendors, asked over sockets as a client asks them."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from loadtest.calls import Calls, busiest
from loadtest.faults import PATIENCE, Budget, Spent
from loadtest.truth import DAY
from loadtest.vendors import VENDORS, Vendors, main, running, truth
from tests.helpers import Answer, alive, end, get, python, until

PRICE = "/api/v3/simple/price?ids=bitcoin&vs_currencies=usd"
RSI = "/rsi?secret=K&exchange=binance&symbol=BTC/USDT&interval=1d"
TICKERS = "/api/v3/ticker/24hr?symbols=" + quote('["BTCUSDT","ETHUSDT"]')
GOOD = {
    "coingecko": PRICE + "&include_24hr_change=true",
    "alternative": "/fng/?limit=1",
    "taapi": RSI,
    "binance": TICKERS,
    "cmc": "/v1/cryptocurrency/quotes/latest?symbol=BTC",
    "finnhub": "/api/v1/quote?symbol=SPY&token=T",
}
"""A request that each vendor answers."""
FIELDS = {"User-Agent": "test", "X-CMC_PRO_API_KEY": "K"}


def bitcoin(vendor: str, body: Any) -> Any:
    """What a parser takes from a payload."""
    match vendor:
        case "coingecko":
            return body["bitcoin"]["usd"]
        case "alternative":
            return int(body["data"][0]["value"])
        case "taapi":
            return body["value"]
        case "binance":
            return float(body[0]["lastPrice"])
        case "cmc":
            return body["data"]["BTC"]["quote"]["USD"]["price"]
        case _:
            return body["c"]


def true_value(vendor: str, second: int) -> float:
    """What it should be."""
    said = truth(vendor, second)
    match vendor:
        case "alternative":
            return said.fng_value
        case "taapi":
            return said.rsi_14
        case "finnhub":
            return said.indices["SPY"].price
        case _:
            return said.btc_price_usd


@pytest.fixture(scope="module")
def process() -> Iterator[Vendors]:
    with running("--latency", "0") as vendors:
        yield vendors


@pytest.fixture
def vendors(process: Vendors) -> Vendors:
    """As if just started, but for its clock."""
    process.reset()
    return process


@pytest.fixture(scope="module")
def still() -> Iterator[Vendors]:
    with running("--latency", "0", "--still") as vendors:
        yield vendors


def ask(vendors: Vendors, vendor: str, path: str = "", timeout: float = 10) -> Answer:
    path = path or GOOD[vendor]
    return get(vendors.port, f"/{vendor}{path}", timeout, **FIELDS)


def body(vendors: Vendors, vendor: str, path: str = "") -> Any:
    answer = ask(vendors, vendor, path)
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/json"
    return json.loads(answer.body)


# --- payloads


def test_coingecko_price_is_a_whole_number_at_the_sample(still: Vendors) -> None:
    coin = body(still, "coingecko")["bitcoin"]
    assert coin == {"usd": 112884, "usd_24h_change": -0.7955129838191605}
    assert type(coin["usd"]) is int
    more = "include_market_cap=true&include_24hr_vol=true&include_last_updated_at=true"
    coin = body(still, "coingecko", f"{PRICE},eur&{more}")["bitcoin"]
    assert list(coin) == [
        *("usd", "usd_market_cap", "usd_24h_vol"),
        *("eur", "eur_market_cap", "eur_24h_vol", "last_updated_at"),
    ]
    assert abs(coin["last_updated_at"] - time.time()) < 5
    assert body(still, "coingecko", PRICE.replace("bitcoin", "nocoin")) == {}
    assert "gecko_says" in body(still, "coingecko", "/api/v3/ping")


def test_coingecko_global_spells_numbers_its_way(still: Vendors) -> None:
    answer = ask(still, "coingecko", "/api/v3/global")
    assert 3000 < len(answer.body) < 4000
    data = json.loads(answer.body)["data"]
    caps = data["total_market_cap"]
    assert len(caps) == 62 and caps.keys() == data["total_volume"].keys()
    assert caps["usd"] == 3912296730719.0854
    assert data["total_volume"]["usd"] == 115403358622.58966
    assert b"e+15," in answer.body
    assert type(caps["idr"]) is int and caps["idr"] > 2**53
    assert type(caps["ars"]) is float and caps["ars"] > 1e15
    assert type(data["updated_at"]) is int
    assert all(type(n) is float for n in data["market_cap_percentage"].values())


def test_alternative_writes_numbers_in_strings(still: Vendors) -> None:
    whole = body(still, "alternative")
    assert whole["name"] == "Fear and Greed Index"
    assert whole["metadata"] == {"error": None}
    (today,) = whole["data"]
    assert today["value"] == "50" and today["value_classification"] == "Neutral"
    assert int(today["timestamp"]) + DAY - int(today["time_until_update"]) <= (
        time.time()
    )
    days = body(still, "alternative", "/fng/?limit=3")["data"]
    times = [int(day["timestamp"]) for day in days]
    assert times == [times[0] - back * DAY for back in range(3)]
    assert ["time_until_update" in day for day in days] == [True, False, False]


def test_taapi_says_one_number(still: Vendors) -> None:
    assert body(still, "taapi") == {"value": 42.3291744124084}


def test_binance_writes_prices_in_strings_and_times_not(still: Vendors) -> None:
    bitcoin, ether = body(still, "binance")
    assert bitcoin["lastPrice"] == "112884.00000000"
    assert bitcoin["priceChangePercent"] == "-0.796"
    assert (bitcoin["symbol"], ether["symbol"]) == ("BTCUSDT", "ETHUSDT")
    whole = {"openTime", "closeTime", "firstId", "lastId", "count"}
    assert {name for name, it in ether.items() if type(it) is int} == whole
    assert all(type(it) is str for name, it in ether.items() if name not in whole)
    assert len(ether) == 21 and ether["closeTime"] - ether["openTime"] == DAY * 1000
    assert float(bitcoin["lastPrice"]) - float(bitcoin["openPrice"]) == pytest.approx(
        float(bitcoin["priceChange"])
    )
    one = body(still, "binance", "/api/v3/ticker/24hr?symbol=BTCUSDT")
    assert one["lastPrice"] == bitcoin["lastPrice"]


def test_coinmarketcap_wraps_figures_in_a_status(still: Vendors) -> None:
    whole = body(still, "cmc", "/v1/global-metrics/quotes/latest")
    assert whole["status"]["error_code"] == 0 and whole["data"]["last_updated"]
    usd = whole["data"]["quote"]["USD"]
    assert usd["total_market_cap"] == 3912296730719.0854
    assert usd["total_volume_24h"] == 115403358622.58966
    for kind in ("defi", "stablecoin", "derivatives"):
        assert type(whole["data"][f"{kind}_volume_24h"]) is float
    coin = body(still, "cmc")["data"]["BTC"]
    assert coin["quote"]["USD"]["price"] == 112884.0
    assert coin["quote"]["USD"]["percent_change_24h"] == -0.7955129838191605
    second = body(still, "cmc", GOOD["cmc"].replace("v1", "v2"))["data"]["BTC"]
    assert [it["quote"]["USD"]["price"] for it in second] == [112884.0]


def test_finnhub_knows_three_symbols(still: Vendors) -> None:
    for symbol in ("DIA", "SPY", "QQQM"):
        said = body(still, "finnhub", f"/api/v1/quote?symbol={symbol}&token=T")
        assert list(said) == ["c", "d", "dp", "h", "l", "o", "pc", "t"]
        assert said["l"] < said["c"] < said["h"] and type(said["t"]) is int
        assert said["c"] - said["pc"] == pytest.approx(said["d"], abs=0.011)
    other = body(still, "finnhub", "/api/v1/quote?symbol=XXX&token=T")
    assert (other["c"], other["pc"], other["t"], other["dp"]) == (0, 0, 0, None)


@pytest.mark.parametrize(
    ("vendor", "path", "fields", "status"),
    [
        ("coingecko", PRICE, {}, 403),
        ("binance", TICKERS, {}, 418),
        ("taapi", RSI.replace("secret=K", "secret="), FIELDS, 401),
        ("finnhub", "/api/v1/quote?symbol=SPY", FIELDS, 401),
        ("cmc", GOOD["cmc"], {"User-Agent": "test"}, 401),
        ("coingecko", "/api/v3/simple/price?ids=bitcoin", FIELDS, 422),
        ("coingecko", "/api/v3/none", FIELDS, 404),
        ("taapi", "/rsi?secret=K", FIELDS, 400),
        ("binance", TICKERS.replace("ETH", "NOT"), FIELDS, 400),
        ("binance", "/api/v3/ticker/24hr?symbols=BTC", FIELDS, 400),
        ("cmc", "/v1/cryptocurrency/quotes/latest?symbol=X", FIELDS, 400),
        ("nobody", "/", FIELDS, 404),
    ],
    ids=lambda value: str(value) if isinstance(value, str | int) else "",
)
def test_request_that_the_vendor_refuses(
    vendors: Vendors, vendor: str, path: str, fields: dict[str, str], status: int
) -> None:
    assert get(vendors.port, f"/{vendor}{path}", **fields).status == status


# --- the truth


@pytest.mark.parametrize("vendor", VENDORS)
def test_answer_is_the_truth_of_its_second(vendors: Vendors, vendor: str) -> None:
    begin = int(time.time()) - vendors.began
    answer = ask(vendors, vendor)
    second = int(answer.headers["x-second"])
    assert begin <= second <= int(time.time()) - vendors.began
    assert bitcoin(vendor, json.loads(answer.body)) == true_value(vendor, second)


def test_truth_moves_every_second_and_little() -> None:
    said = [truth("coingecko", second) for second in range(200)]
    for before, after in pairwise(said):
        assert before.market_cap_usd != after.market_cap_usd
        assert before.rsi_14 != after.rsi_14
        assert abs(after.btc_price_usd / before.btc_price_usd - 1) < 0.001
        assert before.fng_value == after.fng_value
    assert len({it.btc_price_usd for it in said}) > 50
    assert len({it.btc_price_usd.is_integer() for it in said}) == 2


def test_truth_is_of_seed_and_vendor() -> None:
    assert truth("cmc", 99) == truth.__wrapped__("cmc", 99)
    assert truth("cmc", 99) != truth("cmc", 99, seed=1)
    assert truth("cmc", 0) == truth("coingecko", 0, seed=1)
    one, other = (truth(v, 99).btc_price_usd for v in ("coingecko", "binance"))
    assert one != other and abs(one / other - 1) < 0.0005


def test_fear_and_greed_changes_by_the_day() -> None:
    days = [truth("alternative", day * DAY) for day in range(60)]
    assert len({it.fng_value for it in days}) > 10
    for it in days:
        assert 0 <= it.fng_value <= 100
        assert ("Fear" in it.fng_classification) == (it.fng_value < 47)
    last = truth("alternative", DAY - 1)
    assert last.fng_value == days[0].fng_value != days[1].fng_value


# --- faults


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    ("mode", "how", "status", "retry_after"),
    [
        ("limited", {}, 429, None),
        ("limited", {"retry_after": 6.5}, 429, "7"),
        ("error_body", {}, 200, None),
        ("banned", {}, 418, "120"),
        ("blocked", {}, 451, None),
        ("failing", {}, 500, None),
        ("failing", {"status": 503, "retry_after": 5}, 503, "5"),
    ],
)
def test_refusals(
    vendors: Vendors,
    vendor: str,
    mode: str,
    how: dict[str, float],
    status: int,
    retry_after: str | None,
) -> None:
    vendors.fault(vendor, mode, **how)
    answer = ask(vendors, vendor)
    assert answer.status == status
    assert answer.headers.get("retry-after") == retry_after
    if mode == "failing":
        assert answer.headers["content-type"] == "text/html"
    else:
        with pytest.raises((KeyError, TypeError)):
            bitcoin(vendor, json.loads(answer.body))
    vendors.fault(vendor)
    assert ask(vendors, vendor).status == 200


@pytest.mark.parametrize(
    ("vendor", "said"),
    [
        ("coingecko", {"status": {"error_code": 429}}),
        ("taapi", {"error": "You have exceeded your request limit"}),
        ("binance", {"code": -1003}),
        ("cmc", {"status": {"error_code": 1008}}),
        ("finnhub", {"error": "API limit reached."}),
        ("alternative", {"metadata": {"error": "Too many"}}),
    ],
)
def test_limit_has_the_same_body_with_200_and_429(
    vendors: Vendors, vendor: str, said: dict[str, Any]
) -> None:
    bodies = []
    for mode in ("error_body", "limited"):
        vendors.fault(vendor, mode)
        bodies.append(json.loads(ask(vendors, vendor).body))
    for found in bodies:
        for name, part in said.items():
            if isinstance(part, str):
                assert found[name].startswith(part)
            elif isinstance(part, dict):
                ((inner, value),) = part.items()
                assert str(found[name][inner]).startswith(str(value))
            else:
                assert found[name] == part


def test_ban_tells_its_end_and_ends_then(vendors: Vendors) -> None:
    began = time.time()
    vendors.fault("binance", "banned", retry_after=0.3)
    answer = ask(vendors, "binance")
    said = json.loads(answer.body)
    until_ms = int(said["msg"].partition("until ")[2].partition(".")[0])
    assert answer.status == 418 and said["code"] == -1003
    assert answer.headers["retry-after"] == "1"
    assert began + 0.3 <= until_ms / 1000 + 0.001 < began + 5
    until(lambda: ask(vendors, "binance").status == 200)
    assert time.time() >= until_ms / 1000 - 0.001


def test_hanging_call_ends_with_its_client(vendors: Vendors) -> None:
    vendors.fault("taapi", "hang")
    with pytest.raises(TimeoutError):
        ask(vendors, "taapi", timeout=0.1)
    until(lambda: vendors.calls()["taapi"]["keys"][RSI]["statuses"] == {"left": 1})


def test_connection_is_reset(vendors: Vendors) -> None:
    vendors.fault("cmc", "reset")
    with pytest.raises(ConnectionResetError) as broken:
        ask(vendors, "cmc")
    assert broken.type is ConnectionResetError  # not that of a mere end
    keys = vendors.calls()["cmc"]["keys"]
    assert keys[GOOD["cmc"]]["statuses"] == {"reset": 1}


@pytest.mark.parametrize("vendor", VENDORS)
def test_truncated_payload_looks_whole(vendors: Vendors, vendor: str) -> None:
    vendors.fault(vendor, "truncated")
    answer = ask(vendors, vendor)
    assert int(answer.headers["content-length"]) == len(answer.body) > 0
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)


@pytest.mark.parametrize("vendor", VENDORS)
def test_wrong_types_take_turns(vendors: Vendors, vendor: str) -> None:
    vendors.fault(vendor, "wrong_types")
    found = []
    for _ in range(5):
        said = body(vendors, vendor)
        found.append(
            said["data"][0]["value"]
            if vendor == "alternative"
            else said[0]["lastPrice"]
            if vendor == "binance"
            else bitcoin(vendor, said)
        )
    assert found == [None, "n/a", True, [], {}]


@pytest.mark.parametrize("vendor", VENDORS)
def test_missing_value_leaves_the_rest(vendors: Vendors, vendor: str) -> None:
    vendors.fault(vendor, "missing")
    said = body(vendors, vendor)
    if vendor == "binance":
        assert [it["symbol"] for it in said] == ["ETHUSDT"]
        one = body(vendors, vendor, "/api/v3/ticker/24hr?symbol=BTCUSDT")
        assert one == {}
        return
    with pytest.raises(KeyError):
        bitcoin(vendor, said)
    assert vendor in ("coingecko", "taapi") or said


def test_global_figures_can_be_missing_too(vendors: Vendors) -> None:
    vendors.fault("coingecko", "missing")
    data = body(vendors, "coingecko", "/api/v3/global")["data"]
    assert len(data["total_market_cap"]) == len(data["total_volume"]) == 61
    assert "usd" not in data["total_market_cap"]
    vendors.fault("cmc", "missing")
    whole = body(vendors, "cmc", "/v1/global-metrics/quotes/latest")
    assert whole["data"]["quote"] == {}


@pytest.mark.parametrize("vendor", VENDORS)
def test_zeros_keep_types_and_times(vendors: Vendors, vendor: str) -> None:
    vendors.fault(vendor, "zeros")
    said = body(vendors, vendor)
    assert bitcoin(vendor, said) == 0
    if vendor == "alternative":
        assert said["data"][0]["value"] == "0" != said["data"][0]["timestamp"]
    if vendor == "binance":
        assert said[0]["lastPrice"] == "0" and said[0]["closeTime"] > 1e12


@pytest.mark.parametrize("vendor", VENDORS)
def test_stale_payload_was_true_once(vendors: Vendors, vendor: str) -> None:
    vendors.fault(vendor, "stale", age=2 * DAY)
    answer = ask(vendors, vendor)
    second = int(answer.headers["x-second"])
    assert 0 <= int(time.time()) - vendors.began - 2 * DAY - second <= 5
    assert bitcoin(vendor, json.loads(answer.body)) == true_value(vendor, second)


def test_stale_payload_stays(vendors: Vendors) -> None:
    vendors.fault("binance", "stale")
    before = ask(vendors, "binance")
    later = int(time.time()) + 1
    until(lambda: time.time() >= later)
    assert ask(vendors, "binance").body == before.body


def test_stale_times_are_old(vendors: Vendors) -> None:
    for vendor in VENDORS:
        vendors.fault(vendor, "stale")
    old = range(int(time.time()) - 3605, int(time.time()) - 3598)
    told = body(vendors, "coingecko", f"{PRICE}&include_last_updated_at=true")
    assert told["bitcoin"]["last_updated_at"] in old
    assert body(vendors, "coingecko", "/api/v3/global")["data"]["updated_at"] in old
    assert body(vendors, "finnhub")["t"] in old
    assert body(vendors, "binance")[0]["closeTime"] // 1000 in old


def test_fault_lasts_so_many_calls_or_seconds(vendors: Vendors) -> None:
    vendors.fault("taapi", "failing", calls=2)
    assert [ask(vendors, "taapi").status for _ in range(4)] == [500, 500, 200, 200]
    began = time.time()
    vendors.fault("taapi", "failing", seconds=0.3)
    assert ask(vendors, "taapi").status == 500
    until(lambda: ask(vendors, "taapi").status == 200)
    assert time.time() - began >= 0.3


def test_fault_of_a_path_leaves_the_others(vendors: Vendors) -> None:
    vendors.fault("coingecko", "failing", path="/api/v3/global")
    assert ask(vendors, "coingecko", "/api/v3/global").status == 500
    assert ask(vendors, "coingecko").status == 200
    vendors.fault("coingecko", "blocked")
    vendors.fault("coingecko", "ok", path="/api/v3/global")
    assert ask(vendors, "coingecko", "/api/v3/global").status == 200
    assert ask(vendors, "coingecko").status == 451


def test_latency_goes_with_any_mode(vendors: Vendors) -> None:
    vendors.fault("taapi", latency=0.2)
    assert ask(vendors, "taapi").seconds >= 0.2
    vendors.fault("taapi", "failing", latency=0.2)
    answer = ask(vendors, "taapi")
    assert answer.status == 500 and answer.seconds >= 0.2
    vendors.fault("taapi")
    assert ask(vendors, "taapi").seconds < 0.2


def test_latencies_are_drawn_by_vendor() -> None:
    with running("--latency", "taapi=0.3") as vendors, ThreadPoolExecutor(60) as pool:
        took = {
            vendor: [pool.submit(ask, vendors, vendor) for _ in range(20)]
            for vendor in ("binance", "cmc", "taapi")
        }
        seconds = {v: sorted(f.result().seconds for f in took[v]) for v in took}
    assert all(0.08 <= s < 5 for s in seconds["binance"] + seconds["cmc"])
    assert seconds["binance"][10] < seconds["cmc"][10]
    assert seconds["cmc"][-1] - seconds["cmc"][0] > 0.1
    assert 0.3 <= seconds["taapi"][0] < 0.5


# --- budgets


def test_budget_is_enforced_over_a_sliding_window(vendors: Vendors) -> None:
    vendors.budget("coingecko", 3, 60)
    answers = [ask(vendors, "coingecko") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert 55 <= int(answers[3].headers["retry-after"]) <= 60
    assert ask(vendors, "taapi").status == 200
    vendors.budget("coingecko", None)
    assert ask(vendors, "coingecko").status == 200


def test_budget_has_room_again_call_by_call() -> None:
    spent = Spent(Budget(2, 10.0))
    at = {0.0: 0.0, 4.0: 0.0, 5.0: 5.0, 9.0: 1.0, 10.0: 0.0, 11.0: 3.0, 14.0: 0.0}
    assert {now: spent.take(1, now) for now in at} == at


def test_taapi_does_not_say_when_to_come_back(vendors: Vendors) -> None:
    vendors.budget("taapi", 1, 15)
    ask(vendors, "taapi")
    answer = ask(vendors, "taapi")
    assert answer.status == 429 and "retry-after" not in answer.headers


def test_binance_counts_weight_and_bans_who_goes_on(vendors: Vendors) -> None:
    vendors.budget("binance", 4, 60)
    answers = [ask(vendors, "binance") for _ in range(PATIENCE + 4)]
    assert Counter(answer.status for answer in answers) == {
        200: 2, 429: PATIENCE, 418: 2,
    }  # fmt: skip
    assert answers[-1].headers["retry-after"] in ("119", "120")
    assert b"IP banned until" in answers[-1].body
    used = [int(answer.headers["x-mbx-used-weight-1m"]) for answer in answers]
    assert all(b == a + 2 or b == 2 for a, b in pairwise(used))


# --- counts


def test_calls_are_counted_by_key_second_and_end(vendors: Vendors) -> None:
    first = int(time.time()) - vendors.began
    vendors.fault("coingecko", "failing", calls=1)
    for path in (PRICE, PRICE, "/api/v3/global?x=%20"):
        ask(vendors, "coingecko", path)
    last = int(time.time()) - vendors.began
    counts = vendors.calls()
    found = counts["coingecko"]
    assert (found["calls"], found["busiest"], found["forgotten"]) == (3, 3, 0)
    price = found["keys"][PRICE]
    assert price["statuses"] == {"500": 1, "200": 1}
    assert sum(price["seconds"].values()) == price["calls"] == price["busiest"] == 2
    assert all(first <= int(second) <= last for second in price["seconds"])
    assert found["keys"]["/api/v3/global?x=%20"]["calls"] == 1
    assert counts["taapi"] == {"calls": 0, "busiest": 0, "forgotten": 0, "keys": {}}


def test_refused_calls_are_counted(vendors: Vendors) -> None:
    get(vendors.port, "/taapi/rsi", **FIELDS)
    assert vendors.calls()["taapi"]["keys"]["/rsi"]["statuses"] == {"401": 1}


def test_short_windows_hold_fewer_calls(vendors: Vendors) -> None:
    for _ in range(2):
        ask(vendors, "taapi")
    assert vendors.calls(window=1e-6)["taapi"]["busiest"] == 1
    assert vendors.calls(window=60)["taapi"]["busiest"] == 2


def test_busiest_window_is_exact() -> None:
    draws = random.Random(0)
    for _ in range(50):
        times = sorted(draws.randrange(100) for _ in range(draws.randrange(30)))
        window = draws.randrange(1, 40)
        by_hand = [sum(t <= it < t + window for it in times) for t in times]
        assert busiest(times, window) == max(by_hand, default=0)


def test_log_is_bounded_and_says_so() -> None:
    calls = Calls(["a"], log_max=3)
    for at in range(5):
        calls.arrived("a", "/x", at, at)
    counts = calls.counts(10)["a"]
    assert (counts["calls"], counts["busiest"], counts["forgotten"]) == (5, 3, 2)


def test_reset_forgets_calls_faults_and_budgets(vendors: Vendors) -> None:
    vendors.fault("taapi", "hang", seconds=60)
    vendors.budget("taapi", 1)
    shown = vendors.control("GET", "")["vendors"]["taapi"]
    assert shown["budget"] == {"limit": 1, "window": 60}
    (fault,) = shown["faults"]
    assert fault["mode"] == "hang" and 50 < fault["seconds"] <= 60
    vendors.reset()
    assert vendors.control("GET", "")["vendors"]["taapi"] == {
        "faults": [], "budget": None,
    }  # fmt: skip
    assert [ask(vendors, "taapi").status for _ in range(2)] == [200, 200]
    assert vendors.calls()["taapi"]["calls"] == 2


@pytest.mark.parametrize(
    ("path", "what", "named"),
    [
        ("fault/nobody", {"mode": "hang"}, "'nobody'"),
        ("fault/taapi", {"mode": "rain"}, "'rain'"),
        ("fault/taapi", {"mood": "hang"}, "`mood`"),
        ("fault/taapi", {"latency": -1}, "`$.latency`"),
        ("fault/taapi", {"mode": "stale", "age": 1e300}, "`$.age`"),
        ("fault/taapi", {"mode": "failing", "status": 200}, "`$.status`"),
        ("fault/taapi", {"mode": "hang", "status": 500}, "`status`"),
        ("fault/taapi", {"mode": "hang", "age": 5}, "`age`"),
        ("fault/taapi", {"path": "/none"}, "'/none'"),
        ("fault/taapi", {"calls": 0}, "`$.calls`"),
        ("fault/taapi", [], "array"),
        ("budget/taapi", {"window": 5}, "`limit`"),
        ("budget/taapi", {"limit": 1, "window": 0}, "`$.window`"),
        ("budget/nobody", {"limit": 1}, "'nobody'"),
    ],
)
def test_wrong_control_input_is_named(
    vendors: Vendors, path: str, what: object, named: str
) -> None:
    with pytest.raises(ValueError) as refused:
        vendors.control("POST", path, what)
    said = str(refused.value)
    assert named in said and "\n" not in said
    assert vendors.control("GET", "")["vendors"]["taapi"]["faults"] == []


@pytest.mark.parametrize("window", ["0", "-1", "x", "nan"])
def test_wrong_window_is_named(vendors: Vendors, window: str) -> None:
    answer = get(vendors.port, f"/control/calls?window={window}")
    assert answer.status == 400 and b"`window`" in answer.body


def test_no_json_is_named(vendors: Vendors) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", vendors.port, timeout=10)
    with closing(connection):
        connection.request("POST", "/control/fault/taapi", b"{")
        response = connection.getresponse()
        assert response.status == 400 and b"truncated" in response.read()


# --- the websocket


async def test_stream_sends_each_symbol_every_second(vendors: Vendors) -> None:
    url = f"{vendors.url('binance')}/stream?streams=btcusdt@ticker/ethusdt@ticker"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as ws:
        frames = [await ws.receive_json(timeout=5) for _ in range(4)]
        vendors.fault("binance", "zeros", path="/stream")
        zero = await ws.receive_json(timeout=5)
        vendors.fault("binance", "reset", path="/stream")
        while not (message := await ws.receive(timeout=5)).type.value >= 0x100:
            pass
        assert message.type in (aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSED)
    assert [frame["stream"] for frame in frames] == [
        "btcusdt@ticker", "ethusdt@ticker",
    ] * 2  # fmt: skip
    for frame in (frames[0], frames[2]):
        data = frame["data"]
        second = data["E"] // 1000 - vendors.began
        assert float(data["c"]) == truth("binance", second).btc_price_usd
        assert (data["e"], data["s"]) == ("24hrTicker", "BTCUSDT")
        assert type(data["P"]) is str and len(data) == 23
    assert frames[2]["data"]["E"] > frames[0]["data"]["E"]
    assert zero["data"]["c"] == "0"


async def test_stream_of_no_symbol_is_refused(vendors: Vendors) -> None:
    for streams in ("", "btcusdt@trade", "nousdt@ticker"):
        path = f"/binance/stream?streams={streams}"
        assert get(vendors.port, path).status == 400


# --- the process


def counted(port: int, vendor: str) -> int:
    """The calls that a simulator on that port got."""
    counts = json.loads(get(port, "/control/calls").body)
    return int(counts["vendors"][vendor]["calls"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_at_once(number: signal.Signals) -> None:
    process = python("-m", "loadtest.vendors", "--port", "0", stdout=subprocess.PIPE)
    try:
        with process.stdout:
            port = int(process.stdout.readline().rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port)) as s:
            fault = b'{"mode":"hang"}'
            head = b"POST /control/fault/taapi HTTP/1.1\r\nHost: x\r\n"
            s.sendall(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(fault), fault))
            assert s.recv(1000).startswith(b"HTTP/1.1 204")
            s.sendall(b"GET /taapi/rsi HTTP/1.1\r\nHost: x\r\n\r\n")
            until(lambda: counted(port, "taapi"))
            began = time.monotonic()
            process.send_signal(number)
            assert process.wait(5) == 0
            assert time.monotonic() - began < 1
    finally:
        end(process)


def test_simulator_ends_with_who_runs_it() -> None:
    script = (
        "from loadtest.vendors import running\n"
        "import signal\n"
        "with running() as v: print(v.pid, flush=True); signal.pause()"
    )
    process = python("-c", script, stdout=subprocess.PIPE)
    with process.stdout:
        pid = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        until(lambda: not alive(pid))
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_port_in_use_is_told(vendors: Vendors, capfd: Any) -> None:
    process = python("-m", "loadtest.vendors", "--port", str(vendors.port))
    try:
        assert process.wait(10) == 1
    finally:
        end(process)
    assert capfd.readouterr().err.startswith("vendors: ")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--latency", it) for it in ("x", "-1", "nan", "nobody=1", "taapi=")),
        *(("--port", it) for it in ("x", "-1", "65536")),
    ],
)
def test_wrong_flag_is_told(flag: str, value: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main([f"{flag}={value}"])
    assert flag in capsys.readouterr().err


async def test_many_calls_are_borne(
    vendors: Vendors, measured: Callable[[str], None]
) -> None:
    urls = [vendors.url("coingecko") + path for path in (PRICE, "/api/v3/global")]

    async def client(session: aiohttp.ClientSession) -> None:
        for turn in range(40):
            async with session.get(urls[turn % 2]) as response:
                assert response.status == 200 and await response.read()

    began = time.monotonic()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(client(session) for _ in range(50)))
    rate = 2000 / (time.monotonic() - began)
    measured(f"simulated vendors: {rate:.0f} calls a second, the client included")
    assert vendors.calls()["coingecko"]["calls"] == 2000
