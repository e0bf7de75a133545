"""Vendors: what each one's payload says. Pure: bytes, status and fields to a reading.

A payload is taken as it is or not at all: what is missing, of another type, not
finite, or zero where nothing costs nothing, is `Unusable`. So is a 200 whose body is
an error. Figures keep their digits: a JSON number is a float as Python reads it, which
writes the same one again, or an int, which is exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from .answers import Answer, Unusable, document

CLASSES = {
    "Extreme Fear": range(31),
    "Fear": range(20, 51),
    "Neutral": range(40, 61),
    "Greed": range(50, 81),
    "Extreme Greed": range(70, 101),
}
"""Of alternative.me's index, with the values that each may have, generously: one that
is not among them, as a 0 that is Neutral, is no reading."""
_INT_MOST = 2**63
_DECIMAL = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?", re.ASCII)


class Reading(NamedTuple):
    """What a payload says."""

    values: dict[str, Any]
    as_of: float | None = None
    """The vendor's own time of it, seconds of the epoch; None: it tells none."""


Parse = Callable[[Sequence[Answer], float], Reading]
"""The answers to a source's requests, in their order, and the time, to a reading."""


# --- one for each payload


def coingecko_price(answers: Sequence[Answer], now: float) -> Reading:
    """`{"bitcoin": {"usd": 112884, "usd_24h_change": -0.79, "last_updated_at": s}}`"""
    (answer,) = answers
    coin = _table(document(answer, now), "bitcoin")
    values = {
        "btc_price_usd": _positive(coin, "usd"),
        "btc_change_24h": _number(coin, "usd_24h_change"),
    }
    return Reading(values, _time(coin.get("last_updated_at")))


def coingecko_global(answers: Sequence[Answer], now: float) -> Reading:
    """`{"data": {"total_market_cap": {"usd": ..}, "total_volume": {"usd": ..}, ..}}`"""
    (answer,) = answers
    data = _table(document(answer, now), "data")
    values = {
        "market_cap_usd": _positive(_table(data, "total_market_cap"), "usd"),
        "volume_24h_usd": _positive(_table(data, "total_volume"), "usd"),
    }
    return Reading(values, _time(data.get("updated_at")))


def alternative_fng(answers: Sequence[Answer], now: float) -> Reading:
    """`{"data": [{"value": "39", "value_classification": "Fear", "timestamp": s}]}`"""
    (answer,) = answers
    newest = _first(document(answer, now), "data")
    value, said = newest.get("value"), newest.get("value_classification")
    if type(value) is not str or not re.fullmatch(r"[0-9]{1,3}", value):
        raise Unusable("value is no whole number in a string")
    if type(said) is not str or said not in CLASSES:
        raise Unusable("value_classification is none of its classes")
    if int(value) not in CLASSES[said]:
        raise Unusable("value is not of its class")
    when = newest.get("timestamp")
    seconds = int(when) if type(when) is str and re.fullmatch(r"\d{1,12}", when) else 0
    return Reading(
        {"fng_value": int(value), "fng_classification": said}, _time(seconds)
    )


def taapi_rsi(answers: Sequence[Answer], now: float) -> Reading:
    """`{"value": 42.3}`"""
    (answer,) = answers
    value = _number(document(answer, now), "value")
    if not 0 <= value <= 100:
        raise Unusable("value is not within 0 and 100")
    return Reading({"rsi_14": value})


def binance_btc(answers: Sequence[Answer], now: float) -> Reading:
    """One ticker of 24 hours."""
    (answer,) = answers
    ticker = document(answer, now)
    price, change, closed = _ticker(ticker, "BTCUSDT")
    return Reading({"btc_price_usd": price, "btc_change_24h": change}, closed)


def binance_coins(symbols: Sequence[str]) -> Parse:
    """An array of tickers, each of the symbols among them."""

    def parse(answers: Sequence[Answer], now: float) -> Reading:
        (answer,) = answers
        rows = document(answer, now, list)
        tickers = {str(row.get("symbol")): row for row in rows if type(row) is dict}
        values, times = {}, []
        for symbol in symbols:
            if symbol not in tickers:
                raise Unusable(f"{symbol} is missing")
            price, change, closed = _ticker(tickers[symbol], symbol)
            values[symbol] = {"price_usd": price, "change_24h": change}
            times.append(closed)
        return Reading(values, _oldest(times))

    return parse


