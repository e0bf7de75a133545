"""A hundredth of `make fuzz`."""

from __future__ import annotations

import random

import pytest

from tests.server import fuzz_lanes


async def test_lanes_agree_on_random_requests() -> None:
    found = await fuzz_lanes.run(seed=1, requests=10_000)
    assert found.disagreements == []
    assert found.fast > 500
    assert found.either_way < found.histories / 100


def test_history_is_the_same_for_the_same_seed() -> None:
    assert fuzz_lanes.history(random.Random(7)) == fuzz_lanes.history(random.Random(7))


async def test_disagreement_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane that takes every connection for level."""
    from shmcache_server.fastlane import Connection

    monkeypatch.setattr(Connection, "_level", property(lambda c: c._lane.open, _ignore))
    assert (await fuzz_lanes.run(seed=0, requests=20_000)).disagreements


def _ignore(connection: object, level: bool) -> None:
    pass
