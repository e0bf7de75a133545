"""What a get and a set cost: our L1 beside its peers, ratios of one run.

    python -m loadtest.l1 [--quick] [--json FILE]

Two processes, one to a core, hold every store at once. A round measures each of them
in turn: the first process alone, both at once, the first beside a writer; a few rounds
later every row has its median, and a ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from . import command, space
from .report import NONE, Target, judged, median, ratio, shown, table
from .sides import Pair, StoreError, Task, Workload, answers
from .stores import (
    DECODED,
    DICT,
    KINDS,
    LMDB,
    LMDB_EACH,
    LMDB_MSGPACK,
    LMDB_MSGPACK_EACH,
    MOKA,
    OURS,
    fresh_name,
    remove_all,
)

LOOP = "empty loop"
FIGURES = ["get", "get 2", "get w", "set", "set 2"]
"""Alone, both at once, beside a writer; sets alone and both at once."""
WORKLOADS = [Workload(10_000, 300), Workload(10_000, 4096), Workload(1_000_000, 300)]
QUICK = [Workload(10_000, 300), Workload(10_000, 4096)]
LARGE = 100_000
"""Records, above which some stores take too long to fill."""
LEAST_OPERATIONS = 50


@dataclass
class Row:
    """One store under one workload."""

    store: str
    shared: bool
    missing: str = ""
    """Why there are no figures."""
    held: float = 1.0
    """Share of the records that it gave back at the end."""
    rounds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Nanoseconds of one operation, by figure."""


@dataclass
class Measured:
    """One workload's rows, by store."""

    load: Workload
    rows: dict[str, Row]

    def rounds(self, store: str, figure: str) -> list[float]:
        return self.rows[store].rounds[figure] if store in self.rows else []

    def ratio(self, over: str, under: str, figure: str) -> float | None:
        return ratio(self.rounds(over, figure), self.rounds(under, figure))

    def within(self, store: str, over: str, under: str) -> float | None:
        """Of two figures of one store."""
        return ratio(self.rounds(store, over), self.rounds(store, under))


