"""Random histories of the whole library under faults: no rule of `history.py` broken.

SHMCACHE_HISTORIES, SHMCACHE_SEED (the first one) and SHMCACHE_SECONDS (at most) say how
many; `python -m tests.sim SEED` shows one, step by step.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.sim.fleet import Fleet
from tests.sim.run import run

HISTORIES = int(os.environ.get("SHMCACHE_HISTORIES", "2500"))
FIRST = int(os.environ.get("SHMCACHE_SEED", "0"))
SECONDS = float(os.environ.get("SHMCACHE_SECONDS", "90"))


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    made = Fleet()
    with made.installed():
        yield made


@pytest.fixture
def undisturbed() -> Iterator[None]:
    """No garbage is collected, nothing logged."""
    gc.disable()
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    gc.enable()


@pytest.mark.usefixtures("undisturbed")
def test_histories_keep_every_rule(
    fleet: Fleet, measured: Callable[[str], None]
) -> None:
    began, done, befell = time.monotonic(), 0, Counter[str]()
    for seed in range(FIRST, FIRST + HISTORIES):
        if time.monotonic() - began > SECONDS:
            break
        result = run(fleet, seed)
        if result.violations:
            pytest.fail(str(run(fleet, seed, traced=True)), pytrace=False)
        befell.update(result.befell or ["nothing"])
        done += 1
        if done % 100 == 0:
            gc.collect()
    assert done >= min(HISTORIES, 100), "too slow"
    took = time.monotonic() - began
    kinds = ", ".join(f"{n} {count}" for n, count in sorted(befell.items()))
    measured(f"{done} histories from seed {FIRST}, {took / done * 1e3:.1f} ms each")
    measured(f"  befell: {kinds}")


@pytest.mark.parametrize("seed", [3, 7, 11, 19])
def test_seed_always_runs_the_same_history(fleet: Fleet, seed: int) -> None:
    first = run(fleet, seed, traced=True).lines
    run(fleet, seed + 1)
    assert first
    assert run(fleet, seed, traced=True).lines == first
