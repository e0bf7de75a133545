"""Scale: what a miss wave and an invalidation cost Redis, against hosts.

    python -m loadtest.scale [--quick] [--svg FILE] [--json FILE]

1, 2, 4, 8 and 16 hosts of two workers each, on one machine and one redis-server. Every
figure of Redis is the difference of two of its own counts, less what the idle fleet
costs in the same time. Times share two or so cores among all hosts: they are an upper
bound of what hosts with cores of their own would need.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic_ns, sleep
from typing import Any

from . import command
from .chart import chart, page
from .fleet import Fleet, fleet, together
from .herds import HOLD, fresh_key, round_trips
from .report import Target, judged, median, percentile, shown, table
from .watched import Server, Spent, monitor, server
from .worker import Answered

HOSTS = (1, 2, 4, 8, 16)
WORKERS = 2
VERBS = ("delete", "delete_tags")
MANY = 32
"""Keys that are missed at once."""
SVG = Path("build/scale.svg")
DEADLINE = 5.0
"""Seconds of an operation on L2: here the machine is slow, not Redis."""
_MS = 1e6
_FLEETS = ("eval", "evalsha", "xread", "xrange")
"""What the library sends for an invalidation, and its followers."""


@dataclass(frozen=True)
class Plan:
    """How many of what, for each number of hosts."""

    hosts: tuple[int, ...] = HOSTS
    waves: int = 60
    crowds: int = 6
    """Of `MANY` keys each."""
    counted: int = 10
    deletes: int = 40
    storm: int = 400
    idle: float = 3.0


QUICK = Plan((1, 2, 4), 10, 2, 3, 8, 60, 1.0)


@dataclass
class Invalidated:
    """One verb that invalidates."""

    one: Spent = field(default_factory=Spent)
    """Each, one after another."""
    storm: Spent = field(default_factory=Spent)
    """Each, where they come together."""
    applied_ms: list[float] = field(default_factory=list)
    """From the call until no host has the record."""


@dataclass
class Row:
    """One number of hosts."""

    hosts: int
    idle: Spent = field(default_factory=Spent)
    """Each second."""
    wave: Spent = field(default_factory=Spent)
    """Each wave of one key."""
    crowd: Spent = field(default_factory=Spent)
    """Each key, where many are missed at once."""
    keys: int = 0
    """Missed by waves, and..."""
    fetches: int = 0
    """...fetched for them."""
    wrong: int = 0
    """Waves of one key with other than one fetch."""
    trips: list[int] = field(default_factory=list)
    """Round trips of a host in a wave."""
    scripts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Calls each wave."""
    answered_ms: list[float] = field(default_factory=list)
    """From the fill to the last host's answer."""
    invalidated: dict[str, Invalidated] = field(
        default_factory=lambda: {verb: Invalidated() for verb in VERBS}
    )

    @property
    def fetched(self) -> float:
        """Fetches a key."""
        return self.fetches / self.keys


# --- measuring ---------------------------------------------------------------------


