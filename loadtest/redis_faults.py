"""Redis faults: what a fleet's clients notice while Redis hangs, is gone and is back.

    python -m loadtest.redis_faults [--quick] [--json FILE]

Hits are measured with Redis well and hung in turn, so that what the machine does to
one it does to the other. Then the time until a hung Redis is noticed, until a stopped
follower is replaced, and what connections are made when Redis is back.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic, monotonic_ns, sleep
from typing import Any

from . import command
from .fleet import Fleet, Host, Worker, WorkerError, fleet, together
from .herds import HOLD, fresh_key
from .report import Target, judged, median, percentile, ratio, shown, table
from .watched import Server, server
from .worker import Answered

HOT = 100
"""Keys that are hit."""
PER_PROCESS = 10
"""Connections that a process may make at once: its pool, and one each for the stream
and for wake-ups."""
_EACH = 0.02
"""Seconds between two misses of a worker."""
_BACK = 30.0
_READ = 0.6
"""Seconds that a follower waits for an entry, and a little more."""
_SETTLED = 15.0
_MS = 1e6


@dataclass(frozen=True)
class Plan:
    """How much of what."""

    rounds: int = 9
    seconds: float = 2.0
    """Of one measurement of hits."""
    hangs: int = 5
    followers: int = 20
    hosts: int = 4
    """That come back, with four workers each."""
    away: float = 4.0
    back: float = 6.0
    looked: float = 8.0
    """Seconds in which it must be noticed that Redis hangs; then nobody looks."""


QUICK = Plan(3, 1.0, 1, 3, 2, 1.5, 2.0)


@dataclass
class Found:
    """All of it; milliseconds."""

    well_us: list[float] = field(default_factory=list)
    """p99 of the hits of each round, Redis well, and..."""
    hung_us: list[float] = field(default_factory=list)
    """...hung."""
    beyond_ms: list[float] = field(default_factory=list)
    """What misses took longer than their computes, Redis hung."""
    errors: list[str] = field(default_factory=list)
    """Given to clients."""
    noticed_busy_ms: list[float] = field(default_factory=list)
    noticed_idle_ms: list[float] = field(default_factory=list)
    replaced_ms: list[float] = field(default_factory=list)
    processes: int = 0
    away: list[int] = field(default_factory=list)
    """Connections tried in each second of Redis' absence."""
    back: list[int] = field(default_factory=list)
    """Connections made in each second since it is back."""
    elected_ms: float | None = None
    """Until a key was fetched once by the fleet again, and ever after."""


# --- hung --------------------------------------------------------------------------


def hits(redis: Server, host: Host, plan: Plan, found: Found) -> None:
    """One worker's hits, while both miss too."""
    keys = [fresh_key() for _ in range(HOT)]
    together(host.workers, "wave", keys, 1, 0.0, 0.0)
    _p99(host, keys, plan, found, [])  # to warm them
    for _ in range(plan.rounds):
        found.well_us.append(_p99(host, keys, plan, found, []))
        with redis.stopped():
            hung = _p99(host, keys, plan, found, found.beyond_ms)
            found.hung_us.append(hung)
        _recover(host.workers[1])


def _p99(
    host: Host, keys: Sequence[str], plan: Plan, found: Found, beyond: list[float]
) -> float:
    """Microseconds that 99 of 100 hits do not exceed."""
    first, second = host.workers
    missing = [
        (one, one.tell("misses", f"{fresh_key()}-", plan.seconds, _EACH, HOLD))
        for one in (first, second)
    ]
    took = first.ask("hits", keys, plan.seconds)
    for one, number in missing:
        try:
            told = [Answered(*answer) for answer in one.answer(number)]
        except WorkerError as error:
            found.errors.append(str(error))
            continue
        beyond += [(t.answered - t.asked) / _MS - HOLD * 1000 for t in told]
    return (percentile(took, 0.99) or 0) / 1000


