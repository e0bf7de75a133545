"""Follower: one process per host applies the fleet's invalidations to the segment.

Who follows
    The words of the region `stream` are shared by the host's processes. One of them is
    the follower's mark, taken by CAS; another its beat. A follower that died, or that
    was stopped, does not beat, and a sibling takes the role when the beat is a second
    old. What the old one still does is harmless: to apply an entry twice drops a record
    at worst, and every word moves only from what was read.

Unfollowed
    What stood before anybody attached counts as stale (`l1.py`) until this host has
    come to the end of every partition's stream, as it was after that was said.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random

from .breaker import Words
from .errors import ConfigError
from .l1 import BEAT, L1, UNFOLLOWED
from .l2 import L2
from .link import cut, forever
from .outbox import Outbox
from .stream import HEARTBEAT, Place, Stream

FOLLOWER, HOST = 2, 4
"""Words of the region `stream`: the role, and the host's name in Redis; between them
the role's beat."""
BEAT_SECONDS = 0.25
HELD_UP = 0.25
OVERDUE_NS = 1_000_000_000
COMPLAIN_NS = 60_000_000_000
"""Between two warnings of one kind of failure."""
PAUSE = 0.5
"""Seconds at most between tries: what is deleted elsewhere meanwhile stands here."""
_LOOK = 0.002

log = logging.getLogger("shmcache.follower")


class Follower:
    """This process' part in following the stream: in the role, or ready to take it."""

    def __init__(self, l1: L1, l2: L2, outbox: Outbox | None = None) -> None:
        self._l1 = l1
        self._l2 = l2
        self._outbox = outbox
        self._words: Words = l1.table.words("stream")
        self._clock = l1.clock
        self._me = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._elected = asyncio.Event()
        self._followed: dict[int, int] = {}
        self.places = [Place(self._words, p) for p in range(l2.partitions)]
        self.caught_up = asyncio.Event()
        """This process has followed every partition to its end once."""
        self.failures = 0
        """Connections that ended, or were not to be had."""
        self._held_up = float("-inf")
        """Loop time at which our own beat came late."""
        self._beats = [0] * l2.partitions
        self._complained: dict[int, tuple[type[Exception] | None, int]] = {}

    async def start(self) -> None:
        """Stand for the role; whether Redis is there does not matter."""
        loop = asyncio.get_running_loop()
        # not before: forked children of who opened the cache each stand for themselves
        self._me = int.from_bytes(os.urandom(7), "little") + 1
        self._words.cas(HOST, 0, int.from_bytes(os.urandom(7), "little") + 1)
        self._tasks = [
            loop.create_task(self._beat_forever(), name="shmcache-follower-beat"),
            loop.create_task(self._chores_forever(), name="shmcache-follower-chores"),
            *(
                loop.create_task(self._follow_forever(p), name="shmcache-follower")
                for p in range(self._l2.partitions)
            ),
        ]

    async def placed(self) -> None:
        """Until the host has a position in every stream, whoever follows; bound it
        from outside. What is filled before is stale once the first position is
        taken."""
        while not all(place.identity for place in self.places):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)  # another process writes

    async def close(self) -> None:
        """Leave the role to a sibling."""
        await cut(self._tasks)
        self._tasks = []
        if self._me:
            self._words.cas(FOLLOWER, self._me, 0)

    @property
    def leads(self) -> bool:
        """Whether this process is the host's follower."""
        return self._me != 0 and self._words.load(FOLLOWER) == self._me

    # -- the role

    async def _beat_forever(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if loop.time() - due > HELD_UP:
                self._held_up = loop.time()
            self._stand()
            due = loop.time() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)

    def _stand(self) -> None:
        words, now = self._words, self._clock.now()
        holder = words.load(FOLLOWER)
        if holder != self._me:
            alive = holder and now - words.load(BEAT) < OVERDUE_NS
            if alive or not words.cas(FOLLOWER, holder, self._me):
                self._elected.clear()
                return
        words.store(BEAT, now)
        self._elected.set()
        self._l2.probe_if_due()

    async def _chores_forever(self) -> None:
        """Send what processes of this host left unsent."""
        while True:
            await self._elected.wait()
            if self._outbox is not None and self._outbox.left():
                try:
                    await self._outbox.send_left()
                except Exception as error:  # counted where it was met
                    log.debug("the outbox was not sent: %r", error)
            await asyncio.sleep(HEARTBEAT * random.uniform(0.5, 1))

    async def _follow_forever(self, partition: int) -> None:
        await forever(
            lambda: self._follow(partition),
            lambda: self._beats[partition],
            lambda e: self._lost(partition, e),
            high=PAUSE,
        )

    def _lost(self, partition: int, error: Exception) -> None:
        self.failures += 1
        # 1. we are stopped, or our loop is blocked; 2. we go on, every timer is due:
        # that tells nothing of Redis
        held_up = asyncio.get_running_loop().time() - self._held_up < 2 * HEARTBEAT
        if isinstance(error, TimeoutError) and self.leads and not held_up:
            self._l2.hung(partition)
        kind, now = type(error), self._clock.now()
        seen, at = self._complained.get(partition, (None, 0))
        level = logging.DEBUG
        if kind is not seen or now - at >= COMPLAIN_NS:
            self._complained[partition] = (kind, now)
            level = logging.ERROR if kind is ConfigError else logging.WARNING
        log.log(
            level,
            "invalidations of other hosts are not followed (partition %d): %s: %s",
            *(partition, kind.__name__, error),
        )

    # -- the stream

    async def _follow(self, partition: int) -> None:
        """While this process has the role; it waits for it first."""
        await self._elected.wait()
        wire = await self._l2.topology.link(partition).connect()
        loop = asyncio.get_running_loop()
        host = self._words.load(HOST)
        place = self.places[partition]
        try:
            stream = Stream(
                *(self._l1, self._l2, partition, place, wire, host),
                leads=lambda: self.leads,
            )
            beat, back = 0.0, False
            while self.leads:
                if loop.time() >= beat:
                    unfollowed = self._words.load(UNFOLLOWED)
                    if not await stream.heartbeat():
                        continue
                    place.hear(self._l1.clock.now())
                    self._at_the_end(partition, unfollowed)
                    if not back:
                        self._l2.alive(partition)
                    back = True
                    beat = loop.time() + HEARTBEAT
                await stream.wait()
                self._beats[partition] += 1
        finally:
            await wire.hang_up()

    def _at_the_end(self, partition: int, unfollowed: int) -> None:
        """All partitions must come to their end under one mark."""
        self._followed[partition] = unfollowed
        if len(self._followed) < len(self.places):
            return
        if set(self._followed.values()) == {unfollowed}:
            self._words.cas(UNFOLLOWED, unfollowed, 0)
            self.caught_up.set()
