"""A real redis-server under the shifted clock."""

from __future__ import annotations

import time
from pathlib import Path

from tests.chaos.clockstep import ClockStep
from tests.redis_server import redis_server


def test_clock_of_redis_steps_and_comes_back(tmp_path: Path) -> None:
    step = ClockStep.build(tmp_path)
    with step.preloaded(), redis_server() as redis:

        def ahead() -> float:
            seconds, micros = redis.command("TIME")
            return int(seconds) + int(micros) / 1e6 - time.time()

        assert abs(ahead()) < 1
        redis.command("SET", "k", "v", "PX", 60_000)
        step.set(30.0)
        assert abs(ahead() - 30) < 1
        assert redis.command("PTTL", "k") < 31_000
        step.set(-3600.0)
        assert abs(ahead() + 3600) < 1
        assert redis.command("PTTL", "k") > 3_600_000
        step.set(0.0)
        assert abs(ahead()) < 1


def test_clock_step_leaves_this_process_alone(tmp_path: Path) -> None:
    step = ClockStep.build(tmp_path)
    before = time.time()
    step.set(3600.0)
    assert time.time() - before < 60
