"""Open loop: requests due at fixed times, whether or not those before are answered.

    python -m loadtest.openloop URL --rate 3499 [--from 500] --seconds 60
                                [--clients 100] [--json]

A latency counts from when its request was due: one that waits for a connection, since
the server holds up all of them, has waited (Tene's *coordinated omission*, which a
loop of clients that wait for their answers leaves out). Bodies are read and checked.
`--from` is the rate at the start of one that rises evenly.

The generator is one process and one loop over epoll. It sleeps by select, whose
timeout is in microseconds: loops that sleep by epoll, uvloop's and asyncio's among
them, are a millisecond late. How late it was itself is told: the time from when a
request was due and a connection was free until it was sent. That is in the latencies.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import re
import select
import socket
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shmcache_server.embedded import die_with_parent

from . import command
from .report import Target, percentile, table
from .runs import Outcome, Second

RATE, SECONDS, CLIENTS = 3499.0, 60.0, (10, 100)
"""Of the ramp."""
MEAN_MOST, P99_MOST = 0.3, 2.0
"""Milliseconds."""
ALONE = 200.0
"""Requests a second by one client."""
CROWD, AT_ONCE = 500, 1e6
OVER, P50_MOST, CROWD_MOST = 50.0, 1.0, 500.0
"""Milliseconds; the first beyond the slowest vendor."""
PATIENCE = 10.0
"""Seconds after the last was due for answers to come; then they have failed."""
LATE = 1.0
"""Milliseconds of the generator's own p99 above which latencies are in doubt."""
KINDS = ("hits", "stale", "misses", "coalesced")
_SLACK = Path("/proc/self/timerslack_ns")
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)\r\n", re.IGNORECASE)
_STATUS = re.compile(rb"\r\ncache-status:([^\r]*)\r\n", re.IGNORECASE)
_READ = 1 << 17


@dataclass(frozen=True)
class Plan:
    """What is offered. Rates are requests a second, `first` at the start and `rate` at
    the end; so are clients, each a connection of its own that stays open."""

    rate: float
    seconds: float
    first: float | None = None
    clients: int = 64
    first_clients: int | None = None

    @property
    def _first(self) -> float:
        return self.rate if self.first is None else self.first

    @property
    def total(self) -> int:
        return round((self._first + self.rate) / 2 * self.seconds)

    def due(self) -> array[float]:
        """Seconds from the start for each request: as many are due by then as the
        rate's integral says."""
        first, rise = self._first, (self.rate - self._first) / self.seconds
        if not rise:
            return array("d", (i / self.rate for i in range(self.total)))
        roots = (math.sqrt(first**2 + 2 * rise * i) for i in range(self.total))
        return array("d", ((root - first) / rise for root in roots))

    def clients_at(self, since: float) -> int:
        if self.first_clients is None:
            return self.clients
        share = min(1.0, max(0.0, since / self.seconds))
        return self.first_clients + round(share * (self.clients - self.first_clients))


@dataclass
class Samples:
    """One figure for each request, in the order of answers."""

    plan: Plan
    due: array[float] = field(default_factory=lambda: array("d"))
    """Seconds from the start."""
    took: array[float] = field(default_factory=lambda: array("d"))
    """Seconds since then; NaN: no answer, or a wrong one."""
    late: array[float] = field(default_factory=lambda: array("d"))
    """Seconds of them that are the generator's."""
    kinds: array[int] = field(default_factory=lambda: array("b"))
    """Index of `KINDS`; -1: the answer does not say."""
    why: dict[str, int] = field(default_factory=dict)
    """Failures."""
    cpu: float = 0.0
    """Seconds of CPU of the generator, for `lasted` seconds."""
    lasted: float = 0.0

    def totals(self) -> dict[str, float]:
        """As those of `Outcome`, and: `mean`, `p999` (ms), `offered` (requests/s),
        `late_mean`, `late_p99`, `late_max` (ms), `generator_cpu` (percent)."""
        good = sorted(one * 1e3 for one in self.took if one == one)
        late = sorted(one * 1e3 for one in self.late)
        told = {
            "requests": len(self.due),
            "failures": len(self.due) - len(good),
            "requests_per_second": len(good) / self.lasted,
            "offered": self.plan.total / self.plan.seconds,
        }
        if good:
            told["mean"] = math.fsum(good) / len(good)
        told |= _percentiles(good, p50=0.5, p95=0.95, p99=0.99, p999=0.999, max=1.0)
        told |= {kind: self.kinds.count(n) for n, kind in enumerate(KINDS)}
        if late:
            told["late_mean"] = math.fsum(late) / len(late)
        told |= _percentiles(late, late_p99=0.99, late_max=1.0)
        return told | {"generator_cpu": 100 * self.cpu / self.lasted}

    def seconds(self) -> list[Second]:
        """By the second in which requests were due."""
        groups: dict[int, list[int]] = {}
        for i, due in enumerate(self.due):
            groups.setdefault(int(due), []).append(i)
        return [self._second(at, groups.get(at, [])) for at in range(max(groups) + 1)]

    def _second(self, at: int, chosen: list[int]) -> Second:
        good = [self.took[i] * 1e3 for i in chosen if self.took[i] == self.took[i]]
        kinds = array("b", (self.kinds[i] for i in chosen))
        second = Second(
            float(at),
            clients=self.plan.clients_at(at),
            requests=len(chosen),
            failures=len(chosen) - len(good),
        )
        told = _percentiles(good, p50=0.5, p95=0.95, p99=0.99, max=1.0)
        told |= {kind: kinds.count(n) for n, kind in enumerate(KINDS)}
        for name, figure in told.items():
            setattr(second, name, figure)
        return second


