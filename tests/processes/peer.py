"""A process with a Cache, told what to do on stdin: `peer.py NAME [L2-URL APP
[SETTINGS]]`, the last a JSON object of `CacheConfig`'s.

A line in is {"do": verb, "key": ..., ...}; a line out is its answer as JSON. The
compute of `get_or_set` writes its pid into the file `started`, waits until the FIFO
`gate` is opened for writing, and returns its pid.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from shmcache import MISSING, Cache


def compute(started: str, gate: str) -> Any:
    def announce_and_wait() -> None:
        with Path(started).open("a") as out:
            out.write(f"{os.getpid()}\n")
        Path(gate).read_bytes()

    async def run() -> dict[str, int]:
        await asyncio.to_thread(announce_and_wait)
        return {"computed by": os.getpid()}

    return run


async def hits(cache: Cache, key: str, count: int) -> list[int]:
    """Nanoseconds of so many hits, and of nothing else: the loop is let run after each
    hundred."""
    took = []
    for i in range(count):
        began = time.perf_counter_ns()
        value = await cache.get_or_set(key, never, ttl=60)
        took.append(time.perf_counter_ns() - began)
        assert value is not MISSING
        if i % 100 == 0:
            await asyncio.sleep(0.001)
    return took


def never() -> None:
    raise AssertionError("it is a hit")


async def answer(cache: Cache, order: dict[str, Any]) -> Any:
    key = order.get("key", "")
    match order["do"]:
        case "peek":
            value = cache.peek(key)
        case "get":
            value = await cache.get(key, MISSING)
        case "set":
            value = await cache.set(key, order["value"], ttl=60)
        case "delete":
            value = await cache.delete(key)
        case "get_or_set":
            fill = compute(order["started"], order["gate"])
            value = await cache.get_or_set(key, fill, ttl=60)
        case "start":
            value = await cache.start()
        case "stats":
            stats = cache.stats()
            value = {"l2": stats.l2, **stats.counters}
        case "leads":
            value = cache._invalidations.follower.leads
        case "hits":
            value = await hits(cache, key, order["count"])
        case verb:
            raise ValueError(verb)
    return "MISSING" if value is MISSING else value


async def main() -> None:
    name, *fleet = sys.argv[1:]
    settings = dict(zip(("l2", "app"), fleet[:2], strict=False))
    more = json.loads(fleet[2]) if len(fleet) > 2 else {}
    cache = Cache.open(name, size="64MiB", **settings, **more)
    print(json.dumps("ready"), flush=True)
    loop = asyncio.get_running_loop()
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await answer(cache, json.loads(line))), flush=True)
    finally:
        await cache.close()


if __name__ == "__main__":
    asyncio.run(main())
