"""Before and after: the dashboard without a cache, with one per process, with ours.

    python -m loadtest.beforeafter [--quick] [--workers N] [--rounds N] [--seconds N]
                                   [--only ways|nginx] [--json FILE]

All ways stand side by side before one simulator of vendors that take 100 ms, and each
round measures every one, in an order that turns; then ours and nginx with a document of
the dashboard's length. The run is also a page: build/before-after.html.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shmcache_server.embedded import die_with_parent
from tests.helpers import ROOT, Server, answers, end, free_port, get, until
from tests.redis_server import redis_server

from . import command, page, vendors
from .peers import processes, rounds, wrk
from .peers.bench import FILES, may_open
from .peers.figures import Rows, compared
from .peers.install import install
from .peers.scenes import Ask, Row, Scene
from .peers.servers import PEERS, which
from .peers.wrk import Asked, Failed
from .report import Target, judged, median, ratio, shown, table
from .runs import Outcome, Run, begun
from .service import DASHBOARD, calls, config
from .showcase import KEYS
from .vendors import Vendors

LATENCY, TTL = 0.1, 1.0
"""Seconds that each vendor takes, and that each part lives."""
WORKERS, ROUNDS, SECONDS = 4, (3, 7), (2, 4)
"""Of a look, and else."""
CONNECTIONS, CROWD = 200, 500
SEED = 16_829
"""Requests a second at 200 clients that the market's first version told of."""
TIMES, OF_NGINX, CROWD_MOST = 5, 0.7, 0.5
PAGE = ROOT / "build" / "before-after.html"
ROUTE = '\n[[route]]\npath = "/api"\nquery_ignored = ["*"]\n'
MIB = 1 << 20
OFF, PROCESS, L1, L2 = "cache off", "one per process", "L1", "L1 + L2"
WAYS = (OFF, PROCESS, L1, L2)


@dataclass(frozen=True)
class Served:
    """A way that stands."""

    port: int
    pid: int

    def memory_bytes(self) -> int:
        return processes.pss_bytes(processes.tree(self.pid))


@dataclass
class Way:
    """What its rounds found."""

    name: str
    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    """Of all vendors, in a second of load."""
    busiest: list[int] = field(default_factory=list)
    """The most of any part in any second: its life."""
    memory: list[int] = field(default_factory=list)

    def line(self) -> list[str]:
        figures = [
            (self.rates, ",.0f"),
            (self.p50, ".2f"),
            (self.p99, ".1f"),
            (self.calls, ",.1f"),
        ]
        memory = median([each / MIB for each in self.memory])
        return [
            self.name,
            *(shown(median(rounds), form) for rounds, form in figures),
            shown(max(self.busiest, default=None), ",.0f"),
            shown(memory, ".0f"),
        ]


HEAD = ["way", "requests/s", "p50 ms", "p99 ms", "calls/s", "most of a part", "MiB"]


# --- the ways


@contextmanager
def plain(file: Path, cache: str, workers: int) -> Iterator[Served]:
    """`plain.py` under gunicorn."""
    port, parent = free_port(), os.getpid()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "loadtest.plain:application"),
            *("-k", "aiohttp.GunicornUVLoopWebWorker", "-w", str(workers)),
            *("-b", f"127.0.0.1:{port}", "--log-level", "warning"),
        ],
        cwd=ROOT,
        env=os.environ | KEYS | {"CONFIG": str(file), "CACHE": cache},
        preexec_fn=lambda: die_with_parent(parent),
        start_new_session=True,
    )
    try:
        until(lambda: _up(process, port), 30, "gunicorn with its workers")
        yield Served(port, process.pid)
    finally:
        end(process)


def _up(process: subprocess.Popen[bytes], port: int) -> bool:
    if process.poll() is not None:
        raise Failed(f"gunicorn ended with code {process.returncode}")
    return answers(port, DASHBOARD)


@contextmanager
def ours(file: Path, folder: Path, l2: str, workers: int) -> Iterator[Served]:
    """`shmcache serve`."""
    server = Server("", workers=workers, l2=l2, flags=("--config", str(file)))
    server.start(folder / f"{server.port}.log")
    try:
        yield Served(server.port, server.process.pid)
    finally:
        server.stop()


