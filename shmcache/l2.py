"""L2: the tier the fleet shares, in Redis, behind a deadline and a breaker.

Rules
    - A command may arrive long after its sender gave up or died, so whatever stores
      is checked where it is made: by a script, against the lease's token.
    - An operation runs in a task of its own, and its caller waits no longer than the
      deadline. The task goes on a little, so that a slow answer does not cost the
      connection.
    - Every failure is a `TierUnavailable`, whatever the client library made of it,
      and the breaker counts it. A value that cannot be read is a miss, no failure.

A fill's end
    It is given in Redis' own time, by the difference of the clocks when the lease was
    granted. A store that was held up on its way so shortens the life, and never
    lengthens it.

Large values
    Values through Lua cost Redis many times a plain GET. So the script reads heads
    only, a GET in the same pipeline brings the value, and the random bytes of its fill
    tell whether both saw the same one; if not, L2 is asked again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from .ask import NONE, WAIT, WON, Answer, Ask, FleetClock, Reply
from .breaker import Breaker, LocalWords, Pass, Words
from .clock import SYSTEM, Clock
from .envelope import (
    FOREVER_MS,
    GRACE_MAX_MS,
    Envelope,
    nonce_of,
    pack_envelope,
    unpack_envelope,
)
from .errors import CodecError, ConfigError, TierUnavailable
from .link import Link, cut
from .record import FOREVER, Record
from .scripts import Names, Scripts

__all__ = ["L2", "NONE", "WAIT", "WON", "Answer", "FleetClock"]

STORED, FULL, RAISED, LOST = "stored", "full", "raised", "lost"
PATIENCE = 4
"""Deadlines after which an operation that nobody waits for any more is cut."""
BATCH = 128
"""Keys of one script: it must not hold up Redis for others."""
TRIES = 3
"""Of a value that changes between script and GET."""
STREAM_LENGTH = 100_000
SET_LEASE_MS = 1000
ERROR_MS = 1000
MS = 1_000_000

log = logging.getLogger("shmcache.l2")
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
    ) -> None:
        """`ConfigError` if the URL is not one. Connects at the first operation."""
        self.deadline = deadline
        self.lease_ms = round(lease_life * 1000)
        self.names = Names(app)
        self.link = Link(url, timeout=deadline * PATIENCE)
        self.clock = clock
        self.breaker = Breaker(
            words or LocalWords(), probe_seconds=deadline, clock=clock
        )
        self._scripts = Scripts(self.link)
        self._asks: list[Ask] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def available(self) -> bool:
        """Whether the breaker is closed."""
        return self.breaker.closed

    @property
    def state(self) -> str:
        """up or down, for people."""
        return "up" if self.available else "down"

    async def start(self) -> None:
        """Nothing yet: a Redis that is away must not keep a process from starting."""

    async def close(self) -> None:
        """Cut what is under way and close the connections."""
        self._settle(self._asks, TierUnavailable("l2: the cache was closed"))
        self._asks = []
        if self._tasks:  # leases that are being given back
            await asyncio.wait(self._tasks, timeout=self.deadline)
        await cut(self._tasks)
        await self.link.close()

    async def check(self) -> None:
        """Connect once. `ConfigError` names a setting that can never work;
        `TierUnavailable` if Redis is away."""
        try:
            async with asyncio.timeout(self.deadline * PATIENCE):
                await self.link.check()
        except ConfigError:
            raise
        except Exception as error:
            raise TierUnavailable(f"l2: {_words(error)}") from error

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
        ask = Ask(key, offer, instead_of, early, channel, waited)
        self._asks.append(ask)
        if len(self._asks) == 1:  # all of this turn of the loop travel together
            loop = asyncio.get_running_loop()
            loop.call_soon(self._send_asks, loop.time() + self.deadline)
        await asyncio.wait({ask.settled}, timeout=self.deadline)
        if not ask.settled.done():
            raise self._late()
        result = ask.settled.result()
        if isinstance(result, Exception):
            raise result
        return result

    async def renew(self, key: bytes, token: bytes, life_ms: int) -> bool:
        """Let the lease stand for another life; False if it is lost."""
        names = self.names
        reply = await self._operation(
            lambda: self._scripts.run(
                self._scripts.renew,
                (names.lease(key), names.waiters(key)),
                (token, life_ms),
            )
        )
        return bool(reply[0] == 1)

    async def put_fenced(
        self, key: bytes, token: bytes, record: Record, begun: FleetClock
    ) -> str:
        """Store the record if the lease is still the token's, and free the lease.

        `begun` is the clock of the answer that granted it. `stored`, or `full` (no
        memory), `raised` (what the record bears was invalidated since) or `lost` (the
        lease passed on, as by an invalidation of the key: nothing was touched).
        """
        name, names = self.names.value(key), self.names
        ttl_ms, grace_ms = _lives(record)
        ends = ""
        if ttl_ms != FOREVER_MS:
            ends = str(record.birth // MS + ttl_ms + grace_ms + begun.ahead_ms)
        envelope = Envelope(
            record.value,
            record.kind,
            ttl_ms,
            grace_ms,
            begun.incarnation or bytes(8),
            begun.clock,
            record.nonce,
            record.fill_us,
            record.tags,
        )
        args: list[bytes | str | int] = [token, pack_envelope(name, envelope), ends]
        args += [begun.incarnation, begun.clock, *record.tags]
        keys = (names.generations, name, names.lease(key), names.waiters(key))
        reply = await self._operation(
            lambda: self._scripts.run(self._scripts.put_fenced, keys, args)
        )
        return str(reply[0], "ascii")

    async def abandon(self, key: bytes, token: bytes, error: bytes = b"") -> bool:
        """Free the lease without a value; `error` goes to those who waited for it."""
        names = self.names
        keys = (names.lease(key), names.waiters(key), names.error(key))
        reply = await self._operation(
            lambda: self._scripts.run(
                self._scripts.abandon, keys, (token, error, ERROR_MS)
            )
        )
        return bool(reply[0] == 1)

    def abandon_later(self, key: bytes, token: bytes, error: bytes = b"") -> None:
        """`abandon` without waiting; a lease that it misses expires by itself."""
        self._spawn(self.abandon(key, token, error))

    # -- invalidation

    async def invalidate(
        self,
        kind: bytes,
        names: Sequence[bytes | int],
        *,
        sets: Sequence[tuple[bytes, int]] = (),
        origin: bytes = b"",
    ) -> FleetClock:
        """Make older values void in the fleet; the clock after the last of `names`.

        `kind` as `invalidate.lua` has it: d and x for keys, t and u for numbers of
        tags and namespaces, c and y (with one empty name) for everything. `sets`
        gives each key the token that takes its lease and the nonce of its fill.
        """
        keys: list[bytes] = [self.names.generations, self.names.stream]
        args: list[bytes | str | int] = [os.urandom(8), kind, origin]
        args += [STREAM_LENGTH, SET_LEASE_MS]
        for i, name in enumerate(names):
            if isinstance(name, bytes) and kind in (b"d", b"x"):
                keys += [self.names.value(name), self.names.lease(name)]
                keys += [self.names.waiters(name)]
            token, nonce = sets[i] if sets else (b"", 0)
            args += [name, nonce.to_bytes(8, "little") if sets else b"", token]
        reply = await self._operation(
            lambda: self._scripts.run(self._scripts.invalidate, keys, args)
        )
        return self._clock(reply[0])

    # -- operations

    async def _operation(self, work: Callable[[], Awaitable[list[T]]]) -> list[T]:
        """What `work` answers, within the deadline."""
        entered = self.breaker.enter()
        if entered is Pass.REFUSED:
            raise TierUnavailable("l2: its breaker is open")
        ends = asyncio.get_running_loop().time() + self.deadline
        task = self._spawn(self._bounded(work, entered, ends))
        await asyncio.wait({task}, timeout=self.deadline)
        if not task.done():
            raise self._late()
        result: list[T] = task.result()
        return result

    async def _bounded(
        self, work: Callable[[], Awaitable[list[T]]], entered: Pass, ends: float
    ) -> list[T]:
        """The operation itself. It counts as failed at `ends`, before its caller gives
        up: a Redis that always answers too late is of no use."""
        late = asyncio.get_running_loop().call_at(
            ends, self._failed, entered, "no answer in time"
        )
        try:
            async with asyncio.timeout(self.deadline * PATIENCE):
                result = await work()
        except Exception as error:  # the library raises TypeError for a lost peer too
            if self._in_time(late):
                self._failed(entered, _words(error))
            raise TierUnavailable(f"l2: {_words(error)}") from error
        finally:
            in_time = self._in_time(late)
            late.cancel()
        if in_time and self.breaker.succeeded():
            log.info("L2 is back")
        return result

    @staticmethod
    def _in_time(late: asyncio.TimerHandle) -> bool:
        return not late.cancelled() and late.when() > asyncio.get_running_loop().time()

    def _failed(self, entered: Pass, why: str) -> None:
        if self.breaker.failed(entered):
            log.warning("L2 is left alone for a while: %s", why)

    def _late(self) -> TierUnavailable:
        return TierUnavailable(f"l2: no answer within {self.deadline:g} s")

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name="shmcache-l2")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it may be that nobody waited for it

    # -- asks

    def _send_asks(self, ends: float) -> None:
        asks, self._asks = self._asks, []
        for i in range(0, len(asks), BATCH):
            self._spawn(self._send(asks[i : i + BATCH], ends))

    async def _send(self, asks: list[Ask], ends: float) -> None:
        try:
            entered = self.breaker.enter()
            if entered is Pass.REFUSED:
                raise TierUnavailable("l2: its breaker is open")
            await self._bounded(lambda: self._ask(asks), entered, ends)
        except TierUnavailable as error:
            self._settle(asks, error)

    async def _ask(self, asks: list[Ask]) -> list[Ask]:
        for _ in range(TRIES):
            asks = await self._ask_once(asks)
            if not asks:
                return []
        self._settle(asks, TierUnavailable("l2: the value changes all the time"))
        return []

    async def _ask_once(self, asks: list[Ask]) -> list[Ask]:
        """Settle what can be; those that must ask again."""
        names = self.names
        keys = [names.generations, names.stream]
        args: list[bytes | str | int] = [os.urandom(8), self.lease_ms]
        for ask in asks:
            key = ask.key
            keys += [names.value(key), names.lease(key)]
            keys += [names.waiters(key), names.error(key)]
            args += ask.args
        gets = [("GET", names.value(ask.key)) for ask in asks]
        sent = self.clock.now()
        flat, *values = await self._scripts.run(
            self._scripts.acquire, keys, args, *gets
        )
        clock = self._clock(flat)
        again, damaged = [], []
        for i, (ask, value) in enumerate(zip(asks, values, strict=True)):
            reply = Reply(*flat[3 + 6 * i : 9 + 6 * i])
            try:
                result = self._read(ask, reply, value, sent, clock)
            except CodecError as error:
                log.warning("a value in L2 was dropped: %s", error)
                damaged.append(ask)
                # who won computes; the others ask again, and one of them wins
                result = reply.answer(None, clock) if reply.lease == WON else None
            if result is not None:
                ask.settle(result)
            else:
                again.append(ask)
        if damaged:
            await self.link.exchange(("DEL", *(names.value(a.key) for a in damaged)))
        return again

    def _read(
        self, ask: Ask, reply: Reply, value: Any, sent: int, clock: FleetClock
    ) -> Answer | Exception | None:
        """The answer, or None: the value is not the one that the script saw."""
        record = None
        if reply.has_value:
            if isinstance(value, bytes) and nonce_of(value) == reply.nonce:
                envelope = unpack_envelope(self.names.value(ask.key), value)
                record = reply.record(envelope, sent) if envelope else None
            elif reply.lease != WON:  # who won computes, whatever stands there by now
                return None
        if ask.wants_lease and reply.lease == NONE and not reply.fresh:
            return TierUnavailable("l2: no memory for a lease")
        return reply.answer(record, clock)

    @staticmethod
    def _settle(asks: list[Ask], result: Exception) -> None:
        for ask in asks:
            ask.settle(result)

    def _clock(self, reply: list[Any]) -> FleetClock:
        """Read after the reply came: that makes Redis no later than it was."""
        return FleetClock(reply[0], reply[1], reply[2] + -self.clock.now() // MS)


def _lives(record: Record) -> tuple[int, int]:
    """ttl and grace in ms."""
    if record.fresh_until == FOREVER:
        return FOREVER_MS, GRACE_MAX_MS
    ttl_ms = max(0, record.fresh_until - record.birth) // MS
    if record.dead_at == FOREVER:
        return ttl_ms, GRACE_MAX_MS
    return ttl_ms, min(GRACE_MAX_MS, max(0, record.dead_at - record.fresh_until) // MS)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
