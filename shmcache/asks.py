"""Asks: values and leases, those of one turn of the loop as one call of a script.

Large values
    Values through Lua cost Redis many times a plain GET. So the script reads heads
    only, a GET in the same pipeline brings the values, and the random bytes of its fill
    tell whether both saw the same one; if not, L2 is asked again.

What cannot be read
    A value that is damaged, another key's, or not sealed by our secret is deleted and
    asked for again: then it is a miss, and one who asks has the lease.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
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
    settle_all,
)
from .clock import Clock
from .envelope import nonce_of, unpack_envelope
from .errors import CodecError, TierUnavailable
from .foreign import Foreign
from .operations import Operations
from .record import Record
from .resp import Command, NoScriptError, ProtocolError
from .scripts import Names, Script, sound
from .turns import Turns

TRIES = 3
"""Of a value that changes between script and GET."""


class Asks:
    """Those of a partition."""

    def __init__(
        self,
        operations: Operations,
        names: Names,
        acquire: Script,
        foreign: Foreign,
        *,
        lease_ms: int,
        clock: Clock,
        secret: bytes,
        expects: Callable[[], int],
    ) -> None:
        self._operations = operations
        self._names = names
        self._acquire = acquire
        self._lease_ms = lease_ms
        self._clock = clock
        self._secret = secret
        self._expects = expects
        self._foreign = foreign
        self._turns = Turns(operations, self._begin)

    def add(self, ask: Ask) -> None:
        """It travels with all others of this turn of the loop."""
        self._turns.add(ask)

    async def probe(self) -> None:
        """Ask for nothing, by what an ask takes."""
        keys, args, values = self._call(())
        nobodys = self._names.value(b"")  # keys have a byte at least
        exchange = self._operations.link.exchange
        await self._acquire.run(exchange, keys, args, (*values, nobodys))

    def _begin(self, asks: list[Ask]) -> None:
        tokens = [ask.offer for ask in asks]
        operation = self._operations.begin(partial(settle_all, asks), tokens)
        keys, args, values = self._call(asks)
        sent = self._clock.now()

        def read(replies: list[Any]) -> Callable[[], Awaitable[None]] | None:
            if isinstance(replies[0], NoScriptError):
                return lambda: self._send(asks, TRIES)
            again, foreign = self._settle(asks, *self._read(replies, sent))
            if again or foreign:
                return lambda: self._send(again, TRIES - 1, foreign)
            return None

        if not operation.exchange((self._acquire.command(keys, args), values), read):
            operation.run(lambda: self._send(asks, TRIES))

    # -- one batch

    async def _send(
        self, asks: list[Ask], tries: int, foreign: Sequence[bytes] = ()
    ) -> None:
        await self._foreign.delete(foreign)
        while asks and tries:
            tries -= 1
            asks, foreign = self._settle(asks, *await self._exchange(asks))
            await self._foreign.delete(foreign)
        settle_all(asks, TierUnavailable("l2: the value changes all the time"))

    def _settle(
        self, asks: list[Ask], replies: Replies, values: list[Any], sent: int
    ) -> tuple[list[Ask], list[bytes]]:
        """Settle what can be; those that must ask again, and keys of foreign values."""
        again: list[Ask] = []
        foreign: list[bytes] = []
        each = replies.each(len(asks))
        for ask, reply, value in zip(asks, each, values, strict=True):
            result: Answer | TierUnavailable | None
            try:
                result = self._answer(ask, reply, value, sent, replies.clock)
            except CodecError as error:
                self._foreign.told(error)
                foreign.append(ask.key)
                # who won computes; the others ask again, and one of them wins
                won = reply.lease == WON
                result = reply.answer(None, replies.clock) if won else None
            if result is not None:
                ask.settle(result)
            else:
                again.append(ask)
        return again, foreign

    async def _exchange(self, asks: Sequence[Ask]) -> tuple[Replies, list[Any], int]:
        """The script's replies, the values, and when they were asked for."""
        keys, args, values = self._call(asks)
        sent = self._clock.now()
        exchange = self._operations.link.exchange
        return self._read(await self._acquire.run(exchange, keys, args, values), sent)

    def _call(
        self, asks: Sequence[Ask]
    ) -> tuple[Sequence[bytes], Sequence[bytes | str | int], Command]:
        """Keys and arguments of the script, and the command that gets the values."""
        names, prefix = self._names, self._names.values
        keys = [names.generations, names.stream]
        args: list[bytes | str | int] = [
            asks[0].offer[:8] if asks else b"",  # random, and only of a `:g`
            identity_bytes(self._expects()),
            self._lease_ms,
        ]
        values: list[bytes | str | int] = ["MGET"]
        for ask in asks:
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
        return rebased(envelope, reply.state, reply.left_ms, sent)


def identity_bytes(identity: int) -> bytes:
    """As scripts take it; b"": unknown."""
    return identity.to_bytes(8, "little") if identity else b""
