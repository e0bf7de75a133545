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

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from .ask import (
    NO_MEMORY,
    NO_VALUE,
    NONE,
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
from .operations import Operations
from .record import Record
from .resp import Command, NoScriptError, ProtocolError
from .scripts import Names, Script, sound

BATCH = 32
"""Keys of one script: while Redis works on a batch, we read the one before; and it
must not hold up Redis for others."""
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
        self._gathering: list[Ask] = []
        self._alone = True
        """The last one, when it was sent."""

    def add(self, ask: Ask) -> None:
        """It travels with all others of this turn of the loop; at once where none is
        to be expected, for a turn costs it much of a round trip."""
        if self._alone and not self._gathering and self._operations.idle:
            self._begin([ask])
            return
        if not self._gathering or len(self._gathering) >= BATCH:
            self._gathering = []
            asyncio.get_running_loop().call_soon(self._begin, self._gathering)
        self._gathering.append(ask)

    def _begin(self, asks: list[Ask]) -> None:
        if self._gathering is asks:
            self._gathering = []
        self._alone = len(asks) == 1
        asks = [ask for ask in asks if not ask.settled.done()]  # who left, asks nothing
        if not asks:
            return
        tokens = [ask.offer for ask in asks if ask.offer]
        try:
            operation = self._operations.begin(partial(settle_all, asks), tokens)
        except TierUnavailable as error:
            settle_all(asks, error)
            return
        reads, others = _sorted(asks)
        keys, args, values = self._call([ask.key for ask in reads], others)
        sent = self._clock.now()

        def read(replies: list[Any]) -> Callable[[], Awaitable[None]] | None:
            if isinstance(replies[0], NoScriptError):
                return lambda: self._send(asks, TRIES)
            again, foreign = self._settle(reads, others, *self._read(replies, sent))
            if again or foreign:
                return lambda: self._send(again, TRIES - 1, foreign)
            return None

        if not operation.exchange((self._acquire.command(keys, args), values), read):
            operation.run(lambda: self._send(asks, TRIES))

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

    async def _send(
        self, asks: list[Ask], tries: int, foreign: Sequence[bytes] = ()
    ) -> None:
        await self._delete(foreign)
        while asks and tries:
            tries -= 1
            reads, others = _sorted(asks)
            answered = await self._exchange([ask.key for ask in reads], others)
            asks, foreign = self._settle(reads, others, *answered)
            await self._delete(foreign)
        settle_all(asks, TierUnavailable("l2: the value changes all the time"))

    def _settle(
        self,
        reads: list[Ask],
        others: list[Ask],
        replies: Replies,
        values: list[Any],
        sent: int,
    ) -> tuple[list[Ask], list[bytes]]:
        """Settle what can be; those that must ask again, and keys of foreign values."""
        again: list[Ask] = []
        foreign: list[bytes] = []
        asks = reads + others if reads else others
        each = replies.each(len(reads), len(others))
        for ask, reply, value in zip(asks, each, values, strict=True):
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
        return again, foreign

    async def _exchange(
        self, reads: Sequence[bytes], others: Sequence[Ask]
    ) -> tuple[Replies, list[Any], int]:
        """The script's replies, the values, and when they were asked for."""
        keys, args, values = self._call(reads, others)
        sent = self._clock.now()
        exchange = self._operations.link.exchange
        return self._read(await self._acquire.run(exchange, keys, args, values), sent)

    def _call(
        self, reads: Sequence[bytes], others: Sequence[Ask]
    ) -> tuple[Sequence[bytes], Sequence[bytes | str | int], Command]:
        """Keys and arguments of the script, and the command that gets the values."""
        names, prefix = self._names, self._names.values
        keys = [names.generations, names.stream]
        args: list[bytes | str | int] = [
            others[0].offer[:8] if others else b"",  # random, and only of a `:g`
            identity_bytes(self._expects()),
            self._lease_ms,
            len(reads),
        ]
        values: list[bytes | str | int] = ["MGET"]
        for key in reads:
            name = prefix + key
            keys.append(name)
            values.append(name)
        for ask in others:
            key = ask.key
            name = prefix + key
            keys += (name, names.lease(key), names.waiters(key), names.error(key))
            args.append(ask.args)
            values.append(name)
        return keys, args, values

    def _read(self, replies: list[Any], sent: int) -> tuple[Replies, list[Any], int]:
        data, found = sound(replies)
        if not (isinstance(data, bytes) and isinstance(found, list)):
            raise ProtocolError("l2: another command's reply")
        return Replies(data, self._clock.now()), found, sent

    def _answer(
        self, ask: Ask, reply: Reply, value: Any, sent: int, clock: FleetClock
    ) -> Answer | TierUnavailable | None:
        """None: the value is not the one that the script saw."""
        record, lease = None, reply.lease
        if reply.worth != NO_VALUE:
            record = self._record(ask.key, reply, value, sent)
            if record is None and lease != WON:
                return None  # who won computes, whatever stands there by now
        if lease == NONE:
            return Answer(record, NONE, 0, clock)
        if lease == WON and reply.text != ask.offer:
            raise ProtocolError("l2: another ask's reply")
        if lease == NO_MEMORY:
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


def _sorted(asks: Iterable[Ask]) -> tuple[list[Ask], list[Ask]]:
    """Those that only read, and the others."""
    reads: list[Ask] = []
    others: list[Ask] = []
    for ask in asks:
        (others if ask.args else reads).append(ask)
    return reads, others


def settle_all(asks: Iterable[Ask], result: Exception | None) -> None:
    """None: each is settled by itself."""
    if result is not None:
        for ask in asks:
            ask.settle(result)


def identity_bytes(identity: int) -> bytes:
    """As scripts take it; b"": unknown."""
    return identity.to_bytes(8, "little") if identity else b""
