"""Scenarios: what is started, who asks how, what happens meanwhile, what must hold."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from shmcache_server.market.settings import Settings
from tests.helpers import until

from .death import kill
from .service import DASHBOARD
from .shapes import Ramp, Shape, Waves, steady

if TYPE_CHECKING:
    from .stage import Stage

VENDORS = ("coingecko", "alternative", "taapi", "binance", "cmc")
WINDOW = 600.0
"""Seconds in which no vendor may be called more often than its budget: longer than any
scenario, so that what is used of it is the number of calls."""
ROOM = 1000
DEPLOYED = {name: vendor.calls for name, vendor in Settings().vendors.items()}
"""What is a minute's there is ten minutes' here."""
_FNG = "/alternative/fng/?limit=1&n="
_HOT = tuple(f"{_FNG}hot{i}" for i in range(5))
_COLD = tuple(f"{_FNG}{i}" for i in range(10_000))
_WITHIN = 60.0
"""Seconds for something to come about; then it does not."""


@dataclass(frozen=True)
class Bound:
    """A bound on one of an outcome's totals."""

    what: str
    figure: str
    bound: float
    least: bool = False
    form: str = ",.0f"
    timed: bool = False
    """A time: what a short run, on whatever machine, is not judged by."""


_COMMON = (
    Bound("failed requests", "failed", 0),
    Bound("wrong bodies", "wrong", 0),
    Bound("bodies that were read", "read", 1, True),
    Bound("requests that clients and servers count otherwise", "unlike_requests", 0),
)
_FETCHES = Bound(
    "fetches that clients and servers count otherwise", "unlike_fetches", 0
)
_CALLS = Bound("calls that servers and vendors count otherwise", "unlike_calls", 0)
_BUDGETS = Bound("calls over a vendor's budget", "over_budget", 0)
WARM = Bound("answers that waited for no vendor, %", "warm", 99.9, True, ",.2f")