def _percentiles(figures: list[float], **shares: float) -> dict[str, float]:
    found = {name: percentile(figures, share) for name, share in shares.items()}
    return {name: figure for name, figure in found.items() if figure is not None}


def sound(body: bytes) -> bool:
    """Whether it is an object of JSON, and no error's."""
    with suppress(ValueError):
        told = json.loads(body)
        return isinstance(told, dict) and bool(told) and "error" not in told
    return False


# --- the loop


class _Connection:
    """One client: at most one request under way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.got = b""
        self.due = -1.0
        """Of the request under way; below 0: none is."""
        self.late = 0.0
        self.free_at = 0.0


class Loop:
    """One run. `check` is asked once for each body that differs from those before."""

    def __init__(
        self, url: str, plan: Plan, check: Callable[[bytes], bool] = sound
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"expected http://HOST[:PORT]/PATH, got {url!r}")
        self._address = parts.hostname, parts.port or 80
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._request = (
            f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
        )
        self._plan = plan
        self._check = check
        self._known: dict[bytes, bool] = {}
        self._open: dict[int, _Connection] = {}
        self._idle: deque[_Connection] = deque()
        self.samples = Samples(plan)

    def run(self) -> Samples:
        with suppress(OSError):
            _SLACK.write_text("1000")  # a sleep ends 50 us late, else
        due, total, at = self._plan.due(), self._plan.total, 0
        ends = due[-1] + PATIENCE
        clock, before = time.perf_counter, time.process_time()
        began = clock() + 0.005
        with select.epoll() as self._poll:
            while (now := clock() - began) < ends:
                while at < total and due[at] <= now and (free := self._free(now)):
                    self._send(free, due[at], clock() - began)
                    at += 1
                if at == total and len(self._idle) == len(self._open):
                    break
                waits = at < total and self._may_send(now)
                self._wait((due[at] if waits else ends) - now)
                for number, _ in self._poll.poll(0):
                    self._read(self._open[number], lambda: clock() - began)
            self.samples.lasted = max(clock() - began, self._plan.seconds)
        self.samples.cpu = time.process_time() - before
        self._give_up(due[at:])
        return self.samples

    def _may_send(self, now: float) -> bool:
        return bool(self._idle) or len(self._open) < self._plan.clients_at(now)

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            select.select([self._poll], (), (), seconds)

    def _free(self, now: float) -> _Connection | None:
        """A new one while there are fewer than there are to be; else who waits for
        longest, so that all are used."""
        if len(self._open) < self._plan.clients_at(now):
            return self._connect(now)
        return self._idle.popleft() if self._idle else None

    def _connect(self, now: float) -> _Connection:
        made = _Connection(self._address)
        made.free_at = now
        self._open[made.socket.fileno()] = made
        self._poll.register(made.socket, select.EPOLLIN)
        return made

    def _send(self, free: _Connection, due: float, now: float) -> None:
        free.due, free.late = due, now - max(due, free.free_at)
        try:
            sent = free.socket.send(self._request)
        except OSError as e:
            return self._end(free, type(e).__name__)
        if sent != len(self._request):
            self._end(free, "a request that was not taken")

    def _read(self, one: _Connection, clock: Callable[[], float]) -> None:
        try:
            data = one.socket.recv(_READ)
        except OSError as e:
            return self._end(one, type(e).__name__)
        if not data:
            return self._end(one, "closed")
        one.got += data
        head, end, body = one.got.partition(_END)
        if not end:
            return None
        length = _LENGTH.search(head + b"\r\n")
        if length is None or one.due < 0 or len(body) > int(length[1]):
            return self._end(one, "no length that can be read")
        if len(body) == int(length[1]):
            one.free_at = clock()
            self._answered(one, head, body)
        return None

    def _answered(self, one: _Connection, head: bytes, body: bytes) -> None:
        good = self._known.get(body)
        if good is None:
            good = self._known[body] = self._check(body)
        status = head[9:12].decode("latin-1")
        why = "" if status == "200" and good else "body" if status == "200" else status
        self._record(one, one.free_at - one.due, why, _kind(head))
        one.due, one.got = -1.0, b""
        self._idle.append(one)

    def _record(self, one: _Connection, took: float, why: str, kind: int = -1) -> None:
        to = self.samples
        to.due.append(one.due)
        to.took.append(math.nan if why else took)
        to.late.append(one.late)
        to.kinds.append(kind)
        if why:
            to.why[why] = to.why.get(why, 0) + 1

    def _end(self, one: _Connection, why: str) -> None:
        """Another takes its place when one is due."""
        if one.due >= 0:
            self._record(one, 0.0, why)
        else:
            with suppress(ValueError):
                self._idle.remove(one)
        del self._open[one.socket.fileno()]
        one.socket.close()

    def _give_up(self, unsent: array[float]) -> None:
        for one in list(self._open.values()):
            if one.due >= 0:
                self._record(one, 0.0, "no answer")
            one.socket.close()
        for due in unsent:
            self.samples.due.append(due)
            self.samples.took.append(math.nan)
            self.samples.kinds.append(-1)
            self.samples.why["not sent"] = self.samples.why.get("not sent", 0) + 1


def _kind(head: bytes) -> int:
    """By Cache-Status, RFC 9211: one that is stale has a ttl below zero."""
    said = _STATUS.search(head + b"\r\n")
    if said is None:
        return -1
    if b"hit" in said[1]:
        return 1 if b"ttl=-" in said[1] else 0
    return 3 if b"collapsed" in said[1] else 2


# --- a scenario


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
        cwd=Path(__file__).resolve().parent.parent,
        preexec_fn=lambda: die_with_parent(parent),
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        out = None
        while out is None:
            try:
                out, _ = child.communicate(timeout=1)
            except subprocess.TimeoutExpired:
                sampled += [sum(calls().values())] if calls else []
    if child.returncode:
        raise RuntimeError(f"the open loop ended with code {child.returncode}")
    told: dict[str, Any] = json.loads(out)
    return told, sampled


def notes(totals: Mapping[str, float], why: Mapping[str, int]) -> list[str]:
    """What to know of a run's figures."""
    said = [
        "Latencies count from when a request was due; the generator itself was "
        f"{totals.get('late_mean', 0):.3f} ms late in the mean, "
        f"{totals.get('late_p99', 0):.3f} at p99, {totals.get('late_max', 0):.1f} "
        f"at most, and took {totals['generator_cpu']:.0f} % of a core."
    ]
    if totals.get("late_p99", 0) > LATE:
        said.append("It was late too often for the latencies to be the server's alone.")
    if why:
        told = ", ".join(f"{reason}: {n}" for reason, n in sorted(why.items()))
        said.append(f"Failed: {told}.")
    return said


