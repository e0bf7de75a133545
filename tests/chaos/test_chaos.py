"""Half a minute of chaos with a fixed seed: nothing is seen that must never be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.chaos.history import injected
from tests.chaos.proxy import FAULTS
from tests.chaos.run import run
from tests.chaos.schedule import REDIS, plan

SECONDS = float(os.environ.get("SHMCACHE_CHAOS_SECONDS", "30"))
SEED = 1


def test_chaos_has_no_violation(tmp_path: Path, measured: Callable) -> None:
    done = run(plan(SEED, SECONDS), SECONDS, folder=tmp_path, seed=SEED,
               hosts=2, workers=3)  # fmt: skip
    faults = injected(done.history.faults)
    counts = done.verdict.counts
    measured(
        f"chaos of {SECONDS:g} s: {sum(n for n, _, _ in faults.values())} faults of "
        f"{len(faults)} kinds, {counts['reads']} reads, "
        f"{len(done.verdict.violations)} violations"
    )
    assert done.verdict.violations == []
    # that the run was worth it
    assert set(faults) >= {*FAULTS, *REDIS, "kill", "stop"}
    assert all(faults[kind][2] for kind in FAULTS), faults
    assert counts["reads"] > 200 * SECONDS
    assert len(done.history.voids) > 10 * SECONDS
    assert done.history.fetches and done.history.deaths
    assert all(c["l2_errors"] for c in done.history.counters.values())