def _recover(worker: Worker) -> None:
    """Until L2 is used again: somebody must miss for that."""
    deadline = monotonic() + _BACK
    while True:
        worker.ask("misses", f"{fresh_key()}-", 0.2, _EACH, 0.0)
        if worker.ask("l2", "up", 0.0):
            return
        if monotonic() > deadline:
            raise WorkerError(f"L2 is not used again within {_BACK:g} s")


def notice(redis: Server, host: Host, plan: Plan, found: Found) -> None:
    """How long a hang goes unnoticed, with misses and with none."""
    first, second = host.workers
    for busy, times in ((True, found.noticed_busy_ms), (False, found.noticed_idle_ms)):
        for _ in range(plan.hangs):
            missing = 0
            if busy:
                missing = first.tell("misses", f"{fresh_key()}-", 3.0, _EACH, 0.0)
            with redis.stopped():
                stopped = monotonic_ns()
                down = second.ask("l2", "down", plan.looked)
                times.append((down - stopped) / _MS if down else plan.looked * 1000)
            if busy:
                first.answer(missing)
            _recover(second)


# --- the follower ------------------------------------------------------------------


def replace(redis: Server, hosts: Fleet, plan: Plan, found: Found) -> None:
    """Stop the first host's follower; how long until a sibling applied what another
    host deleted then."""
    host, other = hosts.hosts[:2]
    for _ in range(plan.followers):
        key = fresh_key()
        together(hosts.workers, "wave", [key], 1, 0.0, 0.0)
        follower = _follower(redis, host)
        sibling = next(w for w in host.workers if w is not follower)
        follower.signal(signal.SIGSTOP)
        try:
            stopped = monotonic_ns()
            other.workers[0].ask("call", "delete", key)
            found.replaced_ms.append((sibling.ask("gone", key) - stopped) / _MS)
        finally:
            follower.signal(signal.SIGCONT)
        follower.ask("has", [])


def _follower(redis: Server, host: Host) -> Worker:
    """Who follows alone: one that was replaced reads on for a moment."""
    deadline = monotonic() + _SETTLED
    before: set[str] = set()
    while monotonic() < deadline:
        sleep(_READ)
        now = redis.following(host.user)
        if len(now) == 1 and now == before:
            for one in host.workers:
                if now <= set(one.ask("addresses")):
                    return one
        before = now
    raise WorkerError(f"nobody follows the stream for {host.user}")


# --- gone and back -----------------------------------------------------------------


def come_back(redis: Server, hosts: Fleet, plan: Plan, found: Found) -> None:
    """Kill Redis under load, count who knocks, and start it again."""
    workers = hosts.workers
    found.processes = len(workers)
    seconds = plan.away + plan.back + 1
    order = ("misses", fresh_key(), seconds, 0.1, 0.0)
    missing = [(one, one.tell(*order)) for one in workers]
    sleep(0.5)
    redis.kill()
    found.away = _knocks(redis.port, plan.away)
    redis.start()
    started, made = monotonic_ns(), redis.connections()
    one_fetch = 0
    for second in range(1, int(plan.back) + 1):
        while monotonic_ns() < started + second * 1_000_000_000:
            began = monotonic_ns()
            if _fetches(workers) != 1:
                one_fetch = 0
            elif not one_fetch:
                one_fetch = began
        found.back.append(redis.connections() - made)
        made = redis.connections()
    found.elected_ms = (one_fetch - started) / _MS if one_fetch else None
    for one, number in missing:
        try:
            one.answer(number)
        except WorkerError as error:
            found.errors.append(str(error))


def _knocks(port: int, seconds: float) -> list[int]:
    """Connections tried at a port where nobody is, by the second."""
    counts = [0] * (int(seconds) + 1)
    began = monotonic()
    with socket.create_server(("127.0.0.1", port), backlog=1024) as door:
        while (left := began + seconds - monotonic()) > 0:
            door.settimeout(left)
            try:
                door.accept()[0].close()
            except TimeoutError:
                break
            counts[int(monotonic() - began)] += 1
    return counts[: max(1, int(seconds))]


