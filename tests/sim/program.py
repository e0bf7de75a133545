"""A random program: what the clients of a fleet do, and what befalls it meanwhile.

Both are drawn from the world's seed. Every call is recorded, with what it answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from shmcache import MISSING, ComputeFailed, ComputeTimeout, Fill, TierUnavailable
from shmcache.codec import MSGPACK
from shmcache.l1 import ALL_SENT
from shmcache.record import DEAD, STATES, VALUE

from .attachment import SimHost
from .history import FRESH, STALE, UNKNOWN, History, Read, Value, Violation, Write
from .net import Faults, Server
from .simredis import SimRedis
from .world import Process, World

SETTLE = 10.0
LONGEST = 15.0
"""Seconds that a call may take: both timeouts of a compute, and what stops add."""


Verb = Callable[["Program", Process, str], Awaitable[None]]


class Broken(Exception):
    """An origin that failed."""


@dataclass(frozen=True)
class Shape:
    """How large the histories of a kind are: what each is drawn from."""

    keys: tuple[int, ...]
    processes: tuple[tuple[int, int], ...]
    """Of each host."""
    clients: tuple[int, ...]
    """Of each process."""
    operations: tuple[int, ...]
    """Of each client."""
    fetches: tuple[float, ...]
    """Seconds."""
    pauses: tuple[float, ...]
    """Seconds between operations, beside those of the network's scale."""
    faults: float
    """Chance of each."""
    often: tuple[float, ...]
    """Chance of a request, or a reply, to be hit by one."""
    in_calls: float
    """Chance that an interruption in a call is a kill or a stop."""


SHORT = Shape(
    keys=(1,),
    processes=((1, 1), (1, 1), (2, 1)),
    clients=(1, 2, 2),
    operations=(1, 1, 2),
    fetches=(0.0, 0.001, 0.01, 0.05, 0.05, 0.4),
    pauses=(0.2,),
    faults=0.1,
    often=(0.1, 0.3, 0.6),
    in_calls=0.2,
)
LONG = Shape(
    keys=(1, 1, 1, 2),
    processes=((2, 2),),
    clients=(1, 1, 2),
    operations=(2, 3, 4),
    fetches=(0.0, 0.001, 0.01, 0.01, 0.05, 0.4, 0.4, 2.0),
    pauses=(0.2, 0.7),
    faults=0.2,
    often=(0.03, 0.1, 0.1, 0.3),
    in_calls=0.02,
)


@dataclass(frozen=True)
class Terms:
    """How long the values of a program live, and how long their fetches take."""

    ttl: float | None
    grace: float
    fetch: float
    fails: float
    tags: tuple[str, ...]


