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
import re
import select
import socket
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from . import command
from .fates import FATES, fate
from .report import table
from .samples import Plan, Samples

PATIENCE = 10.0
"""Seconds after the last was due for answers to come; then they have failed."""
LATE = 1.0
"""Milliseconds of the generator's own p99 above which latencies are in doubt."""
_RATE = 3499.0
_SLACK = Path("/proc/self/timerslack_ns")
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)\r\n", re.IGNORECASE)
_STATUS = re.compile(rb"\r\ncache-status:([^\r]*)\r\n", re.IGNORECASE)
_READ = 1 << 17


def sound(body: bytes) -> bool:
    """Whether it is an object of JSON, and no error's."""
    with suppress(ValueError):
        told = json.loads(body)
        return isinstance(told, dict) and bool(told) and "error" not in told
    return False


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
        if not plan.total:
            raise ValueError(f"no request is due in {plan.seconds:g} s")
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
        before = time.process_time()
        self._began = time.perf_counter() + 0.005
        with select.epoll() as self._poll:
            while (now := self._now()) < ends:
                while at < total and due[at] <= now and self._offer(due[at], now):
                    at += 1
                if at == total and len(self._idle) == len(self._open):
                    break
                waits = at < total and self._may_send(now)
                self._wait((due[at] if waits else ends) - now)
                for number, _ in self._poll.poll(0):
                    self._read(self._open[number])
            self.samples.lasted = max(self._now(), self._plan.seconds)
        self.samples.cpu = time.process_time() - before
        self._give_up(due[at:])
        return self.samples

    def _now(self) -> float:
        return time.perf_counter() - self._began

    def _may_send(self, now: float) -> bool:
        return bool(self._idle) or len(self._open) < self._plan.clients_at(now)

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            select.select([self._poll], (), (), seconds)

    def _offer(self, due: float, now: float) -> bool:
        """Send what is due, if a connection is free; where a server has gone that was
        there, it has failed."""
        try:
            free = self._free(now)
        except OSError as e:
            if not self.samples.due:
                raise
            self._fail(due, type(e).__name__)
            return True
        if free is not None:
            self._send(free, due, self._now())
        return free is not None

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

    def _read(self, one: _Connection) -> None:
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
            one.free_at = self._now()
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
            self._fail(due, "not sent")

    def _fail(self, due: float, why: str) -> None:
        """Of a request that had no connection."""
        to = self.samples
        to.due.append(due)
        to.took.append(math.nan)
        to.kinds.append(-1)
        to.why[why] = to.why.get(why, 0) + 1


def _kind(head: bytes) -> int:
    said = _STATUS.search(head + b"\r\n")
    return -1 if said is None else FATES.index(fate(said[1].decode("latin-1")))


# --- what is said


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
    parser.add_argument("--rate", type=_number, default=_RATE, help="requests a second")
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