def _fetches(workers: Sequence[Worker]) -> int:
    came = together(workers, "wave", [fresh_key()], 1, HOLD, 0.0)
    return len({tuple(told[:2]) for answers in came for told in answers})


def measure(plan: Plan) -> Found:
    found = Found()
    with server() as redis:
        with fleet(redis.url, 2, 2) as hosts:
            command.note("hits while Redis hangs")
            hits(redis, hosts.hosts[0], plan, found)
            command.note("noticing that it hangs")
            notice(redis, hosts.hosts[0], plan, found)
            command.note("followers stopped")
            replace(redis, hosts, plan, found)
        with fleet(redis.url, plan.hosts, 4) as hosts:
            command.note("Redis gone and back")
            _fetches(hosts.workers)
            come_back(redis, hosts, plan, found)
    return found


# --- telling -----------------------------------------------------------------------


def show(found: Found) -> None:
    print(
        "Hits of a worker with eight clients that also misses, Redis well and hung:\n"
    )
    rows = [
        [name, str(len(p99)), shown(median(p99), ".1f"), shown(max(p99), ".1f")]
        for name, p99 in (("well", found.well_us), ("hung", found.hung_us))
    ]
    print(table(["Redis", "rounds", "p99 us, median", "most"], rows))
    print("\nMilliseconds:\n")
    head = ["", "times", "median", "p99", "most"]
    lines = (
        ("a miss beyond its compute, Redis hung", found.beyond_ms),
        ("a hang is noticed, with misses", found.noticed_busy_ms),
        ("a hang is noticed, with none", found.noticed_idle_ms),
        ("a stopped follower's sibling applies a delete", found.replaced_ms),
    )
    print(table(head, [_line(*line) for line in lines]))
    print(f"\nConnections by the second, {found.processes} processes that miss:\n")
    print(f"Redis gone: {' '.join(map(str, found.away))}")
    print(f"Redis back: {' '.join(map(str, found.back))}")
    print(f"one fetch a key again after {shown(found.elected_ms)} ms")
    for error in found.errors[:3]:
        print(error)


def _line(name: str, figures: Sequence[float]) -> list[str]:
    cells = (percentile(figures, share) for share in (0.5, 0.99, 1.0))
    return [name, str(len(figures)), *(shown(cell, ",.0f") for cell in cells)]


def counts(found: Found) -> Iterator[Target]:
    """What must hold on any machine."""
    yield Target("errors given to clients", len(found.errors), 0, form="d")
    for when, made in (("gone", found.away), ("back", found.back)):
        most = max(made) / found.processes
        what = f"Redis {when}: connects of a process in the worst second"
        yield Target(what, most, PER_PROCESS, form=".1f")


def times(found: Found) -> Iterator[Target]:
    of = ratio(found.hung_us, found.well_us)
    yield Target("hits' p99, Redis hung / well", of, 1.2)
    for how, ms in (
        ("with misses", found.noticed_busy_ms),
        ("with none", found.noticed_idle_ms),
    ):
        most = percentile(ms, 1)
        yield Target(f"a hang is noticed, {how}, most ms", most, 3000, form=",.0f")
    most = percentile(found.replaced_ms, 1)
    yield Target("a stopped follower is replaced, most ms", most, 2000, form=",.0f")


def options(args: list[str] | None) -> argparse.Namespace:
    parser = command.options("redis_faults", __doc__, quick=command.A_LOOK)
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> int:
    asked = options(args)
    found = measure(QUICK if asked.quick else Plan())
    show(found)
    firm = list(counts(found))
    aims = [*firm, *times(found)]
    code = judged(aims, firm)
    if asked.json:
        told: dict[str, Any] = {**vars(found), "targets": [a.as_json() for a in aims]}
        asked.json.write_text(json.dumps(told, indent=2) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(command.run("redis_faults", main))