# --- the command


def _number(text: str) -> float:
    with suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")


def options() -> argparse.ArgumentParser:
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser("loadtest.openloop", description=summary)
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--rate", type=_number, default=RATE, help="requests a second")
    parser.add_argument(
        "--from", type=_number, dest="first", metavar="RATE", help="at the start"
    )
    parser.add_argument("--seconds", type=_number, default=10.0)
    parser.add_argument("--clients", type=command.positive, default=64)
    parser.add_argument("--first-clients", type=command.positive, metavar="N")
    parser.add_argument("--json", action="store_true", help="all, by the second, too")
    return parser


def main(args: list[str] | None = None) -> int:
    asked = options().parse_args(args)
    plan = Plan(
        asked.rate, asked.seconds, asked.first, asked.clients, asked.first_clients
    )
    gc.freeze()
    gc.disable()
    if asked.json:
        print(flush=True)
    try:
        found = Loop(asked.url, plan).run()
    except (OSError, ValueError) as e:
        print(f"openloop: {asked.url}: {e}", file=sys.stderr)
        return 2
    totals = found.totals()
    if asked.json:
        seconds = [asdict(second) for second in found.seconds()]
        print(json.dumps({"totals": totals, "seconds": seconds, "why": found.why}))
    else:
        rows = [[name, f"{figure:,.3f}"] for name, figure in totals.items()]
        print(table(["", "found"], rows))
        print("\n".join(["", *notes(totals, found.why)]))
    return int(bool(totals["failures"]) and not asked.json)


if __name__ == "__main__":
    sys.exit(command.run("openloop", main))
