"""Stream: one partition's invalidations, read in order and applied to the segment.

What is applied
    Every entry, those of this host too: a value that another host stored in between
    may stand here. One exception, for else a `set` would drop its own
    value: the record that bears the set's nonce stays. The key is raised all the same:
    1. a fetch without a lease is under way here; 2. another host sets the key, and its
    record is promoted here; 3. the entry is applied; 4. the fetch ends. Not raised at
    3, its older value would take the place of the set's.
        And a set of this host that is settled: its sender raised and dropped the key
    after the script's answer, which is all that its entry could do. Applied still, it
    would often come between the set's stamp and its store, which were refused then.

Gaps
    Ids are the fleet's clock, so a first id that is not position + 1 tells of entries
    that were never seen; so does another incarnation, and a clock beyond the position
    with nothing to read. Then identity and last clock are read, the gap word is raised,
    *then* the position is moved, and the identity is noted last: killed anywhere in
    between, the next follower finds the gap again.

Failover
    A Redis that was restarted, or a replica that was promoted, may have forgotten
    stores, leases and invalidations. Its identity is another. The first follower to
    see that gives the app a new incarnation, under which every value of before is
    dead. Until this host has noted the identity, none of its processes reads from
    there (`link.py`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Protocol

from .breaker import Words
from .errors import ConfigError
from .hosts import LIVE_MS, PIECE_BITS, Told
from .l1 import L1
from .l2 import L2
from .wire import Wire

_PLACES, _PLACE = 8, 4
"""Words of the region `stream` behind those of the role, for each partition: position,
incarnation, identity."""
_POSITION_BITS = 44
_POSITIONS = 1 << _POSITION_BITS
_SETTLED, _SETS = 256, 256
"""Words behind those: nonces of sets."""
BLOCK = 0.5
"""Seconds that a read waits for entries; half of the heartbeat."""
HEARTBEAT = 1.0
COUNT = 256
REST = 0.002, 0.005
"""Seconds between reads: what comes meanwhile is read at once, and Redis wakes each
follower once for it."""
TELL = 0.1
"""Seconds between tellings of the position, at least."""

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
        assert isinstance(name, bytes)
        table.raise_key(name, number, kind == b"x")
        if kind == b"d":
            table.drop(name, number if floor else 0, nonce)
    elif kind in (b"t", b"u"):
        table.raise_tag(int(name), number, kind == b"u")
    elif kind == b"g":
        table.raise_gap(number)
    else:
        table.raise_all(number, kind == b"y")
    return number


class Place:
    """Where this host stands in one partition's stream: words of its segment.

    The position's word bears a piece of its incarnation, for clocks begin anew with
    one: 1. a follower reads behind 0, and is stopped; 2. `:g` is lost, and a sibling
    takes the position 0 of the next one; 3. the first moves 0 to 1, which it applied of
    the old one; 4. entry 1 of the new one is never read, and no gap tells of it.
    """

    def __init__(self, words: Words, partition: int) -> None:
        self._words = words
        self._at = _PLACES + _PLACE * partition

    @property
    def mark(self) -> int:
        """The position's whole word: what `move` and `renew` compare."""
        return self._words.load(self._at)

    @property
    def position(self) -> int:
        """Clock of the last entry that was applied."""
        return position_of(self.mark)

    @property
    def incarnation(self) -> int:
        """Of the `:g` that the position is of; 0: none taken yet."""
        return self._words.load(self._at + 1)

    @property
    def identity(self) -> int:
        """Of the Redis that may be read from; 0: none yet."""
        return self._words.load(self._at + 2)

    @property
    def heard(self) -> int:
        """When the stream's end was last reached, by the host's clock."""
        return self._words.load(self._at + 3)

    def hear(self, now: int) -> None:
        """Its end is reached."""
        self._words.store(self._at + 3, now)

    def move(self, mark: int, to: int) -> bool:
        """Move the position within its incarnation, if it still bears `mark`."""
        return self._words.cas(self._at, mark, mark - position_of(mark) + to)

    def renew(self, mark: int, incarnation: int, position: int) -> bool:
        """Take a position in another incarnation, if it still bears `mark`."""
        piece = incarnation % (1 << PIECE_BITS)
        return self._words.cas(self._at, mark, piece << _POSITION_BITS | position)

    def note(self, incarnation: tuple[int, int], identity: tuple[int, int]) -> None:
        """Note both, each as (read, new), the identity last."""
        self._words.cas(self._at + 1, *incarnation)
        self._words.cas(self._at + 2, *identity)


class Settled:
    """Sets of this host whose senders have raised after their scripts' answers: their
    nonces, in words of its segment. One that lost its word to another is not known,
    and its entry is applied as any."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def add(self, nonce: int) -> None:
        self._words.store(_SETTLED + nonce % _SETS, nonce)

    def __contains__(self, nonce: int) -> bool:
        return nonce != 0 and self._words.load(_SETTLED + nonce % _SETS) == nonce


def piece_of(mark: int) -> int:
    """The piece of the incarnation in a position's word."""
    return mark >> _POSITION_BITS


def position_of(mark: int) -> int:
    """The clock in a position's word."""
    return mark % _POSITIONS


def _ms(time: list[bytes]) -> int:
    """Of what TIME replies."""
    return int(time[0]) * 1000 + int(time[1]) // 1000


def _now_ms() -> int:
    return round(asyncio.get_running_loop().time() * 1000)


