"""Parts: what the market is made of, where each comes from, and how it is asked for.

A part is a row here and nothing else: a key, a class of lives, sources in the order in
which they are tried. A source is one or more requests to a vendor and the parser that
reads their answers together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from . import vendors
from .vendors import Parse

USER_AGENT = "shmcache-market/1"
"""Binance bans who sends none."""
COINS = tuple(
    f"{coin}USDT" for coin in ("BTC", "ETH", "BNB", "SOL", "XRP", "ADA", "LINK")
)
INDICES = ("DIA", "SPY", "QQQM")
"""Funds that follow the Dow Jones, the S&P 500 and the Nasdaq 100."""


class Request(NamedTuple):
    """One GET. A value of KEY is the vendor's key."""

    path: str
    query: Mapping[str, str] = {}
    fields: Mapping[str, str] = {}


KEY = "{key}"


class Source(NamedTuple):
    """Where a part may come from."""

    vendor: str
    """Its row of the settings."""
    parse: Parse
    requests: tuple[Request, ...]
    cost: int = 1
    """Of each request, in the vendor's own measure."""


class Part(NamedTuple):
    """One thing that is fetched, cached and served stale as a whole."""

    key: str
    lives: str
    """The class."""
    sources: tuple[Source, ...]
    names: tuple[str, ...] = ()
    """Its values in the dashboard; none: it is not there."""


_PRICE = {
    "ids": "bitcoin",
    "vs_currencies": "usd",
    "include_24hr_change": "true",
    "include_last_updated_at": "true",
}
_RSI = {"secret": KEY, "exchange": "binance", "symbol": "BTC/USDT", "interval": "1d"}
_CMC = {"X-CMC_PRO_API_KEY": KEY}
_COINS = json.dumps(COINS, separators=(",", ":"))

PARTS: Mapping[str, Part] = {
    "btc": Part(
        "btc_coingecko_30s",
        "real_time",
        (
            Source(
                "coingecko",
                vendors.coingecko_price,
                (Request("/api/v3/simple/price", _PRICE),),
            ),
            Source(
                "binance",
                vendors.binance_btc,
                (Request("/api/v3/ticker/24hr", {"symbol": "BTCUSDT"}),),
                cost=2,
            ),
            Source(
                "cmc",
                vendors.cmc_btc,
                (Request("/v1/cryptocurrency/quotes/latest", {"symbol": "BTC"}, _CMC),),
            ),
        ),
        ("btc_price_usd", "btc_change_24h"),
    ),
    "global": Part(
        "global_coingecko_30s",
        "real_time",
        (
            Source(
                "coingecko_global",
                vendors.coingecko_global,
                (Request("/api/v3/global"),),
            ),
            Source(
                "cmc",
                vendors.cmc_global,
                (Request("/v1/global-metrics/quotes/latest", {}, _CMC),),
            ),
        ),
        ("market_cap_usd", "volume_24h_usd"),
    ),
    "fear-greed": Part(
        "fng_alternative_5m",
        "short",
        (
            Source(
                "alternative",
                vendors.alternative_fng,
                (Request("/fng/", {"limit": "1"}),),
            ),
        ),
        ("fng_value", "fng_classification"),
    ),
    "rsi": Part(
        "rsi_taapi_3h",
        "long",
        (Source("taapi", vendors.taapi_rsi, (Request("/rsi", _RSI),)),),
        ("rsi_14",),
    ),
    "coins": Part(
        "coins_binance_30s",
        "real_time",
        (
            Source(
                "binance",
                vendors.binance_coins(COINS),
                (Request("/api/v3/ticker/24hr", {"symbols": _COINS}),),
                cost=2,
            ),
        ),
    ),
    "indices": Part(
        "indices_finnhub_5m",
        "short",
        (
            Source(
                "finnhub",
                vendors.finnhub_quotes(INDICES),
                tuple(
                    Request("/api/v1/quote", {"symbol": symbol, "token": KEY})
                    for symbol in INDICES
                ),
            ),
        ),
    ),
}
"""By the name in /api/market/NAME."""
DASHBOARD = {name: part for name, part in PARTS.items() if part.names}


def dearest(vendor: str) -> int:
    """What the dearest source of a vendor costs."""
    sources = [s for part in PARTS.values() for s in part.sources if s.vendor == vendor]
    return max(source.cost * len(source.requests) for source in sources)
