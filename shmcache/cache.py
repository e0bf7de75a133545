"""Cache: the read path (peek, get, get_or_set) and the write path (set, delete).

Read path, with the numbers that stand in the README, the log and the trace names
    1. Peek L1: a lock-free read. Fresh: return it.
    2. Stale, inside grace: return it, and see that one background refresh runs.
    3. Miss: join the flight (`flight.py`).
    4. Claim the key on the host (`claim.py`), note the clock, peek once more.
    5. Ask Redis for value or lease, in one round trip (`holder.py`, `l2.py`).
    6. Compute under the lease (`holder.py`).
    7. Fill L2, then L1, each only where token and claim still stand.

Write path
    `delete` is an invalidation (`invalidation.py`): when it has returned, no get that
    starts on this host is answered with what was fetched before it. `set` is a delete
    that takes the key's lease, and a fill.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Self, TypeVar, overload

from . import fill as fills
from . import keys, policy
from .claim import Claims
from .clock import SYSTEM, Clock
from .codec import DOCUMENT, MSGPACK
from .config import CacheConfig, parse_size
from .errors import CacheError, CodecError, TierUnavailable
from .fill import UNSET, Fill, Terms
from .flight import Flights
from .holder import Home, Outcome
from .invalidation import Invalidations
from .keys import Key
from .l1 import L1, tag_number
from .l2 import L2
from .lease import Leases
from .policy import SECOND, Ttl
from .record import DEAD, FOREVER, FRESH, STALE, STATES, VALUE, Record
from .segment import ATTACHED, MADE
from .stats import Stats

log = logging.getLogger("shmcache")
T = TypeVar("T")


class Missing:
    """The type of `MISSING`: no value stands there. False as a condition."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()


class Entry(NamedTuple):
    """A value with what is known of it."""

    value: Any
    age: float
    """Seconds since its compute returned."""
    ttl: float | None
    """Seconds it stays fresh; below 0 once stale; None: for ever."""
    state: str
    """fresh, stale or dead (its grace is over; it is never served)."""
    source: str
    """l1, l2, compute (ours), or flight (somebody else's compute)."""