class Stream:
    """A partition's stream on one connection; ends with either."""

    def __init__(
        self,
        l1: L1,
        l2: L2,
        partition: int,
        place: Place,
        wire: Wire,
        host: int,
        *,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`leads` tells whether its follower still has the role."""
        self._l1 = l1
        self._l2 = l2
        self._partition = partition
        self._place = place
        self._wire = wire
        self._host = b"%x" % host
        self._names = l2.names_of(partition)
        self._settled = Settled(l1.table.words("stream"))
        self._leads = leads
        self._piece = -1
        """Of the incarnation that this connection's Redis has."""
        self._told = (-1, 0.0)
        """The position's word, and the loop's time."""
        self._ahead_ms = 0
        """Redis' time less the loop's."""

    async def heartbeat(self) -> bool:
        """Come to the stream's end, and find the gaps that no entry tells of. Whether
        there was none."""
        place = self._place
        incarnation, end = await self._generations()
        noted = (place.incarnation, place.identity)
        if noted != (incarnation, self._wire.identity):
            await self._gap("another Redis" if noted[1] else "none noted yet")
            return False
        self._piece = incarnation % (1 << PIECE_BITS)
        if end < place.position:
            await self._gap(f"the clock went back to {end}")
            return False
        while (behind := end - place.position) > 0:
            if not await self.read():  # after the clock: it must be there
                await self._gap(f"{behind} entries are gone")
                return False
        await self._tell()
        return True

    async def read(self, *block: str | int) -> bool:
        """Apply what stands behind the position; whether there was anything."""
        mark = self._place.mark
        if piece_of(mark) != self._piece:
            # 1. we are stopped; 2. failover, a sibling takes a position of the next
            # incarnation; 3. we read on, from the old master, behind that position
            raise ConnectionError("another Redis is followed by now")
        position = position_of(mark)
        stream = (self._names.stream, f"{position}-0")
        (found,) = await self._ask(
            ("XREAD", "COUNT", COUNT, *block, "STREAMS", *stream)
        )
        if not found:
            return False
        at = position
        for entry, fields in found[0][1]:
            clock = int(entry.partition(b"-")[0])
            if clock != at + 1:
                await self._gap(f"{clock} follows on {at}")
                return True
            try:
                self._apply(dict(zip(fields[::2], fields[1::2], strict=True)))
            except (KeyError, ValueError, TypeError, AssertionError):
                await self._gap(f"entry {clock} cannot be read")
                return True
            at = clock
        self._place.move(mark, at)
        return True

    async def wait(self) -> None:
        """Until there may be something to read, or half a heartbeat; it is applied.
        A position that is to be told by and by is waited for no longer than that."""
        block = BLOCK if self._place.mark == self._told[0] else TELL
        found = await self.read("BLOCK", round(block * 1000))
        await self._tell()
        if found:
            await asyncio.sleep(random.uniform(*REST))

    # -- inside

    def _apply(self, entry: dict[bytes, bytes]) -> None:
        kind, name = entry[b"k"], entry[b"n"]
        nonce = int.from_bytes(entry[b"x"], "little")
        self._l1.count("entries_applied")
        if nonce not in self._settled:
            raise_and_drop(self._l1.table, kind, name, floor=True, nonce=nonce)

    async def _generations(self) -> tuple[int, int]:
        """Incarnation and clock of `:g`, once it is of this very Redis."""
        g, identity = self._names.generations, self._wire.identity
        if await self._wire.identify() != identity:  # a connection outlives a demotion
            raise ConnectionError("it is not the Redis that it was")
        while True:
            meta, time = await self._ask(("HMGET", g, "i", "c", "r", "p"), ("TIME",))
            self._ahead_ms = _ms(time) - _now_ms()
            if meta[0] and meta[2] == identity.to_bytes(8, "little"):
                break
            await self._l2.settle_identity(self._wire, self._partition, meta[2] or b"")
        if meta[3] is None:
            await self._ask(("HSETNX", g, "p", self._l2.partitions))
        elif meta[3] != b"%d" % self._l2.partitions:
            raise ConfigError(
                f"l2: the app is in {meta[3].decode(errors='replace')} partitions "
                f"there, and this URL expects {self._l2.partitions}: use one kind of "
                "URL on all hosts"
            )
        clock = meta[1] or b"0"
        if not clock.isdigit():
            raise ConfigError(f"l2: {g!r} is not as we made it; delete it")
        return int.from_bytes(meta[0], "little"), int(clock)

    async def _gap(self, why: str) -> None:
        """Entries were missed, or this is the first position taken."""
        place = self._place
        mark, incarnation, identity = place.mark, place.incarnation, place.identity
        now, clock = await self._generations()
        if not self._leads():
            raise ConnectionError("the role is another's by now")
        self._raise_gap()
        if place.renew(mark, now, clock):
            place.note((incarnation, now), (identity, self._wire.identity))
            self._l1.count("gaps")
            level = logging.INFO if identity else logging.DEBUG  # the first is none
            log.log(level, "the stream of invalidations has a gap: %s", why)

    def _raise_gap(self) -> None:
        self._l1.table.raise_gap(self._l1.table.number())

    async def _tell(self) -> None:
        """Tell the fleet how far this host is, a few times a second at most."""
        mark, now = self._place.mark, asyncio.get_running_loop().time()
        told, at = self._told
        if now - at < (TELL if mark != told else HEARTBEAT):
            return
        self._told = (mark, now)
        telling = Told(position_of(mark), piece_of(mark), _now_ms() + self._ahead_ms)
        replies = await self._wire.ask(
            ("HSET", self._names.hosts, self._host, telling.packed()),
            ("PEXPIRE", self._names.hosts, LIVE_MS),
        )
        for reply in replies:
            if isinstance(reply, Exception):  # it is for people
                log.debug("the position is not told: %s", reply)

    async def _ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        replies = await self._wire.ask(*commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies
