"""The table of parts."""

from __future__ import annotations

import pytest

from shmcache_server.market import settings
from shmcache_server.market.parts import DASHBOARD, KEY, PARTS, dearest

SETTINGS = settings.Settings()


@pytest.mark.parametrize("name", PARTS)
def test_part_is_of_known_class_and_vendors(name) -> None:
    part = PARTS[name]
    assert part.lives in SETTINGS.classes
    for source in part.sources:
        vendor = SETTINGS.vendors[source.vendor]
        used = [KEY in (*r.query.values(), *r.fields.values()) for r in source.requests]
        assert used == [bool(vendor.key_env)] * len(used)


@pytest.mark.parametrize(("vendor", "cost"), [("finnhub", 3), ("taapi", 1)])
def test_fetch_costs_all_its_requests(vendor, cost) -> None:
    assert dearest(vendor) == cost


def test_keys_and_values_are_told_once() -> None:
    keys = [part.key for part in PARTS.values()]
    names = [name for part in DASHBOARD.values() for name in part.names]
    assert len({*keys}) == len(keys) and len({*names}) == len(names)


def test_dashboard_is_of_four_parts() -> None:
    assert {name: (p.key, p.lives) for name, p in DASHBOARD.items()} == {
        "btc": ("btc_coingecko_30s", "real_time"),
        "global": ("global_coingecko_30s", "real_time"),
        "fear-greed": ("fng_alternative_5m", "short"),
        "rsi": ("rsi_taapi_3h", "long"),
    }