class Bench:
    """A fleet that grows, and its Redis."""

    def __init__(self, plan: Plan, redis: Server, hosts: Fleet) -> None:
        self.plan = plan
        self.redis = redis
        self.fleet = hosts

    def measure(self, hosts: int) -> Row:
        row, plan = Row(hosts), self.plan
        self.fleet.grow(hosts - len(self.fleet.hosts), WORKERS)
        self._wave(_keys(MANY))  # connections stand, scripts are known
        sleep(1)
        idle = self.redis.spent(lambda: sleep(plan.idle))
        row.idle = each(idle, idle.seconds)
        self._misses(row, idle)
        self._count(row)
        for verb, found in row.invalidated.items():
            self._invalidate(verb, found, idle)
        return row

    def _wave(self, keys: Sequence[str], tagged: bool = False) -> list[Answered]:
        order = ("wave", keys, 1, HOLD, 0.0, tagged)
        told = together(self.fleet.workers, *order)
        return [Answered(*one) for answers in told for one in answers]

    def _misses(self, row: Row, idle: Spent) -> None:
        plan = self.plan

        def waves() -> None:
            for _ in range(plan.waves):
                self._judged(row, _keys(1))

        def crowds() -> None:
            for _ in range(plan.crowds):
                self._judged(row, _keys(MANY))

        row.wave = each(self.redis.spent(waves, idle), plan.waves)
        row.crowd = each(self.redis.spent(crowds, idle), plan.crowds * MANY)

    def _judged(self, row: Row, keys: Sequence[str]) -> None:
        workers = self.fleet.workers
        before = sum(one.computes for one in workers)
        came = self._wave(keys)
        fetches = sum(one.computes for one in workers) - before
        row.keys += len(keys)
        row.fetches += fetches
        row.wrong += fetches != len(keys)
        if len(keys) == 1:
            last = max(one.answered for one in came)
            row.answered_ms.append((last - came[0].filled) / _MS)

    def _count(self, row: Row) -> None:
        with monitor(self.redis) as watching:
            sleep(1.5)  # in which each follower shows itself
            trips = round_trips(self.fleet, watching, self.plan.counted, 1)
        row.trips = trips.totals
        for wave in trips.waves:
            for name, calls in wave.items():
                row.scripts[name] += calls / self.plan.counted

    def _invalidate(self, verb: str, found: Invalidated, idle: Spent) -> None:
        """By one host, of what all hosts hold, alone and together with others."""
        plan = self.plan
        sender = self.fleet.hosts[len(self.fleet.hosts) // 2].workers[-1]
        tagged = verb == "delete_tags"
        held = _keys(plan.deletes)
        self._wave(held, tagged)

        def one_by_one() -> None:
            for key in held:
                called = monotonic_ns()
                number = sender.tell("call", verb, key)
                found.applied_ms.append((self._gone(key) - called) / _MS)
                sender.answer(number)

        found.one = each(self.redis.spent(one_by_one, idle), len(held))
        stormed = _keys(plan.storm)
        self._wave(stormed[-1:], tagged)

        def storm() -> None:
            sender.ask("calls", verb, stormed)
            self._gone(stormed[-1])

        found.storm = each(self.redis.spent(storm, idle), len(stormed))

    def _gone(self, key: str) -> int:
        """When no host had it."""
        lookers = [host.workers[0] for host in self.fleet.hosts]
        return int(max(together(lookers, "gone", key)))


def _keys(number: int) -> list[str]:
    return [fresh_key() for _ in range(number)]


def each(spent: Spent, times: float) -> Spent:
    return Spent().plus(spent, 1 / times)


def measure(plan: Plan) -> list[Row]:
    settings = {"l2_deadline": DEADLINE}
    with server() as redis, fleet(redis.url, 0, WORKERS, **settings) as hosts:
        bench = Bench(plan, redis, hosts)
        rows = []
        for number in plan.hosts:
            print(f"{number} hosts", file=sys.stderr, flush=True)
            rows.append(bench.measure(number))
        return rows


# --- telling -----------------------------------------------------------------------


def show(rows: Sequence[Row]) -> None:
    print(f"A miss wave: all hosts, of {WORKERS} workers each, ask for a fresh key.")
    print(f"CPU is Redis', also for each of {MANY} keys that are missed at once.\n")
    head = ["hosts", "fetches", "trips a host", "acquire", "put_fenced", "published"]
    head += ["reads", "bytes in", "bytes out", "CPU us", "at once"]
    head += ["answered ms", "most"]
    print(table(head, map(_wave_line, rows)))
    print("\nAn invalidation: one worker deletes what every host holds; CPU also for")
    print("each of many.\n")
    head = ["by", "hosts", "commands", "bytes in", "bytes out", "CPU us", "of many"]
    head += ["applied ms", "most"]
    print(table(head, [_line(verb, row) for verb in VERBS for row in rows]))
    print("\nAn idle fleet, each second:\n")
    head = ["hosts", "commands", "bytes in", "bytes out", "CPU us"]
    print(table(head, map(_idle_line, rows)))
    print(f"\n{carried(rows[-1])}")


def _wave_line(row: Row) -> list[str]:
    return [
        str(row.hosts),
        f"{row.fetched:.3f}",
        str(max(row.trips)),
        f"{row.scripts['acquire']:.1f}",
        f"{row.scripts['put_fenced']:.1f}",
        f"{row.wave.calls['publish']:.1f}",
        f"{row.wave.reads:.1f}",
        *_figures(row.wave),
        shown(row.crowd.cpu_us),
        *_milliseconds(row.answered_ms),
    ]


def _line(verb: str, row: Row) -> list[str]:
    found = row.invalidated[verb]
    commands = sum(found.one.calls[name] for name in _FLEETS)
    return [
        verb,
        str(row.hosts),
        f"{commands:.1f}",
        *_figures(found.one),
        shown(found.storm.cpu_us),
        *_milliseconds(found.applied_ms),
    ]


def _idle_line(row: Row) -> list[str]:
    return [str(row.hosts), shown(sum(row.idle.calls.values())), *_figures(row.idle)]


def _figures(spent: Spent) -> list[str]:
    return [shown(f) for f in (spent.bytes_in, spent.bytes_out, spent.cpu_us)]


def _milliseconds(figures: Sequence[float]) -> list[str]:
    return [shown(median(figures), ".1f"), shown(percentile(figures, 1), ".1f")]


def carried(row: Row) -> str:
    """What one Redis carries, in words."""
    deleted = row.invalidated["delete"]
    each_us = (row.wave, row.crowd, deleted.one, deleted.storm)
    wave, crowd, delete, storm = (f"{1e6 / spent.cpu_us:,.0f}" for spent in each_us)
    return (
        f"With all of one core this Redis carries, for {row.hosts} hosts, {wave} miss "
        f"waves a second one by one ({crowd} where {MANY} keys are missed at once), or "
        f"{delete} invalidations one by one ({storm} where they come together); the "
        f"idle fleet takes {row.idle.cpu_us / 1e4:.1f} % of it."
    )


def drawn(rows: Sequence[Row]) -> str:
    """The tables as charts."""
    hosts = [row.hosts for row in rows]
    deleted = [row.invalidated["delete"] for row in rows]
    cpu = {
        "a miss wave": [row.wave.cpu_us for row in rows],
        f"{MANY} at once": [row.crowd.cpu_us for row in rows],
        "a delete": [one.one.cpu_us for one in deleted],
        "many at once": [one.storm.cpu_us for one in deleted],
    }
    fleet_wide = {
        "fetches of a key": [row.fetched for row in rows],
        "round trips of a host": [float(max(row.trips)) for row in rows],
    }
    moved = {
        "wave, in": [row.wave.bytes_in for row in rows],
        "wave, out": [row.wave.bytes_out for row in rows],
        "delete, in": [one.one.bytes_in for one in deleted],
        "delete, out": [one.one.bytes_out for one in deleted],
    }
    last = {
        "answered": [median(row.answered_ms) or 0.0 for row in rows],
        "deleted": [median(one.applied_ms) or 0.0 for one in deleted],
    }
    return page(
        [
            chart(title, hosts, lines, "hosts")
            for title, lines in (
                ("CPU of Redis, microseconds", cpu),
                ("A miss wave", fleet_wide),
                ("Bytes to and from Redis", moved),
                ("Milliseconds until the last host has", last),
            )
        ]
    )


def targets(rows: Sequence[Row]) -> Iterator[Target]:
    for row in rows:
        at = f"{row.hosts} hosts: " if row.hosts > 1 else "1 host: "
        yield Target(f"{at}waves with other than 1 fetch a key", row.wrong, 0, form="d")
        most = max(row.trips)
        yield Target(f"{at}round trips of a host in a wave", most, 2, form="d")


def _told(row: Row) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, (Spent, Invalidated)):
            return {name: plain(one) for name, one in vars(value).items()}
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        return value

    return {name: plain(value) for name, value in vars(row).items()}


def options(args: list[str] | None) -> argparse.Namespace:
    parser = command.options("scale", __doc__, quick="to 4 hosts, few of each")
    parser.add_argument(
        "--svg", metavar="FILE", type=Path, default=SVG, help=f"charts ({SVG})"
    )
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> int:
    asked = options(args)
    rows = measure(QUICK if asked.quick else Plan())
    show(rows)
    aims = list(targets(rows))
    code = judged(aims, aims)
    asked.svg.parent.mkdir(parents=True, exist_ok=True)
    asked.svg.write_text(drawn(rows))
    print(f"\nCharts: {asked.svg}")
    if asked.json:
        told: dict[str, Any] = {
            "rows": [_told(row) for row in rows],
            "targets": [aim.as_json() for aim in aims],
        }
        asked.json.write_text(json.dumps(told, indent=2) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(command.run("scale", main))
