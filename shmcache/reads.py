"""Reads: values that are asked for without a lease, read and judged here.

Order
    `acquire.lua` does all of this in one step, and Lua costs Redis three times the
    reading. Here others' commands may come between: so what is left of each life is
    read before the values, and what says whether they stand behind them.
    1. A value is expired by request: only its grace is left. 2. We read it. 3. Another
    takes its place, with all of its life. 4. We read what is left: the old value would
    be fresh. Read first, it is too short for the new value, which so is stale or gone
    a little early; of a key that had no value then, it says that there was none.
    A raise is never taken back, so what no raise of a later moment makes void was not
    void when it was read; `:g` must be the one that the value names.

    On a Cluster a command that is sent elsewhere meets another Redis than the one that
    is followed, and the read fails: that keeps the order, too.

What cannot be read
    A miss. Only who asks for the lease deletes it: since a read has looked, a good
    value may have taken its place.

Whose answer
    The last command is a write that changes nothing. A replica refuses it, and with it
    the whole: so a master that was demoted is never believed.

Not a transaction
    A Redis that is out of memory refuses to queue one, reads and all.

Tags
    Their raises are read with the values if the last value that bore some bore the
    same, else afterwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from .ask import MS, NONE, Answer, Ask, FleetClock, rebased, settle_all
from .clock import Clock
from .envelope import FOREVER_MS, Envelope, incarnation_of, unpack_envelope
from .errors import CodecError
from .foreign import Foreign
from .operations import Operations
from .record import FRESH, STALE, Record
from .resp import Command, ReplyTooLong
from .scripts import Names, sound
from .turns import Turns

_GONE = -2
"""What PTTL says of a key that is none."""
_NONE, _UNREADABLE = float("-inf"), float("inf")
"""Raises: of what there is none, and one above all, so that nothing lives."""


class Generations:
    """What `:g` says: which one it is, how far its clock is, and the raises."""

    def __init__(self, fields: Sequence[str], values: Sequence[bytes | None]) -> None:
        told = dict(zip(fields, values, strict=True))
        self.incarnation = told["i"] or b""
        clock = b"0" if told["c"] is None else told["c"]
        if len(self.incarnation) != 8 or not (len(clock) <= 16 and clock.isdigit()):
            self.incarnation, clock = b"", b"0"  # not one of ours: as if there was none
        self.clock = int(clock)
        self._everything = _raise(told["C"]), _raise(told["S"])
        self._told = told

    def know(self, tags: Iterable[int]) -> bool:
        """Whether the raises of these are among what was read."""
        return all(f"t{tag}" in self._told for tag in tags)

    def raised(self, envelope: Envelope) -> tuple[bool, bool]:
        """Whether it was deleted, or expired, by its tags or with everything."""
        hard, soft = self._everything
        for tag in envelope.tags:
            hard = max(hard, _raise(self._told[f"t{tag}"]))
            soft = max(soft, _raise(self._told[f"u{tag}"]))
        clock = envelope.clock
        return hard > clock, soft > clock


class _Looked(NamedTuple):
    """What an exchange brought."""

    found: dict[bytes, Record]
    clock: FleetClock
    sent: int
    """When it began, by our clock."""
    time_ms: int
    """Redis' time."""
    unsure: list[tuple[bytes, Envelope, int]]
    """Keys, values, and what is left of them in ms, whose tags are still unknown."""


