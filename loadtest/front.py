"""A server before an origin of bodies, and what comes of its clients: what they cost,
how many bodies, how soon they have them, how they are told of a break."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, TypeVar

import uvloop

from tests.helpers import Server, connections, served

from .bodies import Body, Origin
from .readers import BROKEN, FAST, OLD, REFUSED, STOPS, WHOLE, Reader, Way, read

MB = 1_000_000
_WITHIN = 60.0
"""Seconds for one measurement; then something hangs."""
_SAMPLE = 0.02
_TRIES = 10
T = TypeVar("T")


class Front:
    """An origin and a server before it; measurements run on one loop."""

    def __init__(self, runner: asyncio.Runner, origin: Origin, server: Server) -> None:
        self.origin = origin
        self.port = server.port
        self.pids = server.pids()
        self._runner = runner
        self._numbers = count()
        self._readers: list[Reader] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Its answer; SIGTERM ends it as Ctrl-C does, but not inside of a callback,
        where the loop would take KeyboardInterrupt for an error of a connection."""
        loop = self._runner.get_loop()
        task = loop.create_task(asyncio.wait_for(work, _WITHIN))

        async def wait() -> T:
            return await task

        def told(*_: object) -> None:
            loop.call_soon_threadsafe(task.cancel)

        before = signal.signal(signal.SIGTERM, told)
        try:
            return self._runner.run(wait())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            signal.signal(signal.SIGTERM, before)

    def path(self, body: Body) -> str:
        """Where a body is that nobody asked for yet."""
        path = f"/{next(self._numbers)}"
        self.origin.bodies[path] = body
        return path

    async def read(self, path: str, way: Way = FAST) -> Reader:
        reader = await read(self.port, path, self.origin.bodies[path].size, way)
        self._readers.append(reader)
        return reader

    async def leave(self) -> None:
        """End what is under way: a server with nobody to answer stops at once."""
        for reader in self._readers:
            reader.leave()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def front(workers: int) -> Iterator[Front]:
    origin = Origin()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(origin.start())
        try:
            with (
                TemporaryDirectory() as folder,
                served(Path(folder) / "log", origin.url, workers=workers) as server,
            ):
                one = Front(runner, origin, server)
                try:
                    yield one
                finally:
                    runner.run(one.leave())
        finally:
            runner.run(origin.close())


# --- memory


@dataclass
class Passed:
    """Large bodies of a kind, all at once through one worker."""

    clients: int
    grew: int
    """Bytes of its private memory, at the peak."""
    seconds: float
    ends: Counter[str]

    @property
    def each_mb(self) -> float:
        return self.grew / self.clients / MB


async def passing(front: Front, body: Body, ways: Sequence[Way]) -> Passed:
    """What a worker grows by while large bodies pass, one to a client."""
    warm = await front.read(front.path(replace(body, size=1000)), ways[0])
    await warm.ended
    pid = front.pids[0]
    before, began = private_bytes(pid), monotonic()
    reading = [await front.read(front.path(body), way) for way in ways]
    ended, peak = asyncio.gather(*(one.ended for one in reading)), before
    while not ended.done():
        peak = max(peak, private_bytes(pid))
        await asyncio.wait([ended], timeout=_SAMPLE)
    seconds = monotonic() - began
    return Passed(len(ways), peak - before, seconds, Counter(ended.result()))


def private_bytes(pid: int) -> int:
    """A process' memory but for files and segments, which others share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"no Anonymous in smaps_rollup of {pid}")


# --- one fetch, and stalls


@dataclass
class Wave:
    """Clients of one body; milliseconds of those that did not stall."""

    bodies: int
    """That the origin sent."""
    workers: list[int]
    """Clients of each worker."""
    ends: Counter[str]
    first_ms: list[float]
    """From the request and the origin's first piece to the first byte."""
    behind_ms: list[float]
    """From the request and the origin's last piece to the last byte."""
    last_ms: list[float]
    """From the first request of all to the last byte."""
    stalled: Counter[str]
    """How it ended for those that stalled, when they read on behind all others."""

    @property
    def wrong(self) -> int:
        return self.ends.total() - self.ends[WHOLE]


async def wave(
    front: Front, body: Body, clients: int, stalled: int, spread: float
) -> Wave:
    """All come within `spread` seconds, those that stall first."""
    path, total = front.path(body), clients + stalled

    async def come(number: int) -> Reader:
        await asyncio.sleep(spread * number / total)
        return await front.read(path, STOPS if number < stalled else FAST)

    came = await asyncio.gather(*map(come, range(total)))
    workers = [len(connections(pid, local=front.port)) for pid in front.pids]
    others, stuck = came[stalled:], came[:stalled]
    ends = Counter(await asyncio.gather(*(one.ended for one in others)))
    for one in stuck:
        one.go_on()
    stuck_ends = Counter(await asyncio.gather(*(one.ended for one in stuck)))
    sent = front.origin.sent[path]
    first, last = sent[0].first, sent[0].last
    begun = min(one.asked for one in came)
    whole = [one for one in others if one.ended.result() == WHOLE]
    return Wave(
        bodies=len(sent),
        workers=workers,
        ends=ends,
        first_ms=[1000 * (one.first - max(first, one.asked)) for one in whole],
        behind_ms=[1000 * (one.last - max(last, one.asked)) for one in whole],
        last_ms=[1000 * (one.last - begun) for one in whole],
        stalled=stuck_ends,
    )


# --- breaks


@dataclass
class Break:
    """Clients of a body that broke off."""

    bodies: int
    ends: Counter[str]
    again: int
    """Bodies that the origin was asked for by the next request."""

    @property
    def wrong(self) -> int:
        return self.ends.total() - self.ends[BROKEN] - self.ends[REFUSED]


async def breaking(front: Front, body: Body, clients: int) -> Break:
    """Clients of both versions of HTTP on a body that breaks off, and one more."""
    path = front.path(body)
    came = await asyncio.gather(
        *(front.read(path, OLD if i % 2 else FAST) for i in range(clients))
    )
    ends = Counter(await asyncio.gather(*(one.ended for one in came)))
    bodies = len(front.origin.sent[path])
    for _ in range(_TRIES):
        how = await (await front.read(path)).ended
        ends[how] += 1
        if how != REFUSED:  # the flight that failed was not over yet
            break
    return Break(bodies, ends, len(front.origin.sent[path]) - bodies)