# --- measuring ---------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How long it all may take."""

    rounds: int
    nanoseconds: int
    """Of one measurement."""

    def tasks(
        self, store: str, verb: str, each: float, load: Workload, start: int
    ) -> Iterator[Task]:
        """As many operations as there is time for, each time on another stretch of
        keys: what the last one left in the core's caches is of no use to the next."""
        count = max(LEAST_OPERATIONS, int(self.nanoseconds / each))
        passes, count = max(1, count // load.records), min(count, load.records)
        for n in itertools.count(start):
            first = n * count % (load.records - count + 1)
            yield Task(store, verb, first, count, passes)


def open_all(pair: Pair, load: Workload, rows: list[Row], name: str) -> None:
    """Each store in both processes; those that cannot be had say why."""
    first, second = pair.sides
    for number, row in enumerate(rows):
        if row.store == LOOP or row.missing:
            continue
        command.note(f"{load.name}: filling {row.store}")
        at = f"{name}-{number}"
        if row.shared:
            row.missing = first.ask("open", row.store, at, True, True) or ""
            row.missing = row.missing or (
                second.ask("open", row.store, at, False, False) or ""
            )
            continue
        for side in pair.sides:
            side.tell("open", row.store, at, True, True)
        row.missing = next(filter(None, answers(pair.sides)), "")


def measure(load: Workload, plan: Plan, redis: str, cores: list[int]) -> Measured:
    """All rounds of one workload."""
    large = load.records > LARGE
    rows = [Row(LOOP, False)] + [
        Row(k.name, k.shared, "" if k.large or not large else "takes too long to fill")
        for k in KINDS
    ]
    name = fresh_name()
    pair = Pair(load, redis, cores)
    try:
        open_all(pair, load, rows, name)
        run_rounds(pair, load, plan, rows)
    finally:
        pair.end()
        remove_all(name)
    return Measured(load, {row.store: row for row in rows})


def run_rounds(pair: Pair, load: Workload, plan: Plan, rows: list[Row]) -> None:
    """Fill the rows; one whose store fails loses its figures."""
    each: dict[str, dict[str, float]] = {}
    for n in range(plan.rounds + 1):
        last = n == plan.rounds
        command.note(f"{load.name}: {'last look' if last else f'round {n + 1}'}")
        for row in [row for row in rows if not row.missing]:
            try:
                if n == 0:
                    each[row.store] = estimates(pair, row, load)
                if not last:
                    one_round(pair, row, plan, load, each[row.store], n)
                elif row.store != LOOP:
                    row.held = pair.sides[0].ask("held", row.store)
            except StoreError as error:
                row.missing = str(error)
                row.rounds.clear()


def estimates(pair: Pair, row: Row, load: Workload) -> dict[str, float]:
    """Nanoseconds of a get and of a set, to plan by; it warms them too."""
    count = min(load.records, 200)
    found = {}
    for verb in ("get", "set"):
        task = Task(row.store, verb, 0, count, 1)
        pair.both(task)
        found[verb] = max(5.0, pair.alone(task))
    return found


def one_round(
    pair: Pair, row: Row, plan: Plan, load: Workload, each: dict[str, float], n: int
) -> None:
    """Every figure of one store once."""
    get = plan.tasks(row.store, "get", each["get"], load, 3 * n)
    row.rounds["get"].append(pair.alone(next(get)))
    if row.store == LOOP:
        return
    row.rounds["get 2"].append(pair.both(next(get)))
    row.rounds["get w"].append(pair.beside_writer(next(get)))
    put = plan.tasks(row.store, "set", each["set"], load, 2 * n)
    row.rounds["set"].append(pair.alone(next(put)))
    row.rounds["set 2"].append(pair.both(next(put)))


@contextmanager
def redis_server() -> Iterator[tuple[str, str]]:
    """Its socket, or an empty one and why."""
    from shmcache import ConfigError
    from shmcache_server.embedded import EmbeddedRedis

    try:
        server = EmbeddedRedis()
    except ConfigError as error:
        yield "", str(error)
        return
    try:
        yield server.url.removeprefix("unix://"), ""
    finally:
        server.close()


# --- telling -----------------------------------------------------------------------

HEAD = [
    "records", "store", "shared", "get ns", "of ours", "get 2 ns", "scaling",
    "get w ns", "writer", "set ns", "of ours", "set 2 ns",
]  # fmt: skip


def lines(found: Measured) -> Iterator[list[str]]:
    for row in found.rows.values():
        ns = {f: shown(median(row.rounds[f])) for f in FIGURES}
        store = row.store + (" (not all held)" if row.held < 0.99 else "")
        two = scaling(found, row.store)
        writer = found.within(row.store, "get w", "get")
        yield [
            found.load.name,
            store,
            NONE if row.store == LOOP else ("yes" if row.shared else "no"),
            ns["get"], shown(found.ratio(row.store, OURS, "get"), ".2f"),
            ns["get 2"], shown(two, ".2f"),
            ns["get w"], shown(writer, ".2f"),
            ns["set"], shown(found.ratio(row.store, OURS, "set"), ".2f"),
            ns["set 2"],
        ]  # fmt: skip


def scaling(found: Measured, store: str) -> float | None:
    """Throughput of two processes over that of one; 2 is perfect."""
    slower = found.within(store, "get 2", "get")
    return None if slower is None else 2 / slower


def against_dict(found: Measured) -> float | None:
    ours, theirs = scaling(found, OURS), scaling(found, DICT)
    return ours / theirs if ours and theirs else None


def targets(measured: list[Measured]) -> Iterator[Target]:
    for found in measured:
        load = found.load
        if load.value_bytes != 300:
            continue
        at = f"{load.records:,} of 300 B: "
        yield Target(f"{at}get / moka-py's", found.ratio(OURS, MOKA, "get"), 0.55)
        for store, way in ((LMDB_EACH, ""), (LMDB, ", one kept transaction")):
            of = found.ratio(OURS, store, "get")
            yield Target(f"{at}get / LMDB's, raw{way}", of, 0.4)
        packed = ((LMDB_MSGPACK_EACH, ""), (LMDB_MSGPACK, ", one kept transaction"))
        for store, way in packed if load.records <= LARGE else ():
            of = found.ratio(DECODED, store, "get")
            yield Target(f"{at}get, decoded / LMDB with msgpack{way}", of, 0.6)
        yield Target(f"{at}set / moka-py's", found.ratio(OURS, MOKA, "set"), 0.5)
        scale = against_dict(found)
        yield Target(f"{at}scaling / that of dicts", scale, 0.95, least=True)
        beside = found.within(OURS, "get w", "get")
        yield Target(f"{at}get beside a writer / without", beside, 1.15)


def show(measured: list[Measured]) -> None:
    print("Nanoseconds an operation, medians; ratios are medians of the rounds' own.\n")
    print(table(HEAD, [line for found in measured for line in lines(found)], names=2))
    print()
    for found in measured:
        reasons: dict[str, list[str]] = {}
        for row in found.rows.values():
            if row.missing:
                reasons.setdefault(row.missing, []).append(row.store)
        for reason, stores in reasons.items():
            print(f"{found.load.name}: {', '.join(stores)}: {reason}")


def _told(found: Measured, row: Row) -> dict[str, Any]:
    """What the table says of a row."""
    return {
        "median": {figure: median(row.rounds[figure]) for figure in FIGURES},
        "of_ours": {f: found.ratio(row.store, OURS, f) for f in ("get", "set")},
        "scaling": scaling(found, row.store),
        "writer": found.within(row.store, "get w", "get"),
    }


def as_json(
    measured: list[Measured], spaces: space.Found, aims: list[Target]
) -> dict[str, Any]:
    return {
        "workloads": [
            {
                "records": found.load.records,
                "value_bytes": found.load.value_bytes,
                "stores": {
                    name: {
                        "missing": row.missing,
                        "shared": row.shared,
                        "held": row.held,
                        "nanoseconds": dict(row.rounds),
                        **_told(found, row),
                    }
                    for name, row in found.rows.items()
                },
            }
            for found in measured
        ],
        **spaces.as_json(),
        "targets": [aim.as_json() for aim in aims],
    }


def options(args: list[str] | None) -> argparse.Namespace:
    parser = command.options("l1", __doc__, quick=command.A_LOOK)
    parser.add_argument(
        "--rounds", type=command.positive, default=0, metavar="N",
        help="of each workload (9; with --quick 3)",
    )  # fmt: skip
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> int:
    asked = options(args)
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        print("l1: skipped, it needs two cores")
        return 0
    rounds = asked.rounds or (3 if asked.quick else 9)
    plan = Plan(rounds, 25_000_000 if asked.quick else 40_000_000)
    loads = QUICK if asked.quick else WORKLOADS
    with redis_server() as (socket, why):
        if why:
            command.note(why)
        measured = [measure(load, plan, socket, cores) for load in loads]
    show(measured)
    spaces = space.measure(command.note, quick=asked.quick)
    print("\nSpace, and stores timed in C:\n")
    spaces.show()
    aims = [*targets(measured), *spaces.targets()]
    judged(aims)
    if asked.json:
        text = json.dumps(as_json(measured, spaces, aims), indent=2)
        asked.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command.run("l1", main))
