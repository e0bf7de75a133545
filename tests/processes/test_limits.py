"""A budget over real workers and hosts, as its vendor counts it."""

from __future__ import annotations

import asyncio
import subprocess
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import aiohttp
import pytest

from tests.helpers import (
    SHM,
    answers,
    free_port,
    python,
    segment_name,
    served,
    shm_names,
    until,
)
from tests.redis_server import RedisServer, eventually, redis_server

URLS = 10_000
CALLS, SECONDS, WINDOWS = 20, 4.0, 2.5
CLIENTS = 64
BEAT_NS = 1.2e9
"""At most from one look of a host at the tally to the next."""
HERE = Path(__file__).parent


def most(times: list[int], seconds: float) -> int:
    """The most there were in any window; times are nanoseconds."""
    times, span = sorted(times), seconds * 1e9
    return max(i + 1 - bisect_left(times, at - span + 1) for i, at in enumerate(times))


def noted(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


# -- through servers


class Vendor:
    """It counts its requests, and when they came."""

    def __init__(self, path: Path) -> None:
        self.port, self._path = free_port(), path
        self.url = f"http://127.0.0.1:{self.port}"

    def times(self) -> list[int]:
        return noted(self._path)


@contextmanager
def vendor(path: Path) -> Iterator[Vendor]:
    made = Vendor(path)
    process = python(str(HERE / "vendor.py"), str(made.port), str(path))
    try:
        until(lambda: answers(made.port, "/"), 10, "the vendor")
        path.write_text("")
        yield made
    finally:
        end_now(process)


def end_now(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


async def storm(ports: list[int], over: Callable[[int], bool]) -> Counter[int]:
    """The statuses of misses, spread over the servers, until it is over after so
    many."""
    statuses: Counter[int] = Counter()
    numbers = count()

    async def client(session: aiohttp.ClientSession) -> None:
        while not over(i := next(numbers)):
            url = f"http://127.0.0.1:{ports[i % len(ports)]}/{i}"
            async with session.get(url) as answer:
                await answer.read()
                statuses[answer.status] += 1
                if answer.status == 503:
                    assert 1 <= int(answer.headers["Retry-After"]) <= SECONDS + 1

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
    return statuses


@pytest.fixture
def settings(tmp_path: Path) -> tuple[str, ...]:
    path = tmp_path / "shmcache.toml"
    path.write_text(
        f"[origin]\nbudget = {CALLS}\nbudget_seconds = {SECONDS}\n"
        f'[l2]\napp = "{segment_name()}"\n'
    )
    return "--config", str(path)


@pytest.fixture
def hosts(tmp_path, settings) -> Iterator[tuple[Vendor, list[int], RedisServer]]:
    """Two servers of four workers, as on two hosts, before one vendor."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        before = stack.enter_context(vendor(tmp_path / "calls"))
        ports = []
        for i in range(2):
            log = tmp_path / f"server{i}.log"
            made = {"workers": 4, "l2": redis.url, "flags": settings}
            ports.append(stack.enter_context(served(log, before.url, **made)).port)
        yield before, ports, redis


async def test_storm_of_misses_stays_within_the_budget(hosts, measured) -> None:
    before, ports, _ = hosts
    ends = time.monotonic() + WINDOWS * SECONDS
    statuses = await storm(ports, lambda n: n >= URLS and time.monotonic() >= ends)
    times = before.times()
    assert set(statuses) == {200, 503}
    assert statuses[200] == len(times)
    assert most(times, SECONDS) <= CALLS
    assert len(times) >= CALLS * 1.5
    measured(
        f"budget: {len(times)} calls of {statuses.total()} misses, "
        f"{most(times, SECONDS)} in a window of {CALLS}"
    )


async def test_storm_stays_within_the_budget_while_redis_dies_and_comes_back(
    hosts,
) -> None:
    """Killed with its memory, and back empty, while misses go on. Each host knows of
    the other, and has looked at the tally since the other's last call."""
    before, ports, redis = hosts
    over = asyncio.Event()
    misses = asyncio.ensure_future(storm(ports, lambda _: over.is_set()))

    def used_up() -> bool:
        times, now = before.times(), time.monotonic_ns()
        lately = [at for at in times if at > now - SECONDS * 1e9]
        known = len(lately) == CALLS and lately[-1] < now - BEAT_NS
        return known and lately[0] > times[0] + SECONDS * 1e9

    await eventually(used_up, 30)
    await asyncio.to_thread(redis.kill)
    killed = time.monotonic_ns()
    await eventually(lambda: before.times()[-1] > killed + SECONDS * 1e9, 30)
    await asyncio.to_thread(redis.start)
    back = time.monotonic_ns()
    await eventually(lambda: before.times()[-1] > back + SECONDS * 1e9, 30)
    over.set()
    await misses
    assert most(before.times(), SECONDS) <= CALLS


# -- by processes that do nothing else

TAKEN = 2000


class Takers:
    """Processes of one host that take from one budget."""

    def __init__(self, path: Path, *fleet: str) -> None:
        self.name, self.path = segment_name(), path
        words = (self.name, str(path), str(TAKEN), "600", *fleet)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        script = str(HERE / "taker.py")
        self.processes = [python(script, *words, **pipes) for _ in range(4)]
        assert [self._line(p) for p in self.processes] == ["ready\n"] * 4

    def take(self, *processes: subprocess.Popen) -> None:
        for process in processes:
            print("take", file=process.stdin, flush=True)

    def refused(self, *processes: subprocess.Popen) -> bool:
        return all(self._line(p) == "refused\n" for p in processes)

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()
            process.wait(10)
            process.stdout.close()
        for name in shm_names(self.name):
            if "~" in name:  # of the one that was killed
                (SHM / name).unlink()

    @staticmethod
    def _line(process: subprocess.Popen) -> str:
        return process.stdout.readline()


@pytest.fixture(params=["alone", "with Redis"])
def takers(request, tmp_path) -> Iterator[Takers]:
    with ExitStack() as stack:
        fleet: tuple[str, ...] = ()
        if request.param == "with Redis":
            fleet = (stack.enter_context(redis_server()).url, segment_name())
        made = Takers(tmp_path / "grants", *fleet)
        yield made
        made.close()


def test_processes_that_take_at_once_get_the_budget_and_no_more(takers) -> None:
    takers.take(*takers.processes)
    assert takers.refused(*takers.processes)
    assert len(noted(takers.path)) == TAKEN


def test_killed_process_loses_one_grant_at_most_and_doubles_none(takers) -> None:
    killed, *others = takers.processes
    takers.take(*takers.processes)
    until(lambda: len(noted(takers.path)) > TAKEN / 10, 10, "grants")
    killed.kill()
    assert takers.refused(*others)
    assert len(noted(takers.path)) in (TAKEN - 1, TAKEN)
    takers.take(*others)
    assert takers.refused(*others)
    assert len(noted(takers.path)) in (TAKEN - 1, TAKEN)
