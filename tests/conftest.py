"""Fixtures and options that every test may use."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from shmcache import Cache
from shmcache.clock import FakeClock
from shmcache.l1 import L1
from shmcache.l2 import L2
from tests.caches import siblings, two_hosts
from tests.helpers import SHM, segment_name
from tests.redis_server import RedisServer, redis_server

MEASURED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASURED] = []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """What the acceptance tests measured, whether or not a bound was asserted."""
    lines = config.stash[MEASURED]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Add a line to the report at the end of the run."""
    return request.config.stash[MEASURED].append


@pytest.fixture(autouse=True)
def one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of the tests' own process hash alike in every run. Two keys of a small
    one share one of its 1,024 stripes once in as many seeds, and what invalidates the
    one is then felt by the other."""
    monkeypatch.setattr("shmcache.segment.token_bytes", lambda n: bytes(range(n)))


@pytest.fixture(autouse=True)
def nothing_left_in_shm() -> Iterator[None]:
    """A test that leaves a segment or a socket of its own fails, and it is removed.
    A ledger of limits is meant to outlive those who use it."""
    yield
    for ledger in SHM.glob(f"*test-{os.getpid()}-*.limits"):
        ledger.unlink()
    left = sorted(SHM.glob(f"*test-{os.getpid()}-*"))
    for path in left:
        path.unlink()
    assert not left


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A redis-server of the module's own."""
    with redis_server() as running:
        yield running


@pytest.fixture
async def l2(server: RedisServer) -> AsyncIterator[L2]:
    """On that server, emptied."""
    server.command("FLUSHALL")
    l2 = L2(server.url, "app")
    yield l2
    await l2.close()


@pytest.fixture
def l1() -> Iterator[L1]:
    """A small segment, with a slot."""
    opened = L1.open(segment_name(), 2 << 20)
    opened.join()
    yield opened
    opened.close(keep=False)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def pair(clock: FakeClock) -> AsyncIterator[tuple[Cache, Cache]]:
    """Two caches on one segment, on that clock."""
    async with siblings(clock) as both:
        yield both


@pytest.fixture
def cache(pair: tuple[Cache, Cache]) -> Cache:
    """The first of them."""
    return pair[0]


@pytest.fixture
async def hosts(server: RedisServer) -> AsyncIterator[tuple[Cache, Cache]]:
    """Two caches, as on two hosts, on that server."""
    async with two_hosts(server.url) as both:
        yield both
