"""Rules that look odd: without those that have `tries` some history goes wrong.

SHMCACHE_TRIES says how many histories are run for each; what takes more is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.sim.fleet import Fleet
from tests.sim.mutations import MUTATIONS, Mutation
from tests.sim.run import run

TRIES = int(os.environ.get("SHMCACHE_TRIES", "450"))


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    made = Fleet()
    with made.installed():
        yield made


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.rule)
def test_mutation_is_what_the_library_says(mutation: Mutation) -> None:
    with mutation.applied():
        pass  # its text was found


@pytest.mark.parametrize(
    "mutation", [m for m in MUTATIONS if 0 < m.tries <= TRIES], ids=lambda m: m.rule
)
def test_rule_taken_out_is_noticed(fleet: Fleet, mutation: Mutation) -> None:
    with mutation.applied():
        for seed in range(mutation.tries):
            if run(fleet, seed).violations:
                return
    pytest.fail(f"not noticed in {mutation.tries} histories")