def cmc_btc(answers: Sequence[Answer], now: float) -> Reading:
    """`{"data": {"BTC": {"quote": {"USD": {"price": .., "percent_change_24h": ..}}}}}`;
    an array below BTC in its second version."""
    (answer,) = answers
    data = _table(document(answer, now), "data")
    coin = _first(data, "BTC") if type(data.get("BTC")) is list else _table(data, "BTC")
    usd = _table(_table(coin, "quote"), "USD")
    values = {
        "btc_price_usd": _positive(usd, "price"),
        "btc_change_24h": _number(usd, "percent_change_24h"),
    }
    return Reading(values, _iso(usd.get("last_updated")))


def cmc_global(answers: Sequence[Answer], now: float) -> Reading:
    """`{"data": {"quote": {"USD": {"total_market_cap": 2.3e12, ..}}}}`"""
    (answer,) = answers
    data = _table(document(answer, now), "data")
    usd = _table(_table(data, "quote"), "USD")
    values = {
        "market_cap_usd": _positive(usd, "total_market_cap"),
        "volume_24h_usd": _positive(usd, "total_volume_24h"),
    }
    return Reading(values, _iso(usd.get("last_updated")))


def finnhub_quotes(symbols: Sequence[str]) -> Parse:
    """`{"c": 261.74, "dp": -0.46, "t": s}` for each symbol; of one that it does not
    know all is zero."""

    def parse(answers: Sequence[Answer], now: float) -> Reading:
        values, times = {}, []
        for symbol, answer in zip(symbols, answers, strict=True):
            quote = document(answer, now)
            values[symbol] = {
                "price_usd": _positive(quote, "c"),
                "change_24h": _number(quote, "dp"),
            }
            times.append(_time(quote.get("t")))
        return Reading(values, _oldest(times))

    return parse


# --- pieces


def _table(within: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = within.get(name)
    if type(found) is not dict:
        raise Unusable(f"{name} is missing")
    return found


def _first(within: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = within.get(name)
    if type(found) is not list or not found or type(found[0]) is not dict:
        raise Unusable(f"{name} is missing")
    return found[0]


def _number(within: Mapping[str, Any], name: str) -> int | float:
    found = within.get(name)
    if type(found) is float and math.isfinite(found):  # 1e999 is read as infinite
        return found
    if type(found) is int and -_INT_MOST < found < _INT_MOST:  # what a cache can hold
        return found
    raise Unusable(f"{name} is no number")


def _positive(within: Mapping[str, Any], name: str) -> int | float:
    found = _number(within, name)
    if found <= 0:
        raise Unusable(f"{name} is not above 0")
    return found


def _ticker(row: Mapping[str, Any], symbol: str) -> tuple[float, float, float | None]:
    """Price, percent of change in a day, and time, of one of Binance's tickers."""
    if row.get("symbol") != symbol:
        raise Unusable(f"{symbol} is missing")
    price, change = _decimal(row, "lastPrice"), _decimal(row, "priceChangePercent")
    if price <= 0:
        raise Unusable("lastPrice is not above 0")
    closed = row.get("closeTime")
    return price, change, _time(closed / 1000 if type(closed) is int else None)


def _decimal(within: Mapping[str, Any], name: str) -> float:
    """A number in a string."""
    said = within.get(name)
    if type(said) is not str or not _DECIMAL.fullmatch(said):
        raise Unusable(f"{name} is no number in a string")
    return float(said)


def _time(said: Any) -> float | None:
    """Seconds of the epoch, where they can be such."""
    if type(said) not in (int, float) or not 1e9 < said < 1e11:
        return None
    return float(said)


def _iso(said: Any) -> float | None:
    try:
        moment = datetime.fromisoformat(said)
    except (TypeError, ValueError):
        return None
    return None if moment.tzinfo is None else _time(moment.timestamp())


def _oldest(times: Sequence[float | None]) -> float | None:
    known = [one for one in times if one is not None]
    return min(known) if len(known) == len(times) and known else None
