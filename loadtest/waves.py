"""Waves: how often a fleet fetches a key that all its clients want at once.

    python -m loadtest.waves [--trials N] [--json FILE]

Two hosts of four workers, each with several clients, on one Redis. First nothing is
wrong; then Redis counts what it is asked; then wake-ups are lost; last, computing
processes are killed. A figure of fetches or round trips that is missed ends the
program with code 1; times depend on the machine and only say met or MISSED.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import sleep
from typing import Any

from shmcache import CacheConfig

from . import command, herds
from .fleet import Fleet, fleet, together
from .herds import (
    CLIENTS,
    LEASE_LIFE,
    OTHER_HOST,
    PLACES,
    SAME_HOST,
    Herd,
    Killed,
    Shape,
    Trips,
)
from .report import NONE, Target, judged, median, percentile, shown, table
from .watched import Server, monitor, server

HOSTS, WORKERS = 2, 4
CROWDS = (1, 4, 16)
"""Clients of a worker, where round trips are counted."""
LOST = "messages lost"
CUT = "subscriptions cut"
UNWOKEN = "wake sockets gone"
_LOST_SHAPE = Shape(hold=0.03)
_SETTLED = 1.5
"""Seconds in which each background connection shows what it is."""


@dataclass
class Found:
    """All series."""

    herd: Herd = field(default_factory=Herd)
    l2_errors: int = 0
    """Operations on L2 that failed meanwhile: each may be a fetch more."""
    trips: list[Trips] = field(default_factory=list)
    lost: dict[str, Herd] = field(default_factory=dict)
    killed: Killed = field(default_factory=Killed)
    hosts_killed: Killed = field(default_factory=Killed)


@dataclass(frozen=True)
class Plan:
    """How many trials of what."""

    trials: int
    counted: int
    lost: int
    killed: int
    """Computing workers."""
    hosts_killed: tuple[int, ...]
    """Hosts at once, in rounds."""
    l2_deadline: float = CacheConfig("any").l2_deadline
    """Seconds; a machine that stops for longer makes each host fetch for itself."""

    @classmethod
    def of(cls, trials: int) -> Plan:
        """All of it for 10,000 trials, less of it for fewer."""
        few = trials < 1000
        return cls(
            trials,
            *((5, 2, 2, (3,)) if few else (50, 30, 20, (10, 10))),
        )


# --- measuring ---------------------------------------------------------------------


@contextmanager
def running(*flags: str, **settings: Any) -> Iterator[tuple[Server, Fleet]]:
    """Redis and the fleet, warm: connections stand, scripts are known."""
    with server(*flags) as redis, fleet(redis.url, HOSTS, WORKERS, **settings) as hosts:
        herds.trials(hosts, 8)
        yield redis, hosts


def measure(plan: Plan) -> Found:
    found = Found()
    settings = {"l2_deadline": plan.l2_deadline}
    with running(**settings) as (redis, hosts):
        found.herd = herds.trials(hosts, plan.trials, told=_progress)
        first = [host.workers[0] for host in hosts.hosts]
        found.l2_errors = sum(together(first, "counted", "l2_errors"))
        command.note("round trips")
        with monitor(redis) as watching:
            sleep(_SETTLED)
            found.trips = [
                herds.round_trips(hosts, watching, plan.counted, crowd)
                for crowd in CROWDS
            ]
        command.note("killed workers")
        found.killed = herds.kill_on_its_host(hosts, plan.killed)
        for number in plan.hosts_killed:
            command.note(f"{number} killed hosts")
            _add(found.hosts_killed, herds.kill_whole_hosts(hosts, number))
        command.note("lost wake-ups")
        found.lost[CUT] = herds.trials(
            hosts, plan.lost, (_LOST_SHAPE,), meanwhile=lambda: _cut(redis)
        )
        herds.unlink_wake_sockets(hosts)
        found.lost[UNWOKEN] = herds.trials(hosts, plan.lost, (_LOST_SHAPE,))
    with running("--rename-command", "PUBLISH", "", **settings) as (_, hosts):
        found.lost[LOST] = herds.trials(hosts, plan.lost, (_LOST_SHAPE,))
    return found


def _cut(redis: Server) -> None:
    """In the middle of the compute: all wait."""
    sleep(_LOST_SHAPE.hold / 2)
    redis.command("CLIENT", "KILL", "TYPE", "pubsub")


def _add(all_of: Killed, more: Killed) -> None:
    all_of.goes_on_ms += more.goes_on_ms
    all_of.answered_ms += more.answered_ms
    all_of.wrong += more.wrong


def _progress(herd: Herd) -> None:
    if herd.trials % 1000 == 0:
        command.note(f"{herd.trials:,} waves, {herd.wrong} wrong")


# --- telling -----------------------------------------------------------------------


def spread(name: str, figures: Sequence[float]) -> list[str]:
    """A line of percentiles."""
    cells = [percentile(figures, share) for share in (0.5, 0.9, 0.99, 1.0)]
    return [name, f"{len(figures):,}", *(shown(cell, ",.2f") for cell in cells)]


PERCENTILES = ["median", "p90", "p99", "most"]


def show(found: Found) -> None:
    herd = found.herd
    print(
        f"{herd.trials:,} waves over {HOSTS} hosts of {WORKERS} workers with {CLIENTS}"
        f" clients each, {herd.clients:,} answers;\nclients of a wave begin within"
        f" {shown(median(herd.spread_ms), '.1f')} ms (median);"
        f" {found.l2_errors} operations on L2 failed.\n"
    )
    rows = [[str(n), f"{t:,}"] for n, t in sorted(herd.fetches.items())]
    print(table(["fetches", "waves"], rows))
    print("\nMilliseconds from the fill to a waiting client's answer:\n")
    head = ["who waits", "clients", *PERCENTILES]
    print(table(head, [spread(place, herd.woken_ms[place]) for place in PLACES]))
    print("\nRound trips to Redis of a host in a wave:\n")
    print(
        table(["clients of a worker", "waves", "median", "most", "by"], _trips(found))
    )
    print("\nMilliseconds from the fill to the answer where wake-ups are lost:\n")
    lost = [
        [name, *spread(place, one.woken_ms[place])]
        for name, one in found.lost.items()
        for place in PLACES[1:]
    ]
    print(table(["lost", *head], lost, names=2))
    print("\nMilliseconds from the kill to the next compute's begin, and to the last")
    print("waiting client's answer:\n")
    killed = [
        spread("a worker: its host goes on", found.killed.goes_on_ms),
        spread("all are answered", found.killed.answered_ms),
        spread("a whole host: another goes on", found.hosts_killed.goes_on_ms),
        spread("all are answered", found.hosts_killed.answered_ms),
    ]
    print(table(["killed", "kills", *PERCENTILES], killed))
    for wrong in [*herd.failed[:3], *found.killed.wrong, *found.hosts_killed.wrong]:
        print(wrong)


def _trips(found: Found) -> Iterator[list[str]]:
    for trips in found.trips:
        kinds = Counter[str]()
        for wave in trips.waves:
            kinds += wave
        by = ", ".join(
            f"{name} {times / len(trips.waves):.2f}" for name, times in kinds.items()
        )
        totals = trips.totals
        yield [
            str(trips.clients),
            str(len(totals)),
            shown(median(totals), ".0f"),
            str(max(totals, default=0)),
            by or NONE,
        ]


def counts(found: Found) -> Iterator[Target]:
    """What must hold on any machine."""
    herd = found.herd
    yield Target(
        "waves with other than 1 fetch", herd.trials - herd.fetches[1], 0, form="d"
    )
    yield Target(
        "waves with mixed answers or errors", herd.mixed + len(herd.failed), 0, form="d"
    )
    for trips in found.trips:
        most = max(trips.totals, default=None)
        what = f"round trips of a host in a wave, {trips.clients} clients a worker"
        yield Target(what, most, 2, form="d")
    for name, one in found.lost.items():
        yield Target(f"{name}: waves with other than 1 fetch", one.wrong, 0, form="d")
    yield Target(
        "killed worker: not 1 more fetch by its host",
        len(found.killed.wrong),
        0,
        form="d",
    )
    yield Target(
        "killed hosts: not 1 more fetch a key",
        len(found.hosts_killed.wrong),
        0,
        form="d",
    )


def times(found: Found) -> Iterator[Target]:
    """What depends on the machine too, in milliseconds."""
    woken, form = found.herd.woken_ms, ",.1f"
    yield Target(
        "woken on the holder's host, median ms", median(woken[SAME_HOST]), 5, form=form
    )
    yield Target(
        "woken on the other host, median ms", median(woken[OTHER_HOST]), 10, form=form
    )
    for name, one in found.lost.items():
        most = percentile([ms for place in PLACES for ms in one.woken_ms[place]], 1)
        yield Target(f"{name}, most ms", most, 500, form=form)
    yield Target(
        "worker killed, its host goes on, most ms",
        percentile(found.killed.goes_on_ms, 1),
        100,
        form=form,
    )
    most = percentile(found.hosts_killed.goes_on_ms, 1)
    yield Target(
        "host killed, another goes on, most ms",
        most,
        LEASE_LIFE * 1000 + 200,
        form=form,
    )


def as_json(found: Found, aims: Sequence[Target]) -> dict[str, Any]:
    return {
        "fetches": dict(found.herd.fetches),
        "l2_errors": found.l2_errors,
        "mixed": found.herd.mixed,
        "failed": found.herd.failed,
        "woken_ms": found.herd.woken_ms,
        "round_trips": {t.clients: [dict(w) for w in t.waves] for t in found.trips},
        "lost": {name: one.woken_ms for name, one in found.lost.items()},
        "killed": vars(found.killed),
        "hosts_killed": vars(found.hosts_killed),
        "targets": [aim.as_json() for aim in aims],
    }


def options(args: list[str] | None) -> argparse.Namespace:
    parser = command.options("waves", __doc__)
    parser.add_argument(
        "--trials", type=command.positive, default=10_000, metavar="N",
        help="waves with nothing wrong (10,000); below 1,000 all else is shorter too",
    )  # fmt: skip
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> int:
    asked = options(args)
    found = measure(Plan.of(asked.trials))
    show(found)
    firm = list(counts(found))
    aims = [*firm, *times(found)]
    code = judged(aims, firm)
    if asked.json:
        asked.json.write_text(json.dumps(as_json(found, aims), indent=2) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(command.run("waves", main))
