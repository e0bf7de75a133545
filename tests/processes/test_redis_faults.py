"""Redis killed, stopped and back, under a server that goes on answering."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.helpers import Answer, Server, served, until
from tests.processes.conftest import Origin
from tests.redis_server import redis_server

# Seconds for Redis to be used again: the breaker's half-open probe and its jitter.
BACK = 15.0


@pytest.fixture
def redis() -> Iterator:
    with redis_server() as running:
        yield running


@pytest.fixture
def pair(tmp_path, origin: Origin, redis) -> Iterator[list[Server]]:
    """Two servers, as two hosts, on one Redis."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(served(tmp_path / f"{i}.log", origin.url, l2=redis.url))
            for i in range(2)
        ]


def load(server: Server, origin: Origin, warm: str, seconds: float) -> list[Answer]:
    """Hits and cold fetches in turn from 8 clients, for so long."""
    deadline = time.monotonic() + seconds

    def client() -> list[Answer]:
        answers = []
        while time.monotonic() < deadline:
            answers.append(server.get(warm))
            answers.append(server.get(origin.path()))
        return answers

    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(client) for _ in range(8)]
        return [answer for run in runs for answer in run.result()]


def used_again(pair: list[Server], origin: Origin) -> bool:
    """Whether the second server finds what the first one fetched."""
    path = origin.path()
    first, second = (server.get(path) for server in pair)
    assert first.status == second.status == 200
    return origin.count(path) == 1


def test_second_server_finds_what_the_first_fetched(pair, origin) -> None:
    assert used_again(pair, origin)


def test_killed_redis_no_error_then_used_again(pair, origin, redis, measured) -> None:
    warm = origin.path()
    pair[0].warm(warm)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(load, pair[0], origin, warm, 3.0)
        until(lambda: origin.requests() > 20, 5, "load")
        redis.kill()
        answers = running.result()
    assert {a.status for a in answers} == {200}
    assert not used_again(pair, origin)
    redis.restart()
    began = time.monotonic()
    until(lambda: used_again(pair, origin), BACK, "Redis used again")
    measured(
        f"Redis killed under load: {len(answers)} answers, all 200, slowest "
        f"{max(a.seconds for a in answers):.3f} s; restarted: used again after "
        f"{time.monotonic() - began:.1f} s"
    )


def beyond_the_fetch(server, origin, fetch: float = 0.2) -> float:
    """The longest that one of 40 misses, 8 at a time, takes longer than its fetch."""
    with ThreadPoolExecutor(8) as pool:
        paths = [origin.path(delay=fetch) for _ in range(40)]
        answers = list(pool.map(server.get, paths))
    assert {a.status for a in answers} == {200}
    return max(a.seconds for a in answers) - fetch


def test_stopped_redis_waits_are_bounded(pair, origin, redis, measured) -> None:
    used_again(pair, origin)
    usual = beyond_the_fetch(pair[0], origin)
    redis.stop()
    try:
        beyond = beyond_the_fetch(pair[0], origin)
    finally:
        redis.cont()
    measured(
        f"Redis stopped: longest wait beyond the fetch {beyond:.3f} s, "
        f"{usual:.3f} s with Redis there"
    )
    # The 250 ms deadline, and what a busy machine of two cores adds of its own.
    assert beyond <= 0.25 + 0.15
    until(lambda: used_again(pair, origin), BACK, "Redis used again")
