"""Worker: a process of the simulated fleet, with the cache open, told what to do.

An order is (number, verb, arguments) and runs as a task, so several may be under way;
its answer bears its number. Times are CLOCK_MONOTONIC in nanoseconds, which all the
processes of a machine share. What a compute does is noted in cells that outlive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import stat
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from time import monotonic_ns
from typing import Any, NamedTuple

from shmcache import MISSING, Cache, CacheConfig
from shmcache_server.embedded import die_with_parent

from .sides import own_ns

CELLS = 2
"""Of a worker: how many computes it began, and when the last one."""
COMPUTES, BEGAN = range(CELLS)
_TTL = 600.0
_LOOK = 0.002
_CALLS = 16
"""At once: fewer than would wait for each other until L2's deadline."""
_HITS = 8
"""Clients of a worker that ask for what is there, one after another."""


class Answered(NamedTuple):
    """What one client of a wave saw."""

    by: int
    """The worker that computed its answer."""
    began: int
    """That compute's begin, and..."""
    filled: int
    """...its return."""
    asked: int
    answered: int


class Worker:
    """The process' own side."""

    def __init__(
        self, pipe: Connection, cells: memoryview, index: int, config: CacheConfig
    ) -> None:
        self._pipe = pipe
        self._cells = cells[CELLS * index : CELLS * (index + 1)]
        self._index = index
        self._config = config
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def live(self) -> None:
        """Until told to end, or the other side is gone."""
        async with Cache(self._config) as self.cache:
            loop = asyncio.get_running_loop()
            loop.add_reader(self._pipe.fileno(), self._ordered)
            self._pipe.send((0, None, ""))
            await self._ended.wait()
            loop.remove_reader(self._pipe.fileno())

    def _ordered(self) -> None:
        try:
            order = self._pipe.recv()
        except EOFError:
            order = None
        if order is None:
            self._ended.set()
            return
        task = asyncio.get_running_loop().create_task(self._obey(*order))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _obey(self, number: int, verb: str, args: tuple[Any, ...]) -> None:
        try:
            answer = (await getattr(self, verb)(*args), "")
        except Exception as error:
            answer = (None, f"{verb}: {type(error).__name__}: {error}")
        with contextlib.suppress(OSError):  # nobody is left to hear it
            self._pipe.send((number, *answer))

    # -- verbs

    async def call(self, verb: str, *args: Any) -> Any:
        """A verb of the cache."""
        return await getattr(self.cache, verb)(*args)

    async def counted(self, name: str) -> int:
        """A counter of the host."""
        return self.cache.stats().counters[name]

    async def wave(
        self,
        keys: Sequence[str],
        clients: int,
        hold: float,
        delay: float,
        tagged: bool = False,
    ) -> list[Answered]:
        """So many clients for each key, all in one turn of the loop; a compute that is
        ours takes `hold` seconds. With `delay` each begins after a random share;
        `tagged` gives each key a tag of the same name."""
        asks = [
            self._ask(key, hold, delay, (key,) if tagged else ())
            for key in keys
            for _ in range(clients)
        ]
        return await asyncio.gather(*asks)

    async def calls(self, verb: str, names: Sequence[str]) -> None:
        """A verb of the cache for each name, so many at once."""
        for at in range(0, len(names), _CALLS):
            some = names[at : at + _CALLS]
            await asyncio.gather(*(self.call(verb, name) for name in some))

    async def has(self, keys: Sequence[str]) -> bool:
        """Whether L1 has them all."""
        return all(self.cache.peek(key) is not MISSING for key in keys)

    async def gone(self, key: str) -> int:
        """When a look at L1, every 2 ms, found nothing there."""
        while self.cache.peek(key) is not MISSING:  # noqa: ASYNC110 others remove it
            await asyncio.sleep(_LOOK)
        return monotonic_ns()

    async def l2(self, state: str, seconds: float) -> int:
        """When the host's state of L2 was so; 0 if it was not in so many seconds."""
        ends = monotonic_ns() + int(seconds * 1e9)
        while self.cache.stats().l2 != state:
            if monotonic_ns() > ends:
                return 0
            await asyncio.sleep(_LOOK)
        return monotonic_ns()

    async def addresses(self) -> list[str]:
        """Near ends of this process' TCP connections."""
        found = []
        for fd in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):  # the listing's own is gone
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    with socket.socket(fileno=os.dup(fd)) as one:
                        if one.family == socket.AF_INET:
                            found.append("{}:{}".format(*one.getsockname()))
        return found

    async def hits(self, keys: Sequence[str], seconds: float) -> list[int]:
        """What hits took, as clients of a loop see it: each gives way to all else that
        is ready to run before it asks. Time in which another process had our core is
        left out."""
        ends = monotonic_ns() + int(seconds * 1e9)
        took: list[int] = []

        async def client(mine: Sequence[str]) -> None:
            while monotonic_ns() < ends:
                asked = own_ns()
                await asyncio.sleep(0)
                await self.cache.get_or_set(random.choice(mine), _unwanted)
                took.append(own_ns() - asked)

        await asyncio.gather(*(client(keys) for _ in range(_HITS)))
        return took

    async def misses(
        self, prefix: str, seconds: float, each: float, hold: float
    ) -> list[Answered]:
        """A client for a fresh key every `each` seconds."""
        loop = asyncio.get_running_loop()
        ends, asks, n = loop.time() + seconds, [], 0
        while loop.time() < ends:
            asks.append(asyncio.ensure_future(self._ask(f"{prefix}{n}", hold, 0.0)))
            n += 1
            await asyncio.sleep(each)
        return await asyncio.gather(*asks)

    async def _ask(
        self, key: str, hold: float, delay: float, tags: tuple[str, ...] = ()
    ) -> Answered:
        if delay:
            await asyncio.sleep(random.uniform(0, delay))
        asked = monotonic_ns()
        more = {"tags": tags} if tags else {}
        answer = await self.cache.get_or_set(key, self._compute(hold), ttl=_TTL, **more)
        return Answered(*answer, asked, monotonic_ns())

    def _compute(self, hold: float) -> Callable[[], Any]:
        async def compute() -> tuple[int, int, int]:
            self._cells[BEGAN] = began = monotonic_ns()
            self._cells[COMPUTES] += 1
            await asyncio.sleep(hold)
            return self._index, began, monotonic_ns()

        return compute


def run(
    pipe: Connection, cells: memoryview, index: int, config: CacheConfig, parent: int
) -> None:
    """A forked child's whole life."""
    die_with_parent(parent, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is asked to stop tells us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _close_all_but(pipe.fileno())
    random.seed(os.urandom(8))
    logging.getLogger("shmcache").setLevel(logging.ERROR)  # faults are wanted here
    asyncio.run(_live(pipe, cells, index, config))


async def _live(*build: Any) -> None:
    await Worker(*build).live()


def _close_all_but(fd: int) -> None:
    """The parent's sockets: what it closes shall be closed."""
    os.closerange(3, fd)
    os.closerange(fd + 1, 1 << 16)


async def _unwanted() -> None:
    raise AssertionError("a hit was a miss")
