"""Part: the keys of an app that lie in one partition, and what scripts do to them.

A fill's end
    It is given in Redis' own time, by the difference of the clocks when the lease was
    granted. A store that was held up on its way so shortens the life, and never
    lengthens it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from . import hosts
from .ask import MS, Ask, FleetClock, Invalidation
from .asks import Asks, identity_bytes
from .clock import Clock
from .envelope import FOREVER_MS, GRACE_MAX_MS, VALUE_MAX, Envelope, pack_envelope
from .foreign import Foreign
from .operations import Operations
from .reads import Reads
from .record import FOREVER, Record
from .resp import ProtocolError
from .scripts import Exchange, Names, Script, Scripts

STREAM_LENGTH = 100_000
SET_LEASE_MS = 1000
ERROR_MS = 1000
_LEAVE = b"-"
"""To `invalidate.lua`: the identity that `:g` bears stays."""

_CLOCK = [bytes, int, int]
_ANSWERS = {word.encode(): word for word in ("stored", "full", "raised", "lost")}

T = TypeVar("T")
Put = tuple[bytes, bytes, Record, FleetClock]
"""Key, token, record, and the clock of the answer that granted the lease."""


class Part:
    """One partition, as this process sees it."""

    def __init__(
        self,
        operations: Operations,
        names: Names,
        scripts: Scripts,
        *,
        lease_ms: int,
        clock: Clock,
        secret: bytes,
        expects: Callable[[], int],
    ) -> None:
        self.operations = operations
        self.names = names
        self.foreign = Foreign(operations, names)
        self._reads = Reads(operations, names, self.foreign, clock=clock, secret=secret)
        self._asks = Asks(
            *(operations, names, scripts.acquire, self.foreign),
            lease_ms=lease_ms,
            clock=clock,
            secret=secret,
            expects=expects,
        )
        operations.probe = self._asks.probe
        self._scripts = scripts
        self._clock = clock
        self._secret = secret
        self._expects = expects

    def ask(self, ask: Ask) -> None:
        """It is settled by and by."""
        (self._asks if ask.offer else self._reads).add(ask)

    async def read(self, keys: Sequence[bytes]) -> dict[bytes, Record]:
        """The records of those keys that have one; at most a batch."""
        return await self.operations.run(
            lambda: self._reads.read(keys), proves=lambda _: False
        )

    async def renew(self, key: bytes, token: bytes, life_ms: int) -> bool:
        """Whether the lease stands for another life."""
        keys = (self.names.lease(key), self.names.waiters(key))
        args = (token, life_ms)
        return await self._run(_flag, self._scripts.renew, keys, args, proves=bool)

    async def abandon(self, key: bytes, token: bytes, error: bytes) -> bool:
        """Whether the lease was the token's; it is freed then."""
        names = self.names
        keys = (names.lease(key), names.waiters(key), names.error(key))
        args = (token, error, ERROR_MS)
        return await self._run(
            _flag, self._scripts.abandon, keys, args, proves=lambda _: False
        )

    async def abandon_at_last(self, key: bytes, token: bytes, error: bytes) -> None:
        """`abandon`, once nothing is under way that may give the token a lease:
        1. an ask is sent, and its caller is cancelled; 2. the lease is abandoned, by
        another connection; 3. the ask arrives, and wins a lease that nobody holds."""
        granting = self.operations.granting
        while token in granting:
            await asyncio.wait({granting[token].ended()})
        await self.abandon(key, token, error)

    async def put(self, item: Put) -> str:
        """Store the record under its lease: stored, full, raised or lost."""
        if self._too_large(item):
            return "full"
        return await self._run(_answer, self._scripts.put_fenced, *self._store(item))

    async def put_many(self, items: Sequence[Put]) -> list[str]:
        """`put` for at most a batch, in one round trip; "" where there was an error."""
        stored = [item for item in items if not self._too_large(item)]
        if not stored:
            return ["full"] * len(items)
        calls = [self._store(item) for item in stored]
        exchange, script = self.operations.link.exchange, self._scripts.put_fenced

        async def put() -> list[str]:
            replies = await script.run_each(exchange, calls)
            return ["" if isinstance(r, Exception) else _answer(r) for r in replies]

        answers = iter(await self.operations.run(put))
        return [
            "full" if len(item[2].value) > VALUE_MAX else next(answers)
            for item in items
        ]

    async def invalidate(
        self, items: Sequence[Invalidation], origin: bytes, probing: bool
    ) -> tuple[FleetClock, Sequence[int]]:
        """The clock after the last of at most a batch, and which of them were lost."""
        exchange = self.operations.link.exchange
        identity = identity_bytes(self._expects())
        return await self.operations.run(
            lambda: self._invalidate(exchange, items, origin, identity, _LEAVE),
            probing=probing,
            tokens=[item.token for item in items if item.token],
        )

    async def settle(self, exchange: Exchange, identity: int, was: bytes) -> FleetClock:
        """Note whose Redis has the partition, if `:g` still bears the identity
        `was`."""
        now = identity_bytes(identity)
        clock, _ = await self._invalidate(exchange, (), b"", now, was)
        return clock

    async def heard(self) -> hosts.Heard:
        """How far the stream goes, and how far each host has come."""
        return await self.operations.run(self._heard)

    async def _heard(self) -> hosts.Heard:
        names, exchange = self.names, self.operations.link.exchange
        meta, time, told = await exchange(
            ("HMGET", names.generations, "i", "c"),
            ("TIME",),
            ("HGETALL", names.hosts),
        )
        for reply in (meta, time):
            if isinstance(reply, Exception):
                raise reply
        found, silent = hosts.heard(
            *(meta[0] or b"", meta[1] or b"0"),
            int(time[0]) * 1000 + int(time[1]) // 1000,
            told if isinstance(told, list) else [],
        )
        if silent:
            await exchange(("HDEL", names.hosts, *silent))
        return found

    # -- scripts

    async def _run(
        self,
        read: Callable[[Any], T],
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[Any],
        proves: Callable[[T], bool] = lambda _: True,
    ) -> T:
        """The script's reply, as `read` reads it."""
        exchange = self.operations.link.exchange

        async def run() -> T:
            (reply,) = await script.run(exchange, keys, args)
            return read(reply)

        return await self.operations.run(run, proves=proves)

    async def _invalidate(
        self,
        exchange: Exchange,
        items: Sequence[Invalidation],
        origin: bytes,
        identity: bytes,
        was: bytes,
    ) -> tuple[FleetClock, Sequence[int]]:
        names = self.names
        keys = [names.generations, names.stream]
        for item in items:
            if item.of_key and isinstance(item.name, bytes):
                key = item.name
                keys += (names.value(key), names.lease(key), names.waiters(key))
        args: list[bytes | str | int] = [os.urandom(8), identity, was, origin]
        args += [STREAM_LENGTH, SET_LEASE_MS]
        args += [item.packed() for item in items]
        (reply,) = await self._scripts.invalidate.run(exchange, keys, args)
        if not isinstance(reply, list) or list(map(type, reply[:3])) != _CLOCK:
            raise ProtocolError("l2: another command's reply")
        incarnation, clock, time, *lost = reply
        # read after the reply came: that makes Redis no later than it was
        return FleetClock(incarnation, clock, time + -self._clock.now() // MS), lost

    def _too_large(self, item: Put) -> bool:
        """Whether it is not to be sent at all; its lease is given back then."""
        key, token, record, _ = item
        if len(record.value) <= VALUE_MAX:
            return False
        self.operations.spawn(self.abandon_at_last(key, token, b""))
        return True

    def _store(self, item: Put) -> tuple[Sequence[bytes], Sequence[Any]]:
        """Keys and arguments of `put_fenced.lua`."""
        key, token, record, begun = item
        names = self.names
        name = names.value(key)
        ttl_ms, grace_ms = lives(record)
        life: int | str = ""
        ends = FOREVER_MS
        if ttl_ms != FOREVER_MS:
            life = ttl_ms + grace_ms
            ends = record.birth // MS + life + begun.ahead_ms
        envelope = Envelope(
            record.value,
            record.kind,
            ttl_ms,
            grace_ms,
            ends,
            begun.incarnation or bytes(8),
            begun.clock,
            record.nonce,
            record.fill_us,
            record.tags,
        )
        packed = pack_envelope(name, envelope, self._secret)
        keys = (names.generations, name, names.lease(key), names.waiters(key))
        clock = (begun.incarnation, begun.clock)
        return keys, (token, packed, life, ends, *clock, *record.tags)


def _answer(reply: Any) -> str:
    """Of `put_fenced.lua`; its second part, what is left of the life, is for people."""
    if isinstance(reply, list) and len(reply) == 2 and reply[0] in _ANSWERS:
        return _ANSWERS[reply[0]]
    raise ProtocolError("l2: another command's reply")


def _flag(reply: Any) -> bool:
    if reply in (0, 1):
        return bool(reply)
    raise ProtocolError("l2: another command's reply")


def lives(record: Record) -> tuple[int, int]:
    """ttl and grace in ms."""
    if record.fresh_until == FOREVER:
        return FOREVER_MS, GRACE_MAX_MS
    ttl_ms = max(0, record.fresh_until - record.birth) // MS
    if record.dead_at == FOREVER:
        return ttl_ms, GRACE_MAX_MS
    return ttl_ms, min(GRACE_MAX_MS, max(0, record.dead_at - record.fresh_until) // MS)