class Reads:
    """Those of a partition."""

    def __init__(
        self,
        operations: Operations,
        names: Names,
        foreign: Foreign,
        *,
        clock: Clock,
        secret: bytes,
    ) -> None:
        self._operations = operations
        self._names = names
        self._foreign = foreign
        self._clock = clock
        self._secret = secret
        self._turns = Turns(operations, self._begin)
        self._tags: tuple[int, ...] = ()

    def add(self, ask: Ask) -> None:
        """It travels with all others of this turn of the loop."""
        self._turns.add(ask)

    async def read(self, keys: Sequence[bytes]) -> dict[bytes, Record]:
        """The records of those of at most a batch of keys that have one."""
        try:
            return (await self._exchange(keys)).found
        except ReplyTooLong:
            pass
        if len(keys) == 1:
            self._foreign.told(CodecError("larger than any of ours"))
            return {}
        half = len(keys) // 2
        return await self.read(keys[:half]) | await self.read(keys[half:])

    def _begin(self, asks: list[Ask]) -> None:
        operation = self._operations.begin(partial(settle_all, asks))
        keys = [ask.key for ask in asks]
        fields, commands = self._commands(keys)
        sent = self._clock.now()

        def read(replies: list[Any]) -> Callable[[], Awaitable[None]] | None:
            looked = self._look(keys, fields, replies, sent)
            if looked.unsure:
                return lambda: self._settle_later(asks, looked)
            _settle(asks, looked)
            return None

        # a Redis that refuses our scripts answers this
        if not operation.exchange(commands, read, proves=False):
            operation.run(lambda: self._send(asks), lambda _: False)

    async def _send(self, asks: list[Ask]) -> None:
        _settle(asks, await self._exchange([ask.key for ask in asks]))

    async def _settle_later(self, asks: list[Ask], looked: _Looked) -> None:
        await self._look_again(looked)
        _settle(asks, looked)

    async def _exchange(self, keys: Sequence[bytes]) -> _Looked:
        fields, commands = self._commands(keys)
        sent = self._clock.now()
        replies = await self._operations.link.exchange(*commands)
        looked = self._look(keys, fields, replies, sent)
        await self._look_again(looked)
        return looked

    # -- what is read

    def _commands(self, keys: Iterable[bytes]) -> tuple[list[str], list[Command]]:
        """The fields of `:g` that they read, and the commands."""
        prefix, g = self._names.values, self._names.generations
        names = [prefix + key for key in keys]
        fields = _fields(self._tags)
        return fields, [
            *[("PTTL", name) for name in names],
            ("MGET", *names),
            ("HMGET", g, *fields),
            ("TIME",),
            ("PERSIST", g),
        ]

    def _look(
        self,
        keys: Sequence[bytes],
        fields: Sequence[str],
        replies: list[Any],
        sent: int,
    ) -> _Looked:
        """Judge what came."""
        *lefts, values, told, (seconds, micros), _ = sound(replies)
        now = self._clock.now()  # after it came: that makes Redis no later than it was
        generations = Generations(fields, told)
        incarnation = generations.incarnation
        time_ms = int(seconds) * 1000 + int(micros) // 1000
        ahead_ms = time_ms + -now // MS
        clock = FleetClock(incarnation, generations.clock, ahead_ms)
        looked = _Looked({}, clock, sent, time_ms, [])
        prefix, secret = self._names.values, self._secret
        for key, value, left_ms in zip(keys, values, lefts, strict=True):
            if value is None or left_ms == _GONE:
                continue
            if incarnation_of(value) != incarnation:  # before all of it is looked at
                continue
            try:
                envelope = unpack_envelope(prefix + key, value, secret)
            except CodecError as error:
                self._foreign.told(error)
                continue
            if envelope is None:
                continue
            if envelope.tags:
                self._tags = envelope.tags
                if not generations.know(envelope.tags):
                    looked.unsure.append((key, envelope, left_ms))
                    continue
            _judge(looked, key, envelope, left_ms, generations)
        return looked

    async def _look_again(self, looked: _Looked) -> None:
        """Judge what was unsure by what its tags were raised to since."""
        if not looked.unsure:
            return
        tags = {tag for _, envelope, _ in looked.unsure for tag in envelope.tags}
        fields, g = _fields(tags), self._names.generations
        exchange = self._operations.link.exchange
        told, _ = sound(await exchange(("HMGET", g, *fields), ("PERSIST", g)))
        generations = Generations(fields, told)
        if generations.incarnation == looked.clock.incarnation:
            for key, envelope, left_ms in looked.unsure:
                _judge(looked, key, envelope, left_ms, generations)


def _settle(asks: Iterable[Ask], looked: _Looked) -> None:
    for ask in asks:
        ask.settle(Answer(looked.found.get(ask.key), NONE, 0, looked.clock))


def _raise(told: bytes | None) -> float:
    if told is None:
        return _NONE
    return int(told) if told.isdigit() and len(told) < 20 else _UNREADABLE


def _fields(tags: Iterable[int]) -> list[str]:
    fields = ["i", "c", "C", "S"]
    for tag in tags:
        fields += (f"t{tag}", f"u{tag}")
    return fields


def _judge(
    looked: _Looked,
    key: bytes,
    envelope: Envelope,
    left_ms: int,
    generations: Generations,
) -> None:
    """Whether the value stands, and is fresh: as `acquire.lua` says it."""
    ttl_ms, grace_ms = envelope.ttl_ms, envelope.grace_ms
    hard, soft = generations.raised(envelope)
    if hard:
        return
    if ttl_ms == FOREVER_MS:
        fresh = left_ms == -1
        if not fresh and (left_ms := min(left_ms, grace_ms)) <= 0:
            return
    else:
        if soft and grace_ms == 0:  # expired, and no grace to be served stale in
            return
        until_end = envelope.ends_ms - looked.time_ms
        if 0 <= left_ms <= ttl_ms + grace_ms:
            left_ms = min(left_ms, until_end)
            fresh = left_ms > grace_ms
        else:  # somebody lengthened it
            left_ms = min(until_end, grace_ms)
            fresh = False
        if left_ms <= 0:
            return
    state = FRESH if fresh and not soft else STALE
    looked.found[key] = rebased(envelope, state, left_ms, looked.sent)