@dataclass(frozen=True)
class Scenario:
    """One row of the table; times in seconds."""

    title: str
    shape: Shape
    bounds: tuple[Bound, ...] = (WARM,)
    user: str = "Reader"
    """A class of `users.py`."""
    pace: float = 2.0
    """Requests of a client in a second, so that the clients' own work is not what is
    measured."""
    hosts: int = 1
    workers: int = 2
    """Of each host."""
    latency: float = 0.2
    """Of every vendor."""
    still: bool = False
    """Vendors' figures do not move."""
    ttl: float | None = None
    """Of all parts; None: as deployed."""
    grace: float | None = None
    cold: bool = False
    """Nothing stands when the clients ask."""
    window: float = WINDOW
    """In which calls are counted for `busiest`."""
    budget: int = 0
    """In place of the market, an origin of which so many calls are had in a window."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """Budgets of vendors in `WINDOW`; ROOM where none is told."""
    happens: Callable[[Stage], None] | None = None
    """Meanwhile; it returns when nothing more is to come."""
    tallied: bool = True
    """Whether what was used of budgets is known at the end: not if Redis was lost."""
    span: float = 0.0
    """Until it does, or how long it goes on."""

    @property
    def common(self) -> tuple[Bound, ...]:
        """Bounds that it shares with others."""
        asked = Bound("requests of locust's clients", "asked", self.shape.least, True)
        if self.budget:
            return (asked, *_COMMON, _CALLS)
        told = (_CALLS,) if self.tallied else ()
        return (asked, *_COMMON, _FETCHES, *told, _BUDGETS)

    @property
    def hot(self) -> tuple[str, ...]:
        """Paths that many ask for."""
        return _HOT if self.budget else (DASHBOARD,)

    @property
    def cold_paths(self) -> tuple[str, ...]:
        return _COLD if self.budget else ()


# --- what happens


def _vendors_die(stage: Stage) -> None:
    """After a while, for `stage.scenario.span`; then they are back."""
    ttl = stage.scenario.ttl or 0.0
    stage.until(ttl / 2)
    for vendor in VENDORS:
        stage.vendors.fault(vendor, "failing", status=503)
    died = time.time()
    stage.until(ttl / 2 + stage.scenario.span)
    stale = [one for one in stage.witness.since(died) if one.states == {"stale"}]
    for vendor in VENDORS:
        stage.vendors.fault(vendor, "ok")
    back = time.time()
    until(
        lambda: any(one.states == {"fresh"} for one in stage.witness.since(back)),
        _WITHIN,
        "all parts fresh",
    )
    stage.figures["stale_seen"] = len(stale)
    stage.figures["fresh_after"] = time.time() - back


def _redis_dies(stage: Stage) -> None:
    assert stage.redis is not None
    stage.figures["killed"] = int(stage.until(stage.scenario.span))
    stage.redis.kill()
    stage.until(2 * stage.scenario.span)
    stage.redis.start()


def _worker_dies(stage: Stage) -> None:
    under_load = stage.until(stage.scenario.span)
    host = stage.hosts[0]
    pid = host.pids()[0]
    stage.death = kill(pid)
    until(lambda: len(host.pids()) == host.workers and pid not in host.pids(), _WITHIN)
    stage.figures["killed"] = int(under_load)


def _reloads(stage: Stage) -> None:
    under_load = stage.until(stage.scenario.span)
    for host in stage.hosts:
        before = host.pids()
        os.kill(host.process.pid, signal.SIGHUP)
        until(lambda: _replaced(host.pids(), before, host.workers), _WITHIN)  # noqa: B023
    stage.figures["reloads"] = len(stage.hosts) if under_load else 0


def _replaced(pids: list[int], before: list[int], workers: int) -> bool:
    return len(pids) == workers and not {*pids} & {*before}


# --- the table


def scenarios(short: bool) -> dict[str, Scenario]:
    """By name; `short`: a few seconds each, with few clients."""
    return {
        **_stampedes(short),
        **_loads(short),
        **_faults(short),
        "budget": _budget(short),
    }


def _stampedes(short: bool) -> dict[str, Scenario]:
    waves, workers = (2, 4) if short else (20, 8)
    one = Scenario(
        "waves of clients on a cold key",
        Waves(60 if short else 250, waves, 4.0),
        (
            Bound("most calls for a part", "most_calls", waves),
            Bound("fewest calls for a part", "least_calls", waves, True),
            Bound("slowest answer, ms", "max", 1100, timed=True),
        ),
        user="Crowd",
        workers=workers,
        latency=0.5 if short else 1.0,
        ttl=1.0,
        grace=0.0,
        cold=True,
    )
    two = replace(one, title="the same, over two hosts", hosts=2, workers=workers // 2)
    return {"stampede": one, "stampede-fleet": two}


def _loads(short: bool) -> dict[str, Scenario]:
    """Clients, and nothing that happens to the service."""
    pace, refreshed = _pace(short), 3 if short else 40
    return {
        "expiry": Scenario(
            "each second every part expires, under load",
            _steady(short, 4.5 if short else 60.0),
            (
                WARM,
                Bound("calls for a part in any second", "busiest", 1),
                Bound("fewest calls for a part", "least_calls", refreshed, True),
                Bound("p99, ms", "p99", 25, form=",.1f", timed=True),
            ),
            pace=pace,
            ttl=1.0,
            window=1.0,
        ),
        "ramp": Scenario(
            "clients become more and more",
            Ramp(2, 10, 3.0) if short else Ramp(10, 100, 60.0),
            pace=pace,
            calls=DEPLOYED,
        ),
        "sustained": Scenario(
            "as many clients throughout",
            _steady(short, 3.0 if short else 60.0),
            pace=pace,
            calls=DEPLOYED,
        ),
        "burst": Scenario(
            "connections that are new, all at once",
            Waves(50, 2, 2.0) if short else Waves(500, 5, 4.0),
            (WARM, Bound("slowest answer, ms", "max", 500, timed=True)),
            user="Newcomers",
            calls=DEPLOYED,
        ),
    }


def _faults(short: bool) -> dict[str, Scenario]:
    """Something dies, or is replaced, under load: answers wait for no vendor."""
    span = 1.5 if short else 15.0
    dark = 4.0 if short else 30.0

    def fault(title: str, seconds: float, *bounds: Bound, **how: Any) -> Scenario:
        told = {"pace": _pace(short), "ttl": 2.0, "span": span, **how}
        return Scenario(title, _steady(short, seconds), (WARM, *bounds), **told)

    return {
        "vendor-dead": fault(
            "all vendors fail for a while, and are back",
            9.0 if short else 67.5,
            Bound("stale dashboards seen", "stale_seen", 1, True),
            Bound("fresh again after, s", "fresh_after", 20, form=".1f", timed=True),
            ttl=2.0 if short else 20.0,
            span=dark,
            happens=_vendors_die,
        ),
        "redis-killed": fault(
            "Redis is killed, and started again, under load",
            (3 if short else 4) * span,
            Bound("times that Redis was killed", "killed", 1, True),
            hosts=2,
            happens=_redis_dies,
            tallied=False,
        ),
        "worker-killed": fault(
            "a worker is killed under load",
            3 * span,
            Bound("workers killed", "killed", 1, True),
            happens=_worker_dies,
        ),
        "reload": fault(
            "every worker is replaced (HUP) under load",
            3 * span,
            Bound("hosts reloaded", "reloads", 1, True),
            happens=_reloads,
        ),
    }


def _budget(short: bool) -> Scenario:
    budget, window = (5, 3.0) if short else (20, 60.0)
    return Scenario(
        "misses on 10,000 URLs of an origin with a budget",
        _steady(short, 4.5 if short else 70.5, 100),
        (
            Bound("origin's calls in any window", "busiest", budget),
            Bound("answers that were refused or stale", "within_budget", 1, True),
        ),
        user="Storm",
        pace=_pace(short),
        hosts=2,
        workers=2 if short else 4,
        latency=0.05,
        window=window,
        budget=budget,
    )


def _steady(short: bool, seconds: float, clients: int = 200) -> Ramp:
    return steady(clients // 10 if short else clients, seconds)


def _pace(short: bool) -> float:
    """A tenth of the clients, and half of their requests."""
    return 10.0 if short else 2.0
