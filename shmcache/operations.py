"""Operations: what is under way to a partition's Redis, bounded and counted.

Rules
    - Each runs in a task of its own, and its caller waits no longer than the deadline.
      The task goes on a little, so that a slow answer does not cost the connection.
    - It counts as failed at the deadline, before its caller gives up: a Redis that
      always answers too late is of no use. But where this process was held up itself,
      Redis is not to blame.
    - Every failure is a `TierUnavailable`, whatever the client library made of it.

Probes
    While the breaker is open all are refused, and nobody waits for a probe: it has a
    task of its own, started by the operation that found it due. It writes, for a
    replica would answer a PING; then it sends what was kept meanwhile, and then the
    breaker closes:
    1. L2 is away, and a delete waits in the outbox. 2. L2 is back, and a get is let
    through before the delete: it is answered with what was deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from .breaker import Breaker
from .errors import TierUnavailable
from .link import cut
from .topology import Partition

PATIENCE = 4
"""Deadlines after which an operation that nobody waits for any more is cut."""
DRAIN_SECONDS = 5.0
"""Of one probe, to send what was kept."""

log = logging.getLogger("shmcache.l2")
T = TypeVar("T")
Drain = Callable[[], Awaitable[object]]


class Operations:
    """Those of this process; lives on one event loop."""

    def __init__(
        self, link: Partition, breaker: Breaker, deadline: float, probe: bytes
    ) -> None:
        """`probe` is a key that a probe may write to without changing it."""
        self.link = link
        self.breaker = breaker
        self.deadline = deadline
        self.drain: Drain | None = None
        """Sends what was kept while the breaker was open. An exception, or False:
        some of it was not sent."""
        self.granting: dict[bytes, asyncio.Task[None]] = {}
        """By token: what is under way and may give it a lease."""
        self._probe_key = probe
        self._tasks: set[asyncio.Task[Any]] = set()
        self._probe: asyncio.Task[None] | None = None
        self._mark = 0

    @property
    def under_way(self) -> int:
        return len(self._tasks)

    async def run(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        probing: bool = False,
        tokens: Sequence[bytes] = (),
    ) -> T:
        """What `work` answers, within the deadline. `probing`: the breaker may be
        open. `tokens` may be given leases by it."""
        ended: asyncio.Future[T | TierUnavailable] = (
            asyncio.get_running_loop().create_future()
        )

        def settle(result: T | TierUnavailable) -> None:
            if not ended.done():
                ended.set_result(result)

        operation = self.start(work, settle, probing=probing)
        for token in tokens:
            operation.grants(token)
        result = await ended
        if isinstance(result, TierUnavailable):
            raise result
        return result

    def start(
        self,
        work: Callable[[], Awaitable[T]],
        settle: Callable[[T | TierUnavailable], None],
        *,
        probing: bool = False,
    ) -> Operation:
        """Begin `work`; `settle` is told what it answers, or at the deadline why not.
        `TierUnavailable` if the breaker is open."""
        if not probing and not self.breaker.closed:
            self.probe_if_due()
            raise TierUnavailable("l2: its breaker is open")
        return Operation(self, work, settle)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """A task that `close` ends."""
        task = asyncio.get_running_loop().create_task(work, name="shmcache-l2")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Give what is under way a moment, then cut it."""
        if self._tasks:  # leases that are being given back
            await asyncio.wait(self._tasks, timeout=self.deadline)
        await cut(self._tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it may be that nobody waited for it

    # -- probes

    def probe_if_due(self) -> None:
        """Start a probe, if it is time for one and no process of the host makes it."""
        if self._probe is None and (mark := self.breaker.probe()):
            self._mark = mark
            self._probe = self.spawn(self._make_probe())

    async def _make_probe(self) -> None:
        good = False
        try:
            async with asyncio.timeout(self.deadline):
                (reply,) = await self.link.exchange(("PERSIST", self._probe_key))
            if isinstance(reply, Exception):
                raise reply
            if self.drain is not None:
                await self._send_kept(self.drain)
            good = True
        except Exception as error:
            log.debug("L2 is still away: %s", told(error))
        finally:
            self._probe = None
            if self.breaker.probed(self._mark, good):
                log.info("L2 is back")

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
    """One operation: its task, and its deadline."""

    __slots__ = ("_ends", "_home", "_settle", "_task", "_timer", "_tokens", "_work")

    def __init__(
        self,
        home: Operations,
        work: Callable[[], Awaitable[Any]],
        settle: Callable[[Any], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._home = home
        self._work = work
        self._settle = settle
        self._tokens: list[bytes] = []
        self._ends = loop.time() + home.deadline
        self._timer = loop.call_at(self._ends, self._late)
        self._task = home.spawn(self._run())
        self._task.add_done_callback(self._done)

    def grants(self, token: bytes) -> None:
        """It may give the token a lease: who abandons that waits until this ended."""
        self._tokens.append(token)
        self._home.granting[token] = self._task

    async def _run(self) -> None:
        home = self._home
        try:
            result = await self._work()
        except Exception as error:  # the library raises TypeError for a lost peer too
            if self._in_time():
                self._failed(told(error))
            failure = TierUnavailable(f"l2: {told(error)}")
            failure.__cause__ = error
            self._settle(failure)
        else:
            if self._in_time():
                home.breaker.succeeded()
            self._settle(result)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._timer.cancel()
        for token in self._tokens:
            self._home.granting.pop(token, None)
        if task.cancelled():  # it may be before it began
            self._settle(TierUnavailable("l2: the operation was cut"))

    def _in_time(self) -> bool:
        return asyncio.get_running_loop().time() < self._ends

    def _late(self) -> None:
        """At the deadline."""
        home, loop = self._home, asyncio.get_running_loop()
        if loop.time() - self._ends < home.deadline:  # else we were held up ourselves
            self._failed("no answer in time")
        self._settle(TierUnavailable(f"l2: no answer within {home.deadline:g} s"))
        self._timer = loop.call_later((PATIENCE - 1) * home.deadline, self._cut)

    def _cut(self) -> None:
        """Until it has ended: before Python 3.12 `asyncio.wait_for` may forget a
        cancellation."""
        self._task.cancel()
        self._timer = asyncio.get_running_loop().call_later(0.1, self._cut)

    def _failed(self, why: str) -> None:
        if self._home.breaker.failed():
            log.warning("L2 is left alone for a while: %s", why)


def told(error: BaseException) -> str:
    """What befell, for people."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
