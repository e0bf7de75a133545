"""Operations: what is under way to a partition's Redis, bounded and counted.

Rules
    - Its caller waits no longer than the deadline. It goes on a little, so that a slow
      answer does not cost the connection.
    - What is one exchange needs no task where a connection is at hand: it is written at
      once, and ends in the callback of its replies. Else it runs in a task of its own.
    - It counts as failed at the deadline, before its caller gives up: a Redis that
      always answers too late is of no use. But where this process was held up itself,
      Redis is not to blame.
    - Every failure is a `TierUnavailable`, whatever the client library made of it.
    - What ended well proves that L2 is of use only if it did what others would have to:
      a lease that is given back after a failed ask does not, for most have none.

Probes
    While the breaker is open all are refused, and nobody waits for a probe: it has a
    task of its own, started by the operation that found it due. It asks as operations
    do, for a Redis that answers a PING may be a replica, or refuse our scripts; then it
    sends what was kept meanwhile, and then the breaker closes:
    1. L2 is away, and a delete waits in the outbox. 2. L2 is back, and a get is let
    through before the delete: it is answered with what was deleted.
    Where a Redis refuses what no probe tries, the breaker opens and closes for ever:
    the log tells of that once a minute.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from .breaker import Breaker
from .errors import TierUnavailable
from .link import Command, cut
from .resp import ReplyTooLong
from .topology import Partition
from .wire import Wire

PATIENCE = 4
"""Deadlines after which an operation that nobody waits for any more is cut."""
DRAIN_SECONDS = 5.0
"""Of one probe, to send what was kept."""
TELL_SECONDS = 60.0
"""Between two lines of the log that tell the same."""

log = logging.getLogger("shmcache.l2")
T = TypeVar("T")
Drain = Callable[[], Awaitable[object]]
Read = Callable[[list[Any]], Callable[[], Awaitable[Any]] | None]
"""Settles what replies tell, and answers the work that is left, if any is."""


class Operations:
    """Those of this process; lives on one event loop."""

    def __init__(self, link: Partition, breaker: Breaker, deadline: float) -> None:
        self.link = link
        self.breaker = breaker
        self.deadline = deadline
        self.probe: Callable[[], Awaitable[object]] = self._ping
        """Asks as an operation would. An exception: L2 is still away."""
        self.drain: Drain | None = None
        """Sends what was kept while the breaker was open. An exception, or False:
        some of it was not sent."""
        self.granting: dict[bytes, Operation] = {}
        """By token: what is under way and may give it a lease."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._awaited: dict[Operation, None] = {}
        """In the order of their deadlines, for which one timer is enough."""
        self._late: set[Operation] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._probing: asyncio.Task[None] | None = None
        self._mark = 0
        self._told: dict[int, int] = {}
        """By level, when the log was told last."""
        self._untold = ""
        """Why the breaker is open, if the log was not told."""

    @property
    def under_way(self) -> int:
        return len(self._awaited) + len(self._late) + len(self._tasks)

    @property
    def idle(self) -> bool:
        """Whether no operation is under way that anybody waits for."""
        return not self._awaited

    async def run(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        probing: bool = False,
        tokens: Sequence[bytes] = (),
        proves: Callable[[T], bool] = lambda _: True,
    ) -> T:
        """What `work` answers, within the deadline. `probing`: the breaker may be
        open. `tokens` may be given leases by it. `proves` tells of an answer whether
        it counts as a success."""
        ended: asyncio.Future[T | TierUnavailable] = (
            asyncio.get_running_loop().create_future()
        )

        def settle(result: T | TierUnavailable) -> None:
            if not ended.done():
                ended.set_result(result)

        self.begin(settle, tokens, probing=probing).run(work, proves)
        result = await ended
        if isinstance(result, TierUnavailable):
            raise result
        return result

    def begin(
        self,
        settle: Callable[[Any], None],
        tokens: Sequence[bytes] = (),
        *,
        probing: bool = False,
    ) -> Operation:
        """One that is to `run` or to `exchange` at once. `settle` is told what it
        answers, or at the deadline why not. `TierUnavailable` if the breaker is open.
        """
        if not probing and not self.breaker.closed:
            self.probe_if_due()
            raise TierUnavailable("l2: its breaker is open")
        return Operation(self, settle, tokens)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """A task that `close` ends."""
        task = asyncio.get_running_loop().create_task(work, name="shmcache-l2")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Give what is under way a moment, then cut it."""
        await asyncio.sleep(0)  # what was asked for in this turn of the loop begins
        if self.under_way:  # leases that are being given back
            under_way = [one.ended() for one in (*self._awaited, *self._late)]
            await asyncio.wait((*under_way, *self._tasks), timeout=self.deadline)
        await cut(self._tasks)
        for operation in (*self._awaited, *self._late):
            operation.cut()
        while under_way := [one.ended() for one in (*self._awaited, *self._late)]:
            await asyncio.wait(under_way)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it may be that nobody waited for it

    def add(self, operation: Operation) -> None:
        self._awaited[operation] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(operation.ends, self._tick)

    def remove(self, operation: Operation) -> None:
        self._awaited.pop(operation, None)
        self._late.discard(operation)

    def _tick(self) -> None:
        """At the deadline of the first, or of one that has ended since."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for operation in list(self._awaited):
            if operation.ends > loop.time():
                self._timer = loop.call_at(operation.ends, self._tick)
                return
            del self._awaited[operation]
            self._late.add(operation)
            operation.late()

    # -- probes

    def probe_if_due(self) -> None:
        """Start a probe, if it is time for one and no process of the host makes it."""
        if self._probing is None and (mark := self.breaker.probe()):
            self._mark = mark
            self._probing = self.spawn(self._make_probe())

    async def _make_probe(self) -> None:
        good = False
        try:
            async with asyncio.timeout(self.deadline):
                await self.probe()
            if self.drain is not None:
                await self._send_kept(self.drain)
            good = True
        except Exception as error:
            log.debug("L2 is still away: %s", told(error))
            if self._untold:
                self.opened(self._untold)
        finally:
            self._probing = None
            if self.breaker.probed(self._mark, good):
                self._untold = ""
                self._tell(logging.INFO, "L2 is back")

    async def _ping(self) -> None:
        (reply,) = await self.link.exchange(("PING",))
        if isinstance(reply, Exception):
            raise reply

    # -- the log

    def opened(self, why: str) -> None:
        """Tell that the breaker is open; if that was told a moment ago, later."""
        told = self._tell(logging.WARNING, f"L2 is left alone for a while: {why}")
        self._untold = "" if told else why

    def _tell(self, level: int, words: str) -> bool:
        """Whether it was time to."""
        now, last = self.breaker.clock.now(), self._told.get(level)
        if last is not None and now - last < TELL_SECONDS * 1e9:
            log.debug(words)
            return False
        self._told[level] = now
        log.log(level, words)
        return True

    async def _send_kept(self, drain: Drain) -> None:
        """Send what was kept, and say meanwhile that this probe lives."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + DRAIN_SECONDS
        task = asyncio.ensure_future(drain())
        try:
            while not task.done():
                self._mark = self.breaker.held(self._mark)
                if not self._mark or loop.time() > ends:
                    raise TimeoutError("what was kept is not all sent")
                await asyncio.wait({task}, timeout=self.deadline / 2)
            if task.result() is False:
                raise TierUnavailable("what was kept is not all sent")
        finally:
            await cut([task])


class Operation:
    """One operation and its deadline: a task, or a reply that is waited for."""

    __slots__ = (
        "_ended", "_home", "_over", "_settle", "_task", "_tokens", "_wire", "ends",
    )  # fmt: skip

    def __init__(
        self,
        home: Operations,
        settle: Callable[[Any], None],
        tokens: Sequence[bytes],
    ) -> None:
        """It may give the tokens leases: who abandons one waits until it `ended`."""
        self.ends = asyncio.get_running_loop().time() + home.deadline
        self._home = home
        self._settle = settle
        self._tokens = tokens
        self._task: asyncio.Task[None] | None = None
        self._wire: Wire | None = None
        self._over = False
        self._ended: asyncio.Future[None] | None = None
        for token in tokens:
            home.granting[token] = self
        home.add(self)

    def run(
        self,
        work: Callable[[], Awaitable[T]],
        proves: Callable[[T], bool] = lambda _: True,
    ) -> None:
        """Settle what `work` answers."""
        self._task = asyncio.get_running_loop().create_task(self._run(work, proves))
        self._task.add_done_callback(self._done)

    def exchange(
        self, commands: Sequence[Command], read: Read, proves: bool = True
    ) -> bool:
        """Whether a connection was at hand; `read` is told the replies then."""
        took = partial(self._took, read, proves)
        self._wire = self._home.link.begin(commands, took)
        return self._wire is not None

    def ended(self) -> asyncio.Future[None]:
        """Done when nothing of it is under way any more. It has not ended yet."""
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    def late(self) -> None:
        """At the deadline."""
        home, loop = self._home, asyncio.get_running_loop()
        if loop.time() - self.ends < home.deadline:  # else we were held up ourselves
            self._failed("no answer in time")
        self._settle(TierUnavailable(f"l2: no answer within {home.deadline:g} s"))
        loop.call_later((PATIENCE - 1) * home.deadline, self.cut)

    def cut(self) -> None:
        """Until it has ended: before Python 3.12 `asyncio.wait_for` may forget a
        cancellation."""
        if self._over:
            return
        if self._task is not None:
            self._task.cancel()
            asyncio.get_running_loop().call_later(0.1, self.cut)
            return
        self._end()
        self._settle(TierUnavailable("l2: the operation was cut"))
        if self._wire is not None:
            self._wire.end(ConnectionError("l2: the operation was cut"))

    # -- how it goes on

    def _took(self, read: Read, proves: bool, replies: list[Any] | Exception) -> None:
        if self._over:  # it was cut
            return
        try:
            if isinstance(replies, Exception):
                raise replies
            left = read(replies)
        except Exception as error:
            self._fail(error)
        else:
            if left is not None:
                self.run(left, lambda _: proves)
                return
            if proves and self._in_time():
                self._home.breaker.succeeded()
        self._end()

    async def _run(
        self, work: Callable[[], Awaitable[T]], proves: Callable[[T], bool]
    ) -> None:
        try:
            result = await work()
        except Exception as error:  # the library raises TypeError for a lost peer too
            self._fail(error)
        else:
            if self._in_time() and proves(result):
                self._home.breaker.succeeded()
            self._settle(result)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._end()
        if task.cancelled():  # it may be before it began
            self._settle(TierUnavailable("l2: the operation was cut"))

    def _end(self) -> None:
        self._over = True
        self._home.remove(self)
        for token in self._tokens:
            self._home.granting.pop(token, None)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _in_time(self) -> bool:
        return asyncio.get_running_loop().time() < self.ends

    def _fail(self, error: Exception) -> None:
        if self._in_time() and not isinstance(error, ReplyTooLong):  # it does answer
            self._failed(told(error))
        failure = TierUnavailable(f"l2: {told(error)}")
        failure.__cause__ = error
        self._settle(failure)

    def _failed(self, why: str) -> None:
        if self._home.breaker.failed():
            self._home.opened(why)


def told(error: BaseException) -> str:
    """What befell, for people."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
