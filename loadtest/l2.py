"""What L2 costs beside a client library: redis.asyncio, one GET per call.

    python -m loadtest.l2 [--quick] [--json FILE]

One process on one core, a redis-server on the other. Each round measures every way to
get a value in turn; rounds later every row has its median, and a ratio is the median
of the rounds' own ratios. *Many* is 64 tasks that get one key after another, or one
that gets 64 at a time; *one* is a single task, whose next get waits for the last. Its
bound is against the client that a user would take; that against our own connections'
plain GET is beside it, for those cost about half of what the client's do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio

from shmcache.ask import FleetClock
from shmcache.clock import SYSTEM
from shmcache.l2 import L2
from shmcache.record import FRESH, VALUE, Record
from tests.helpers import free_port
from tests.redis_server import RedisServer, redis_server

from . import command
from .report import Target, judged, median, ratio, shown, table

CONCURRENT = 64
SECOND = 10**9
SECONDS = 0.05, 0.1
"""Of one measurement: a look, and else. Short, so that whatever else runs on the
machine meets all ways alike; many rounds make up for it."""
ROUNDS = 15, 45

PEER = "redis.asyncio GET"
PLAIN = "Link GET"
SINGLE = "L2.acquire"
BATCH = "L2.get_many of 64"
LEASED = "L2.acquire, for the lease"
MANY = (PEER, SINGLE, BATCH)
ONE = (PEER, PLAIN, SINGLE, LEASED)
LOOPS = ("asyncio", "uvloop")


@dataclass(frozen=True)
class Load:
    """What is got, and how."""

    loop: str
    value_bytes: int
    many: bool

    @property
    def name(self) -> str:
        how = f"{CONCURRENT} concurrent" if self.many else "one at a time"
        return f"{how}, {self.value_bytes:,} B, {self.loop}"


LOADS = [
    Load(loop, size, many)
    for many, sizes in ((True, (300, 4096)), (False, (300, 65_536)))
    for size in sizes
    for loop in LOOPS
]


@dataclass
class Measured:
    """Nanoseconds of one get in each round, by the way it was got."""

    load: Load
    rounds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Nanoseconds of one get that this process ran, and..."""
    redis: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """...that Redis ran: where others use the cores too, these move less."""

    def ratio(self, over: str, under: str) -> float | None:
        return ratio(self.rounds[over], self.rounds[under])


# --- ways ---------------------------------------------------------------------------

Way = Callable[[bytes], Awaitable[Any]]


class Bench:
    """All ways to get the same values from one Redis, on one loop."""

    def __init__(self, server: RedisServer, load: Load) -> None:
        self.server = server
        self.load = load
        self.keys = [b"key:%d" % i for i in range(CONCURRENT if load.many else 8)]
        self.value = os.urandom(load.value_bytes)
        self.l2 = L2(server.tcp_url, "bench", deadline=5.0)
        self.pool = redis.asyncio.Redis.from_url(
            server.tcp_url, max_connections=CONCURRENT
        )

    async def fill(self) -> None:
        """The same value by our way, and plain under the bare key."""
        for key in self.keys:
            token, now = os.urandom(16), SYSTEM.now()
            begun: FleetClock = (await self.l2.acquire(key, offer=token)).clock
            ends = now + 3600 * SECOND
            nonce = int.from_bytes(os.urandom(8), "little")
            record = Record(self.value, FRESH, VALUE, now, ends, ends, 0, nonce, 9, ())
            assert await self.l2.put_fenced(key, token, record, begun) == "stored"
            await self.pool.set(key, self.value)

    async def get(self, way: str, seconds: float) -> tuple[int, float]:
        """Gets done, and nanoseconds for each."""
        if way == BATCH:
            return await self._count(seconds, [self._many()])
        single = {
            PEER: self._peer,
            PLAIN: self._plain,
            SINGLE: self._acquire,
            LEASED: self._leased,
        }[way]
        tasks = CONCURRENT if self.load.many else 1
        return await self._count(seconds, [self._each(single, i) for i in range(tasks)])

    async def _count(
        self, seconds: float, gets: list[AsyncIterator[int]]
    ) -> tuple[int, float]:
        ends = time.perf_counter() + seconds

        async def work(some: AsyncIterator[int]) -> int:
            done = 0
            async for got in some:
                done += got
                if time.perf_counter() > ends:
                    break
            return done

        began = time.perf_counter_ns()
        done = sum(await asyncio.gather(*map(work, gets)))
        return done, (time.perf_counter_ns() - began) / done

    async def _each(self, way: Way, first: int) -> AsyncIterator[int]:
        keys, n = self.keys, first
        while True:
            assert await way(keys[n % len(keys)])
            n += 1
            yield 1

    async def _many(self) -> AsyncIterator[int]:
        while True:
            assert len(await self.l2.get_many(self.keys)) == len(self.keys)
            yield len(self.keys)

    async def _peer(self, key: bytes) -> bool:
        return await self.pool.get(key) == self.value

    async def _plain(self, key: bytes) -> bool:
        return await self.l2.topology.link(0).exchange(("GET", key)) == [self.value]

    async def _acquire(self, key: bytes) -> bool:
        record = (await self.l2.acquire(key)).record
        return record is not None and record.value == self.value

    async def _leased(self, key: bytes) -> bool:
        """As a flight asks: a fresh value, so no lease is taken."""
        answer = await self.l2.acquire(key, offer=os.urandom(16), channel=b"channel")
        return answer.record is not None and answer.record.value == self.value

    def ran(self) -> tuple[int, int]:
        """Nanoseconds that this process and Redis have run."""
        with open(f"/proc/{self.server.pid}/schedstat") as file:
            return time.process_time_ns(), int(file.read().split()[0])

    async def close(self) -> None:
        await self.l2.close()
        await self.pool.aclose()


