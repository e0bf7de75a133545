"""The library in a program's own processes: asyncio and blocking ones on one cache."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.helpers import segment_name, shm_names

ASYNCIO = """
import asyncio, sys, time
from shmcache import Cache

name, calls, start = sys.argv[1], sys.argv[2], float(sys.argv[3])

async def compute():
    with open(calls, "a") as file:
        file.write("asyncio\\n")
    await asyncio.sleep(0.5)
    return "v"

async def main():
    async with Cache.open(name) as cache:
        await cache.start()
        await asyncio.sleep(start - time.time())
        asks = [cache.get_or_set("k", compute, ttl=60) for _ in range(8)]
        print(*await asyncio.gather(*asks))

asyncio.run(main())
"""
BLOCKING = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from shmcache import SyncCache

name, calls, start = sys.argv[1], sys.argv[2], float(sys.argv[3])

def compute():
    with open(calls, "a") as file:
        file.write("blocking\\n")
    time.sleep(0.5)
    return "v"

with SyncCache.open(name) as cache, ThreadPoolExecutor(8) as pool:
    cache.get("none")
    time.sleep(start - time.time())
    print(*pool.map(lambda _: cache.get_or_set("k", compute, ttl=60), range(8)))
"""


def test_eight_processes_of_both_kinds_make_one_call(tmp_path: Path) -> None:
    """64 callers of one cold key; three rounds, each of a new cache."""
    for turn in range(3):
        name, calls = segment_name(), tmp_path / f"calls{turn}"
        start = time.time() + 3
        running = [
            subprocess.Popen(
                [sys.executable, "-c", script, name, str(calls), str(start)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for script in (ASYNCIO, BLOCKING) * 4
        ]
        answers = [process.communicate(timeout=60)[0] for process in running]
        assert answers == ["v v v v v v v v\n"] * 8
        assert [process.returncode for process in running] == [0] * 8
        assert len(calls.read_text().splitlines()) == 1
        assert not shm_names(name)
