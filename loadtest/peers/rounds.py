"""Playing the scenes: servers up, keys warm, rounds of runs, every run checked.

A run counts only if it was what its row says: of hits none reached the origin, of
misses each did. The origin's own count tells.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.helpers import free_port
from tests.redis_server import redis_server

from . import processes, wrk
from .crowd import crowd
from .document import path
from .scenes import KB, Row, Run, Scene
from .servers import Place, Server, fetch, module, running, started
from .wrk import Asked, Failed

STRAY = {"hits": 0.001, "misses": 0.001, "l2": 0.02}
"""The share of hits that may still reach the origin, of misses that may not. A run in
L2 asks for a few keys more than were filled, at its end."""
SETTLE = 0.3
CORES = os.cpu_count() or 1
L2_KEYS_A_SECOND = 5_000
"""A run of L2 hits ends sooner where that is fewer than it could ask for."""


@dataclass(frozen=True)
class Stage:
    """Where scenes are played: two cores, one origin, so many rounds."""

    cores: tuple[int, int]
    origin: int
    rounds: int
    seconds: int

    def place(self, scene: Scene, l2: str = "none") -> Place:
        cores = self.cores[:1] if scene.workers == 1 else self.cores
        return Place(self.origin, scene.size, scene.workers, frozenset(cores), l2)

    def client(self, scene: Scene) -> set[int]:
        """wrk's core; any where the server has both."""
        return {*self.cores[1:]} if scene.workers == 1 else {*self.cores}

    def count(self) -> int:
        return int(fetch(self.origin, "/count") or b"0")


@contextmanager
def stage(rounds: int, seconds: int) -> Iterator[Stage]:
    """We, the origin and wrk on the second core."""
    allowed = os.sched_getaffinity(0)
    first, second = sorted(allowed)[:2]
    os.sched_setaffinity(0, {second})
    place = Place(0, KB, cores=frozenset({second}))
    try:
        with TemporaryDirectory(prefix="bench-") as folder:
            command = module("origin")(place, Path(folder))
            with started(command, place, Path(folder)) as origin:
                yield Stage((first, second), origin.port, rounds, seconds)
    finally:
        os.sched_setaffinity(0, allowed)


def play(scene: Scene, at: Stage, told: Callable[[str], None]) -> list[Row]:
    """The scene's rows, measured."""
    rows = [Row(scene, ask) for ask in scene.asks]
    {
        "hits": _side_by_side,
        "misses": _side_by_side,
        "l2": _in_l2,
        "burst": _bursts,
        "idle": _idle,
    }[scene.kind](rows, at, told)
    return rows


def _side_by_side(rows: list[Row], at: Stage, told: Callable[[str], None]) -> None:
    scene = rows[0].scene
    with ExitStack() as stack:
        servers = {}
        for peer in scene.peers:
            own = [row for row in rows if row.ask.peer == peer]
            with _failing(own):
                servers[peer] = stack.enter_context(running(peer, at.place(scene)))
        for row in _sound(rows):
            with _failing([row]):
                warm(servers[row.ask.peer], row, at)
        for n in range(at.rounds):
            turn = n % len(rows)
            for row in _sound(rows[turn:] + rows[:turn]):
                with _failing([row]):
                    row.runs.append(measure(servers[row.ask.peer], row, at))
            told(f"{scene.name}: round {n + 1} of {at.rounds}")


def _sound(rows: list[Row]) -> list[Row]:
    return [row for row in rows if not row.failed]


@contextmanager
def _failing(rows: list[Row]) -> Iterator[None]:
    """What fails a row ends it: its figures would not be what the row says."""
    try:
        yield
    except Failed as e:
        for row in rows:
            row.failed = row.failed or str(e)
            row.runs.clear()
            row.figures.clear()


