"""Follower: one process per host applies the fleet's invalidations to the segment.

Who follows
    The words of the region `stream` are shared by the host's processes. One of them is
    the follower's mark, taken by CAS; another its beat. A follower that died, or that
    was stopped, does not beat, and a sibling takes the role when the beat is a second
    old. What the old one still does is harmless: to apply an entry twice drops a record
    at worst, and the position moves only from where it was read.

What is applied
    Every entry, those of this host too: a value that another host stored in between
    may stand here. One exception, for else a `set` would drop its own
    value: the record that bears the set's nonce stays. The key is raised all the same:
    1. a fetch without a lease is under way here; 2. another host sets the key, and its
    record is promoted here; 3. the entry is applied; 4. the fetch ends. Not raised at
    3, its older value would take the place of the set's.

Gaps
    Ids are the fleet's clock, so a first id that is not position + 1 tells of entries
    that were never seen; so does another incarnation, and a clock beyond the position
    with nothing to read. Then the gap word is raised, *then* the position is moved,
    and the incarnation is noted last: killed anywhere in between, the next follower
    finds the gap again.

Unfollowed
    What stood before anybody attached counts as stale (`l1.py`) until this host has
    come to the stream's end, as it was after that was said.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any, Protocol

from .breaker import Words
from .clock import SYSTEM, Clock
from .l1 import UNFOLLOWED
from .l2 import L2
from .link import Connection, ask, cut, forever, hang_up

POSITION, INCARNATION, FOLLOWER, BEAT = 0, 1, 2, 3
"""Words of the region `stream`."""
BEAT_SECONDS = 0.25
OVERDUE_NS = 1_000_000_000
BLOCK = 0.5
"""Seconds that a read waits for entries; half of the heartbeat."""
HEARTBEAT = 1.0
COUNT = 256
PAUSE = 0.5
"""Seconds at most between tries: what is deleted elsewhere meanwhile stands here."""
_LOOK = 0.002

log = logging.getLogger("shmcache.follower")


class Table(Protocol):
    """What invalidations need of a segment."""

    def clock(self) -> int: ...
    def number(self) -> int: ...
    def raise_key(self, key: bytes, number: int, soft: bool = False) -> None: ...
    def raise_tag(self, tag: int, number: int, soft: bool = False) -> None: ...
    def raise_all(self, number: int, soft: bool = False) -> None: ...
    def raise_gap(self, number: int) -> None: ...
    def drop(self, key: bytes, floor: int = 0, keep_nonce: int = 0) -> int: ...


def raise_and_drop(
    table: Table, kind: bytes, name: bytes | int, *, floor: bool, nonce: int = 0
) -> int:
    """Take a number, raise what `name` means to it, drop a deleted key's record,
    unless it bears the `nonce` of the set that is applied.

    With `floor` a record that cannot be dropped, because a stopped writer has its
    shard's lock, is hidden from readers instead. The number.
    """
    number = table.number()
    if kind in (b"d", b"x"):
        key = _key(name)
        table.raise_key(key, number, kind == b"x")
        if kind == b"d":
            table.drop(key, number if floor else 0, nonce)
    elif kind in (b"t", b"u"):
        table.raise_tag(int(name), number, kind == b"u")
    else:
        table.raise_all(number, kind == b"y")
    return number


class Follower:
    """This process' part in following the stream: in the role, or ready to take it."""

    def __init__(
        self, table: Table, l2: L2, words: Words, *, clock: Clock = SYSTEM
    ) -> None:
        self._table = table
        self._l2 = l2
        self._words = words
        self._clock = clock
        self._me = int.from_bytes(os.urandom(7), "little") + 1
        self._tasks: list[asyncio.Task[None]] = []
        self._elected = asyncio.Event()
        self.caught_up = asyncio.Event()
        """This process has followed to the end of the stream once."""
        self.applied = 0
        self._beats = 0
        self.gaps = 0

    async def start(self) -> None:
        """Stand for the role; whether Redis is there does not matter."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._beat_forever(), name="shmcache-follower-beat"),
            loop.create_task(self._follow_forever(), name="shmcache-follower"),
        ]

    async def placed(self) -> None:
        """Until the host has a position in the stream, whoever follows; bound it from
        outside. What is filled before is stale once the first position is taken."""
        while not self._words.load(INCARNATION):  # noqa: ASYNC110 another process writes
            await asyncio.sleep(_LOOK)

    async def close(self) -> None:
        """Leave the role to a sibling."""
        await cut(self._tasks)
        self._tasks = []
        self._words.cas(FOLLOWER, self._me, 0)

    @property
    def leads(self) -> bool:
        """Whether this process is the host's follower."""
        return self._words.load(FOLLOWER) == self._me

    # -- the role

    async def _beat_forever(self) -> None:
        while True:
            self._stand()
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

    async def _follow_forever(self) -> None:
        await forever(
            self._follow,
            lambda: self._beats,
            lambda e: log.debug("the stream was lost: %r", e),
            high=PAUSE,
        )

    # -- the stream

    async def _follow(self) -> None:
        """While this process has the role; it waits for it first."""
        await self._elected.wait()
        loop = asyncio.get_running_loop()
        connection = await self._l2.link.connect()
        try:
            beat = 0.0
            while self.leads:
                if loop.time() >= beat:
                    if not await self._heartbeat(connection):
                        continue
                    beat = loop.time() + HEARTBEAT
                await self._read(connection, "BLOCK", round(BLOCK * 1000))
        finally:
            await hang_up(connection)

    async def _heartbeat(self, connection: Connection) -> bool:
        """Come to the stream's end, and find the gaps that no entry tells of. Whether
        there was none."""
        words = self._words
        unfollowed = words.load(UNFOLLOWED)
        generations = self._l2.names.generations
        (meta,) = await self._ask(connection, "HMGET", generations, "i", "c")
        if not meta[0] or _incarnation(meta[0]) != words.load(INCARNATION):
            await self._gap("another incarnation")
            return False
        end = int(meta[1] or 0)
        while (behind := end - words.load(POSITION)) > 0:
            if not await self._read(connection):  # after the clock: it must be there
                await self._gap(f"{behind} entries are gone")
                return False
        words.cas(UNFOLLOWED, unfollowed, 0)
        self.caught_up.set()
        self._beats += 1
        return True

    async def _read(self, connection: Connection, *block: str | int) -> bool:
        """Apply what stands behind the position; whether there was anything."""
        position = self._words.load(POSITION)
        stream = (self._l2.names.stream, f"{position}-0")
        (found,) = await self._ask(
            connection, "XREAD", "COUNT", COUNT, *block, "STREAMS", *stream
        )
        if not found:
            return False
        at = position
        for entry, fields in found[0][1]:
            clock = int(entry.partition(b"-")[0])
            if clock != at + 1:
                await self._gap(f"{clock} follows on {at}")
                return True
            self._apply(dict(zip(fields[::2], fields[1::2], strict=True)))
            at = clock
        self._words.cas(POSITION, position, at)
        return True

    def _apply(self, entry: dict[bytes, bytes]) -> None:
        kind, name, nonce = entry[b"k"], entry[b"n"], entry[b"x"]
        self.applied += 1
        raise_and_drop(
            self._table, kind, name, floor=True, nonce=int.from_bytes(nonce, "little")
        )

    async def _gap(self, why: str) -> None:
        """Entries were missed, or this is the first position taken."""
        words = self._words
        position = words.load(POSITION)
        now = await self._l2.invalidate(b"d", ())  # makes a `:g` where there is none
        self._table.raise_gap(self._table.number())
        if words.cas(POSITION, position, now.clock):
            words.store(INCARNATION, _incarnation(now.incarnation))
            self.gaps += 1
            level = logging.INFO if position else logging.DEBUG  # the first is none
            log.log(level, "the stream of invalidations has a gap: %s", why)

    async def _ask(
        self, connection: Connection, *command: bytes | str | int
    ) -> list[Any]:
        async with asyncio.timeout(HEARTBEAT + BLOCK):
            replies = await ask(connection, command)
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies


def _incarnation(mark: bytes) -> int:
    return int.from_bytes(mark, "little")


def _key(name: bytes | int) -> bytes:
    assert isinstance(name, bytes)
    return name
