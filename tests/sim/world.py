"""The world of one history: hosts, processes, the network, and time.

One scheduler draws, from one seed, which process runs next, how long each message is
under way, and what befalls whom. A process may be interrupted at any of its calls of
the segment, in the middle of a callback: others then run inside that call, for an
instant or for seconds, or it is killed there. Time stands still while anybody has
something to do, and then leaps to the next timer.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from shmcache import Cache
from shmcache.scripts import Script

from .attachment import Killed, SimHost, SimTable
from .loop import SimLoop
from .net import Faults, Server, SimTransport, connected, latency
from .simredis import SimRedis

EPOCH = 1_000_000.0
STEPS_MAX = 200_000
DEPTH_MAX = 3
NEVER = 1 << 60


_SCRIPTS = ("acquire", "renew", "put_fenced", "abandon", "invalidate")


class Stuck(AssertionError):
    """The history takes more steps than any should."""


class Process:
    """A simulated process: a loop, and a cache with the library's own code."""

    def __init__(self, world: World, host: SimHost, number: int) -> None:
        self.world = world
        self.host = host
        self.number = number
        self.loop = SimLoop(world, self, connected)
        self.dead = False
        self.busy = 0
        """It is inside one of its own callbacks, further down the stack."""
        self.stopped_until = 0.0
        self.strange_at = 0.0
        """When it would not read of a Redis that its host does not follow yet."""
        self.sockets: list[Any] = []
        self.tables: list[SimTable] = []
        self.lines: list[SimTransport] = []
        self.cache: Cache = host.fleet.make_cache(self)

    def __repr__(self) -> str:
        return f"h{self.host.number}p{self.number}"

    def kill(self) -> None:
        """It is gone, wherever it was; the kernel closes what it had."""
        self.dead = True
        self.loop.drop()
        self.host.release(self)
        for line in self.lines:
            line.close()
        for sock in self.sockets:
            sock.close()

    def stop(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        self.stopped_until = max(self.stopped_until, self.world.now + seconds)
        self.world.at(self.stopped_until, _nothing)


class World:
    """Everything that one history has."""

    def __init__(self, seed: int, hosts: list[SimHost], traced: bool = False) -> None:
        self.random = random.Random(seed)
        self.now = EPOCH
        self.faults = Faults()
        self.hosts = hosts
        self.processes: list[Process] = []
        self.live: list[Process] = []
        self.redis_ahead = 0.0
        self.server = Server(self, self._redis())
        self.interruption = NEVER
        """Calls of segments until one is interrupted."""
        self.interruptions = 0.0
        """Chance of each call of a segment."""
        self.focus, self.focus_weight = "", 1
        """A call that counts for more than one."""
        self.kills = self.stops = 0.0
        """What an interruption may be, by chance; else others run for an instant."""
        self.pauses = 0.0
        """Seconds at most that an interruption lasts; 0: an instant."""
        self.lost_wakeups = 0.0
        self.alone: set[int] = set()
        """Numbers of the values that a host stored on a condition of its own."""
        self.watch: Callable[[SimHost], None] = _nothing
        """Told each host that something ran on."""
        self.steps = 0
        self.depth = 0
        self.traced = traced
        self.lines: list[str] = []
        self._heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._count = itertools.count()
        self._last = 0

    def _redis(self) -> SimRedis:
        name = f"{self.random.getrandbits(160):040x}"
        redis = SimRedis(self.redis_time, name, name[::-1])
        if self.random.random() < 0.9:
            for script in _SCRIPTS:
                redis.execute((b"SCRIPT", b"LOAD", Script(script).text))
        return redis

    def redis_time(self) -> float:
        return self.now + self.redis_ahead

    def chance(self, p: float) -> bool:
        return p > 0 and self.random.random() < p

    def stamp(self) -> int:
        """Nanoseconds, each later than the one before."""
        self._last = max(self._last + 1, int(self.now * 1e9))
        return self._last

    def trace(self, *words: Any) -> None:
        if self.traced:
            self.lines.append(f"{self.now - EPOCH:11.6f} " + " ".join(map(str, words)))

    # -- processes

    def start(self, host: SimHost) -> Process:
        process = Process(self, host, len(self.processes))
        self.processes.append(process)
        self.live.append(process)
        self.trace(process, "started")
        return process

    def use(self, redis: SimRedis) -> Server:
        """Another server takes the place of the one that was."""
        redis.trim_exactly = self.server.redis.trim_exactly
        redis.stored = self.server.redis.stored
        self.server = Server(self, redis)
        return self.server

    def kill(self, process: Process) -> None:
        if not process.dead:
            self.trace(process, "killed")
            process.kill()
            self.live.remove(process)

    def close(self) -> None:
        """Bury all processes; the world ends."""
        self.interruption = NEVER
        for process in self.processes:
            if not process.dead:
                process.kill()
        for process in self.processes:
            process.loop.bury()
        self._heap.clear()

    # -- time

    def at(self, when: float, work: Callable[..., Any], *args: Any) -> None:
        heapq.heappush(self._heap, (when, next(self._count), work, args))

    def arrival(self, process: Process) -> float:
        """When a message from or to the process arrives that leaves now."""
        when = self.now + latency(self.random, self.faults)
        return max(when, process.host.cut_until)

    def run(self, until: float, ended: Callable[[], bool] | None = None) -> None:
        """Let the world go on until a time, or until `ended` says so."""
        heap = self._heap
        while True:
            if ready := self._ready():
                self._step(ready)
            elif ended is not None and ended():
                return
            elif heap and heap[0][0] <= until:
                when, _, work, args = heapq.heappop(heap)
                if when > self.now:
                    self.now = when
                work(*args)
            else:
                self.now = max(self.now, until)
                return

    def _ready(self) -> list[Process]:
        """Who could run now. A loop, for nothing else runs as often."""
        ready = []
        for p in self.live:
            if p.loop.ready and not p.busy and p.stopped_until <= self.now:
                ready.append(p)
        return ready

    def _step(self, ready: list[Process]) -> None:
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Stuck(f"{STEPS_MAX} steps, and no end")
        draw = self.random.random()
        process = ready[int(draw * len(ready))] if len(ready) > 1 else ready[0]
        process.busy += 1
        try:
            process.loop.step(1 if draw < 0.3 else len(process.loop.ready))
        except Killed:
            pass
        finally:
            process.busy -= 1
        host = process.host
        if host.changed:
            host.changed = False
            self.watch(host)

    # -- interruptions, in the middle of a callback

    def interrupt(self, process: Process) -> None:
        """What befalls a process at a call of its segment."""
        self.draw_interruption()
        if self.depth >= DEPTH_MAX or not process.busy:
            return
        draw = self.random.random()
        if draw < self.kills:
            self.kill(process)
            raise Killed
        self.depth += 1
        try:
            if draw < self.kills + self.stops:
                seconds = self.random.choice((0.001, 0.05, 0.6, 2.0, 4.5))
                self.trace(process, f"stopped in a call for {seconds} s")
                self.run(self.now + seconds)
            else:
                self._others()
        finally:
            self.depth -= 1

    def _others(self) -> None:
        """Some callbacks of others, or what the network has for the next moments."""
        if self.pauses and self.random.random() < 0.3:
            self.run(self.now + self.pauses * self.random.random())
            return
        for _ in range(self.random.randrange(1, 6)):
            if ready := self._ready():
                self._step(ready)
            else:
                self.run(self.now + 0.0002)
                return

    def draw_interruption(self) -> None:
        """When the next one comes."""
        if self.interruptions:
            self.interruption = 1 + int(self.random.expovariate(self.interruptions))
        else:
            self.interruption = NEVER


def _nothing(*_: object) -> None:
    pass
