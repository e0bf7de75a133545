"""Timed: scenarios whose requests are due at fixed times, before a market service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from shmcache_server.embedded import die_with_parent
from tests.helpers import ROOT

from .openloop import notes
from .report import Target
from .runs import Outcome, Second
from .samples import Plan

RATE, SECONDS, CLIENTS = 3499.0, 60.0, (10, 100)
"""Of the ramp."""
MEAN_MOST, P99_MOST = 0.3, 2.0
"""Milliseconds."""
ALONE = 200.0
"""Requests a second by one client."""
CROWD, AT_ONCE = 500, 1e6
OVER, P50_MOST, CROWD_MOST = 50.0, 1.0, 500.0
"""Milliseconds; the first beyond the slowest vendor."""


def ramp(
    url: str,
    *,
    rate: float = RATE,
    seconds: float = SECONDS,
    clients: tuple[int, int] = CLIENTS,
    calls: Callable[[], Mapping[str, int]] | None = None,
) -> Outcome:
    """`rate` requests a second by a growing number of clients, from a process of its
    own; `calls` tells what the vendors were asked so far, by key."""
    plan = Plan(rate, seconds, clients=clients[1], first_clients=clients[0])
    before = dict(calls()) if calls else {}
    told, sampled = _apart(url, plan, calls)
    outcome = Outcome(
        "ramp",
        f"Ramp, {clients[0]} to {clients[1]} clients, {rate:,.0f} requests/s offered",
        [Second(**one) for one in told["seconds"]],
        told["totals"],
        notes=notes(told["totals"], told["why"]),
    )
    if calls:
        outcome.calls = {key: n - before.get(key, 0) for key, n in calls().items()}
        outcome.totals["calls"] = sum(outcome.calls.values())
        counts = [sum(before.values()), *sampled]
        for second, a, b in zip(outcome.seconds, counts, counts[1:], strict=False):
            second.calls = b - a
    found = outcome.totals
    outcome.targets = [
        Target("mean since a request was due, ms", found.get("mean"), MEAN_MOST),
        Target("p99 since a request was due, ms", found.get("p99"), P99_MOST),
        Target("requests without a right answer", found["failures"], 0, form=",.0f"),
    ]
    return outcome


def answers(url: str, slowest: float, *, count: int = 1000) -> Outcome:
    """Of a market service at `url` that has answered nobody, before vendors that never
    wander and of which the slowest takes so many seconds: how long its first dashboard
    takes, a cached one, the stream's last entry, and 500 cold connections at once."""
    board, alone = f"{url}/api/dashboard", Plan(ALONE, count / ALONE, clients=1)
    together = Plan(AT_ONCE, CROWD / AT_ONCE, clients=CROWD)
    runs = {
        "cold dashboard": (board, Plan(1, 1, clients=1)),
        "cached dashboard": (board, alone),
        "stream's last entry": (f"{url}/api/stream/latest", alone),
        f"{CROWD} cold connections": (board, together),
    }
    outcome = Outcome("answers", "Single answers, and a crowd's")
    found: dict[str, dict[str, float]] = {}
    for name, (where, plan) in runs.items():
        told, _ = _apart(where, plan, None)
        found[name] = told["totals"]
        for figure in ("requests", "failures", "p50", "p99", "max"):
            if figure in found[name]:
                outcome.totals[f"{name}: {figure}"] = found[name][figure]
        outcome.notes += [f"{name}: {note}" for note in notes(found[name], told["why"])]
    cold, cached, last, crowd = found.values()
    outcome.targets = [
        Target("cold dashboard, ms", cold.get("max"), slowest * 1e3 + OVER),
        Target("cached dashboard, p50, ms", cached.get("p50"), P50_MOST),
        Target("stream's last entry, p50, ms", last.get("p50"), P50_MOST),
        Target(f"{CROWD} cold connections, slowest, ms", crowd.get("max"), CROWD_MOST),
        Target(
            "requests without a right answer",
            sum(one["failures"] for one in found.values()),
            0,
            form=",.0f",
        ),
    ]
    return outcome


def _apart(
    url: str, plan: Plan, calls: Callable[[], Mapping[str, int]] | None
) -> tuple[dict[str, Any], list[int]]:
    """What a child has found, and the calls after each second since it began: it says
    so by a line."""
    parent, sampled = os.getpid(), list[int]()
    asked = {
        "--rate": plan.rate,
        "--from": plan.rate if plan.first is None else plan.first,
        "--seconds": plan.seconds,
        "--clients": plan.clients,
        "--first-clients": plan.first_clients or plan.clients,
    }
    flags = [str(word) for pair in asked.items() for word in pair]
    with subprocess.Popen(
        [sys.executable, "-m", "loadtest.openloop", url, "--json", *flags],
        stdout=subprocess.PIPE,
        bufsize=0,  # what follows the line stays in the pipe
        cwd=ROOT,
        preexec_fn=lambda: die_with_parent(parent),
    ) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            out = None
            while out is None:
                try:
                    out, _ = child.communicate(timeout=1)
                except subprocess.TimeoutExpired:
                    sampled += [sum(calls().values())] if calls else []
        finally:  # who fails meanwhile does not wait for the rest of the requests
            child.kill()
    if child.returncode:
        raise RuntimeError(f"the open loop ended with code {child.returncode}")
    told: dict[str, Any] = json.loads(out)
    return told, sampled