def warm(server: Server, row: Row, at: Stage) -> None:
    """Every key asked for once. A run asks them in turn for a second; those that were
    under way at its end are asked for again."""
    prefix, first = _prefix(row.scene), 0
    while row.ask.keys > 1 and first < row.ask.keys:
        asked = Asked(prefix, keys=0, each=True, first=first)
        found = wrk.run(server.port, asked, 1, at.client(row.scene))
        first += max(1, found.requests - asked.connections)


def measure(server: Server, row: Row, at: Stage, asked: Asked | None = None) -> Run:
    """One run of wrk, and what the server took for it."""
    asked = asked or _asked(row)
    family, count = server.processes(), at.count()
    before, all_before = processes.cpu_seconds(family), processes.busy_seconds()
    seconds = at.seconds * row.scene.times
    found = wrk.run(server.port, asked, seconds, at.client(row.scene))
    took = processes.cpu_seconds(family) - before
    others = processes.busy_seconds() - all_before - took - found.busy
    to_origin = at.count() - count
    _check(row, found.requests, to_origin)
    return Run(
        rate=found.rate,
        p50=found.p50,
        p99=found.p99,
        p999=found.p999,
        server_cpu=took / found.requests,
        server_busy=took / found.seconds,
        client_busy=found.busy / found.seconds,
        memory=server.memory_bytes(),
        others_busy=others / found.seconds / CORES,
    )


def _check(row: Row, requests: int, to_origin: int) -> None:
    misses = row.scene.kind == "misses"
    stray = requests - to_origin if misses else to_origin
    if stray > requests * STRAY[row.scene.kind]:
        which = "misses did not reach" if misses else "hits reached"
        raise Failed(f"{stray:,} of {requests:,} {which} the origin")


def _asked(row: Row) -> Asked:
    ask = row.ask
    if row.scene.kind == "misses":
        prefix = f"{_prefix(row.scene)}{secrets.token_hex(4)}-"
        return Asked(prefix, 0, ask.connections, each=True)
    return Asked(_prefix(row.scene), ask.keys, ask.connections)


def _prefix(scene: Scene) -> str:
    return path(scene.size, "k")


def _in_l2(rows: list[Row], at: Stage, told: Callable[[str], None]) -> None:
    """Filled through one server, read through others whose L1 is cold."""
    (row,) = rows
    keys = L2_KEYS_A_SECOND * at.seconds
    ask = replace(row.ask, keys=keys)
    with _failing(rows), redis_server(port=free_port()) as redis:
        place = at.place(row.scene, redis.tcp_url)
        with running(ask.peer, place) as server:
            warm(server, Row(row.scene, ask), at)
        for n in range(at.rounds):
            asked = Asked(_prefix(row.scene), keys, ask.connections, each=True)
            with running(ask.peer, at.place(row.scene, redis.tcp_url)) as server:
                row.runs.append(measure(server, row, at, asked))
            told(f"{row.scene.name}: round {n + 1} of {at.rounds}")


def _bursts(rows: list[Row], at: Stage, told: Callable[[str], None]) -> None:
    """Against a server that has answered as many before."""
    for row in rows:
        scene, target = row.scene, path(row.scene.size)
        with _failing([row]), running(row.ask.peer, at.place(scene)) as server:
            for _ in range(1 + at.rounds):
                with crowd(
                    server.port, target, row.ask.connections, scene.size
                ) as seconds:
                    row.figures.append(seconds)
                time.sleep(SETTLE)
            del row.figures[0]
    told(rows[0].scene.name)


def _idle(rows: list[Row], at: Stage, told: Callable[[str], None]) -> None:
    """What a fresh server grows by."""
    for row in rows:
        scene, count = row.scene, row.ask.connections
        with _failing([row]), running(row.ask.peer, at.place(scene)) as server:
            family = server.processes()
            before = processes.rss_bytes(family)
            with crowd(server.port, path(scene.size), count, scene.size):
                time.sleep(SETTLE)
                grown = processes.rss_bytes(family) - before
            row.figures.append(grown / count)
    told(rows[0].scene.name)
