"""Fleet: hosts of one machine, each a segment with worker processes on one Redis.

Nothing is imitated but the network: the workers of a host share memory, those of
different hosts share Redis alone.
"""

from __future__ import annotations

import mmap
import multiprocessing as mp
import os
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from time import monotonic
from typing import Any

from shmcache import CacheConfig

from . import worker as inside
from .stores import fresh_name, remove_all
from .worker import BEGAN, CELLS, COMPUTES

_CONTEXT = mp.get_context("fork")
_WORKERS_MAX = 1024
_WITHIN = 30.0
"""Seconds to answer, at most."""


class WorkerError(Exception):
    """A worker died, did not answer, or an order of its failed."""


class Worker:
    """A worker from outside."""

    def __init__(self, cells: memoryview, index: int, config: CacheConfig) -> None:
        self.index = index
        self._cells = cells[CELLS * index : CELLS * (index + 1)]
        self._pipe, theirs = _CONTEXT.Pipe()
        self._orders = 0
        self._answers: dict[int, tuple[Any, str]] = {}
        self._process = _CONTEXT.Process(
            target=inside.run,
            args=(theirs, cells, index, config, os.getpid()),
            daemon=True,
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def computes(self) -> int:
        """Begun so far."""
        return self._cells[COMPUTES]

    @property
    def began(self) -> int:
        """When the last one was."""
        return self._cells[BEGAN]

    def ready(self) -> None:
        self.answer(0)

    def tell(self, verb: str, *args: Any) -> int:
        """The order's number, to ask for its answer by."""
        self._orders += 1
        try:
            self._pipe.send((self._orders, verb, args))
        except OSError as error:
            raise WorkerError(f"worker {self.index} is gone: {error}") from None
        return self._orders

    def answer(self, number: int, within: float = _WITHIN) -> Any:
        deadline = monotonic() + within
        while number not in self._answers:
            if not self._pipe.poll(max(0.0, deadline - monotonic())):
                raise WorkerError(f"worker {self.index}: no answer in {within:g} s")
            try:
                one, *answer = self._pipe.recv()
            except (EOFError, OSError):
                raise WorkerError(f"worker {self.index} died") from None
            self._answers[one] = (answer[0], answer[1])
        found, wrong = self._answers.pop(number)
        if wrong:
            raise WorkerError(f"worker {self.index}: {wrong}")
        return found

    def ask(self, verb: str, *args: Any) -> Any:
        return self.answer(self.tell(verb, *args))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def tell_to_end(self) -> None:
        with suppress(OSError):
            self._pipe.send(None)

    def end(self, within: float) -> None:
        self._process.join(within)
        self._process.kill()
        self._process.join()
        self._pipe.close()


class Host:
    """A segment and its workers."""

    def __init__(self, fleet: Fleet, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self._fleet = fleet
        self.workers: list[Worker] = []

    @property
    def user(self) -> str:
        """By which Redis knows the host's connections."""
        return user(self.number)

    def grow(self, count: int) -> list[Worker]:
        """So many workers more, that are not ready yet."""
        settings = {"l2": self._fleet.url.format(user=self.user)}
        config = CacheConfig(self.name, **self._fleet.settings, **settings)
        new = [self._fleet.worker(config) for _ in range(count)]
        self.workers += new
        return new

    def replace(self, dead: Worker) -> None:
        """A killed worker, by a new one."""
        dead.end(0)
        self.workers.remove(dead)
        for one in self.grow(1):
            one.ready()


def user(number: int) -> str:
    return f"host{number}"


class Fleet:
    """All hosts."""

    def __init__(self, url: str, **settings: Any) -> None:
        """`url` of Redis with {user} in it; `settings` are `CacheConfig`'s."""
        self.url = url
        self._name = fresh_name()
        self.settings = {"size_bytes": 16 << 20, "app": self._name, **settings}
        self.hosts: list[Host] = []
        self._map = mmap.mmap(-1, 8 * CELLS * _WORKERS_MAX)
        self._cells = memoryview(self._map).cast("q")
        self._count = 0
        self._numbers = count()

    @property
    def workers(self) -> list[Worker]:
        return [worker for host in self.hosts for worker in host.workers]

    def worker(self, config: CacheConfig) -> Worker:
        self._count += 1
        return Worker(self._cells, self._count - 1, config)

    def grow(self, hosts: int, workers: int) -> list[Host]:
        """So many hosts more of so many workers, ready."""
        new = [
            Host(self, number, f"{self._name}-{number}")
            for number in (next(self._numbers) for _ in range(hosts))
        ]
        self.hosts += new
        for one in [one for host in new for one in host.grow(workers)]:
            one.ready()
        return new

    def bury(self, hosts: Sequence[Host]) -> None:
        """Take away hosts whose workers were killed."""
        for host in hosts:
            for one in host.workers:
                one.end(0)
            self.hosts.remove(host)
            remove_all(host.name)

    def end(self) -> None:
        """All workers; nothing of them stays in /dev/shm."""
        left = self.workers
        for one in left:
            one.tell_to_end()
        deadline = monotonic() + 10
        for one in left:
            one.end(max(0.0, deadline - monotonic()))
        remove_all(self._name)


@contextmanager
def fleet(url: str, hosts: int, workers: int, **settings: Any) -> Iterator[Fleet]:
    """A running fleet, ended whatever happens."""
    running = Fleet(url, **settings)
    try:
        running.grow(hosts, workers)
        yield running
    finally:
        running.end()


def together(workers: Sequence[Worker], verb: str, *args: Any) -> list[Any]:
    """The order to all of them at once, in random order; their answers. All are taken,
    also where one has failed."""
    asked = {one.index: one.tell(verb, *args) for one in shuffled(workers)}
    found, wrong = [], None
    for one in workers:
        try:
            found.append(one.answer(asked[one.index]))
        except WorkerError as error:
            wrong = error
    if wrong:
        raise wrong
    return found


def shuffled(workers: Sequence[Worker]) -> list[Worker]:
    """The first to be told has a head start, so it shall not always be the same."""
    return random.sample(workers, len(workers))
