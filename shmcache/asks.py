"""Asks: those of one turn of the loop, sent to a partition as one call.

Large values
    Values through Lua cost Redis many times a plain GET. So the script reads heads
    only, a GET in the same pipeline brings the values, and the random bytes of its fill
    tell whether both saw the same one; if not, L2 is asked again.

What cannot be read
    A value that is damaged, another key's, or not sealed by our secret is deleted and
    asked for again: then it is a miss, and one who asks has the lease.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .ask import (
    NO_MEMORY,
    NO_VALUE,
    WON,
    Answer,
    Ask,
    FleetClock,
    Replies,
    Reply,
    rebased,
)
from .clock import Clock
from .envelope import nonce_of, unpack_envelope
from .errors import CodecError, TierUnavailable
from .operations import Operation, Operations
from .record import Record
from .resp import ProtocolError
from .scripts import Names, Script

BATCH = 128
"""Keys of one script: it must not hold up Redis for others."""
TRIES = 3
"""Of a value that changes between script and GET."""

log = logging.getLogger("shmcache.l2")


class Asks:
    """Those of a partition."""

    def __init__(
        self,
        operations: Operations,
        names: Names,
        acquire: Script,
        *,
        lease_ms: int,
        clock: Clock,
        secret: bytes,
        expects: Callable[[], int],
    ) -> None:
        self.foreign = 0
        """Values that could not be read, and were deleted."""
        self._operations = operations
        self._names = names
        self._acquire = acquire
        self._lease_ms = lease_ms
        self._clock = clock
        self._secret = secret
        self._expects = expects
        self._gathering: list[Ask] | None = None
        self._operation: Operation | None = None
        """Which will send them."""

    def add(self, ask: Ask) -> None:
        """It travels with all others of this turn of the loop. `TierUnavailable` if
        the breaker is open."""
        if self._gathering is None or len(self._gathering) >= BATCH:
            self._operation = self._begin()
        assert self._gathering is not None and self._operation is not None
        self._gathering.append(ask)
        if ask.offer:
            self._operation.grants(ask.offer)

    def _begin(self) -> Operation:
        asks: list[Ask] = []

        def settle(result: TierUnavailable | None) -> None:
            if self._gathering is asks:  # it did not even begin
                self._gathering = None
            if result is not None:
                settle_all(asks, result)

        operation = self._operations.start(lambda: self._send(asks), settle)
        self._gathering = asks
        return operation

    async def read(self, keys: Sequence[bytes]) -> list[tuple[bytes, Record]]:
        """The records of those of at most `BATCH` keys that have one."""
        found: list[tuple[bytes, Record]] = []
        prefix, secret = self._names.values, self._secret
        for _ in range(TRIES):
            replies, values, sent = await self._exchange(keys, ())
            again, foreign = [], []
            each = zip(keys, replies.values(len(keys)), values, strict=True)
            for key, (worth, left, nonce), value in each:
                if worth == NO_VALUE:
                    continue
                if value is None or nonce_of(value) != nonce:
                    again.append(key)
                    continue
                try:
                    envelope = unpack_envelope(prefix + key, value, secret)
                except CodecError as error:
                    self._told(error)
                    foreign.append(key)
                    continue
                if envelope is not None:
                    record = rebased(envelope, worth, int(left), sent)
                    found.append((key, record))
            await self._delete(foreign)
            if not again:
                break
            keys = again
        return found

    # -- one batch

    async def _send(self, asks: list[Ask]) -> None:
        if self._gathering is asks:
            self._gathering = None
        for _ in range(TRIES):
            asks = await self._send_once(asks)
            if not asks:
                return
        settle_all(asks, TierUnavailable("l2: the value changes all the time"))

    async def _send_once(self, asks: list[Ask]) -> list[Ask]:
        """Settle what can be; those that must ask again."""
        reads = [ask for ask in asks if not ask.args]
        others = [ask for ask in asks if ask.args]
        replies, values, sent = await self._exchange([ask.key for ask in reads], others)
        again: list[Ask] = []
        foreign: list[bytes] = []
        each = [Reply(w, int(ms), n) for w, ms, n in replies.values(len(reads))]
        each += replies.leases(others)
        for ask, reply, value in zip(reads + others, each, values, strict=True):
            result: Answer | TierUnavailable | None
            try:
                result = self._answer(ask, reply, value, sent, replies.clock)
            except CodecError as error:
                self._told(error)
                foreign.append(ask.key)
                # who won computes; the others ask again, and one of them wins
                won = reply.lease == WON
                result = reply.answer(None, replies.clock) if won else None
            if result is not None:
                ask.settle(result)
            else:
                again.append(ask)
        await self._delete(foreign)
        return again

    async def _exchange(
        self, reads: Sequence[bytes], others: Sequence[Ask]
    ) -> tuple[Replies, list[Any], int]:
        """The script's replies, the values, and when they were asked for."""
        names, prefix = self._names, self._names.values
        keys = [prefix + key for key in reads]
        values = [*keys, *(prefix + ask.key for ask in others)]
        for ask in others:
            key = ask.key
            keys += (prefix + key, names.lease(key), names.waiters(key))
            keys.append(names.error(key))
        args: list[bytes | str | int] = [
            os.urandom(8),
            identity_bytes(self._expects()),
            self._lease_ms,
            len(reads),
        ]
        args += [ask.args for ask in others]
        sent = self._clock.now()
        data, found = await self._acquire.run(
            self._operations.link.exchange,
            (names.generations, names.stream, *keys),
            args,
            ("MGET", *values),
        )
        if not (isinstance(data, bytes) and isinstance(found, list)):
            raise ProtocolError("l2: another command's reply")
        return Replies(data, self._clock.now()), found, sent

    def _answer(
        self, ask: Ask, reply: Reply, value: Any, sent: int, clock: FleetClock
    ) -> Answer | TierUnavailable | None:
        """None: the value is not the one that the script saw."""
        record = None
        if reply.has_value:
            record = self._record(ask.key, reply, value, sent)
            if record is None and reply.lease != WON:
                return None  # who won computes, whatever stands there by now
        if reply.lease == WON and reply.text != ask.offer:
            raise ProtocolError("l2: another ask's reply")
        if reply.lease == NO_MEMORY:
            return TierUnavailable("l2: no memory for a lease")
        return reply.answer(record, clock)

    def _record(self, key: bytes, reply: Reply, value: Any, sent: int) -> Record | None:
        """None: the value is not the one that the script saw. `CodecError`: it is
        none."""
        if not isinstance(value, bytes) or nonce_of(value) != reply.nonce:
            return None
        envelope = unpack_envelope(self._names.values + key, value, self._secret)
        if envelope is None:
            return None
        return rebased(envelope, reply.worth, reply.left_ms, sent)

    def _told(self, error: CodecError) -> None:
        self.foreign += 1
        level = logging.WARNING if self.foreign == 1 else logging.DEBUG
        log.log(level, "a value in L2 was dropped: %s", error)

    async def _delete(self, keys: Iterable[bytes]) -> None:
        if names := [self._names.value(key) for key in keys]:
            await self._operations.link.exchange(("DEL", *names))


def settle_all(asks: Iterable[Ask], result: Exception) -> None:
    for ask in asks:
        ask.settle(result)


def identity_bytes(identity: int) -> bytes:
    """As scripts take it; b"": unknown."""
    return identity.to_bytes(8, "little") if identity else b""
