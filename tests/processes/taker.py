"""A process that takes from a budget: `taker.py NAME FILE CALLS SECONDS [L2-URL APP]`.

It says `ready`; told `take` it takes one by one until it is refused, and each grant is
a line of the file, the monotonic clock's nanoseconds, before the next is asked for.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from shmcache import Cache
from shmcache_server.limits import Budget, Limits


async def take(budget: Budget, out: int) -> None:
    while (await budget.take()).granted:
        os.write(out, b"%d\n" % time.monotonic_ns())


async def main(name: str, path: str, calls: str, seconds: str, *fleet: str) -> None:
    settings = dict(zip(("l2", "app"), fleet, strict=False))
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    # a machine that is busy is no Redis that is away
    patient = {"l2_deadline": 10.0}
    async with Cache.open(name, size="2MiB", **patient, **settings) as cache:
        limits = Limits(cache)
        budget = limits.budget("b", int(calls), float(seconds))
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            await take(budget, out)
            print("refused", flush=True)
        await limits.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