@asynccontextmanager
async def bench(server: RedisServer, load: Load) -> AsyncIterator[Bench]:
    server.command("FLUSHALL")
    made = Bench(server, load)
    try:
        await made.fill()
        yield made
    finally:
        await made.close()


# --- measuring ----------------------------------------------------------------------


async def measure(
    server: RedisServer, load: Load, rounds: int, seconds: float
) -> Measured:
    """Each way in each round, in an order that turns."""
    found = Measured(load)
    ways = MANY if load.many else ONE
    async with bench(server, load) as made:
        for way in ways:
            await made.get(way, seconds / 4)
        print(f"l2: {load.name}: {rounds} rounds", file=sys.stderr)
        for n in range(rounds):
            for way in ways[n % len(ways) :] + ways[: n % len(ways)]:
                before = made.ran()
                gets, each = await made.get(way, seconds)
                ours, its = (b - a for a, b in zip(before, made.ran(), strict=True))
                found.rounds[way].append(each)
                found.cpu[way].append(ours / gets)
                found.redis[way].append(its / gets)
    return found


def on_loop(name: str, work: Callable[[], Any]) -> Any:
    factory = None
    if name == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work())


@contextmanager
def pinned(server: RedisServer) -> Iterator[None]:
    """We on one core, Redis on another: what either does costs the other nothing."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(server.pid, {cores[1]})
        os.sched_setaffinity(0, {cores[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


# --- what was found -----------------------------------------------------------------

HEAD = [
    "load", "way", "us", "gets/s", "of redis.asyncio", "of Link GET",
    "cpu us", "of redis.asyncio", "Redis cpu us",
]  # fmt: skip


def lines(found: Measured) -> Iterator[list[str]]:
    for way, rounds in found.rounds.items():
        each = median(rounds) or 0
        yield [
            found.load.name,
            way,
            shown(each / 1000, ",.1f"),
            shown(1e9 / each),
            shown(found.ratio(way, PEER), ".2f"),
            shown(found.ratio(way, PLAIN) if PLAIN in found.rounds else None, ".2f"),
            shown((median(found.cpu[way]) or 0) / 1000, ".1f"),
            shown(ratio(found.cpu[way], found.cpu[PEER]), ".2f"),
            shown((median(found.redis[way]) or 0) / 1000, ".1f"),
        ]


def targets(measured: list[Measured]) -> Iterator[Target]:
    for found in measured:
        at = f"{found.load.name}: "
        if found.load.many:
            of = found.ratio(PEER, BATCH)
            yield Target(f"{at}{BATCH}, throughput / {PEER}", of, 4, least=True)
            of = found.ratio(PEER, SINGLE)
            yield Target(f"{at}{SINGLE}, throughput / {PEER}", of, 2.5, least=True)
            continue
        for way in (SINGLE, LEASED):
            yield Target(f"{at}{way} / {PEER}", found.ratio(way, PEER), 1.35)
            of = found.ratio(way, PLAIN)
            yield Target(f"{at}{way} / {PLAIN} (stricter than need be)", of, 1.35)


def options(args: list[str] | None) -> argparse.Namespace:
    parser = command.options("l2", __doc__, quick=command.A_LOOK)
    parser.add_argument(
        "--rounds", type=command.positive, default=0, metavar="N",
        help=f"of each load ({ROUNDS[1]}; with --quick {ROUNDS[0]})",
    )  # fmt: skip
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> int:
    asked = options(args)
    rounds = asked.rounds or ROUNDS[not asked.quick]
    seconds = SECONDS[not asked.quick]
    measured = []
    with redis_server(port=free_port()) as server, pinned(server):
        for load in LOADS:
            work = measure(server, load, rounds, seconds)
            measured.append(on_loop(load.loop, lambda work=work: work))
    print("Medians of the rounds; ratios are medians of the rounds' own.\n")
    print(table(HEAD, [line for found in measured for line in lines(found)], names=2))
    aims = list(targets(measured))
    judged(aims)
    if asked.json:
        text = json.dumps(as_json(measured, aims), indent=2)
        asked.json.write_text(text + "\n")
    return 0


def as_json(measured: list[Measured], aims: list[Target]) -> dict[str, Any]:
    return {
        "loads": [
            {
                "name": m.load.name,
                "nanoseconds": dict(m.rounds),
                "cpu_nanoseconds": dict(m.cpu),
                "redis_cpu_nanoseconds": dict(m.redis),
            }
            for m in measured
        ],
        "targets": [aim.as_json() for aim in aims],
    }


if __name__ == "__main__":
    sys.exit(command.run("l2", main))
