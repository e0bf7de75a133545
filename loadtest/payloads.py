"""The vendors' payloads: what each answers at a moment, in its own shape and types.

Shapes, spelling of numbers and refusals are those of the vendors' public APIs: floats
with e+15 and integers above 2^53 from CoinGecko, numbers in strings from alternative.me
and Binance. Names are of a vendor, and of a path below its prefix.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from .truth import COINS, DAY, SEED, Quote, Truth, truth

Query = Mapping[str, str]


class Moment(NamedTuple):
    """When it is in the simulation."""

    began: int
    """Unix time of second 0."""
    second: int
    still: bool = False
    """Time goes on, but figures keep the sample's values."""
    seed: int = SEED

    @property
    def time(self) -> int:
        return self.began + self.second

    def truth(self, vendor: str) -> Truth:
        return truth(vendor, 0 if self.still else self.second, self.seed)


class Refused(Exception):
    """A request that the vendor does not answer: the status and body it gets."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status)
        self.status = status
        self.body = msgspec.json.encode(body)


@lru_cache(64)
def payload(vendor: str, path: str, query: str, now: Moment) -> bytes:
    """The body that a vendor answers with 200; raises Refused."""
    try:
        build = VENDORS[vendor][path]
    except KeyError:
        raise Refused(404, {"error": "Not Found"}) from None
    return msgspec.json.encode(build(now, dict(parse_qsl(query))))


# --- CoinGecko

_PER_DOLLAR = {
    "btc": 8.8587e-06, "eth": 2.28174e-04, "ltc": 8.8731e-03, "bch": 1.8182e-03,
    "bnb": 1.1721e-03, "eos": 2.0873, "xrp": 0.3553, "xlm": 2.5873,
    "link": 0.042753, "dot": 0.25907, "yfi": 1.8359e-04, "usd": 1.0,
    "aed": 3.67266, "ars": 1359.24, "aud": 1.53352, "bdt": 121.69,
    "bhd": 0.377014, "bmd": 1.0, "brl": 5.4181, "cad": 1.37472,
    "chf": 0.80068, "clp": 966.85, "cny": 7.1317, "czk": 20.97,
    "dkk": 6.3761, "eur": 0.85413, "gbp": 0.74012, "gel": 2.6945,
    "hkd": 7.7955, "huf": 338.98, "idr": 16385.41, "ils": 3.3421,
    "inr": 88.16, "jpy": 146.98, "krw": 1389.12, "kwd": 0.30553,
    "lkr": 301.96, "mmk": 2098.0, "mxn": 18.6524, "myr": 4.2255,
    "ngn": 1535.21, "nok": 10.0416, "nzd": 1.69545, "php": 57.02,
    "pkr": 281.77, "pln": 3.6393, "rub": 80.12, "sar": 3.75231,
    "sek": 9.4523, "sgd": 1.28361, "thb": 32.31, "try": 41.13,
    "twd": 30.589, "uah": 41.26, "vef": 0.10013, "vnd": 26345.0,
    "zar": 17.6628, "xdr": 0.70049, "xag": 0.025176, "xau": 2.9e-04,
    "bits": 8.8587, "sats": 885.87,
}  # fmt: skip
"""What a dollar buys of each of CoinGecko's 62 currencies."""
_WHOLE = {"idr", "vnd"}
"""Written without a point, above 2^53."""
_SHARES = {
    "btc": 53.9930159141062, "eth": 10.9542610800551, "xrp": 5.01940131240867,
    "usdt": 3.66730520613209, "sol": 2.80518834066421, "bnb": 2.80334516207113,
    "doge": 1.64441209337806, "usdc": 1.24012780453927, "ada": 1.07343918402296,
    "steth": 0.871160475310213,
}  # fmt: skip
"""Percent of the market's capitalisation."""
_ASKED = {"_market_cap": "include_market_cap", "_24h_vol": "include_24hr_vol"}


def _coingecko_ping(now: Moment, query: Query) -> object:
    return {"gecko_says": "(V3) To the Moon!"}


