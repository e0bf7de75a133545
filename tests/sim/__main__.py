"""python -m tests.sim SEED shows a history; with --histories N runs N from there."""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import sys
import time

from .fleet import Fleet
from .run import Result, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim")
    parser.add_argument("seed", type=int)
    parser.add_argument("--histories", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    wanted = parser.parse_args()
    if not wanted.histories:
        with Fleet().installed() as fleet:
            print(run(fleet, wanted.seed, traced=True))
        return 0
    began = time.monotonic()
    chunks = [
        (first, min(first + 200, wanted.seed + wanted.histories))
        for first in range(wanted.seed, wanted.seed + wanted.histories, 200)
    ]
    bad = done = 0
    context = multiprocessing.get_context("fork")
    with context.Pool(wanted.jobs, _begin) as pool:
        for count, results in pool.imap_unordered(_chunk, chunks):
            done += count
            bad += len(results)
            for result in results:
                print(result, flush=True)
            if done % 10_000 == 0:
                print(f"{done} histories so far", file=sys.stderr, flush=True)
    took = time.monotonic() - began
    print(f"{done} histories, {bad} with violations, {took / done * 1e3:.2f} ms each")
    return 1 if bad else 0


def _begin() -> None:
    logging.disable(logging.CRITICAL)
    gc.disable()
    global _fleet
    _fleet = Fleet()


def _chunk(seeds: tuple[int, int]) -> tuple[int, list[Result]]:
    with _fleet.installed():
        results = [run(_fleet, seed) for seed in range(*seeds)]
    gc.collect()
    return len(results), [r for r in results if r.violations]


_fleet: Fleet

if __name__ == "__main__":
    raise SystemExit(main())
