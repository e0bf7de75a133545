"""Link: a few connections to one Redis, made anew only as fast as it can bear.

Each exchange is written once and read once. A connection whose exchange did not end is
closed, and so is one whose reply tells that a replica answers there: it may be a master
that was demoted, whose writes are lost.

Connecting
    Where a connect failed, the next one waits a pause that doubles and is shortened by
    chance, and is made alone; meanwhile exchanges are refused at once. So a Redis that
    comes back is met by one connect of each process, and then by as many as there are
    exchanges, at most `CONNECTIONS`.

Strangers
    Where the identity is not the one that is expected, nothing is read: after a
    failover that would be what was deleted before. The connection is kept, for it is
    right as soon as the follower has noted the new identity.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from .address import refusal
from .errors import ConfigError
from .resp import Command, NoScriptError, ReplyError, pack
from .wire import Took, Wire, untrusted

__all__ = [
    "Command",
    "Link",
    "NoScriptError",
    "Pace",
    "ReplyError",
    "StrangerError",
    "Wire",
    "check",
    "cut",
    "forever",
    "pauses",
]

CONNECTIONS = 8
"""Of a process, beside those of the follower and the wake-ups. Batches wait for a free
one and grow meanwhile, which costs Redis less than more connections would."""
PAUSE_MIN, PAUSE_MAX = 0.05, 0.5
"""Between connects that fail; the breaker's pauses are longer."""
STRANGER_SECONDS = 0.5
"""A connection of an unexpected identity is made anew when it is as old as that."""

Open = Callable[[], Awaitable[Wire]]


class StrangerError(ConnectionError):
    """Another Redis than the one whose invalidations this host follows."""


class Link:
    """A few connections that `open` makes."""

    def __init__(
        self,
        open: Open,
        *,
        expects: Callable[[], int] | None = None,
        connections: int = CONNECTIONS,
    ) -> None:
        self._open = open
        self.expects = expects
        """The identity that exchanges rely on, 0 while none is noted: then nothing is
        read. None: any will do."""
        self.connects = 0
        """Tried so far."""
        self._pace = Pace()
        self._free = asyncio.Semaphore(connections)
        self._idle: list[Wire] = []

    async def exchange(self, *commands: Command) -> list[Any]:
        """The reply to each command; an error reply stands in its place.

        Raises whatever befalls the connection, which is closed then.
        """
        return await self.run(commands, self.expects() if self.expects else None)

    async def run(self, commands: Sequence[Command], expected: int | None) -> list[Any]:
        """`exchange` with the Redis of an `expected` identity; None: any."""
        async with self._free:
            wire = await self._take(expected)
            replies = await wire.ask(*commands)
            self._put_back(wire, replies)
            return replies

    def begin(self, commands: Sequence[Command], took: Took) -> Wire | None:
        """`exchange` at once, if a connection is at hand; None: none is, and nothing
        was done. Whoever does not wait until `took` is told must `end` the wire."""
        if not self._idle or self._free.locked() or not self._idle[-1].quiet:
            return None
        wire = self._idle[-1]
        if self.expects is not None and wire.identity != self.expects():
            return None

        def ended(replies: list[Any] | Exception) -> None:
            self._free.release()
            if isinstance(replies, list):
                self._put_back(wire, replies)
            took(replies)

        wire.begin(pack(commands), len(commands), ended)
        self._idle.pop()
        next(self._free.acquire().__await__(), None)  # one is free: it does not wait
        return wire

    async def connect(self) -> Wire:
        """A connection of the caller's own, whatever its identity, and without the
        pause: who asks has one. It must `hang_up` on it."""
        self.connects += 1
        wire = await self._open()
        self._pace.succeeded()
        return wire

    async def check(self) -> None:
        """`ConfigError` names a setting that can never work; else whatever befell."""
        await check(self.connect, "standalone")

    async def close(self) -> None:
        """Close what is idle. Exchanges must have ended."""
        while self._idle:
            await self._idle.pop().hang_up()

    def _put_back(self, wire: Wire, replies: Sequence[Any]) -> None:
        for reply in replies:
            if isinstance(reply, ReplyError) and untrusted(reply):
                wire.drop()
                return
        self._idle.append(wire)

    async def _take(self, expected: int | None) -> Wire:
        """An idle connection that can be relied on, or a new one."""
        while self._idle:
            wire = self._idle.pop()
            if wire.quiet and not self._stranger(wire, expected):
                return wire
            wire.drop()
        self._pace.enter()
        self.connects += 1
        try:
            wire = await self._open()
        except BaseException as error:
            self._pace.failed(error)
            raise
        self._pace.succeeded()
        self._stranger(wire, expected)
        return wire

    def _stranger(self, wire: Wire, expected: int | None) -> bool:
        """Whether to make it anew. `StrangerError` if it is as good as new."""
        if expected is None or wire.identity == expected:
            return False
        if asyncio.get_running_loop().time() - wire.born >= STRANGER_SECONDS:
            return True
        self._idle.append(wire)
        raise StrangerError("l2: another Redis answers than the one that is followed")