class Program:
    """One history in the making."""

    def __init__(self, world: World, shape: Shape, quiet: bool) -> None:
        self.world = world
        self.history = History()
        self.quiet = quiet
        self.shape = shape
        draw = world.random
        self.keys = [f"k{i}" for i in range(draw.choice(shape.keys))]
        self.terms = Terms(
            ttl=draw.choice((30.0, 30.0, 30.0, None, 0.3)),
            grace=draw.choice((0.0, 30.0, 0.2)),
            fetch=draw.choice(shape.fetches),
            fails=0.0 if quiet else draw.choice((0.0, 0.0, 0.1)),
            tags=draw.choice(((), (), ("t",), ("t", "u"))),
        )
        if shape is SHORT:
            self.verbs = self._few_verbs()
        else:
            self.verbs = [v for v in _VERBS if draw.random() < 0.4] or _VERBS
        self.impatience = 0.0 if quiet else draw.choice((0.0, 0.0, 0.1))
        """Chance that a caller gives up."""
        spread = draw.choice((0.0003, 0.003, 0.003, 0.02))
        world.faults.spread = spread
        world.pauses = 0.0 if quiet else 10 * spread
        self.pauses = draw.choice(
            ((0.0, spread), (0.0, spread, 4 * spread), (0.0, spread, *shape.pauses))
        )
        self.own_tags = draw.random() < 0.2
        """Fetches tell their tags, not their callers; sets have none then."""
        self.numbers = 0
        self.mended = self.touched = False
        self._seen: dict[tuple[int, str], tuple[int, int] | None] = {}
        world.watch = self.watch
        self.fetches: dict[str, int] = dict.fromkeys(self.keys, 0)
        """But those on a host that had no place in the stream yet, and so read nothing
        of Redis: a start waits for that no longer than one operation takes."""
        self.befell: list[str] = []
        self.redis_lost = self.redis_jumped = self.gaps = False
        self.running: set[asyncio.Task[None]] = set()
        """Clients that have not ended, and may be of dead processes."""
        self.calls: dict[asyncio.Task[None], Process] = {}

    def _few_verbs(self) -> list[Verb]:
        """One that asks and one or two that write: what only looks into L1 tells no
        more than `watch` does. Where a tag is meant, something bears it."""
        draw = self.world.random
        writes = draw.choices(_WRITES, k=draw.choice((1, 1, 2)))
        if Program._delete_tags in writes or Program._expire_tags in writes:
            self.terms = replace(self.terms, tags=("t",))
        return [draw.choice(_ASKS), *writes]

    # -- clients

    def start(self, process: Process, operations: int) -> None:
        task = process.loop.create_task(self._client(process, operations))
        self.calls[task] = process
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def _client(self, process: Process, operations: int) -> None:
        """What L1 answers at once is not counted as an operation, nor what a writer
        asks to see what it did."""
        draw, world = self.world.random, self.world
        for _ in range(3 * operations):
            await asyncio.sleep(draw.choice(self.pauses))
            began = world.now
            verb = draw.choice(self.verbs)
            key = draw.choice(self.keys)
            await self._call(process, verb, key)
            if verb in _WRITES and draw.random() < 0.5:
                await self._call(process, draw.choice(_ASKS), key)
            operations -= world.now > began
            if not operations:
                break

    async def _call(self, process: Process, verb: Verb, key: str) -> None:
        draw = self.world.random
        try:
            if self.impatience and draw.random() < self.impatience:
                async with asyncio.timeout(draw.choice((0.0, 0.001, 0.01, 0.3))):
                    await verb(self, process, key)
            else:
                await verb(self, process, key)
        except TimeoutError:
            pass  # the caller gave up
        except Exception as error:
            self.failed(f"{verb.__name__}({key}) on {process}", error)

    def failed(self, call: str, error: BaseException | None) -> None:
        """A call that raised: it may where its origin did, and where Redis' clock
        went back and a dead holder's lease outlives the timeout."""
        if isinstance(error, ComputeTimeout) and self.redis_jumped:
            return
        if isinstance(error, TierUnavailable) and not self.quiet:
            return  # whether it was stored cannot be known
        if not isinstance(error, (Broken, ComputeFailed)):
            self._trouble("failed", f"{call}: {error!r}")

    def _trouble(self, rule: str, text: str) -> None:
        self.world.trace(rule, text)
        self.history.troubles.append(Violation(rule, text))

    async def _get_or_set(self, process: Process, key: str) -> None:
        begin = self.world.stamp()
        self.world.trace(process, f"get_or_set({key})")
        entry = await process.cache.get_or_set_entry(
            key, self._fetch(process, key), **self._wishes()
        )
        value = Value.of(entry.value)
        self._read("get_or_set", process, key, begin, value, entry.state, entry.source)

    def _wishes(self) -> Any:
        terms = self.terms
        tags = () if self.own_tags else terms.tags
        return {"ttl": terms.ttl, "grace": terms.grace, "tags": tags}

    async def _get(self, process: Process, key: str) -> None:
        begin = self.world.stamp()
        self.world.trace(process, f"get({key})")
        found = await process.cache.get(key)
        self._read_found("get", process, key, begin, found)

    async def _peek(self, process: Process, key: str) -> None:
        begin = self.world.stamp()
        self._read_found("peek", process, key, begin, process.cache.peek(key))

    async def _entry(self, process: Process, key: str) -> None:
        begin = self.world.stamp()
        entry = process.cache.entry(key)
        if entry is not None and entry.state in (FRESH, STALE):
            value = Value.of(entry.value)
            self._read("entry", process, key, begin, value, entry.state, "l1")

    def _read_found(
        self, verb: str, process: Process, key: str, begin: int, found: Any
    ) -> None:
        value = None if found is MISSING else Value.of(found)
        self._read(verb, process, key, begin, value, UNKNOWN, "")

    def _read(
        self,
        verb: str,
        process: Process,
        key: str,
        begin: int,
        value: Value | None,
        state: str,
        source: str,
    ) -> None:
        end = self.world.stamp()
        self.world.trace(
            process, f"{verb}({key}) ->", value and value.number, state, source
        )
        self.history.reads.append(
            Read(verb, process.host.number, key, begin, end, value, state, source)
        )

    def _fetch(self, process: Process, key: str) -> Callable[[], Awaitable[Any]]:
        async def compute() -> list[Any]:
            began = self.world.stamp()
            self.numbers += 1
            number = self.numbers
            self.fetches[key] += process.strange_at != self.world.now
            self.world.trace(process, f"fetch {number} of {key}")
            await asyncio.sleep(self.terms.fetch)
            if self.world.chance(self.terms.fails):
                raise Broken
            value = self._value(key, began, number, False)
            return Fill(value, tags=self.terms.tags) if self.own_tags else value

        return compute

    def _value(self, key: str, began: int, number: int, is_set: bool) -> list[Any]:
        ttl, grace = self.terms.ttl, self.terms.grace
        return [
            *(key, began, number, is_set, self.world.stamp()),
            *(0 if ttl is None else round(ttl * 1e9), round(grace * 1e9)),
            () if is_set and self.own_tags else self.terms.tags,
        ]

    # -- writes

    async def _set(self, process: Process, key: str) -> None:
        write, value = self._storing("set", process, key)
        await process.cache.set(key, value, **self._wishes())
        self._written(process, write)

    async def _set_many(self, process: Process, key: str) -> None:
        pairs = {k: self._storing("set_many", process, k) for k in self.keys}
        values = {k: value for k, (_, value) in pairs.items()}
        await process.cache.set_many(values, **self._wishes())
        for write, _ in pairs.values():
            self._written(process, write)

    async def _add(self, process: Process, key: str) -> None:
        write, value = self._storing("add", process, key)
        write.covers = _nothing
        write.refused = not await process.cache.add(key, value, **self._wishes())
        self._written(process, write)

    async def _swap(self, process: Process, key: str) -> None:
        """Compare and set with what stands on this host."""
        entry = process.cache.entry(key)
        if entry is None:
            return
        write, value = self._storing("swap", process, key)
        write.covers = _nothing
        write.swapped = entry.version
        done = await process.cache.compare_and_set(
            key, value, version=entry.version, **self._wishes()
        )
        if done:
            write.covers = lambda value: value.key == key
        write.refused = not done
        self._written(process, write)

    async def _touch(self, process: Process, key: str) -> None:
        self.touched = True
        self.world.trace(process, f"touch({key})")
        await process.cache.touch(key, 30.0)

    async def _delete(self, process: Process, key: str) -> None:
        write = self._write("delete", process, key)
        await process.cache.delete(key)
        self._written(process, write)

    async def _expire(self, process: Process, key: str) -> None:
        write = self._write("expire", process, key, soft=True)
        await process.cache.expire(key)
        self._written(process, write)

    async def _delete_tags(self, process: Process, key: str) -> None:
        write = self._write("delete_tags", process, "t")
        write.covers = lambda value: "t" in value.tags
        await process.cache.delete_tags("t")
        self._written(process, write)

    async def _expire_tags(self, process: Process, key: str) -> None:
        write = self._write("expire_tags", process, "t", soft=True)
        write.covers = lambda value: "t" in value.tags
        await process.cache.expire_tags("t")
        self._written(process, write)

    async def _clear(self, process: Process, key: str) -> None:
        soft = self.world.random.random() < 0.3
        write = self._write("clear", process, "all", soft=soft)
        write.covers = _everything
        await process.cache.clear(soft=soft)
        self._written(process, write)

    def _storing(
        self, verb: str, process: Process, key: str
    ) -> tuple[Write, list[Any]]:
        write = self._write(verb, process, key)
        self.numbers += 1
        value = self._value(key, write.begin, self.numbers, True)
        write.value = Value.of(value)
        self.world.trace(process, f"... value {self.numbers}")
        return write, value

    def _write(
        self, verb: str, process: Process, about: str, soft: bool = False
    ) -> Write:
        write = Write(
            verb, process.host.number, self.world.stamp(),
            lambda value: value.key == about, about, soft,
        )  # fmt: skip
        self.world.trace(process, f"{verb}({about})")
        self.history.writes.append(write)
        return write

    def _written(self, process: Process, write: Write) -> None:
        write.end = self.world.stamp()
        write.told = process.host.observer.outbox_lowest() == ALL_SENT
        refused = " refused" if write.refused else ""
        self.world.trace(process, f"{write.verb}({write.about}) returned{refused}")
        self.watch(process.host, again=True)

    # -- what anybody could read

    def watch(self, host: SimHost, again: bool = False) -> None:
        """Look into a host's L1 as any of its processes might just now; what changed,
        or all of it, counts as read."""
        for key in self.keys:
            record = host.look(key.encode())
            seen = None if record is None else (record.nonce, record.state)
            if self._seen.get((host.number, key)) == seen and not again:
                continue
            self._seen[host.number, key] = seen
            if record is None or record.kind != VALUE or record.state == DEAD:
                continue
            stamp = self.world.stamp()
            value = Value.of(MSGPACK.decode(record.value))
            read = Read(
                *("look", host.number, key, stamp, stamp, value),
                *(STATES[record.state], "l1"),
            )
            self.world.trace(f"h{host.number}", key, "is", value.number, read.state)
            self.history.reads.append(read)

    # -- what befalls them

    def befall(self) -> None:
        """Choose faults, and plan those that come at a moment."""
        world, draw = self.world, self.world.random
        chosen = [f for f in _FAULTS if draw.random() < self.shape.faults]
        if not chosen:
            chosen = [draw.choice(_FAULTS)]
        for fault in chosen:
            self.befell.append(fault.__name__[1:])
            self.gaps |= fault not in _HARMLESS
            fault(self)
        world.trace("faults:", *self.befell)

    def _moment(self, work: Callable[[], None]) -> None:
        """Do it at some time of the history, which may be before its first call."""
        draw = self.world.random
        beat = self.world.faults.spread
        when = draw.choice((3 * beat, 10 * beat, 30 * beat, 0.5)) * draw.random()
        self.world.at(self.world.now + when, self._unless_mended, work)

    def _unless_mended(self, work: Callable[[], None]) -> None:
        if not self.mended:
            work()

    def _some(self) -> Process | None:
        live = self.world.live
        return self.world.random.choice(live) if live else None

    def _often(self) -> float:
        return self.world.random.choice(self.shape.often)

    def _in_calls(self) -> float:
        """Chance that an interruption is such a fault."""
        world = self.world
        if not world.interruptions:
            world.interruptions = 0.05
            world.draw_interruption()
        return self.shape.in_calls

    def _late(self) -> None:
        self.redis_lost = True
        self.world.faults.late = self._often()
        self.world.faults.late_most = self.world.random.choice((0.01, 0.3, 4.0))

    def _loss(self) -> None:
        self.redis_lost = True
        self.world.faults.lose_request = self._often() / 2
        self.world.faults.lose_reply = self._often() / 2

    def _cut(self) -> None:
        self.redis_lost = True
        self.world.faults.cut = self._often()

    def _lost_messages(self) -> None:
        self.world.faults.lose_message = 0.5
        self.world.lost_wakeups = 0.5

    def _split(self) -> None:
        self.world.faults.split = 0.5

    def _stops(self) -> None:
        draw = self.world.random

        def stop() -> None:
            process = self._some()
            if process is not None:
                seconds = draw.choice((0.01, 0.3, 1.2, 3.5, 5.0))
                self.world.trace(process, f"stopped for {seconds} s")
                process.stop(seconds)

        for _ in range(draw.randrange(1, 3)):
            self._moment(stop)

    def _stops_in_calls(self) -> None:
        self.world.stops = self._in_calls()

    def _kills(self) -> None:
        def kill() -> None:
            process = self._some()
            if process is not None:
                self._die(process)

        for _ in range(self.world.random.randrange(1, 3)):
            self._moment(kill)

    def ended(self) -> bool:
        """Whether every client has, but those of the dead."""
        return not self.running or all(self.calls[t].dead for t in self.running)

    def _die(self, process: Process) -> None:
        self.world.kill(process)
        if self.world.chance(0.6):
            self._moment(lambda: self._replace(process))

    def _replace(self, process: Process) -> None:
        self.start(self.world.start(process.host), 2)

    def _kills_in_calls(self) -> None:
        self.world.kills = self._in_calls()

    def _flush_all(self) -> None:
        self._moment(lambda: self._redis(b"FLUSHALL"))

    def _flush_scripts(self) -> None:
        self._moment(lambda: self._redis(b"SCRIPT", b"FLUSH"))

    def _redis(self, *command: bytes) -> None:
        self.world.trace("redis:", *command)
        self.world.server.redis.execute(command)

    def _hang(self) -> None:
        draw, server = self.world.random, self.world.server
        self.redis_lost = True

        def hang() -> None:
            server.hung_until = self.world.now + draw.choice((0.1, 0.4, 1.5, 3.0))
            self.world.trace("redis: hangs until", server.hung_until)

        self._moment(hang)

    def _restart(self) -> None:
        """Redis dies, and comes back empty or as it was."""
        self.redis_lost = True
        draw, world = self.world.random, self.world

        def die() -> None:
            world.trace("redis: dies")
            world.server.down = True
            world.server.cut_all()
            world.at(world.now + draw.choice((0.01, 0.5, 2.0)), self._rise)

        self._moment(die)

    def _rise(self) -> None:
        world = self.world
        if world.server.down:
            world.trace("redis: is back")
            fresh = world._redis()
            if world.random.random() < 0.5:
                old = world.server.redis
                fresh = old.clone(fresh.run_id, fresh.replication_id)
            world.use(fresh)

    def _failover(self) -> None:
        """A replica that lags a little takes over; the old master is gone, or hangs
        and comes back as a replica of the new one."""
        self.redis_lost = True
        draw, world = self.world.random, self.world
        beat = world.faults.spread
        lag = draw.choice((0.0, 3 * beat, 10 * beat, 0.5))

        def copy() -> None:
            replica = world._redis()
            old = world.server
            copied = old.redis.clone(replica.run_id, replica.replication_id)
            world.at(world.now + lag, fail, old, copied)

        def fail(old: Server, replica: SimRedis) -> None:
            world.trace("redis: fails over to a copy", f"{lag} s old")
            if world.server is not old or old.down or self.mended:
                return
            down = draw.choice((0.0, 0.0, 3 * beat, 1.0))
            if draw.random() < 0.5:
                old.down = True
                old.cut_all()
            else:
                old.hung_until = world.now + down + draw.choice((0.0, 0.05, 1.0))
                world.at(old.hung_until, demote, old)
            world.use(replica).hung_until = world.now + down

        def demote(old: Server) -> None:
            world.trace("redis: the old master is a replica now")
            old.redis.role = "slave"

        self._moment(copy)

    def _short_stream(self) -> None:
        """Redis keeps a few entries only."""
        self.world.server.redis.trim_exactly = True

    def _evict(self) -> None:
        """Redis drops keys, as one with a memory limit may."""
        draw, world = self.world.random, self.world
        self.redis_lost = True

        def evict() -> None:
            keys = sorted(world.server.redis.data)
            if keys:
                key = draw.choice(keys)
                world.trace("redis: evicts", key)
                world.server.redis.drop(key)

        for _ in range(draw.randrange(1, 4)):
            self._moment(evict)

    def _cut_off(self) -> None:
        """A host's packets arrive when the way is mended, if anybody still waits."""
        self.redis_lost = True
        draw, world = self.world.random, self.world

        def cut() -> None:
            host = draw.choice(world.hosts)
            host.cut_until = world.now + draw.choice((0.2, 1.0, 2.5))
            world.trace(f"host {host.number} is cut off until", host.cut_until)

        self._moment(cut)

    def _full(self) -> None:
        draw, world = self.world.random, self.world
        self.redis_lost = True

        def fill() -> None:
            world.trace("redis: out of memory")
            world.server.redis.full = True
            world.at(world.now + draw.choice((0.05, 0.5, 2.0)), drain)

        def drain() -> None:
            world.server.redis.full = False

        self._moment(fill)

    def _clock(self) -> None:
        self.redis_jumped = True

        def jump() -> None:
            leap = self.world.random.choice((-20.0, -0.5, 0.5, 5.0, 100.0))
            self.world.trace("redis: its clock leaps by", leap)
            self.world.redis_ahead += leap

        self._moment(jump)

    def mend(self) -> None:
        """No more faults; those that last end."""
        world = self.world
        world.trace("mended")
        self.mended = True
        world.faults = Faults(spread=world.faults.spread)
        world.lost_wakeups = world.kills = world.stops = world.pauses = 0.0
        self._rise()
        server = world.server
        server.hung_until = min(server.hung_until, world.now)
        server.redis.full = False
        for host in world.hosts:
            host.cut_until = 0.0
        for process in world.live:
            process.stopped_until = min(process.stopped_until, world.now)


def _nothing(value: Value) -> bool:
    return False


def _everything(value: Value) -> bool:
    return True


_ASKS: list[Verb] = [Program._get_or_set, Program._get_or_set, Program._get]
_WRITES: list[Verb] = [
    *(Program._delete, Program._delete, Program._set, Program._set),
    *(Program._expire, Program._add, Program._swap, Program._touch),
    *(Program._delete_tags, Program._expire_tags, Program._clear, Program._set_many),
]
_VERBS = [*_ASKS, Program._peek, Program._entry, *_WRITES]
_FAULTS: list[Callable[[Program], None]] = [
    *(Program._late, Program._loss, Program._cut, Program._lost_messages),
    *(Program._split, Program._stops, Program._stops_in_calls, Program._kills),
    *(Program._kills_in_calls, Program._flush_all, Program._flush_scripts),
    *(Program._hang, Program._restart, Program._cut_off, Program._full),
    *(Program._clock, Program._failover, Program._short_stream, Program._evict),
]
_HARMLESS = (Program._lost_messages, Program._split, Program._flush_scripts)
"""They never stop a follower for long."""
