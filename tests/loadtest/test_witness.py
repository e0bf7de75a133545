"""What the witness takes for right and for wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loadtest.fates import fate
from loadtest.truth import truth
from loadtest.vendors import Vendors
from loadtest.witness import Witness, of_dashboard, of_fear_and_greed
from shmcache_server.market.parts import DASHBOARD
from tests.helpers import Answer, until

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
    "body",
    [b"", b'{"parts": {', b"[]", b'{"parts": {}}', b'{"parts": 1}', b'{"parts": null}'],
)
def test_body_that_cannot_be_read_is_wrong(body: bytes) -> None:
    """And does not end the witness, who would have seen nothing from there on."""
    with listening(body) as port:
        witness = Witness([port], ["/"], of_dashboard(VENDORS), waves=[0, 0])
        with witness:
            witness.first = time.time()
            until(lambda: len(witness.seen) == 2)
    assert len(witness.wrong) == 2 and all(wrong for wrong in witness.wrong)
    assert len(witness.asks) == 2 and not any(ask.failed for ask in witness.asks)


@contextmanager
def listening(body: bytes) -> Iterator[int]:
    """A server that answers 200 with that body."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


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