class Pace:
    """When to connect again where connecting failed."""

    def __init__(self) -> None:
        self._pauses: Iterator[float] | None = None
        self._until = 0.0
        self._tried = False
        self._why = ""

    def enter(self) -> None:
        """Before a connect, which must end in `failed` or `succeeded`."""
        if self._pauses is None:
            return
        if self._tried or _now() < self._until:
            raise ConnectionError(f"l2: connecting failed a moment ago: {self._why}")
        self._tried = True

    def failed(self, why: BaseException) -> None:
        self._tried = False
        if not isinstance(why, Exception):  # cancelled
            return
        self._why = repr(why)
        if self._pauses is None:
            self._pauses = pauses(PAUSE_MIN, PAUSE_MAX)
        if _now() >= self._until:  # of several at once the first one counts
            self._until = _now() + next(self._pauses)

    def succeeded(self) -> None:
        self._tried = False
        self._pauses = None


async def check(connect: Open, mode: str) -> None:
    """Connect once; `ConfigError` names a setting that can never work."""
    try:
        wire = await connect()
    except Exception as error:
        refused = refusal(error)
        if refused is not None:
            raise refused from None
        raise
    try:
        (pong,) = await wire.ask(("PING",))
    finally:
        await wire.hang_up()
    if isinstance(pong, ReplyError):
        if pong.code == "NOPERM":
            raise ConfigError(f"l2: Redis refused a PING: {pong}")
        raise pong  # it passes: MISCONF while the disk is full, ...
    if wire.mode != mode:
        wanted = {"standalone": "a redis://", "cluster": "a redis+cluster://"}
        expected = wanted.get(wire.mode, "a redis+sentinel://")
        raise ConfigError(f"l2: a {wire.mode} answers: expected {expected} URL")
    if wire.version < (6, 2):
        raise ConfigError("l2: expected Redis 6.2 or newer, or Valkey")


async def cut(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until they have ended.

    Once is not enough: `asyncio.wait_for`, before Python 3.12, forgets a cancellation
    that comes as what it waits for ends.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.1)


def pauses(low: float = 0.1, high: float = 5.0) -> Iterator[float]:
    """Seconds to wait before each next try: doubling, shortened by chance."""
    pause = low
    while True:
        yield pause * random.uniform(0.5, 1)
        pause = min(high, pause * 2)


async def forever(
    work: Callable[[], Awaitable[None]],
    progress: Callable[[], int],
    broken: Callable[[Exception], None],
    high: float = 5.0,
) -> NoReturn:
    """Do `work` again whenever it ends: with pauses, which begin anew when it came so
    far that `progress` rose. `broken` is told of what ended it."""
    pause = pauses(high=high)
    while True:
        before = progress()
        try:
            await work()
        except Exception as error:  # whatever the library makes of a lost peer
            broken(error)
        if progress() > before:
            pause = pauses(high=high)
        await asyncio.sleep(next(pause))


def _now() -> float:
    return asyncio.get_running_loop().time()
