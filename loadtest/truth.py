"""The simulated market: what each vendor would say at any second, computed.

A figure wanders: noises of 1, 4, 16 ... seconds are added up, each drawn from a hash of
seed, name and place. So it moves a little every second and far in hours, stays within
bounds, and its value at a second is had without those before it. Seconds count from
the simulator's start, where every figure is the sample; those before are as good.

All vendors look at one market; each sees prices up to a ten-thousandth off, so that a
value tells whose it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from math import floor
from typing import NamedTuple

SEED = 0
DAY = 86_400
_OCTAVES = 9
"""The slowest noise is of 4 ** 8 seconds, 18 hours."""
_SPREAD = 1e-4


class Quote(NamedTuple):
    """A price in USD and its change in 24 hours (a coin) or since the last close (an
    index), in percent."""

    price: float
    change: float


@dataclass(frozen=True)
class Truth:
    """What one vendor sees, also of what it does not publish; named as the dashboard
    names it."""

    btc_price_usd: float
    """In half dollars: CoinGecko writes the whole ones without a point."""
    btc_change_24h: float
    """Percent."""
    market_cap_usd: float
    volume_24h_usd: float
    fng_value: int
    """0 to 100; another every DAY seconds."""
    fng_classification: str
    rsi_14: float
    coins: Mapping[str, Quote]
    """By Binance's symbol, Bitcoin included."""
    indices: Mapping[str, Quote]


BTC = Quote(112884.0, -0.7955129838191605)
MARKET_CAP = 3912296730719.0854
VOLUME = 115403358622.58966
FNG = 50
RSI = 42.3291744124084
COINS = {
    "BTCUSDT": BTC,
    "ETHUSDT": Quote(4382.61, -1.42),
    "BNBUSDT": Quote(853.17, 0.318),
    "XRPUSDT": Quote(2.8145, -2.051),
    "SOLUSDT": Quote(202.46, -3.377),
    "ADAUSDT": Quote(0.8263, -1.905),
    "DOGEUSDT": Quote(0.21432, -2.64),
    "LINKUSDT": Quote(23.39, -0.87),
}
INDICES = {
    "DIA": Quote(455.18, -0.2104),
    "SPY": Quote(645.05, -0.5964),
    "QQQM": Quote(234.79, -1.1535),
}
_CLASSES = (
    (25, "Extreme Fear"),
    (46, "Fear"),
    (54, "Neutral"),
    (75, "Greed"),
    (100, "Extreme Greed"),
)
_CHANGE_DIGITS = {"binance": 3}
"""Of a coin's change, where the vendor rounds it."""


@lru_cache(256)
def truth(vendor: str, second: int, seed: int = SEED) -> Truth:
    """What a vendor says at a second of the simulation."""

    def moved(name: str, sample: float, most: float) -> float:
        """Wandered by at most a share of itself."""
        return sample * (1 + most * _wander(f"{seed}/{name}", second))

    def price(name: str, sample: float) -> float:
        own = f"{seed}/{vendor}/{name}"
        off = (_point(f"{own}/{second}") - _point(f"{own}/0")) / 2
        return moved(name, sample, 0.05) * (1 + _SPREAD * off)

    btc = _at(BTC, round(price("BTCUSDT", BTC.price) * 2) / 2)
    coins = {
        symbol: btc if coin is BTC else _at(coin, round(price(symbol, coin.price), 5))
        for symbol, coin in COINS.items()
    }
    if (digits := _CHANGE_DIGITS.get(vendor)) is not None:
        coins = {s: Quote(c.price, round(c.change, digits)) for s, c in coins.items()}
    fng = FNG + round(50 * _wander(f"{seed}/fng", second // DAY * DAY))
    return Truth(
        btc_price_usd=btc.price,
        btc_change_24h=coins["BTCUSDT"].change,
        market_cap_usd=price("cap", MARKET_CAP),
        volume_24h_usd=price("volume", VOLUME),
        fng_value=fng,
        fng_classification=next(name for most, name in _CLASSES if fng <= most),
        rsi_14=moved("rsi", RSI, 0.5),
        coins=coins,
        indices={
            symbol: Quote(now.price, round(now.change, 4))
            for symbol, index in INDICES.items()
            for now in [_at(index, round(price(symbol, index.price), 2))]
        },
    )


def _at(sample: Quote, price: float) -> Quote:
    """At another price, the one that it is compared with unchanged."""
    since = (price / sample.price - 1) * 100
    return Quote(price, sample.change + since * (1 + sample.change / 100))


def _wander(name: str, second: int) -> float:
    """Within -1 and 1, 0 at second 0."""
    weights = [2.0**octave for octave in range(_OCTAVES)]
    total = sum(
        weight * (_noise(name, second, octave) - _noise(name, 0, octave))
        for octave, weight in enumerate(weights)
    )
    return total / (2 * sum(weights))


def _noise(name: str, second: int, octave: int) -> float:
    """Within -1 and 1, straight from one point to the next, 4 ** octave seconds on."""
    place = second / 4.0**octave
    left = floor(place)
    a, b = (_point(f"{name}/{octave}/{left + i}") for i in (0, 1))
    return a + (b - a) * (place - left)


def _point(name: str) -> float:
    drawn: int = int.from_bytes(blake2b(name.encode(), digest_size=4).digest())
    return drawn / 2**31 - 1