def _coingecko_price(now: Moment, query: Query) -> object:
    for name in ("ids", "vs_currencies"):
        if not query.get(name):
            raise Refused(422, {"error": f"Missing parameter {name}"})
    if "bitcoin" not in query["ids"].split(","):
        return {}
    seen = now.truth("coingecko")
    dollars = {
        "": seen.btc_price_usd,
        "_market_cap": seen.market_cap_usd * _SHARES["btc"] / 100,
        "_24h_vol": seen.volume_24h_usd / 3,
    }
    coin: dict[str, float] = {}
    for currency in query["vs_currencies"].split(","):
        if rate := _PER_DOLLAR.get(currency):
            for name, figure in dollars.items():
                if not name or _true(query, _ASKED[name]):
                    coin[currency + name] = _plain(figure * rate)
            if _true(query, "include_24hr_change"):
                coin[f"{currency}_24h_change"] = seen.btc_change_24h
    if _true(query, "include_last_updated_at"):
        coin["last_updated_at"] = now.time
    return {"bitcoin": coin}


def _coingecko_global(now: Moment, query: Query) -> object:
    seen = now.truth("coingecko")
    data = {
        "active_cryptocurrencies": 16733,
        "upcoming_icos": 0,
        "ongoing_icos": 49,
        "ended_icos": 3376,
        "markets": 1203,
        "total_market_cap": _in_all_currencies(seen.market_cap_usd),
        "total_volume": _in_all_currencies(seen.volume_24h_usd),
        "market_cap_percentage": _SHARES,
        "market_cap_change_percentage_24h_usd": 2.33456898742883,
        "updated_at": now.time,
    }
    return {"data": data}


def _true(query: Query, name: str) -> bool:
    return query.get(name) == "true"


def _plain(figure: float) -> float:
    """A whole one without a point."""
    return int(figure) if figure.is_integer() else figure


def _in_all_currencies(dollars: float) -> object:
    return {
        currency: _spelt(dollars * rate, currency in _WHOLE)
        for currency, rate in _PER_DOLLAR.items()
    }


def _spelt(figure: float, whole: bool) -> object:
    if whole:
        return int(figure)
    # 15 digits, and from 10^15 on an exponent
    return msgspec.Raw(f"{figure:.15g}".encode()) if figure >= 1e15 else figure


# --- alternative.me


def _alternative_fng(now: Moment, query: Query) -> object:
    """The newest day first; only that one tells when the next comes."""
    days = int(query["limit"]) if query.get("limit", "").isdecimal() else 1
    data = []
    for back in range(min(days, 365)):
        day = now.second // DAY - back
        seen = now._replace(second=day * DAY).truth("alternative")
        data.append(
            {
                "value": str(seen.fng_value),
                "value_classification": seen.fng_classification,
                "timestamp": str(now.began + day * DAY),
            }
        )
        if not back:
            data[0]["time_until_update"] = str(DAY - now.second % DAY)
    return {
        "name": "Fear and Greed Index",
        "data": data,
        "metadata": {"error": None},
    }


# --- TAAPI


def _taapi_rsi(now: Moment, query: Query) -> object:
    for name in ("exchange", "symbol", "interval"):
        if not query.get(name):
            raise Refused(400, {"errors": [f"{name} is required"]})
    return {"value": now.truth("taapi").rsi_14}


# --- Binance


def _binance_ticker(now: Moment, query: Query) -> object:
    """An object for `symbol`, an array for `symbols`."""
    seen = now.truth("binance")
    try:
        one = "symbol" in query
        wanted = [query["symbol"]] if one else json.loads(query.get("symbols", ""))
        tickers = [_ticker(symbol, seen.coins[symbol], now) for symbol in wanted]
    except KeyError:
        raise Refused(400, {"code": -1121, "msg": "Invalid symbol."}) from None
    except (TypeError, ValueError):
        said = "Illegal characters found in parameter 'symbols'."
        raise Refused(400, {"code": -1100, "msg": said}) from None
    return tickers[0] if one else tickers


