"""A seeded schedule of faults: what befalls whom, when and for how long.

It has two tracks. On the link's track (Redis, and the network before it) storms, in
which one fault follows on another, alternate with calms long enough for the bound on
staleness to run out and be held against what is read. On the workers' track kills and
stops go on all the time. A deck of all kinds is dealt before any kind comes again, so a
short run has each kind once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.chaos.proxy import FAULTS

REDIS = (
    *("redis_stop", "redis_restart", "flushall", "script_flush", "failover"),
    *("maxmemory", "client_kill", "clock"),
)
WORKERS = ("kill", "stop", "kill_host")
LINK = {*FAULTS, *REDIS} - {"script_flush", "maxmemory", "clock"}
"""Kinds under which an invalidation may be held up, or its entry lost."""

WARM = 1.5
"""Seconds without a fault at the beginning."""
CALM = 12.0
"""Seconds between storms: a dead connection noticed, and the longest bound, and one."""
STORM = 20.0
_SECONDS = {
    "delay": (0.8, 2.0),
    "drop": (0.5, 3.0),
    "mute": (0.5, 2.0),
    "split": (0.8, 1.5),
    "reset": (0.4, 1.0),
    "half_close": (0.4, 1.0),
    "repeat": (0.4, 1.0),
    "refuse": (0.3, 2.0),
    "redis_stop": (0.3, 3.0),
    "redis_restart": (0.1, 1.5),
    "maxmemory": (0.8, 1.5),
    "clock": (0.5, 1.5),
}
"""How long each kind lasts; one that is not here is over at once."""
_GAP = (0.2, 0.6)


class Event(NamedTuple):
    """One fault; seconds from the run's begin."""

    at: float
    seconds: float
    kind: str
    host: int
    """Of the front, or of the worker; -1: all."""
    worker: int = -1
    amount: float = 0.0
    """Seconds of a delay or of a clock's step."""

    @property
    def end(self) -> float:
        return self.at + self.seconds


def plan(
    seed: int,
    seconds: float,
    *,
    hosts: int = 2,
    workers: int = 3,
    lease_life: float = 2.0,
    without: Sequence[str] = (),
) -> list[Event]:
    """All faults of a run, in order; the last `CALM` seconds have none."""
    draw = random.Random(seed)
    deck = _Deck(draw, [k for k in (*FAULTS, *REDIS) if k not in without])
    events = [
        event
        for begin, end in storms(seconds)
        for event in _storm(draw, deck, begin, end, hosts)
    ]
    last = seconds - CALM
    if not set(WORKERS) <= set(without):
        events += _workers(draw, last, hosts, workers, lease_life, without)
    return sorted(events)


def storms(seconds: float) -> list[tuple[float, float]]:
    """Begin and end of each storm; each is followed by a calm."""
    count = max(1, round((seconds - WARM) / (STORM + CALM)))
    each = (seconds - WARM) / count
    begins = [WARM + i * each for i in range(count)]
    return [(begin, max(begin, begin + each - CALM)) for begin in begins]


class _Deck:
    def __init__(self, draw: random.Random, kinds: Sequence[str]) -> None:
        self._draw = draw
        self._kinds = kinds
        self._left: list[str] = []

    def deal(self) -> str:
        if not self._left:
            self._left = self._draw.sample(self._kinds, len(self._kinds))
        return self._left.pop()


def _storm(
    draw: random.Random, deck: _Deck, begin: float, end: float, hosts: int
) -> Iterator[Event]:
    """One fault after another, each shortened so that a storm has a deck of them."""
    pace = min(1.0, (end - begin) / 24)
    at = begin
    while True:
        kind = deck.deal()
        low, high = _SECONDS.get(kind, (0.0, 0.0))
        lasts = max(min(low, 0.3), draw.uniform(low, high) * pace)
        if at + lasts > end:
            return
        host = draw.randrange(-1, hosts) if kind in FAULTS else -1
        amount = draw.choice((0.02, 0.2, 0.6)) if kind == "delay" else 0.0
        if kind == "clock":
            amount = draw.choice((-3600.0, -5.0, 5.0, 3600.0))
        yield Event(at, lasts, kind, host, amount=amount)
        at += lasts + draw.uniform(*_GAP) * pace


def _workers(
    draw: random.Random,
    last: float,
    hosts: int,
    workers: int,
    lease_life: float,
    without: Sequence[str],
) -> Iterator[Event]:
    """Kills and stops; no worker is stopped twice at a time, and never a whole host."""
    deck = _Deck(draw, [k for k in ("kill", "stop", "kill", "stop", "kill_host")
                        if k not in without])  # fmt: skip
    at = WARM
    busy = [0.0] * hosts
    while (at := at + draw.uniform(1.0, 3.0)) < last:
        kind = deck.deal()
        host = draw.randrange(hosts)
        if kind == "stop":
            lasts = draw.uniform(0.5, 3.0) * lease_life
            if busy[host] > at or at + lasts > last:
                continue
            busy[host] = at + lasts
            yield Event(at, lasts, kind, host, draw.randrange(workers))
        elif kind == "kill":
            yield Event(at, 0.0, kind, host, draw.randrange(workers))
        else:
            yield Event(at, 0.0, kind, host)
