"""Requests at fixed times before the whole market service."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

import pytest

from loadtest import timed
from loadtest.fates import FATES
from loadtest.service import DASHBOARD, calls, config, serving
from loadtest.vendors import running
from tests.helpers import children
from tests.loadtest.test_openloop import answer, origin
from tests.server.market.vendor import CALLED, KEYS


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)


def test_ramp_of_the_market(tmp_path, keys, measured) -> None:
    """The whole service: every request answered, each part called as often as it
    lives."""
    with ExitStack() as stack:
        vendors = stack.enter_context(running("--still", "--latency", "0.05"))
        (server,) = stack.enter_context(serving(tmp_path, config(vendors, 1.0)))
        url = f"http://127.0.0.1:{server.port}{DASHBOARD}"
        found = timed.ramp(
            url, rate=300, seconds=3, clients=(2, 20), calls=lambda: calls(vendors)
        )
        busiest = calls(vendors, "busiest", 1.0)
    totals = found.totals
    assert totals["requests"] == 900 and totals["failures"] == 0
    assert sum(totals[kind] for kind in FATES) == 900
    assert {*found.calls} == {*CALLED} and busiest == dict.fromkeys(CALLED, 1)
    assert len(found.seconds) == 3 and found.seconds[0].calls >= len(CALLED)
    assert sum(second.calls for second in found.seconds) <= found.totals["calls"]
    assert [second.clients for second in found.seconds] == [2, 8, 14]
    assert [target.met is None for target in found.targets] == [False] * 3
    measured(
        f"open loop: 300 requests/s for 3 s: mean {totals['mean']:.2f} ms, of which the"
        f" generator's {totals['late_mean']:.2f}"
    )


def test_failure_meanwhile_ends_the_generator() -> None:
    """It does not wait for what was still to be sent."""
    told, before = iter([{}]), children(os.getpid())
    began = time.monotonic()
    with origin(lambda n: answer()) as url, pytest.raises(StopIteration):
        timed.ramp(url, rate=10, seconds=30, clients=(1, 1), calls=lambda: next(told))
    assert time.monotonic() - began < 20 and children(os.getpid()) == before


def test_single_answers_of_the_market(tmp_path, keys) -> None:
    with ExitStack() as stack:
        vendors = stack.enter_context(running("--still", "--latency", "0.2"))
        served = serving(tmp_path, config(vendors), l2="embedded")
        (server,) = stack.enter_context(served)
        url = f"http://127.0.0.1:{server.port}"
        found = timed.answers(url, 0.2, count=20)
    cold, *_, wrong = found.targets
    assert cold.found > 200 and wrong.found == 0
    assert found.totals["500 cold connections: requests"] == 500
    assert found.totals["stream's last entry: requests"] == 20
