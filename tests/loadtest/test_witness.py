"""What the witness takes for right and for wrong."""

from __future__ import annotations

import json

import pytest

from loadtest.fates import fate
from loadtest.truth import truth
from loadtest.vendors import Vendors
from loadtest.witness import of_dashboard, of_fear_and_greed
from shmcache_server.market.parts import DASHBOARD
from tests.helpers import Answer

VENDORS = Vendors(port=0, pid=0, began=1_000_000)
SOURCES = {
    "btc": "coingecko",
    "global": "coingecko_global",
    "fear-greed": "alternative",
    "rsi": "taapi",
}
SECOND = 100


def dashboard(late: int = 0, **changes: object) -> Answer:
    """At that second; `late`: of which it claims to be of a later one."""
    shown: dict = {"parts": {}}
    for name, source in SOURCES.items():
        then = truth(source.removesuffix("_global"), SECOND)
        shown |= {field: getattr(then, field) for field in DASHBOARD[name].names}
        about = {"as_of": VENDORS.began + SECOND + late + 0.3, "state": "fresh"}
        shown["parts"][name] = about | {"source": source}
    return answer(shown | changes)


def answer(shown: object) -> Answer:
    return Answer(200, {}, json.dumps(shown).encode(), 0.0)


def test_true_dashboard_is_right() -> None:
    assert of_dashboard(VENDORS)(dashboard()) == ""
    assert of_dashboard(VENDORS)(dashboard(late=1)) == ""


@pytest.mark.parametrize(
    ("shown", "part"),
    [
        (dashboard(btc_price_usd=112884.5), "btc: "),
        (dashboard(rsi_14=None), "rsi: "),
        (dashboard(late=30), "btc: "),
    ],
    ids=["another number", "no number", "another second"],
)
def test_wrong_dashboard_is_named(shown: Answer, part: str) -> None:
    assert of_dashboard(VENDORS)(shown).startswith(part)


def test_wrong_payload_is_named() -> None:
    value = str(truth("alternative", 0).fng_value)
    said = {"value": value, "timestamp": str(VENDORS.began)}
    check = of_fear_and_greed(VENDORS)
    assert check(answer({"data": [said]})) == ""
    assert (
        check(answer({"data": [said | {"value": "77"}]})) == f"77 in place of {value}"
    )


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("shmcache; hit; ttl=29", "hits"),
        ("shmcache; hit; ttl=0", "hits"),
        ("shmcache; hit; ttl=-5", "stale"),
        ("shmcache; fwd=miss; stored", "misses"),
        ("shmcache; fwd=stale", "misses"),
        ("shmcache; fwd=miss; collapsed", "coalesced"),
    ],
)
def test_fate_of_an_answer(told: str, expected: str) -> None:
    assert fate(told) == expected