def _ticker(symbol: str, coin: Quote, now: Moment) -> dict[str, Any]:
    price, opened = coin.price, coin.price / (1 + coin.change / 100)
    ms = now.time * 1000
    decimal = {
        "weightedAvgPrice": (price + opened) / 2,
        "prevClosePrice": opened,
        "lastPrice": price,
        "lastQty": 6e-05,
        "bidPrice": price * 0.99999,
        "bidQty": 3.41822,
        "askPrice": price,
        "askQty": 4.02711,
        "openPrice": opened,
        "highPrice": max(price, opened) * 1.004,
        "lowPrice": min(price, opened) * 0.996,
        "volume": 1.5e9 / price,
        "quoteVolume": 1.5e9,
    }
    return {
        "symbol": symbol,
        "priceChange": f"{price - opened:.8f}",
        "priceChangePercent": f"{coin.change:.3f}",
        **{name: f"{figure:.8f}" for name, figure in decimal.items()},
        "openTime": ms - DAY * 1000,
        "closeTime": ms,
        "firstId": 5186102977 + 50 * now.second,
        "lastId": 5190214310 + 50 * now.second,
        "count": 4111334,
    }


STREAM = "/stream"
"""Below Binance's prefix: the websocket of combined streams."""


def symbols(query: Query) -> list[str]:
    """Of the streams that a websocket asks for; raises Refused."""
    streams = [name.partition("@") for name in query.get("streams", "").split("/")]
    found = [symbol.upper() for symbol, _, kind in streams if kind == "ticker"]
    if len(found) < len(streams) or not COINS.keys() >= set(found):
        raise Refused(400, {"code": -1121, "msg": "Invalid symbol."})
    return found


def frame(symbol: str, now: Moment) -> bytes:
    """One symbol's ticker as the websocket sends it."""
    ticker = _ticker(symbol, now.truth("binance").coins[symbol], now)
    data = {"e": "24hrTicker", "E": now.time * 1000, "s": symbol}
    data |= {short: ticker[name] for short, name in _SHORT.items()}
    return msgspec.json.encode({"stream": f"{symbol.lower()}@ticker", "data": data})


_SHORT = {
    "p": "priceChange", "P": "priceChangePercent", "w": "weightedAvgPrice",
    "x": "prevClosePrice", "c": "lastPrice", "Q": "lastQty", "b": "bidPrice",
    "B": "bidQty", "a": "askPrice", "A": "askQty", "o": "openPrice",
    "h": "highPrice", "l": "lowPrice", "v": "volume", "q": "quoteVolume",
    "O": "openTime", "C": "closeTime", "F": "firstId", "L": "lastId", "n": "count",
}  # fmt: skip


# --- CoinMarketCap


def _cmc_global(now: Moment, query: Query) -> object:
    seen = now.truth("cmc")
    cap, volume, when = seen.market_cap_usd, seen.volume_24h_usd, iso(now.time)
    parts = {
        "defi_volume_24h": volume / 12,
        "defi_volume_24h_reported": volume / 11,
        "defi_market_cap": cap / 30,
        "defi_24h_percentage_change": 3.184269701216,
        "stablecoin_volume_24h": volume * 0.93,
        "stablecoin_volume_24h_reported": volume * 1.6,
        "stablecoin_market_cap": cap / 14,
        "stablecoin_24h_percentage_change": 11.920433816501,
        "derivatives_volume_24h": volume * 8.1,
        "derivatives_volume_24h_reported": volume * 8.3,
        "derivatives_24h_percentage_change": -6.402917735288,
    }
    usd = {
        "total_market_cap": cap,
        "total_volume_24h": volume,
        "total_volume_24h_reported": volume * 1.7,
        "altcoin_volume_24h": volume * 0.62,
        "altcoin_volume_24h_reported": volume * 1.1,
        "altcoin_market_cap": cap * 0.4261,
        **parts,
        "total_market_cap_yesterday": cap / 1.002986063,
        "total_volume_24h_yesterday": volume / 1.1274,
        "total_market_cap_yesterday_percentage_change": 0.2986063271927861,
        "total_volume_24h_yesterday_percentage_change": 12.74,
        "last_updated": when,
    }
    data = {
        "active_cryptocurrencies": 9915,
        "total_cryptocurrencies": 31735,
        "active_market_pairs": 86748,
        "active_exchanges": 751,
        "total_exchanges": 9394,
        "eth_dominance": 13.580213417,
        "btc_dominance": 57.390127655,
        "eth_dominance_yesterday": 13.61720439,
        "btc_dominance_yesterday": 57.30981252,
        "eth_dominance_24h_percentage_change": -0.036990973,
        "btc_dominance_24h_percentage_change": 0.080315135,
        **parts,
        "quote": {"USD": usd},
        "last_updated": when,
    }
    return {"status": cmc_status(now), "data": data}


