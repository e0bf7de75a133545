"""Settings of the market service: the table [app.settings], validated once, frozen.

`deploy/market.toml` shows every key with its default. A vendor's key stands in no
file: a setting names the variable of the environment that has it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from yarl import URL

from shmcache import ConfigError
from shmcache_server.breakers import PROBE_LIFE

from .parts import PARTS, dearest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lives:
    """How long the parts of one class live; seconds."""

    ttl: float
    grace: float
    """Served stale for so much longer, while its vendors fail."""
    jitter: float = 0.1
    """Share of the ttl that is taken off by chance, so that parts do not expire as
    one."""
    negative_ttl: float = 2.0
    """For which a failure stands where there is no value, and nobody is asked."""

    def __post_init__(self) -> None:
        _between("ttl", self.ttl, 1, 2**31)
        _between("grace", self.grace, 0, 2**31)
        _between("jitter", self.jitter, 0, 0.5)
        _between("negative_ttl", self.negative_ttl, 0.1, 60)


@dataclass(frozen=True, slots=True)
class Vendor:
    """Where a vendor is, what it allows, and when it is left alone."""

    url: str
    key_env: str = ""
    """The variable with its key; empty: it needs none."""
    calls: int = 30
    """At most so many in any window of..."""
    seconds: float = 60.0
    failures: int = 5
    """In a row, after which it is left alone for..."""
    open_seconds: float = 60.0
    successes: int = 2
    """Of probes, after which it is asked as before."""
    elsewhere: str = ""
    """Asked in place of `url` where that does not serve from here (451)."""

    def __post_init__(self) -> None:
        _checked_url("url", self.url)
        if self.elsewhere:
            _checked_url("elsewhere", self.elsewhere)
        _between("calls", self.calls, 1, 2**31)
        _between("seconds", self.seconds, 0.1, 86400)
        _between("failures", self.failures, 1, 10000)
        _between("open_seconds", self.open_seconds, 0.1, 86400)
        _between("successes", self.successes, 1, 100)

    @property
    def key(self) -> str:
        """From the environment; empty where it is not set. A file's last newline is
        none of it."""
        key = os.environ.get(self.key_env, "").strip() if self.key_env else ""
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"{self.key_env}: expected printable ASCII")
        return key


def _classes() -> dict[str, Lives]:
    return {
        "real_time": Lives(30.0, grace=600.0),
        "short": Lives(300.0, grace=3600.0),
        "medium": Lives(3600.0, grace=14400.0),
        "long": Lives(10800.0, grace=86400.0),
        "custom": Lives(60.0, grace=600.0),
    }


def _parts() -> dict[str, str]:
    return {name: part.lives for name, part in PARTS.items()}


def _vendors() -> dict[str, Vendor]:
    """Breakers: failures, seconds open, successes. CoinGecko's prices and its global
    figures have each a budget of their own."""
    gecko = "https://api.coingecko.com"
    return {
        "coingecko": Vendor(gecko, "", 20, 60.0, 3, 30.0, 2),
        "coingecko_global": Vendor(gecko, "", 10, 60.0, 5, 60.0, 3),
        "alternative": Vendor("https://api.alternative.me", "", 5, 60.0, 8, 120.0, 4),
        "taapi": Vendor("https://api.taapi.io", "TAAPI_KEY", 1, 15.0, 6, 90.0, 3),
        "binance": Vendor(
            "https://api.binance.com",
            calls=1000,
            elsewhere="https://api.binance.us",
        ),
        "cmc": Vendor("https://pro-api.coinmarketcap.com", "CMC_API_KEY", 30, 60.0),
        "finnhub": Vendor("https://finnhub.io", "FINNHUB_KEY", 60, 60.0),
    }


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the market service is told."""

    deadline: float = 8.0
    """Seconds for a part, all its sources and retries, and for the dashboard."""
    attempt_timeout: float = 3.0
    """Seconds for one call of a vendor."""
    rounds: int = 2
    """Times that a part's sources are gone through while all of them fail."""
    clients: int = 1000
    """Of /ws at a time, per worker."""
    stream_length: int = 1000
    """Entries that the stream keeps, about."""
    classes: Mapping[str, Lives] = field(default_factory=_classes)
    vendors: Mapping[str, Vendor] = field(default_factory=_vendors)
    parts: Mapping[str, str] = field(default_factory=_parts)
    """The class of each."""

    def __post_init__(self) -> None:
        _between("deadline", self.deadline, 0.1, 60)
        _between("attempt_timeout", self.attempt_timeout, 0.05, PROBE_LIFE - 5)
        _between("rounds", self.rounds, 1, 5)
        _between("clients", self.clients, 0, 100_000)
        _between("stream_length", self.stream_length, 1, 10**6)

    def lives(self, part: str) -> Lives:
        """Of the part with that name."""
        return self.classes[self.parts[part]]


