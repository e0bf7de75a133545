"""What a hit costs in a program, beside the libraries that it might use.

    python -m loadtest.library [--quick] [--json FILE]

One process, one core, one small value under one key. Each round measures every way in
turn; rounds later every row has its median, and a ratio or difference is the median of
the rounds' own. A decorator's row is of a function of one argument.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from shmcache import Cache, SyncCache

from . import command
from .report import Target, judged, median, ratio, shown, table

VALUE = {"id": 7, "name": "Ada", "roles": ["admin", "user"]}
CALLS = 2_000, 10_000
"""Of one measurement: a look, and else."""
ROUNDS = 5, 30

TABLE = "the table's read, and decoding"
PEEK = "Cache.peek"
GET_OR_SET = "await Cache.get_or_set"
CACHED = "@cached, asyncio"
CASHEWS = "cashews, @cache in memory"
AIOCACHE = "aiocache, @cached in memory"
GET = "SyncCache.get"
SYNC_GET_OR_SET = "SyncCache.get_or_set"
SYNC_CACHED = "@cached, blocking"
DISKCACHE = "diskcache, get"
MEMOIZE = "diskcache, @memoize"
WAYS = (
    *(TABLE, PEEK, GET_OR_SET, CACHED, CASHEWS, AIOCACHE),
    *(GET, SYNC_GET_OR_SET, SYNC_CACHED, DISKCACHE, MEMOIZE),
)
HEAD = ["a hit", "ns", "of ours"]
OURS = {CASHEWS: CACHED, AIOCACHE: CACHED, DISKCACHE: GET, MEMOIZE: SYNC_CACHED}

Plain = Callable[[], Any]
Rounds = dict[str, list[float]]


def own_ways(sync: SyncCache, cache: Cache) -> tuple[dict[str, Plain], Any]:
    """Those that are called, and those that are awaited."""
    sync.set("key", VALUE)
    key, peek, decode = b"key", cache._l1.peek, cache._codec.decode

    def compute() -> Any:
        raise AssertionError("it is a hit")

    @cache.cached(3600)
    async def cached(user_id: int) -> Any:
        return VALUE

    @sync.cached(3600)
    def blocking(user_id: int) -> Any:
        return VALUE

    called: dict[str, Plain] = {
        TABLE: lambda: decode(peek(key)),
        PEEK: lambda: cache.peek("key"),
        GET: lambda: sync.get("key"),
        SYNC_GET_OR_SET: lambda: sync.get_or_set("key", compute, ttl=60),
        SYNC_CACHED: lambda: blocking(7),
    }
    awaited: dict[str, Callable[[], Awaitable[Any]]] = {
        GET_OR_SET: lambda: cache.get_or_set("key", compute, ttl=60),
        CACHED: lambda: cached(7),
    }
    return called, awaited


def peer_ways(stack: ExitStack) -> tuple[dict[str, Plain], Any]:
    """Of those that are installed."""
    called: dict[str, Plain] = {}
    awaited: dict[str, Callable[[], Awaitable[Any]]] = {}
    try:
        from cashews import cache as cashews

        cashews.setup("mem://")

        @cashews(ttl="1h")  # type: ignore[misc]
        async def by_cashews(user_id: int) -> Any:
            return VALUE

        awaited[CASHEWS] = lambda: by_cashews(7)
    except ImportError:
        pass
    try:
        from aiocache import cached  # type: ignore[import-not-found]

        @cached(ttl=3600)  # type: ignore[misc]
        async def by_aiocache(user_id: int) -> Any:
            return VALUE

        awaited[AIOCACHE] = lambda: by_aiocache(7)
    except ImportError:
        pass
    try:
        import diskcache  # type: ignore[import-untyped]

        folder = tempfile.mkdtemp(prefix="bench-library-")
        stack.callback(shutil.rmtree, folder)
        disk = stack.enter_context(diskcache.Cache(folder))
        disk.set("key", VALUE)
        by_diskcache = disk.memoize()(lambda user_id: VALUE)
        called |= {DISKCACHE: lambda: disk.get("key"), MEMOIZE: lambda: by_diskcache(7)}
    except ImportError:
        pass
    return called, awaited


def nanoseconds(way: Plain, calls: int) -> float:
    """Of one call, the loop's own time taken off."""
    turns = range(calls)
    began = time.perf_counter_ns()
    for _ in turns:
        pass
    empty = time.perf_counter_ns() - began
    began = time.perf_counter_ns()
    for _ in turns:
        way()
    return (time.perf_counter_ns() - began - empty) / calls


async def awaited_nanoseconds(way: Callable[[], Awaitable[Any]], calls: int) -> float:
    turns = range(calls)
    began = time.perf_counter_ns()
    for _ in turns:
        pass
    empty = time.perf_counter_ns() - began
    began = time.perf_counter_ns()
    for _ in turns:
        await way()
    return (time.perf_counter_ns() - began - empty) / calls


async def measure(rounds: int, calls: int) -> Rounds:
    found: Rounds = defaultdict(list)
    with ExitStack() as stack:
        name = f"bench-library-{os.getpid()}"
        async with Cache.open(name) as cache:
            sync = stack.enter_context(SyncCache(cache.config))
            own, own_awaited = own_ways(sync, cache)
            peers, peers_awaited = peer_ways(stack)
            called, awaited = own | peers, own_awaited | peers_awaited
            for way in called.values():
                assert way() == VALUE
            for way in awaited.values():
                assert await way() == VALUE
            for turn in range(rounds):
                for name, way in called.items():
                    slow = name in (DISKCACHE, MEMOIZE)
                    found[name].append(nanoseconds(way, calls // (10 if slow else 1)))
                for name, way in awaited.items():
                    found[name].append(await awaited_nanoseconds(way, calls))
                command.note(f"bench-library: round {turn + 1} of {rounds}")
            sync.close()
    return found


def over(found: Rounds, one: str, other: str) -> float | None:
    """The median of the rounds' differences."""
    return median([a - b for a, b in zip(found[one], found[other], strict=True)])


def targets(found: Rounds) -> list[Target]:
    return [
        Target(f"{PEEK} over {TABLE}, ns", over(found, PEEK, TABLE), 150, form=".0f"),
        Target(
            f"{GET_OR_SET} over {PEEK}, ns",
            over(found, GET_OR_SET, PEEK),
            *(1500, False, ".0f"),
        ),
        *(
            Target(f"{ours} / {peer}", ratio(found[ours], found[peer]), 0.5)
            for peer, ours in OURS.items()
        ),
    ]


def lines(found: Rounds) -> list[list[str]]:
    rows = []
    for name in WAYS:
        of = ratio(found[name], found[OURS[name]]) if name in OURS else None
        rows.append([name, shown(median(found[name])), shown(of, ".1f")])
    return rows


def options(args: list[str] | None) -> argparse.Namespace:
    parser = command.options("library", __doc__, quick=command.A_LOOK)
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> int:
    asked = options(args)
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    found = asyncio.run(measure(ROUNDS[not asked.quick], CALLS[not asked.quick]))
    print("Medians of the rounds; ratios and differences are medians of their own.\n")
    print(table(HEAD, lines(found), names=1))
    aims = targets(found)
    judged(aims)
    if asked.json:
        told = {"nanoseconds": found, "targets": [aim.as_json() for aim in aims]}
        Path(asked.json).write_text(json.dumps(told, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command.run("library", main))