def _cmc_quotes(now: Moment, query: Query) -> object:
    return {"status": cmc_status(now), "data": {"BTC": _cmc_coin(now, query)}}


def _cmc_quotes_v2(now: Moment, query: Query) -> object:
    """An array under each symbol."""
    return {"status": cmc_status(now), "data": {"BTC": [_cmc_coin(now, query)]}}


def _cmc_coin(now: Moment, query: Query) -> object:
    if query.get("symbol") != "BTC":
        said = f'Invalid value for "symbol": "{query.get("symbol", "")}"'
        raise Refused(400, {"status": cmc_status(now, 400, said)})
    seen, when = now.truth("cmc"), iso(now.time)
    usd = {
        "price": seen.btc_price_usd,
        "volume_24h": seen.volume_24h_usd / 3,
        "percent_change_24h": seen.btc_change_24h,
        "market_cap": seen.market_cap_usd * 0.5739,
        "last_updated": when,
    }
    names = {"id": 1, "name": "Bitcoin", "symbol": "BTC", "slug": "bitcoin"}
    return {**names, "cmc_rank": 1, "last_updated": when, "quote": {"USD": usd}}


def cmc_status(now: Moment, code: int = 0, said: str | None = None) -> object:
    return {
        "timestamp": iso(now.time),
        "error_code": code,
        "error_message": said,
        "elapsed": 11,
        "credit_count": 0 if code else 1,
        "notice": None,
    }


def iso(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


# --- Finnhub


def _finnhub_quote(now: Moment, query: Query) -> object:
    index = now.truth("finnhub").indices.get(query.get("symbol", ""))
    if index is None:
        # its answer to a symbol that it does not know
        zeros = {"h": 0, "l": 0, "o": 0, "pc": 0, "t": 0}
        return {"c": 0, "d": None, "dp": None, **zeros}
    price, closed = index.price, index.price / (1 + index.change / 100)
    return {
        "c": price,
        "d": round(price - closed, 2),
        "dp": index.change,
        "h": round(max(price, closed) * 1.004, 2),
        "l": round(min(price, closed) * 0.996, 2),
        "o": round((price + closed) / 2, 2),
        "pc": round(closed, 2),
        "t": now.time,
    }


VENDORS: Mapping[str, Mapping[str, Callable[[Moment, Query], object]]] = {
    "coingecko": {
        "/api/v3/simple/price": _coingecko_price,
        "/api/v3/global": _coingecko_global,
        "/api/v3/ping": _coingecko_ping,
    },
    "alternative": {"/fng/": _alternative_fng},
    "taapi": {"/rsi": _taapi_rsi},
    "binance": {"/api/v3/ticker/24hr": _binance_ticker},
    "cmc": {
        "/v1/global-metrics/quotes/latest": _cmc_global,
        "/v1/cryptocurrency/quotes/latest": _cmc_quotes,
        "/v2/cryptocurrency/quotes/latest": _cmc_quotes_v2,
    },
    "finnhub": {"/api/v1/quote": _finnhub_quote},
}
"""By vendor and path."""
