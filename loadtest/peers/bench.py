"""One hit, side by side: ours and its peers, measured in turn on the same two cores.

Every server has one process on the first core; wrk has the second. Each round
measures every row once, so that what the machine does to one it does to all; a row's
figure is the median of its rounds, and what is quoted is the ratio of two rows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONNECTIONS = 64


@dataclass
class Row:
    """A server under measurement: its name and the command that runs it on a port."""

    name: str
    command: Callable[[int], list[str]]
    expects: str = ""
    """What its Cache-Status must say."""
    port: int = 0
    rounds: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rounds)


def constant(kind: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, str(HERE / "constant.py"), kind, str(port)]


def shmcache(origin: int) -> Callable[[int], list[str]]:
    name = f"bench-{os.getpid()}-{secrets.token_hex(3)}"
    return lambda port: [
        *(sys.executable, "-m", "shmcache_server", "serve", "--workers", "1"),
        *("--origin", f"http://127.0.0.1:{origin}", "--bind", f"127.0.0.1:{port}"),
        *("--l1-size", "64MiB", "--l1-name", name, "--l2", "none"),
    ]


def rows(origin: int) -> list[Row]:
    """What is compared; the first row is what the ratios are of."""
    return [
        Row("aiohttp web.Application, constant body", constant("application")),
        Row("aiohttp web.Server, constant body", constant("server")),
        Row("shmcache, hit, slow lane", shmcache(origin), expects="; hit"),
    ]


@contextmanager
def running(command: Callable[[int], list[str]], core: int) -> Iterator[int]:
    """The server on a free port, pinned to a core, answering; ended at the end."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command(port)], stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port, process)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/bench") as answer:
                if answer.status == 200 and len(answer.read()) == 898:
                    return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"bench: {process.args!r} does not answer")


def wrk(port: int, core: int, seconds: int) -> tuple[float, float]:
    """Requests per second and the 99th percentile in milliseconds."""
    out = subprocess.run(
        [
            *("taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}"),
            *(f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/bench"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(f"bench: errors on port {port}\n{out}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
    if not rate or not p99:
        raise SystemExit(f"bench: wrk said something else\n{out}")
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}[p99[2]]
    return float(rate[1]), float(p99[1]) * unit


def measure(table: list[Row], rounds: int, seconds: int, cores: list[int]) -> None:
    for row in table:
        wrk(row.port, cores[1], 1)  # warm
        with urllib.request.urlopen(f"http://127.0.0.1:{row.port}/bench") as answer:
            if row.expects not in answer.headers.get("Cache-Status", ""):
                raise SystemExit(f"bench: {row.name}: {answer.headers}")
    for n in range(rounds):
        for row in table:
            rate, p99 = wrk(row.port, cores[1], seconds)
            row.rounds.append(rate)
            row.p99_ms.append(p99)
        print(f"round {n + 1} of {rounds}", file=sys.stderr, flush=True)


def show(table: list[Row]) -> None:
    base = table[0].rate
    print("| server | requests/s | of the first | 99 % within |")
    print("|---|---|---|---|")
    for row in table:
        p99 = statistics.median(row.p99_ms)
        print(
            f"| {row.name} | {row.rate:,.0f} | {row.rate / base:.2f} | {p99:.2f} ms |"
        )


def have_wrk() -> bool:
    """Whether wrk can be run, installed by apt-get where that is ours to do."""
    if not shutil.which("wrk") and os.geteuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "--yes", "--quiet", "wrk"]
        subprocess.run(install, stdout=subprocess.DEVNULL, check=False)
    return bool(shutil.which("wrk"))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--json", metavar="FILE", help="write the rounds there too")
    return parser.parse_args()


def main() -> None:
    args = options()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if not have_wrk():
        return print("bench: skipped, wrk is not on PATH (Debian: apt install wrk)")
    if len(cores) < 2:
        return print("bench: skipped, it needs two cores")
    with ExitStack() as stack:
        origin = stack.enter_context(running(constant("origin"), cores[1]))
        table = rows(origin)
        for row in table:
            row.port = stack.enter_context(running(row.command, cores[0]))
        measure(table, args.rounds, args.seconds, cores)
    show(table)
    if args.json:
        found = {r.name: {"rounds": r.rounds, "p99_ms": r.p99_ms} for r in table}
        Path(args.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
