"""L2: the tier the fleet shares, in Redis, behind a deadline and a breaker.

Rules
    - A command may arrive long after its sender gave up or died, so whatever stores
      is checked where it is made: by a script, against the lease's token (`part.py`).
    - Every failure is a `TierUnavailable`, and the breaker counts it (`operations.py`).
      A value that cannot be read is a miss, no failure (`foreign.py`).
    - Keys are divided among partitions, 1 or on a Cluster 16, each with a breaker of
      its own: one node that is away costs its keys.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from .ask import (
    NONE,
    TOKEN_BYTES,
    WAIT,
    WON,
    Answer,
    Ask,
    Done,
    FleetClock,
    Invalidation,
)
from .breaker import Breaker, LocalWords, Words
from .clock import SYSTEM, Clock
from .envelope import SECRET_MAX, SECRET_MIN
from .errors import ConfigError, TierUnavailable
from .hosts import Heard
from .operations import PATIENCE, Operations, told
from .part import Part, Put
from .record import Record
from .rights import check_rights
from .scripts import Names, Scripts
from .topology import Partition, open_topology
from .wire import Wire

__all__ = ["L2", "NONE", "WAIT", "WON", "Answer", "FleetClock"]

STORED, FULL, RAISED, LOST = "stored", "full", "raised", "lost"
READS = 16, 48
"""Keys of one exchange that reads, the first and the others: while Redis works on one,
we read the one before, and before the first there is none."""
STORES = 128
"""Keys of one exchange that stores or invalidates."""
BATCH_BYTES = 1 << 20
"""Of the values of one exchange, roughly."""

T = TypeVar("T")


class L2:
    """One process' way to the fleet's Redis; lives on one event loop."""

    def __init__(
        self,
        url: str,
        app: str,
        *,
        deadline: float = 0.25,
        lease_life: float = 3.0,
        words: Words | None = None,
        clock: Clock = SYSTEM,
        secret: bytes = b"",
        expects: Callable[[int], int] | None = None,
    ) -> None:
        """`ConfigError` if the URL is not one. Connects at the first operation.

        `words` are those of the host's breakers. `secret` seals values. `expects` tells
        the identity of a partition's Redis as this host follows it, or 0.
        """
        if secret and not SECRET_MIN <= len(secret) <= SECRET_MAX:
            raise ConfigError(f"l2_secret: expected {SECRET_MIN} to {SECRET_MAX} bytes")
        self.deadline = deadline
        self.lease_ms = round(lease_life * 1000)
        self.clock = clock
        self.topology = open_topology(
            url, app, timeout=deadline * PATIENCE, expects=expects
        )
        self.drain: Callable[[int], Awaitable[object]] | None = None
        """Sends the invalidations of a partition that were kept while its breaker was
        open, before it closes."""
        shared, self._scripts = words or LocalWords(), Scripts()
        self._parts = [
            Part(
                self._make_operations(partition, shared),
                Names(app, partition),
                self._scripts,
                lease_ms=self.lease_ms,
                clock=clock,
                secret=secret,
                expects=partial(expects or _any, partition),
            )
            for partition in range(self.topology.partitions)
        ]

    def _make_operations(self, partition: int, shared: Words) -> Operations:
        breaker = Breaker(
            shared,
            probe_seconds=2 * self.deadline,
            clock=self.clock,
            partition=partition,
        )
        link = self.topology.link(partition)
        operations = Operations(link, breaker, self.deadline)
        operations.drain = partial(self._drain, partition)
        return operations

    async def _drain(self, partition: int) -> object:
        return None if self.drain is None else await self.drain(partition)

    # -- its parts

    @property
    def partitions(self) -> int:
        """Among which the keys are divided."""
        return len(self._parts)

    def partition(self, key: bytes) -> int:
        """Where the key is."""
        return zlib.crc32(key) % len(self._parts) if len(self._parts) > 1 else 0

    @property
    def names(self) -> Names:
        """Of the first partition: what is the same in all."""
        return self._parts[0].names

    @property
    def link(self) -> Partition:
        """Connections to the first partition's Redis."""
        return self.topology.link(0)

    def names_of(self, partition: int) -> Names:
        """The keys in Redis of one partition."""
        return self._parts[partition].names

    # -- state

    @property
    def available(self) -> bool:
        """Whether every breaker is closed."""
        return all(part.operations.breaker.closed for part in self._parts)

    def up(self, partition: int) -> bool:
        """Whether its breaker is closed."""
        return self._parts[partition].operations.breaker.closed

    @property
    def state(self) -> str:
        """up or down, for people."""
        return "up" if self.available else "down"

    @property
    def foreign(self) -> int:
        """Values that this process could not read, and deleted."""
        return sum(part.foreign.count for part in self._parts)

    @property
    def under_way(self) -> int:
        """Operations that have not ended."""
        return sum(part.operations.under_way for part in self._parts)

    def probe_if_due(self) -> None:
        """Start the probes that are due; who has nothing to ask may call it too."""
        for part in self._parts:
            if not part.operations.breaker.closed:
                part.operations.probe_if_due()

    def hung(self, partition: int) -> None:
        """Its Redis was waited for in vain, by who has nothing else to do."""
        operations = self._parts[partition].operations
        if operations.breaker.trip():
            operations.opened("it does not answer")

    def alive(self, partition: int) -> None:
        """Its Redis has answered: if its breaker is open, the next probe is due."""
        self._parts[partition].operations.breaker.hurry()
        self.probe_if_due()

    async def start(self) -> None:
        """Nothing yet: a Redis that is away must not keep a process from starting."""

    async def close(self) -> None:
        """Cut what is under way and close the connections."""
        await asyncio.gather(*(part.operations.close() for part in self._parts))
        await self.topology.close()

    async def check(self) -> None:
        """Connect, and try all that L2 does there on keys of no use. `ConfigError`
        names a setting that can never work, or a right that is missing;
        `TierUnavailable` if Redis is away."""
        try:
            # what it waits for gives up sooner, and says why
            async with asyncio.timeout(3 * self.deadline * PATIENCE):
                await self.topology.check()
                wire = await self.link.connect()
                try:
                    await check_rights(wire, self.names, self._scripts)
                finally:
                    await wire.hang_up()
        except ConfigError:
            raise
        except Exception as error:
            raise TierUnavailable(f"l2: {told(error)}") from error

    # -- lease and value

    async def acquire(
        self,
        key: bytes,
        *,
        offer: bytes = b"",
        instead_of: bytes = b"",
        early: bool = False,
        channel: bytes = b"",
        waited: bytes = b"",
    ) -> Answer:
        """The key's value, and its lease under the token `offer` unless it is fresh.

        `offer` is 16 random bytes that were never offered before; b"" asks for the
        value alone. A lease that stands under `instead_of` is taken over. `early` asks
        for the lease of a fresh value too. `channel` is told when the lease ends.
        `waited` is the `holder` of the last answer: if that lease failed, the answer
        is its error and no lease.

        `TierUnavailable` also where Redis has no memory for a lease. The lease may
        have been granted all the same, then and at a time-out: abandon the token.
        """
        for token in (offer, instead_of, waited):
            if token and len(token) != TOKEN_BYTES:
                raise ValueError(f"a token of {len(token)} bytes: expected 16")
        ask = Ask(key, offer, instead_of, early, channel, waited)
        self._part(key).ask(ask)
        try:
            result = await ask.settled
        except asyncio.CancelledError:
            if offer:  # nobody would hear that it won
                self.abandon_later(key, offer)
            raise
        if isinstance(result, Exception):
            raise result
        return result

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Record]:
        """The records of those keys that have one, fresh or stale, without a lease."""
        shares = self._shared(dict.fromkeys(keys), lambda key: key)
        batches = [
            part.read(some) for part, every in shares for some in _batches(every)
        ]
        found: dict[bytes, Record] = {}
        for records in await _all(batches):
            found.update(records)
        return found

    async def renew(self, key: bytes, token: bytes, life_ms: int) -> bool:
        """Let the lease stand for another life; False if it is lost."""
        return await self._part(key).renew(key, token, life_ms)

    async def put_fenced(
        self, key: bytes, token: bytes, record: Record, begun: FleetClock
    ) -> str:
        """Store the record if the lease is still the token's, and free the lease.

        `begun` is the clock of the answer that granted it. `stored`, or `full` (no
        memory), `raised` (what the record bears was invalidated since, or its life is
        over) or `lost` (the lease passed on, as by an invalidation of the key: nothing
        was touched).
        """
        return await self._part(key).put((key, token, record, begun))

    async def put_many(self, items: Sequence[Put]) -> list[str]:
        """`put_fenced` for each (key, token, record, begun); "" where there was no
        answer. `TierUnavailable` if there was none at all."""
        shares = self._shared(range(len(items)), lambda i: items[i][0])
        batches = [
            (part, some)
            for part, every in shares
            for some in pieces(every, STORES, lambda i: len(items[i][2].value))
        ]
        ended = await asyncio.gather(
            *(part.put_many([items[i] for i in some]) for part, some in batches),
            return_exceptions=True,
        )
        answers = [""] * len(items)
        failures = [end for end in ended if isinstance(end, BaseException)]
        if failures and len(failures) == len(batches):
            raise failures[0]
        for (_, some), end in zip(batches, ended, strict=True):
            if not isinstance(end, BaseException):
                for i, answer in zip(some, end, strict=True):
                    answers[i] = answer
        return answers

    async def abandon(self, key: bytes, token: bytes, error: bytes = b"") -> bool:
        """Free the lease without a value; `error` goes to those who waited for it."""
        return await self._part(key).abandon(key, token, error)

    def abandon_later(self, key: bytes, token: bytes, error: bytes = b"") -> None:
        """`abandon` without waiting, also of a lease that may yet be granted; one that
        it misses expires by itself."""
        part = self._part(key)
        part.operations.spawn(part.abandon_at_last(key, token, error))

    # -- invalidation

    async def invalidate(
        self,
        items: Sequence[Invalidation],
        *,
        partition: int = 0,
        origin: bytes = b"",
        probing: bool = False,
    ) -> Done:
        """Make older values void in the fleet, in this order; what became of it.

        All items lie in the partition; numbers and everything lie in each of them.
        `probing` goes also while the breaker is open. After a `TierUnavailable` any of
        the items may have been done, or may be yet.
        """
        part, lost = self._parts[partition], set[int]()
        clock: FleetClock | None = None
        for first in range(0, max(1, len(items)), STORES):
            some = items[first : first + STORES]
            clock, refused = await part.invalidate(some, origin, probing)
            lost.update(first + i for i in refused)
        assert clock is not None  # there is one batch at least
        return Done(clock, frozenset(lost))

    async def heard(self) -> list[Heard]:
        """Of each partition, how far its stream goes and how far each host is."""
        return await _all([part.heard() for part in self._parts])

    async def settle_identity(
        self, wire: Wire, partition: int, was: bytes
    ) -> FleetClock:
        """Write down that `wire`'s Redis has the partition, if its `:g` still bears
        the identity `was` (8 bytes, or b"" none): then every value there is dead."""
        return await self._parts[partition].settle(wire.ask, wire.identity, was)

    # -- inside

    def _part(self, key: bytes) -> Part:
        return self._parts[self.partition(key)]

    def _shared(
        self, every: Iterable[T], key: Callable[[T], bytes]
    ) -> list[tuple[Part, list[T]]]:
        """Each partition's share."""
        if len(self._parts) == 1:
            return [(self._parts[0], list(every))]
        shares: dict[int, list[T]] = {}
        for one in every:
            shares.setdefault(self.partition(key(one)), []).append(one)
        return [(self._parts[partition], share) for partition, share in shares.items()]


def _any(partition: int) -> int:
    """No identity is expected."""
    return 0


async def _all(work: Sequence[Awaitable[T]]) -> list[T]:
    """Their results; if some failed, the first failure, when all have ended."""
    if len(work) == 1:
        return [await work[0]]
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]


def _batches(every: list[bytes]) -> list[list[bytes]]:
    first, others = READS
    if len(every) <= 2 * first:  # it is not worth another round trip
        return [every] if every else []
    return [every[:first], *pieces(every[first:], others)]


def pieces(
    every: Sequence[T], count: int, weight: Callable[[T], int] = lambda _: 0
) -> Iterator[list[T]]:
    """In pieces of at most `count`, and of `BATCH_BYTES` or one that is heavier."""
    piece: list[T] = []
    weighs = 0
    for one in every:
        if piece and (len(piece) == count or weighs + weight(one) > BATCH_BYTES):
            yield piece
            piece, weighs = [], 0
        piece.append(one)
        weighs += weight(one)
    if piece:
        yield piece
