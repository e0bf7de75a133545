"""The market's vendors, simulated: their payloads, latencies, limits and faults.

    python -m loadtest.vendors --port 8090 [--still] [--seed N] [--latency S]
                               [--latency VENDOR=S ...]

One process on the loopback; it prints its address, and ends at once on Ctrl-C or
SIGTERM. Each vendor is below a prefix of its own: `/coingecko/api/v3/simple/price`,
`/alternative/fng/`, `/taapi/rsi`, `/binance/api/v3/ticker/24hr`, `/binance/stream` (a
websocket), `/cmc/v1/global-metrics/quotes/latest`, `/finnhub/api/v1/quote`. Figures
wander from second to second, unless `--still`: an answer's X-Second tells the second,
and `truth` what the vendor had to say at it. While it runs it is told, by JSON:

    POST /control/fault/VENDOR     what goes wrong: `faults.Fault`
    POST /control/budget/VENDOR    {"limit": 20, "window": 60}; a limit of null: none
    POST /control/reset            no faults, no budgets, and all calls forgotten
    GET  /control                  second, faults and budgets
    GET  /control/calls?window=60  the calls so far, by vendor and by path and query:
                                   number, those of each second, how they ended, and
                                   the most in any so many seconds. A call counts when
                                   it comes.

What it cannot take is answered 400, with a line that names it. Tests start one by
`running`.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvloop
from aiohttp import web

from shmcache_server.embedded import die_with_parent
from tests.helpers import end, python

from .market import Market
from .payloads import VENDORS
from .truth import SEED, Truth, truth

__all__ = ["VENDORS", "Truth", "Vendors", "main", "running", "truth"]

_BACKLOG = 1024
_AT_ONCE = 0.01
"""Seconds for calls under way at the end; aiohttp takes 0 for ever."""


@dataclass(frozen=True)
class Vendors:
    """A running simulator; each call is one request to it, and blocks."""

    port: int
    pid: int
    began: int
    """Unix time of second 0."""

    @property
    def base(self) -> str:
        """Where all of them are."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, vendor: str) -> str:
        """Without a slash at its end."""
        return f"{self.base}/{vendor}"

    def fault(self, vendor: str, mode: str = "ok", **how: Any) -> None:
        """See `faults.Fault`; raises ValueError for what it cannot be told."""
        self.control("POST", f"fault/{vendor}", {"mode": mode, **how})

    def budget(self, vendor: str, limit: int | None, window: float = 60.0) -> None:
        self.control("POST", f"budget/{vendor}", {"limit": limit, "window": window})

    def calls(self, window: float = 60.0) -> dict[str, Any]:
        """By vendor: `calls.Calls.counts`."""
        told = self.control("GET", f"calls?window={window}")
        counts: dict[str, Any] = told["vendors"]
        return counts

    def reset(self) -> None:
        self.control("POST", "reset")

    def control(self, method: str, path: str, what: object = None) -> Any:
        """The JSON that comes back; raises ValueError with the line of a 400."""
        return _control(self.port, method, path, what)


def _control(port: int, method: str, path: str, what: object = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        body = None if what is None else json.dumps(what)
        connection.request(method, f"/control/{path}".rstrip("/"), body)
        response = connection.getresponse()
        said = response.read()
    finally:
        connection.close()
    if response.status >= 400:
        raise ValueError(said.decode().strip())
    return json.loads(said) if said else None


@contextmanager
def running(*flags: str) -> Iterator[Vendors]:
    """A simulator in a process of its own, on a free port, ended at the end."""
    process = python(
        *("-m", "loadtest.vendors", "--port", "0", "--parent", str(os.getpid())),
        *flags,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().decode().strip()
        if not address:
            raise RuntimeError(f"no simulator: exit code {process.wait(10)}")
        port = int(address.rpartition(":")[2])
        began = _control(port, "GET", "")["began"]
        yield Vendors(port, process.pid, began)
    finally:
        process.stdout.close()
        end(process)


async def _serve(market: Market, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # a client that leaves ends its call
    runner = web.AppRunner(
        market.application(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=_AT_ONCE,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, backlog=_BACKLOG).start()
        host, bound = runner.addresses[0]
        print(f"http://{host}:{bound}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def _port(text: str) -> int:
    # uvloop would take the rest after division by 65,536
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _latency(text: str) -> dict[str, float]:
    """`0.2`: of all vendors; `taapi=1`: of one."""
    vendor, told, seconds = text.rpartition("=")
    if told and vendor not in VENDORS:
        raise argparse.ArgumentTypeError(f"no vendor {vendor!r}")
    try:
        number = float(seconds)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{seconds!r} is not a number of seconds")
    return dict.fromkeys([vendor] if told else VENDORS, number)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.vendors", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--port", type=_port, default=8090, help="0: any that is free")
    parser.add_argument("--still", action="store_true", help="figures do not move")
    parser.add_argument("--seed", type=int, default=SEED, help="of figures, latencies")
    parser.add_argument(
        "--latency",
        type=_latency,
        action="append",
        default=[],
        metavar="[VENDOR=]S",
        help="seconds of each answer, in place of 0.08 to 1.2 as they come; "
        "the last that names a vendor counts",
    )
    parser.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.parent:
        die_with_parent(args.parent)
    latency = {vendor: s for told in args.latency for vendor, s in told.items()}
    market = Market(latency, args.still, args.seed)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(market, args.port))
    except OSError as e:
        print(f"vendors: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