def of(table: Mapping[str, Any]) -> Settings:
    """The settings of a table [app.settings]; `ConfigError` names the one that is
    wrong."""
    found = Settings()
    plain = dict(table)
    rows: dict[str, Any] = {
        name: _rows(f"app.settings.{name}", getattr(found, name), plain.pop(name, {}))
        for name in ("classes", "vendors")
    }
    for name, row in rows["vendors"].items():
        if row.calls < (least := dearest(name)):
            raise ConfigError(
                f"app.settings.vendors.{name}: calls={row.calls}: expected {least} or "
                "more, what one fetch costs"
            )
    rows["parts"] = _classed(found, plain.pop("parts", {}))
    return replace(_replaced("app.settings", found, plain), **rows)


def keyless(told: Settings) -> list[str]:
    """A line for each vendor whose key is not set; `ConfigError` for a key that is
    none."""
    return [
        f"market: {row.key_env} is not set: {name} is not asked"
        for name, row in told.vendors.items()
        if row.key_env and not row.key
    ]


def _classed(found: Settings, table: Any) -> dict[str, str]:
    """The class of each part, with what the table says of some."""
    _a_table("app.settings.parts", table)
    for name, said in table.items():
        where = f"app.settings.parts.{name}"
        if name not in found.parts:
            raise ConfigError(f"{where}: expected one of {', '.join(found.parts)}")
        if type(said) is not str or said not in found.classes:
            known = ", ".join(found.classes)
            raise ConfigError(f"{where}={said!r}: expected one of {known}")
    return {**found.parts, **table}


def _a_table(where: str, table: Any) -> None:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}={table!r}: expected a table")


def _rows(where: str, known: Mapping[str, T], table: Any) -> dict[str, T]:
    """`known` with what the table changes of its rows."""
    _a_table(where, table)
    rows = dict(known)
    for name, changes in table.items():
        if name not in rows:
            raise ConfigError(f"{where}.{name}: expected one of {', '.join(rows)}")
        _a_table(f"{where}.{name}", changes)
        rows[name] = _replaced(f"{where}.{name}", rows[name], changes)
    return rows


def _replaced(where: str, old: T, changes: Mapping[str, Any]) -> T:
    """`old` with other values, each of the type of the one before."""
    known = {f.name for f in fields(old)}  # type: ignore[arg-type]
    made: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            raise ConfigError(f"{where}.{name}: no such setting")
        wanted = type(getattr(old, name))
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise ConfigError(f"{where}.{name}={value!r}: expected {_WORDS[wanted]}")
        made[name] = value
    try:
        return replace(old, **made)  # type: ignore[type-var]
    except ConfigError as e:
        raise ConfigError(f"{where}: {e}") from None


def _checked_url(setting: str, url: str) -> None:
    """Raise where it is none that can be asked. One with a password is not repeated."""
    expected = "expected http[s]://HOST[:PORT][/PATH]"
    try:
        parts = URL(url)
    except ValueError:
        raise ConfigError(f"{setting}: {expected}") from None
    if parts.user is not None or parts.password is not None:
        raise ConfigError(f"{setting}: expected none with a password; see key_env")
    known = parts.scheme in ("http", "https") and parts.host
    if not known or parts.raw_query_string or parts.fragment or set(url) & {*" ?#"}:
        raise ConfigError(f"{setting}={url!r}: {expected}")


_WORDS = {str: "text", int: "a whole number", float: "a number"}


def _between(setting: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{setting}={value!r}: expected {low} to {high}")