class Cache:
    """One cache for all the processes that open its name, for asyncio programs.

    Opening attaches the segment; what needs an event loop starts with the first
    verb that is awaited. One instance belongs to one process and one loop.
    """

    def __init__(self, config: CacheConfig, *, clock: Clock = SYSTEM) -> None:
        """`SegmentError` if the segment cannot be made or attached, `ConfigError` if
        a setting is wrong."""
        self.config = config
        self._codec = MSGPACK if config.codec == "msgpack" else DOCUMENT
        self._l1 = _open_l1(config, clock)
        if self._l1.segment.note not in (MADE, ATTACHED):
            log.warning("segment %s: %s", self._l1.segment.path, self._l1.segment.note)
        try:
            self._wire()
        except BaseException:
            self._l1.close(keep=config.keep)
            raise
        self._prefix = b""
        self._tags: tuple[int, ...] = ()
        self._state = _State()

    def _wire(self) -> None:
        """Put the parts together on the open segment."""
        config, l1 = self.config, self._l1
        l1.join(follows=config.l2 is not None)
        self._l2: L2 | None = None
        self._leases: Leases | None = None
        if config.l2 is not None:
            self._l2 = L2(
                config.l2,
                config.app or config.name,
                deadline=config.l2_deadline,
                lease_life=config.lease_life,
                words=l1.table.words("breakers"),
            )
            self._leases = Leases(self._l2)
        self._claims = Claims(l1, overdue=config.lease_life)
        self._invalidations = Invalidations(l1, self._l2)
        self._flights = Flights(
            Home(
                *(config, l1, self._claims, self._codec, self._l2, self._leases),
                forget=self._invalidations.delete,
            )
        )

    @classmethod
    def open(
        cls,
        name: str,
        *,
        size: str | int = "64MiB",
        l2: str | None = None,
        keep: bool = False,
        **settings: Any,
    ) -> Self:
        """A cache from its name; `settings` are `CacheConfig`'s."""
        return cls(CacheConfig(name, parse_size(size), l2=l2, keep=keep, **settings))

    @staticmethod
    def prepare(config: CacheConfig) -> Prepared:
        """Make the segment and hold it, without a process slot, thread or loop: for a
        master before it forks."""
        return Prepared(_open_l1(config, SYSTEM))

    # -- life

    async def start(self) -> None:
        """Bind to the running loop: beat, wake socket, L2's connections. The verbs do
        it by themselves."""
        state = self._state
        if state.ready and state.loop is asyncio.get_running_loop():
            return
        if state.closing is not None:
            raise CacheError("the cache is closed")
        loop = asyncio.get_running_loop()
        if state.loop is None:
            if self._l1.segment.forked:  # opened by the parent, used here first
                self._l1.join(follows=self._l2 is not None)
            state.loop = loop
            state.starting = loop.create_task(self._start(), name="shmcache-start")
        if state.loop is not loop or self._l1.segment.forked:
            raise CacheError(
                "a Cache belongs to one process and one event loop: open another here"
            )
        assert state.starting is not None
        await asyncio.shield(state.starting)
        if state.closing is not None:
            raise CacheError("the cache is closed")

    async def _start(self) -> None:
        try:
            self._claims.start()
            if self._l2 is not None and self._leases is not None:
                await self._l2.start()
                await self._leases.start()
            await self._invalidations.start()
        except BaseException:
            await self._stop()
            self._state.loop = None  # the next verb tries again
            raise
        self._state.ready = True

    async def close(self) -> None:
        """End flights and connections, give up the slot; the last process to close
        removes the segment, unless it is kept. A close that is cancelled goes on."""
        state = self._state
        loop = asyncio.get_running_loop()
        if state.closing is None:
            state.closing = loop.create_task(self._close(), name="shmcache-close")
        if state.closing.get_loop() is loop:
            await asyncio.shield(state.closing)

    async def _close(self) -> None:
        state = self._state
        try:
            if state.loop is asyncio.get_running_loop():
                if state.starting is not None:
                    state.starting.cancel()
                    await asyncio.wait((state.starting,))
                await self._flights.close()
                await self._stop()
        finally:
            state.ready = False
            self._claims.unbind()  # also where its loop is gone, with all its tasks
            self._l1.close(keep=self.config.keep)

    async def _stop(self) -> None:
        await self._invalidations.close()
        if self._l2 is not None and self._leases is not None:
            await self._leases.close()
            await self._l2.close()
        await self._claims.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def check_l2(self) -> str | None:
        """`ConfigError` if L2 refuses us (password, rights, version). None if it
        answered, else why it did not: it will be tried again."""
        try:
            if self._l2 is not None:
                await self._l2.check()
        except TierUnavailable as e:
            return str(e)
        return None

    # -- read path

    def peek(self, key: Key, default: Any = MISSING) -> Any:
        """Step 1: the value if L1 has it, fresh or stale, else `default`. No I/O."""
        raw = self._key(key)
        document = self._l1.peek(raw)
        if document is None:
            record = self._l1.get(raw)
            if record is None or record.kind != VALUE or record.state == DEAD:
                return default
            document = record.value
        return self._decode(document, default)

    def entry(self, key: Key) -> Entry | None:
        """What L1 has, with age, ttl and state; a dead record too, as `dead`."""
        raw = self._key(key)
        record = self._l1.get(raw)
        if record is None or record.kind != VALUE:
            return None
        if record.state == FRESH:
            self._l1.count("hits")
        try:
            return self._entry(record, "l1")
        except CodecError:  # unreadable: a miss
            return None

    async def get(self, key: Key, default: Any = MISSING) -> Any:
        """The value from L1 or L2, fresh or stale, else `default`. Computes nothing."""
        value = self.peek(key, MISSING)
        if value is not MISSING or self._l2 is None:
            return default if value is MISSING else value
        await self.start()
        record = await self._from_l2(self._key(key))
        return default if record is None else self._decode(record.value, default)

    @overload
    async def get_or_set(
        self,
        key: Key,
        compute: Callable[[], Awaitable[T]],
        *,
        ttl: Ttl = None,
        grace: Ttl = 0.0,
        negative_ttl: Any = UNSET,
    ) -> T: ...

    @overload
    async def get_or_set(
        self,
        key: Key,
        compute: Callable[[], T],
        *,
        ttl: Ttl = None,
        grace: Ttl = 0.0,
        negative_ttl: Any = UNSET,
    ) -> T: ...

    async def get_or_set(
        self,
        key: Key,
        compute: Callable[[], Any],
        *,
        ttl: Ttl = None,
        grace: Ttl = 0.0,
        negative_ttl: Any = UNSET,
    ) -> Any:
        """The value, computed once for the fleet if nobody has it.

        `ttl` seconds fresh (None for ever, 0 stores nothing), `grace` seconds more
        served stale while one refresh runs, `negative_ttl` for a value that is None.
        `compute` takes nothing; it returns the value, or a `Fill` that says more. Its
        exception reaches every caller that waited: as itself in its own process, as
        `ComputeFailed` in others.
        """
        raw = self._key(key)
        terms = self._terms(ttl, grace, negative_ttl)
        document = self._l1.peek(raw)
        if document is not None:
            value = self._decode(document, MISSING)
            if value is not MISSING:
                return value
        await self.start()
        entry = await self._resolve(raw, self._l1.get(raw), compute, terms)
        return entry.value

    async def get_or_set_entry(
        self,
        key: Key,
        compute: Callable[[], Any],
        *,
        ttl: Ttl = None,
        grace: Ttl = 0.0,
        negative_ttl: Any = UNSET,
    ) -> Entry:
        """As `get_or_set`, with age, ttl, state and source."""
        found = self.entry(key)
        if found is not None and found.state == "fresh":
            return found
        return await self.resolve(
            key, compute, ttl=ttl, grace=grace, negative_ttl=negative_ttl
        )

    async def resolve(
        self,
        key: Key,
        compute: Callable[[], Any],
        *,
        ttl: Ttl = None,
        grace: Ttl = 0.0,
        negative_ttl: Any = UNSET,
    ) -> Entry:
        """Steps 2 to 7 of `get_or_set_entry`, for who has looked by `entry` already:
        no hit or miss is counted again."""
        terms = self._terms(ttl, grace, negative_ttl)
        raw = self._key(key)
        await self.start()
        return await self._resolve(raw, self._l1.look(raw), compute, terms)

    def refresh(
        self,
        key: Key,
        compute: Callable[[], Any],
        *,
        ttl: Ttl = None,
        grace: Ttl = 0.0,
        negative_ttl: Any = UNSET,
    ) -> None:
        """See that one background refresh of the key runs; waits for nothing. One that
        failed is not tried again before a second, doubling to 30."""
        terms = self._terms(ttl, grace, negative_ttl)
        if not self._state.ready:
            raise CacheError("the cache is closed, or not started: await start()")
        self._flights.refresh(self._key(key), compute, terms)

    # -- write path

    async def set(
        self, key: Key, value: Any, *, ttl: Ttl = None, grace: Ttl = 0.0
    ) -> None:
        """Store a value on this host and in the fleet; what is being fetched for the
        key meanwhile is refused."""
        raw = self._key(key)
        terms = self._terms(ttl, grace, UNSET)
        lives = fills.life(Fill(value), terms)
        nonce = int.from_bytes(os.urandom(8), "little")
        now = self._l1.clock.now()
        record = fills.to_record(
            Fill(value), lives, self._codec, now=now, stamp=0, nonce=nonce,
            tags=self._tags,
        )  # fmt: skip
        await self.start()
        if not lives.stored:
            await self._invalidations.delete(raw)
        else:
            await self._invalidations.set(raw, record)

    async def delete(self, key: Key) -> None:
        """Remove the key on this host and in the fleet."""
        raw = self._key(key)
        await self.start()
        await self._invalidations.delete(raw)

    # -- for those who share what is not stored yet

    def note(self) -> int:
        """The invalidation clock now: what is begun after it is as new as it says."""
        return self._l1.table.clock()

    def raised(self, key: Key, note: int) -> bool:
        """Whether the key was invalidated after `note`."""
        return self._l1.table.highest(self._key(key), self._tags) > note

    # -- views

    def namespace(self, name: str) -> Self:
        """The same cache under keys of their own; closing either closes both."""
        if self._prefix:
            raise CacheError(f"namespace {name!r}: namespaces do not nest")
        view = copy.copy(self)
        view._prefix = keys.prefix(name)
        view._tags = (tag_number(view._prefix),)
        return view

    def stats(self) -> Stats:
        """Counters of the host, summed over its processes, and its occupancy."""
        if self._state.closing is not None:
            raise CacheError("the cache is closed")
        return self._l1.stats(self._l2_state())

    # -- inside

    def _l2_state(self) -> str:
        if self._l2 is None:
            return "none"
        return "up" if self._l2.available else "down"

    def _key(self, key: Key) -> bytes:
        return keys.within(self._prefix, keys.to_bytes(key))

    def _terms(self, ttl: Ttl, grace: Ttl, negative_ttl: Any) -> Terms:
        if negative_ttl is not UNSET:
            negative_ttl = policy.seconds(negative_ttl, "negative_ttl")
        return Terms(
            policy.seconds(ttl),
            policy.seconds(grace, "grace"),
            negative_ttl,
            self._tags,
        )

    async def _resolve(
        self,
        key: bytes,
        record: Record | None,
        compute: Callable[[], Any],
        terms: Terms,
    ) -> Entry:
        """Steps 2 to 7; `record` is what L1 has."""
        if record is not None and record.kind == VALUE and record.state != DEAD:
            try:
                entry = self._entry(record, "l1")
            except CodecError:  # unreadable: a miss
                self._l1.table.drop(key)
            else:
                if record.state == STALE:
                    self._flights.refresh(key, compute, terms)
                return entry
        try:
            return self._entry_of(await self._flights.resolve(key, compute, terms))
        except CodecError:
            # L2's, if it is not our own compute's, which fails again.
            await self._invalidations.delete(key)
            return self._entry_of(await self._flights.resolve(key, compute, terms))

    async def _from_l2(self, key: bytes) -> Record | None:
        """An L2 record, promoted unless a later one stands in L1 by now."""
        assert self._l2 is not None
        table = self._l1.table
        stamp = table.clock()
        try:
            answer = await self._l2.acquire(key)
        except TierUnavailable:
            self._l1.count("l2_errors")
            return None
        record = answer.record
        if record is None or record.kind != VALUE:
            self._l1.count("l2_misses")
            return None
        if table.highest(key, record.tags) > stamp:
            return None
        self._l1.count("l2_hits")
        self._l1.put(key, record._replace(stamp=stamp), newer_only=True)
        return record

    def _decode(self, document: bytes, default: Any) -> Any:
        try:
            return self._codec.decode(document)
        except CodecError:  # an unreadable value is a miss
            return default

    def _entry_of(self, outcome: Outcome) -> Entry:
        assert outcome.record is not None
        return self._entry(outcome.record, outcome.source)

    def _entry(self, record: Record, source: str) -> Entry:
        now = self._l1.clock.now()
        forever = record.fresh_until == FOREVER
        return Entry(
            value=self._codec.decode(record.value),
            age=max(0.0, (now - record.birth) / SECOND),
            ttl=None if forever else (record.fresh_until - now) / SECOND,
            state=STATES[record.state],
            source=source,
        )


class Prepared:
    """A segment that a master made and holds while its workers come and go."""

    def __init__(self, l1: L1) -> None:
        self._l1 = l1
        self.name = l1.segment.path.name
        """In /dev/shm."""
        self.geometry = l1.stats().geometry
        """As of `Stats`."""
        self.note = l1.segment.note
        """made, attached, or why an older one was replaced."""

    def close(self, remove: bool = True) -> bool:
        """Let go; with `remove` the segment goes if nobody else is attached. Whether
        it did."""
        return self._l1.close(keep=not remove)


class _State:
    """What a cache and its namespaces share of their life."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.starting: asyncio.Task[None] | None = None
        self.ready = False
        self.closing: asyncio.Task[None] | None = None


def _open_l1(config: CacheConfig, clock: Clock) -> L1:
    return L1.open(config.name, config.size_bytes, config.record_bytes, clock)
