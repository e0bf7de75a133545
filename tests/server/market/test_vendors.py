"""Each vendor's payload, whole and spoilt."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server.market import vendors
from shmcache_server.market.answers import Answer, Unusable
from shmcache_server.market.vendors import Parse, Reading

NOW = 1_700_000_000.0
TICKER = {
    "symbol": "BTCUSDT",
    "priceChangePercent": "-0.089",
    "lastPrice": "118780.12000000",
    "closeTime": 1655446835460,
    "count": 7,
}
USD = {"price": 112884.5, "percent_change_24h": 0.25}
TOTALS = {"total_market_cap": 2304896836510.4614, "total_volume_24h": 107437681371.3}

PAYLOADS: dict[str, tuple[Parse, Any, dict[str, Any], float | None]] = {
    "coingecko price": (
        vendors.coingecko_price,
        {"bitcoin": {"usd": 112884, "usd_24h_change": -0.7955129838191605}},
        {"btc_price_usd": 112884, "btc_change_24h": -0.7955129838191605},
        None,
    ),
    "coingecko global": (
        vendors.coingecko_global,
        {
            "data": {
                "total_market_cap": {"usd": 3912296730719.0854, "ars": 3.9e15},
                "total_volume": {"usd": 115403358622.58966, "idr": 61467369498045290},
                "updated_at": 1737105225,
            }
        },
        {
            "market_cap_usd": 3912296730719.0854,
            "volume_24h_usd": 115403358622.58966,
        },
        1737105225.0,
    ),
    "alternative": (
        vendors.alternative_fng,
        {
            "name": "Fear and Greed Index",
            "data": [
                {
                    "value": "39",
                    "value_classification": "Fear",
                    "timestamp": "1746148800",
                    "time_until_update": "3599",
                }
            ],
            "metadata": {"error": None},
        },
        {"fng_value": 39, "fng_classification": "Fear"},
        1746148800.0,
    ),
    "taapi": (
        vendors.taapi_rsi,
        {"value": 42.3291744124084},
        {"rsi_14": 42.3291744124084},
        None,
    ),
    "binance": (
        vendors.binance_btc,
        TICKER,
        {"btc_price_usd": 118780.12, "btc_change_24h": -0.089},
        1655446835.46,
    ),
    "binance coins": (
        vendors.binance_coins(("BTCUSDT", "ETHUSDT")),
        [{**TICKER, "symbol": "ETHUSDT", "lastPrice": "4382.61"}, TICKER],
        {
            "BTCUSDT": {"price_usd": 118780.12, "change_24h": -0.089},
            "ETHUSDT": {"price_usd": 4382.61, "change_24h": -0.089},
        },
        1655446835.46,
    ),
    "cmc": (
        vendors.cmc_btc,
        {"status": {"error_code": 0}, "data": {"BTC": {"quote": {"USD": USD}}}},
        {"btc_price_usd": 112884.5, "btc_change_24h": 0.25},
        None,
    ),
    "cmc second version": (
        vendors.cmc_btc,
        {"data": {"BTC": [{"quote": {"USD": USD}}]}},
        {"btc_price_usd": 112884.5, "btc_change_24h": 0.25},
        None,
    ),
    "cmc global": (
        vendors.cmc_global,
        {
            "data": {
                "quote": {"USD": {**TOTALS, "last_updated": "2025-01-17T09:13:45.000Z"}}
            }
        },
        {
            "market_cap_usd": 2304896836510.4614,
            "volume_24h_usd": 107437681371.3,
        },
        1737105225.0,
    ),
}
FINNHUB = {"c": 261.74, "d": -1.2, "dp": -0.46, "pc": 259.45, "t": 1582641000}


def read(parse: Parse, *bodies: Any) -> Reading:
    answers = [
        Answer(200, {}, b if isinstance(b, bytes) else json.dumps(b).encode())
        for b in bodies
    ]
    return parse(answers, NOW)


@pytest.mark.parametrize("name", PAYLOADS)
def test_payload_is_read(name) -> None:
    parse, body, values, as_of = PAYLOADS[name]
    assert read(parse, body) == Reading(values, as_of)


def test_quotes_are_read_in_their_order() -> None:
    parse = vendors.finnhub_quotes(("DIA", "SPY"))
    reading = read(parse, FINNHUB, {**FINNHUB, "c": 645, "t": 1582640000})
    assert reading.values["DIA"] == {"price_usd": 261.74, "change_24h": -0.46}
    assert reading.values["SPY"]["price_usd"] == 645
    assert reading.as_of == 1582640000.0  # the oldest's


def _leaves(body: Any) -> list[tuple[Any, Any]]:
    """Where the values stand, each with its container."""
    rows = body.items() if type(body) is dict else enumerate(body)
    found: list[tuple[Any, Any]] = []
    for place, value in list(rows):
        inside = type(value) in (dict, list)
        found += _leaves(value) if inside else [(body, place)]
    return found


_UNREAD = {
    *("timestamp", "time_until_update", "name", "count", "closeTime", "error"),
    *("updated_at", "error_code", "ars", "idr", "last_updated"),
}
WRONG = [None, True, [], {}, "n/a", "", "1e3", "\u0661", math.nan, math.inf, -math.inf]
WRONG += [2**63, 10**400]


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: str(w)[:10] or "empty")
def test_wrong_value_is_unusable(name, wrong) -> None:
    parse, whole, _, _ = PAYLOADS[name]
    count = 0
    for number in range(len(_leaves(json.loads(json.dumps(whole))))):
        body = json.loads(json.dumps(whole))
        container, place = _leaves(body)[number]
        if place in _UNREAD:
            continue
        container[place] = wrong
        with pytest.raises(Unusable):
            read(parse, body)
        count += 1
    assert count


@pytest.mark.parametrize("name", PAYLOADS)
def test_missing_value_is_unusable(name) -> None:
    parse, whole, _, _ = PAYLOADS[name]
    for number in range(len(_leaves(whole))):
        body = json.loads(json.dumps(whole))
        container, place = _leaves(body)[number]
        if place not in _UNREAD:
            del container[place]
            with pytest.raises(Unusable):
                read(parse, body)


@pytest.mark.parametrize("price", [0, 0.0, -0.0, -1, "0", "0.00000000", "-5.0"])
def test_price_of_nothing_is_unusable(price) -> None:
    for name, place in (("coingecko price", "usd"), ("cmc", "price")):
        parse, whole, _, _ = PAYLOADS[name]
        text = json.dumps(whole).replace("112884.5", "112884")
        said = json.dumps(price)
        with pytest.raises(Unusable):
            read(
                parse, text.replace(f'"{place}": 112884', f'"{place}": {said}').encode()
            )
    with pytest.raises(Unusable):
        read(vendors.binance_btc, {**TICKER, "lastPrice": price})


def test_zeros_of_an_unknown_symbol_are_unusable() -> None:
    body = {"c": 0, "d": None, "dp": None, "h": 0, "l": 0, "o": 0, "pc": 0, "t": 0}
    with pytest.raises(Unusable):
        read(vendors.finnhub_quotes(("X",)), body)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *((value, "Fear") for value in ("101", "-1", "4.5", " 39", "", 39)),
        *(("0", "Neutral"), ("39", "Extreme Greed"), ("101", "Extreme Greed")),
        *(("39", "fear"), ("39", ["Fear"])),
    ],
)
def test_index_that_is_not_of_its_class_is_unusable(value, said) -> None:
    row = {"value": value, "value_classification": said}
    with pytest.raises(Unusable):
        read(vendors.alternative_fng, {"data": [row]})


@pytest.mark.parametrize("when", [0, -1, 1e300, "x", None, True, "2025-01-17", [1]])
def test_odd_time_is_no_time(when) -> None:
    body = {"bitcoin": {"usd": 1.0, "usd_24h_change": 0, "last_updated_at": when}}
    assert read(vendors.coingecko_price, body).as_of is None
    usd = {**TOTALS, "last_updated": when}
    assert read(vendors.cmc_global, {"data": {"quote": {"USD": usd}}}).as_of is None


@given(st.floats(1e-300, 1e300) | st.integers(1, 2**63 - 1), st.floats(-1e9, 1e9))
def test_figures_keep_their_digits(price, change) -> None:
    body = {"bitcoin": {"usd": price, "usd_24h_change": change}}
    values = read(vendors.coingecko_price, body).values
    told = json.loads(json.dumps(values))
    assert (told["btc_price_usd"], told["btc_change_24h"]) == (price, change)
    assert type(told["btc_price_usd"]) is type(price)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "value", "bitcoin", "usd", "quote", "USD", "c"]),
            inner,
            max_size=3,
        )
    ),
)


@given(JSON, st.sampled_from(sorted(PAYLOADS)))
def test_any_json_is_read_or_unusable(body, name) -> None:
    parse = PAYLOADS[name][0]
    try:
        values = read(parse, body).values
    except Unusable:
        return
    assert all(math.isfinite(v) for v in values.values() if type(v) is float)