@contextmanager
def standing(simulator: Vendors, workers: int) -> Iterator[dict[str, Served]]:
    """All ways, before these vendors."""
    os.environ.update(KEYS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "market.toml"
        file.write_text(config(simulator, TTL) + ROUTE)
        redis = stack.enter_context(redis_server())
        up = stack.enter_context
        yield {
            OFF: up(plain(file, "none", workers)),
            PROCESS: up(plain(file, "process", workers)),
            L1: up(ours(file, folder, "none", workers)),
            L2: up(ours(file, folder, redis.url, workers)),
        }


# --- the rounds


def measure(
    workers: int, turns: int, seconds: int, told: Callable[[str], None]
) -> tuple[list[Way], int]:
    """All ways, and the bytes of a dashboard."""
    found = {name: Way(name) for name in WAYS}
    with (
        vendors.running("--still", "--latency", str(LATENCY)) as simulator,
        standing(simulator, workers) as served,
    ):
        sizes = [len(_dashboard(one.port)) for one in served.values()]
        for turn in range(turns):
            first = turn % len(WAYS)
            for name in (*WAYS[first:], *WAYS[:first]):
                _measure(found[name], served[name], simulator, seconds)
            told(f"ways: round {turn + 1} of {turns}")
    return [*found.values()], max(sizes)


def _measure(way: Way, served: Served, simulator: Vendors, seconds: int) -> None:
    """One run of wrk from all cores; `Failed` if an answer was none of 200, or no part
    was fetched in all the time, which is longer than any lives."""
    _settle(simulator)
    simulator.reset()
    asked = Asked(f"{DASHBOARD}?k=")
    run = wrk.run(served.port, asked, seconds, os.sched_getaffinity(0))
    if not (called := calls(simulator)):
        raise Failed(f"{way.name}: no vendor was asked in {seconds} s")
    way.memory.append(served.memory_bytes())
    way.rates.append(run.rate)
    way.p50.append(run.p50)
    way.p99.append(run.p99)
    way.calls.append(sum(called.values()) / run.seconds)
    way.busiest.append(max(calls(simulator, "busiest", TTL).values()))


def _settle(simulator: Vendors) -> None:
    """Until the run before has no call under way: a client that left ends none."""
    counted = -1
    while counted != (counted := sum(calls(simulator).values())):
        time.sleep(3 * LATENCY)


def _dashboard(port: int) -> bytes:
    answer = get(port, DASHBOARD, timeout=20)
    if answer.status != 200:
        why = f"{answer.status}: {answer.body[:200]!r}"
        raise Failed(f"the dashboard is answered {why}")
    return answer.body


def ways_outcome(ways: Sequence[Way], workers: int) -> Outcome:
    """Only counts are bounded: one fetch of a part in its life, and without a shared
    cache no more than one for each process."""
    outcome = Outcome(
        "before-after", f"The dashboard with {workers} workers, before and after"
    )
    for way in ways:
        figures = {
            "requests_per_second": median(way.rates),
            "p50": median(way.p50),
            "p99": median(way.p99),
            "calls/s": median(way.calls),
            "most calls of a part in its life": max(way.busiest, default=None),
            "memory, MiB": median([each / MIB for each in way.memory]),
        }
        outcome.totals |= {
            f"{way.name}: {name}": figure
            for name, figure in figures.items()
            if figure is not None
        }
    bounds = {PROCESS: workers, L1: 1, L2: 1}
    outcome.targets = [
        Target(
            f"{way.name}: calls of a part in any {TTL:.0f} s",
            max(way.busiest, default=None),
            bounds[way.name],
            form=",.0f",
        )
        for way in ways
        if way.name in bounds
    ]
    off, *others = ways
    gains = [(way.name, ratio(way.rates, off.rates)) for way in others]
    outcome.notes = [
        f"Vendors take {LATENCY * 1e3:.0f} ms, each part lives {TTL:.0f} s; wrk with 64"
        " connections on the same cores. Medians of interleaved rounds.",
        f"Requests a second over those of {OFF} (medians of the rounds' own ratios): "
        + ", ".join(f"{name} {shown(gain, ',.0f')}" for name, gain in gains)
        + ".",
    ]
    return outcome


# --- beside nginx


def beside_nginx(
    size: int, turns: int, seconds: int, told: Callable[[str], None]
) -> Outcome:
    """Ours and nginx's proxy_cache, two workers each, on both cores with wrk."""
    peers = [peer for peer in ("ours", "nginx") if not PEERS[peer].lacks()]
    asks = tuple(Ask(peer, CONNECTIONS) for peer in peers)
    crowds = tuple(Ask(peer, CROWD) for peer in peers)
    name = f"{CONNECTIONS} connections, sustained"
    sustained = Scene("sustained", name, asks, size=size, workers=2)
    burst = Scene("burst", f"{CROWD} cold", crowds, "burst", size=size, workers=2)
    with rounds.stage(turns, seconds) as at:
        found = Rows(
            [
                row
                for scene in (sustained, burst)
                for row in rounds.play(scene, at, told)
            ]
        )
    return nginx_outcome(
        *(found.find("sustained", peer, CONNECTIONS) for peer in ("ours", "nginx")),
        *(found.find("burst", peer, CROWD) for peer in ("ours", "nginx")),
    )


def nginx_outcome(
    ours: Row | None, nginx: Row | None, crowd: Row | None, other: Row | None
) -> Outcome:
    outcome = Outcome("sustained-nginx", "Sustained and burst, beside nginx")
    for name, row in (("ours", ours), ("nginx", nginx)):
        for figure in ("rate", "p50", "p99"):
            if row and (middle := median(row.all(figure))) is not None:
                named = {"rate": "requests_per_second"}.get(figure, figure)
                outcome.totals[f"{name}: {named}"] = middle
    for name, row in (("ours", crowd), ("nginx", other)):
        if row and row.figures:
            outcome.totals[f"{name}: {CROWD} cold, slowest s"] = max(row.figures)
    speed = compared(ours, nginx)
    p99 = ratio(*(row.all("p99") if row else [] for row in (ours, nginx)))
    rate = outcome.totals.get("ours: requests_per_second")
    slowest = max(crowd.figures, default=None) if crowd else None
    quick = rate is not None and rate >= TIMES * SEED
    outcome.targets = [
        Target(f"{CONNECTIONS} connections, ours / nginx, {speed.by}", speed.ratio,
               OF_NGINX, least=True)
        if not quick
        else Target(f"{CONNECTIONS} connections, ours, requests/s", rate, TIMES * SEED,
                    least=True, form=",.0f"),
        Target(f"{CONNECTIONS} connections, p99 of ours / nginx", p99, 1.0),
        Target(f"{CROWD} cold connections, all answered, s", slowest, CROWD_MOST),
    ]  # fmt: skip
    outcome.notes = [
        f"{name}: {row.failed}"
        for name, row in (
            ("ours", ours),
            ("nginx", nginx),
            (f"ours, {CROWD} cold", crowd),
            (f"nginx, {CROWD} cold", other),
        )
        if row and row.failed
    ]
    return outcome


# --- the command


def options() -> argparse.ArgumentParser:
    parser = command.options("beforeafter", __doc__, quick="a look, in two minutes")
    parser.add_argument("--workers", type=command.positive, default=WORKERS)
    parser.add_argument("--rounds", type=command.positive, help="7; of a look 3")
    parser.add_argument("--seconds", type=command.positive, help="each: 4; of a look 2")
    parser.add_argument("--only", choices=("ways", "nginx"))
    return parser


def main(args: list[str] | None = None) -> int:
    asked = options().parse_args(args)
    install({"nginx"})
    if len(os.sched_getaffinity(0)) < 2 or not which("wrk"):
        print(
            "beforeafter: skipped, it needs two cores and wrk (Debian: apt install wrk)"
        )
        return 0
    may_open(FILES)
    turns = asked.rounds or ROUNDS[not asked.quick]
    seconds = asked.seconds or SECONDS[not asked.quick]
    run, size = begun(), 645
    if asked.only != "nginx":
        ways, size = measure(asked.workers, turns, seconds, command.note)
        run.outcomes.append(ways_outcome(ways, asked.workers))
        print(table(HEAD, [way.line() for way in ways]))
    if asked.only != "ways":
        run.outcomes.append(beside_nginx(size, turns, seconds, command.note))
    return tell(run, asked.json)


def tell(run: Run, json: Path | None) -> int:
    """Notes, targets and a page; the exit code: 1 if a count was missed."""
    for outcome in run.outcomes:
        print("", *outcome.notes, sep="\n")
    targets = [target for outcome in run.outcomes for target in outcome.targets]
    counts = [t for o in run.outcomes if o.name == "before-after" for t in o.targets]
    code = judged(targets, counts)
    page.write(run, PAGE)
    if json:
        run.write(json)
    print(f"\nAs a page: {os.path.relpath(PAGE)}")
    return code


if __name__ == "__main__":
    sys.exit(command.run("beforeafter", main))
