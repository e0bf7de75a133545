"""Parts: what a cache is made of, put together on an open segment; and their life.

A cache and its namespaces share them. They belong to one process and one event loop:
the first verb that is awaited starts them there.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any, Protocol

from . import codec
from .claim import Claims
from .clock import Clock
from .conditional import Conditional
from .config import CacheConfig
from .errors import CacheError
from .flight import Flights
from .invalidation import Invalidations
from .job import Home
from .l1 import L1
from .l2 import L2
from .lease import Leases
from .lookup import Lookup
from .policy import EARLY_REACH, SECOND
from .reaper import Reaper
from .segment import ATTACHED, MADE
from .stream import Place

KEPT_SECONDS = 1.0
"""That a close waits for what is between two halves."""
FOLLOWING_SECONDS = 3
"""Since the stream's end was last reached; the follower looks each second."""

log = logging.getLogger("shmcache")


class Held(Protocol):
    """A lock that this process has, or is about to."""

    freed: asyncio.Future[None]

    def lose(self) -> None:
        """Its cache is closed."""


class Parts:
    """The tiers, who elects, who invalidates, what flies."""

    def __init__(self, config: CacheConfig, clock: Clock) -> None:
        """`SegmentError` if the segment cannot be made or attached, `ConfigError` if
        a setting is wrong."""
        self.config = config
        self.codec = codec.of(config.codec, config.types, config.compress_above)
        self.l1 = open_l1(config, clock)
        note = self.l1.segment.note
        if note not in (MADE, ATTACHED):
            log.warning("segment %s: %s", self.l1.segment.path, note)
        try:
            self._wire(config, self.l1)
        except BaseException:
            self.l1.close(keep=config.keep)
            raise
        self.locks: dict[bytes, Held] = {}
        """Those that this process holds or is about to."""
        self._kept: set[asyncio.Task[Any]] = set()
        self.ready = False
        self._foreign = 0
        self.closing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None

    def _wire(self, config: CacheConfig, l1: L1) -> None:
        self.l2: L2 | None = None
        self.leases: Leases | None = None
        if config.l2 is not None:
            stream = l1.table.words("stream")
            self.l2 = L2(
                config.l2,
                config.app or config.name,
                deadline=config.l2_deadline,
                lease_life=config.lease_life,
                words=l1.table.words("breakers"),
                secret=config.l2_secret,
                expects=lambda partition: Place(stream, partition).identity,
            )
            self.leases = Leases(self.l2)
        l1.join(follows=config.l2 is not None)
        l1.table.early = config.early_refresh * EARLY_REACH
        self.claims = Claims(l1, config.lease_life, self._on_beat)
        self.reaper = Reaper(l1, self.claims, self.l2, config.lease_life)
        self.invalidations = Invalidations(l1, self.l2)
        self.conditional = Conditional(*(l1, self.l2, self.leases, self.invalidations))
        self.lookup = Lookup(l1, self.l2)
        tiers = (config, l1, self.claims, self.codec, self.l2, self.leases)
        forget = self.invalidations.delete
        self.flights = Flights(Home(*tiers, self.lookup, forget))

    def _on_beat(self) -> None:
        self.reaper.beat()
        if self.l2 is not None and self.l2.foreign > self._foreign:
            self.l1.count("l2_foreign", self.l2.foreign - self._foreign)
            self._foreign = self.l2.foreign

    @property
    def following(self) -> bool | None:
        """As of `Stats`."""
        follower = self.invalidations.follower
        if self.l2 is None or follower is None:
            return None
        lately = self.l1.clock.now() - FOLLOWING_SECONDS * SECOND
        heard = all(p.identity and p.heard >= lately for p in follower.places)
        return self.l2.available and self.l1.followed and heard

    # -- life

    async def start(self) -> None:
        """Bind to the running loop: beat, wake socket, L2's connections."""
        if self.closing is not None:
            raise CacheError("the cache is closed")
        if self.ready and self._loop is asyncio.get_running_loop():
            return
        try:
            await asyncio.shield(self._begun())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.closing is None or (task is not None and task.cancelling()):
                raise
        if self.closing is not None:
            raise CacheError("the cache is closed")

    def begin(self) -> None:
        """`start` in the background, for who was answered without it: the host's
        follower may die, and processes that only hit must be ready to take its
        role."""
        if self._loop is None and self.closing is None:
            self._begun()

    def _begun(self) -> asyncio.Task[None]:
        """The start, on the running loop."""
        loop = asyncio.get_running_loop()
        if self.closing is not None:
            raise CacheError("the cache is closed")
        if self._loop is None:
            if self.l1.segment.forked:  # opened by the parent, used here first
                self.l1.join(follows=self.l2 is not None)
            self._loop = loop
            # the process' for its life: nothing of who happened to ask first
            self._starting = loop.create_task(
                self._start(), name="shmcache-start", context=contextvars.Context()
            )
            self._starting.add_done_callback(_tell)
        self.belongs()
        assert self._starting is not None
        return self._starting

    def belongs(self) -> None:
        """`CacheError` in a process or on a loop whose cache this is not."""
        name = self.config.name
        if self.l1.segment.forked:
            raise CacheError(
                f"cache {name!r} was used before this process was forked, so its slot, "
                "tasks and connections are the parent's: open another one after the "
                f"fork, Cache.open({name!r}, ...) in the child, or fork before its "
                "first use"
            )
        if self._loop is not asyncio.get_running_loop():
            raise CacheError(
                f"cache {name!r} is in use on another event loop (each asyncio.run "
                f"makes one), and belongs to one event loop: open another one, "
                f"Cache.open({name!r}, ...), on this loop, or keep to one loop"
            )

    async def _start(self) -> None:
        try:
            self.claims.start()
            if self.l2 is not None and self.leases is not None:
                await self.l2.start()
                await self.leases.start()
            await self.invalidations.start()
        except BaseException:
            await self._stop()
            self._loop = None  # the next verb tries again
            raise
        self.ready = True

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Until it has ended; a close waits for it."""
        self._kept.add(task)
        task.add_done_callback(self._unkept)

    def _unkept(self, task: asyncio.Task[Any]) -> None:
        self._kept.discard(task)
        if not task.cancelled():
            task.exception()  # it may be that nobody waits for it

    async def close(self) -> None:
        """End flights and connections, give up the slot. A close that is cancelled
        goes on."""
        loop = asyncio.get_running_loop()
        if self.closing is None:
            self.closing = loop.create_task(self._close(), name="shmcache-close")
        if self.closing.get_loop() is loop:
            await asyncio.shield(self.closing)

    async def _close(self) -> None:
        try:
            if self._loop is asyncio.get_running_loop():
                if self._starting is not None:
                    self._starting.cancel()
                    await asyncio.wait((self._starting,))
                for lock in list(self.locks.values()):
                    lock.lose()
                if self._kept:
                    await asyncio.wait(self._kept, timeout=KEPT_SECONDS)
                for step in (left := list(self._kept)):
                    step.cancel()
                await asyncio.gather(*left, return_exceptions=True)
                await self.flights.close()
                await self._stop()
        finally:
            self.ready = False
            self.claims.unbind()  # also where its loop is gone, with all its tasks
            self.l1.close(keep=self.config.keep)

    async def _stop(self) -> None:
        await self.invalidations.close()
        await self.reaper.close()
        if self.l2 is not None and self.leases is not None:
            await self.leases.close()
            await self.l2.close()
        await self.claims.close()


def _tell(start: asyncio.Task[None]) -> None:
    if not start.cancelled() and (error := start.exception()) is not None:
        log.warning("the cache cannot start: %s", error)


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


def open_l1(config: CacheConfig, clock: Clock) -> L1:
    """The segment, attached, without a process slot."""
    return L1.open(config.name, config.size_bytes, config.record_bytes, clock)
