"""Gates: a vendor's budget and breaker before each call of it.

Nobody waits in a gate. Who may not pass is told until when.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from shmcache import CacheError
from shmcache_server.breakers import Attempt, Breaker
from shmcache_server.limits import Budget, Grant, Limits

from .answers import Unasked, Unusable
from .settings import Vendor

Sending = Callable[[int], Awaitable[None]]
"""Awaited before a call of that cost is sent; raises `Unasked` where it may not be."""


class Gate:
    """Of one vendor."""

    def __init__(self, budget: Budget, breaker: Breaker) -> None:
        self.budget = budget
        self.breaker = breaker
        self.neighbours: tuple[Budget, ...] = ()
        """Budgets of the same address: who bans, bans it."""

    @asynccontextmanager
    async def passing(self, cost: int) -> AsyncIterator[Sending]:
        """Calls of that cost are made within. What they raise as `Unusable` is a
        failure of the vendor, and its time to be asked again is heeded; anything else
        decides nothing. Before each is sent, what this gives is called with its cost:
        a late one takes another grant."""
        if self.breaker.state == "open":  # before anything is taken from the budget
            raise self._shut(self.breaker.open_until - time.monotonic())
        grant = await self._granted(cost)
        attempt = await self.breaker.attempt()
        if not attempt.allowed:
            raise self._shut(attempt.wait)

        async def sending(cost: int) -> None:
            if grant.late:
                await self._granted(cost)

        try:
            yield sending
        except BaseException as e:
            await self._ended(attempt, e)
            raise
        await self.breaker.succeeded(attempt)

    async def _ended(self, attempt: Attempt, error: BaseException) -> None:
        if isinstance(error, Unusable) and not isinstance(error, Unasked):
            await self._refused(error)
            await self.breaker.failed(attempt)
            return
        with suppress(CacheError):  # it may be closed by now
            await self.breaker.left(attempt)

    async def _granted(self, cost: int) -> Grant:
        grant = await self.budget.take(cost)
        if not grant.granted:
            raise Unasked("over budget", until=time.time() + grant.wait)
        return grant

    @staticmethod
    def _shut(seconds: float) -> Unasked:
        return Unasked("left alone after failures", until=time.time() + seconds)

    async def _refused(self, error: Unusable) -> None:
        seconds = 0.0 if error.until is None else error.until - time.time()
        if seconds <= 0:
            return
        if error.banned:
            await self.breaker.open_for(seconds)
        for budget in (self.budget, *(self.neighbours if error.banned else ())):
            await budget.block(seconds)


def gates(limits: Limits, vendors: Mapping[str, Vendor]) -> dict[str, Gate]:
    """One for each vendor."""
    made = {}
    for name, row in vendors.items():
        breaker = limits.breaker(
            name,
            failures=row.failures,
            successes=row.successes,
            seconds=row.open_seconds,
        )
        made[name] = Gate(limits.budget(name, row.calls, row.seconds), breaker)
    urls = {name: row.url.rstrip("/") for name, row in vendors.items()}
    for name, gate in made.items():
        gate.neighbours = tuple(
            other.budget
            for near, other in made.items()
            if near != name and urls[near] == urls[name]
        )
    return made
