"""A worker process of a "host": random calls on a Cache, each written to a journal.

`worker.py SETTINGS`, a JSON object: the fields of `Settings`. It works until its stdin
ends, waits for the calls under way, reads every key once more, closes and exits with 0.

Values tell what they are: [key, id, filler made of the id]. The origin is a compute
function; what it returned is as old as its call's begin.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shmcache import MISSING, Cache, CacheConfig
from tests.chaos.journal import Journal, now
from tests.chaos.keys import SPECS, Spec
from tests.chaos.verbs import REQUIRES, VERBS, can

_PR_SET_PDEATHSIG = 1
SAMPLE_SECONDS = 0.1
STOP_SECONDS = 15.0
"""Within which every call under way must end."""
SIZES = (0, 0, 0, 100, 3000, 30_000)


class OriginFailed(Exception):
    """What a compute raises now and then."""


@dataclass
class Settings:
    host: str
    """Name of the segment."""
    worker: str
    app: str
    l2: str
    journal: str
    seed: int
    clients: int = 4
    pause: float = 0.008
    """Mean seconds between a client's calls."""
    lease_life: float = 2.0
    hard_timeout: float = 4.0
    size_bytes: int = 8 << 20
    cancelled: float = 0.02
    """Share of the calls that their caller gives up."""
    failing: float = 0.02
    """Share of the computes that raise."""


def filler(name: str, size: int) -> str:
    return (name * (size // len(name) + 1))[:size]


class Worker:
    """The clients of one process, on one Cache."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.random = random.Random(settings.seed)
        self.journal = Journal(Path(settings.journal), settings.host, settings.worker)
        self.cache = Cache(
            CacheConfig(
                settings.host,
                settings.size_bytes,
                l2=settings.l2,
                app=settings.app,
                lease_life=settings.lease_life,
                hard_timeout=settings.hard_timeout,
                keep=True,  # the segment outlives its host's last worker, too
            )
        )
        self.views = {"": self.cache, "part": self.cache.namespace("part")}
        self.stopping = False
        self._calls: dict[int, tuple[int, str, str]] = {}

    # -- what a verb needs

    def view(self, spec: Spec) -> Cache:
        return self.views[spec.namespace]

    def value(self, key: str) -> tuple[str, list[str]]:
        """A new value's id, and the value."""
        name = self.journal.name()
        return name, [key, name, filler(name, self.random.choice(SIZES))]

    def terms(self, spec: Spec) -> dict[str, Any]:
        tags = {"tags": spec.tags} if spec.tags and can("delete_tags") else {}
        return {"ttl": spec.ttl, "grace": spec.grace, **tags}

    def origin(self, spec: Spec) -> Callable[[], Awaitable[list[str]]]:
        """A compute function that writes down when it is called."""
        delay = self.random.choice((0.0, 0.005, 0.02, 0.02, 0.05, 0.4))
        fails = self.random.random() < self.settings.failing

        async def compute() -> list[str]:
            name, value = self.value(spec.full)
            self.journal.begin_fetch(name, now(), spec.full, name)
            done = False
            try:
                await asyncio.sleep(delay)
                if fails:
                    raise OriginFailed(name)
                done = True
                return value
            finally:
                self.journal.end(name, done)

        return compute

    def found(
        self, begin: int, verb: str, key: str, value: Any, state: str = "",
        source: str = "",
    ) -> None:  # fmt: skip
        """Write down what a call answered."""
        end = now()
        if value is MISSING:
            self.journal.read(begin, end, verb, key)
            return
        bears, name, rest = value
        if rest != filler(name, len(rest)):
            name = "torn"
        self.journal.read(begin, end, verb, key, name, bears, state, source)

    async def void(
        self, verb: str, keys: tuple[str, ...], force: str, work: Awaitable[Any],
        value: str | None = None, asks: bool = False,
    ) -> None:  # fmt: skip
        """Carry out a call that changes what stands; one that `asks` answers False
        where it did nothing."""
        await self.voids(verb, [(keys, value)], force, work, asks)

    async def voids(
        self, verb: str, each: list[tuple[tuple[str, ...], str | None]], force: str,
        work: Awaitable[Any], asks: bool = False,
    ) -> None:  # fmt: skip
        """The same of a call that writes several values."""
        calls = [self.journal.name() for _ in each]
        begin = now()
        for call, (keys, value) in zip(calls, each, strict=True):
            self.journal.begin_void(call, begin, verb, keys, force, value)
        done = False
        try:
            answer = await work
            done = not asks or bool(answer)
        finally:
            for call in calls:
                self.journal.end(call, done)

    # -- the load

    async def client(self, seed: int) -> None:
        """One call after another."""
        draw = random.Random(seed)
        names = [name for name in VERBS if can(REQUIRES.get(name, name))]
        weights = [VERBS[name][0] for name in names]
        while not self.stopping:
            (name,) = draw.choices(names, weights)
            limit = None
            if draw.random() < self.settings.cancelled:
                limit = draw.random() * 0.03
            await self.call(name, draw.choice(SPECS), limit)
            await asyncio.sleep(draw.expovariate(1 / self.settings.pause))

    async def call(self, name: str, spec: Spec, limit: float | None = None) -> None:
        """One call; after `limit` seconds its caller goes away."""
        begin = now()
        task = asyncio.ensure_future(VERBS[name][1](self, spec))
        self._calls[id(task)] = (begin, name, spec.full)
        try:
            done, _ = await asyncio.wait({task}, timeout=limit)
            if not done:
                task.cancel()
                await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()) is not None:
                self._failed(begin, name, spec, error)
        finally:
            del self._calls[id(task)]

    def _failed(self, begin: int, name: str, spec: Spec, error: BaseException) -> None:
        kind = f"{type(error).__name__}: {error}"
        self.journal.failure(begin, now(), name, spec.full, kind)

    async def sample(self) -> None:
        while True:
            self.journal.sample(self.cache.stats().l2)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def run(self) -> None:
        """Work until stdin ends."""
        loop = asyncio.get_running_loop()
        await self.cache.start()
        clients = [
            asyncio.ensure_future(self.client(self.random.getrandbits(64)))
            for _ in range(self.settings.clients)
        ]
        sampling = asyncio.ensure_future(self.sample())
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.read)
        self.stopping = True
        _, hung = await asyncio.wait(clients, timeout=STOP_SECONDS)
        for begin, verb, key in self._calls.values():
            self.journal.failure(begin, now(), verb, key, "hung")
        for client in hung:
            client.cancel()
        for spec in SPECS:
            await self.call("get", spec)
        sampling.cancel()
        with suppress(asyncio.CancelledError):
            await sampling
        self.journal.counters(dict(self.cache.stats().counters))
        await asyncio.wait_for(self.cache.close(), STOP_SECONDS)


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also while stopped
    settings = Settings(**json.loads(sys.argv[1]))

    async def run() -> None:
        await Worker(settings).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
