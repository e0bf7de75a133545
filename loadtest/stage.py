"""Stage: what a scenario runs on, and what is counted there.

How requests split
    The server looks up each request once, and counts a hit, a stale hit or a miss. Of
    the misses, those that began a fetch are `computes` less `refreshes`; all others
    were answered by somebody else's fetch: coalesced. So hits + stale + misses +
    coalesced are the requests, by the servers' counters alone; the clients count them
    on their own.

What vendors are asked
    Every call is granted by the vendor's budget, which is the fleet's: what
    `/api/rate-limits` calls used, in windows longer than a scenario, are the calls that
    the servers know of. The simulator counts those that came.
"""

from __future__ import annotations

import http.client
import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from shmcache_server.market.settings import Settings
from tests.redis_server import RedisServer, redis_server

from .death import Death
from .scenarios import ROOM, WINDOW, Scenario
from .service import Host, calls, config, serving
from .showcase import KEYS
from .vendors import Vendors, running
from .witness import Witness, of_dashboard, of_fear_and_greed

_BUDGETED = """[origin]
budget = {}
budget_seconds = {}
default_ttl = 2.0
"""
_COSTS = {
    "/api/v3/simple/price": ("coingecko", 1),
    "/api/v3/global": ("coingecko_global", 1),
    "/fng/": ("alternative", 1),
    "/rsi": ("taapi", 1),
    "/api/v3/ticker/24hr": ("binance", 2),
    "/v1/cryptocurrency/quotes/latest": ("cmc", 1),
    "/v1/global-metrics/quotes/latest": ("cmc", 1),
}
"""By path: whose budget a call is of, and how much of it."""
_TRIES = 20
T = TypeVar("T")
_PARTS = ("/api/v3/simple/price", "/api/v3/global", "/fng/", "/rsi")


@dataclass
class Stage:
    """Running servers, and their vendors."""

    scenario: Scenario
    vendors: Vendors
    hosts: list[Host]
    redis: RedisServer | None
    witness: Witness
    figures: dict[str, float] = field(default_factory=dict)
    """What was found while something happened."""
    death: Death | None = None
    """Of a worker."""
    over: threading.Event = field(default_factory=threading.Event)
    """The load has ended."""
    _loaded: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        """Count from here, once that stands which shall."""
        if not self.scenario.cold:
            for path in self.scenario.hot:
                for host in self.hosts:
                    host.warm(path)
        self._before = self._counters()
        self._calls = calls(self.vendors)

    def called(self) -> Counter[str]:
        """What the vendors were asked since the beginning, by path."""
        now = Counter(calls(self.vendors))
        now.subtract(self._calls)
        return now

    def load(self) -> None:
        """The load begins now: the first answers are there."""
        self.began = time.monotonic()
        self._loaded.set()

    def end(self) -> None:
        """The load has ended, if it ever began."""
        self.over.set()
        self._loaded.set()

    def until(self, seconds: float) -> bool:
        """Of the load; whether it goes on so long."""
        self._loaded.wait()
        if self.over.is_set():
            return False
        return not self.over.wait(max(0.0, self.began + seconds - time.monotonic()))

    def counted(self) -> Counter[str]:
        """Of the servers, since the beginning."""
        now = self._counters()
        now.subtract(self._before)
        fetched = now["computes"] - now["refreshes"]
        return Counter(
            hits=now["hits"],
            stale=now["stale_hits"],
            misses=fetched,
            coalesced=now["misses"] - fetched,
        )

    def used(self) -> Counter[str]:
        """By vendor: what the servers were granted of its budget."""
        shown = json.loads(self.hosts[0].get(f"/api/rate-limits?{time.time()}").body)
        return Counter({vendor: row["used"] for vendor, row in shown.items()})

    def spent(self) -> Counter[str]:
        """By vendor: the same, by the vendor's own count."""
        spent: Counter[str] = Counter()
        for path, count in calls(self.vendors).items():
            vendor, cost = _COSTS[path]
            spent[vendor] += cost * count
        return spent

    def parts(self) -> list[int]:
        """Calls of each part of the dashboard, since the beginning."""
        counted = self.called()
        return [counted.get(path, 0) for path in _PARTS]

    def budget(self, vendor: str) -> int:
        return self.scenario.calls.get(vendor, ROOM)

    def busiest(self) -> list[int]:
        """By part: the most calls in any window; or of the origin as a whole."""
        window = self.scenario.window
        if self.scenario.budget:
            return [self.vendors.calls(window)["alternative"]["busiest"]]
        counted = calls(self.vendors, "busiest", window)
        return [counted.get(path, 0) for path in _PARTS]

    def _counters(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for host in self.hosts:
            found.update(_answered(host.counters))
        return found


def _answered(ask: Callable[[], T]) -> T:
    """Its answer; asked again where a worker was killed or replaced meanwhile."""
    for _ in range(_TRIES):
        with suppress(OSError, http.client.HTTPException):
            return ask()
    return ask()


@contextmanager
def staged(scenario: Scenario) -> Iterator[Stage]:
    """Everything started, and ended at the end; vendors' keys are in the environment
    from here on."""
    os.environ.update(KEYS)
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="shml-")))
        flags = ["--still"] if scenario.still else []
        vendors = enter(running("--latency", str(scenario.latency), *flags))
        redis = enter(redis_server()) if scenario.hosts > 1 else None
        how = {
            "hosts": scenario.hosts,
            "workers": scenario.workers,
            "l2": redis.url if redis else "none",
            "origin": vendors.base if scenario.budget else "",
        }
        hosts = enter(serving(folder, _config(scenario, vendors), **how))
        check = of_fear_and_greed if scenario.budget else of_dashboard
        witness = Witness(
            ports=[host.port for host in hosts],
            paths=scenario.hot,
            check=check(vendors),
            refusals=bool(scenario.budget),
            waves=scenario.shape.dues() if scenario.cold else (),
        )
        yield Stage(scenario, vendors, hosts, redis, witness)


def _config(scenario: Scenario, vendors: Vendors) -> str:
    if scenario.budget:
        return _BUDGETED.format(scenario.budget, scenario.window)
    changes = {
        name: {"calls": scenario.calls.get(name, ROOM), "seconds": WINDOW}
        for name in Settings().vendors
    }
    return config(vendors, scenario.ttl, scenario.grace, **changes)
