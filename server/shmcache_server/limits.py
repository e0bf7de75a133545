"""Limits: budgets of calls to an origin or vendor, shared by all workers and hosts.

At most so many calls in any window, as counted by who is called. Nobody sleeps here:
a call is granted, or the caller is told how long there is none.

On its way
    A call arrives later than it was granted: so it must begin within half a `lag` of
    the question (`Grant.until`; else take another grant), has the other half for the
    way, and windows are longer by a lag.

Who decides
    1. What the host's ledger (`ledger.py`) refuses is refused: nobody else is asked.
    2. The fleet's tally in Redis (`tally.py`) decides, and the ledger notes it. Killed
       in between: the grant is used up in the tally, and nobody's.
    3. Without Redis the ledger decides, by compare and set: of two workers that take
       the last call one finds the record changed, and looks again.
    4. Redis away, or forgetful: a host keeps to its share (`allowance.py`). A question
       without an answer counts as granted. Nobody asks then but one worker of the
       host, once a second: a dead Redis costs the others nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from shmcache import Cache, TierUnavailable

from . import allowance
from .allowance import SECOND, Calls, State, Terms, Told
from .breakers import Breaker
from .ledger import Ledger

if TYPE_CHECKING:
    from .tally import Tally

log = logging.getLogger("shmcache")
T = TypeVar("T")

BEAT = 1.0
"""Seconds between two looks of a host at the tally."""
LAG, LAG_SHARE = 1.0, 0.1
"""Seconds that a call may be on its way, at most this share of the window."""
_CONTENDED = 0.1
"""Seconds; the ledger is changed in microseconds."""


class Grant(NamedTuple):
    """Of calls, or for how long there are none."""

    wait: float
    """Seconds until that many calls may be had, as far as is known; 0.0: granted."""
    until: float
    """By `time.monotonic`, when the call must have begun."""

    @property
    def granted(self) -> bool:
        return self.wait == 0

    @property
    def late(self) -> bool:
        """Whether it is too late to begin the call: it may be counted in a window that
        has no room for it."""
        return time.monotonic() > self.until


class Standing(NamedTuple):
    """How a budget stands."""

    calls: int
    used: int
    left: int
    blocked: float
    """Seconds for which it is blocked; 0.0: it is not."""
    wait: float
    """Seconds until a call may be had; 0.0: now."""
    fleet: bool
    """Whether it is told of the fleet. False: of this host, which keeps to a share of
    the budget where there is a fleet."""


class Budget:
    """At most `calls` in any window of `seconds`."""

    def __init__(
        self, name: str, calls: int, seconds: float, ledger: Ledger, tally: Tally | None
    ) -> None:
        self.name = name
        self.calls = calls
        self._lag = min(LAG, seconds * LAG_SHARE)
        span = round((seconds + self._lag) * SECOND)
        self._terms = Terms(calls, span)
        self._key = f"budget:{name}"
        self._ledger = ledger
        self._tally = tally
        self._turn = asyncio.Lock()
        """One question at a time: who comes behind a refusal need not ask."""

    async def take(self, cost: int = 1) -> Grant:
        """A grant of calls, at once, or how long there is none. `ValueError` for more
        than the budget has."""
        if not 0 < cost <= self.calls:
            raise ValueError(f"cost={cost!r}: expected 1 to {self.calls}")
        try:
            if self._tally is None:
                return await self._alone(cost)
            if wait := self._wait(cost):
                return _refused(wait)
            async with self._turn:
                return await self._of_the_fleet(cost)
        except TierUnavailable:  # the ledger's: what was granted meanwhile is lost
            return Grant(_CONTENDED, 0.0)

    async def standing(self) -> Standing:
        """How it stands, in the fleet where that can be known."""
        if not self._state().away and (told := await self._ask()) is not None:
            terms, heard = self._terms, told
            await self._change(lambda s, now: allowance.heard(terms, s, now, heard))
            return Standing(
                calls=self.calls,
                used=told.used,
                left=max(0, self.calls - told.used),
                blocked=_seconds(told.blocked),
                wait=_seconds(told.none),
                fleet=True,
            )
        state, now = self._state(), _now()
        used = allowance.within(state.grants, now, self._terms.span)
        return Standing(
            calls=self.calls,
            used=used,
            left=max(0, self.calls - used),
            blocked=_seconds(max(0, state.blocked_until - now)),
            wait=_seconds(allowance.wait(self._terms, state, now, 1)),
            fleet=False,
        )

    async def block(self, seconds: float) -> None:
        """Grant nothing for so long, in the fleet: the vendor said so. While Redis is
        away other hosts hear of it when it is back."""
        span = round(seconds * SECOND)

        def blocked(state: State, now: int) -> State:
            until = max(state.blocked_until, now + span)
            return state._replace(blocked_until=until)

        state = await self._change(blocked)
        if not state.away:
            await self.beat()

    async def beat(self, hosts: int = 0) -> bool:
        """Look at the tally for the host, and tell it what was granted without it, and
        of a block; `hosts` is how many there are, 0 where that is not known. Whether
        it answered."""
        state, now = self._state(), _now()
        told = await self._ask(0, max(0, state.blocked_until - now), state.untold, now)
        if told is None:
            return False

        def found(state_now: State, now: int) -> State:
            here = allowance.found(self._terms, state_now, now, state.untold, hosts)
            return allowance.heard(self._terms, here, now, told)

        await self._change(found)
        if state.away:
            log.info("budget %s: Redis answers again", self.name)
        return True

    def wait(self) -> float:
        """Seconds until there may be a call, as far as this host knows."""
        return _seconds(self._wait(1))

    # -- inside

    async def _of_the_fleet(self, cost: int) -> Grant:
        state = self._state()
        if wait := allowance.wait(self._terms, state, _now(), cost):
            return _refused(wait)
        if state.away:
            return await self._alone(cost)
        begun = time.monotonic()
        told = await self._ask(cost)
        if told is None:
            return await self._alone(cost)
        wait = await self._noted(told, cost)
        return _refused(wait) if wait else Grant(0.0, begun + self._lag / 2)

    async def _noted(self, told: Told, cost: int) -> int:
        """Note the tally's answer. How long to wait, 0 for a grant."""
        terms = self._terms

        def step(old: State, now: int) -> tuple[State, int]:
            new = allowance.heard(terms, old, now, told)
            if not told.granted:
                return new, told.wait
            if new.lost_at:
                # 1. Redis forgets. 2. Two workers ask. 3. It grants both a call: only
                # what is within the share may be used.
                # Who notes first that none is left voids no grant of before.
                mine = new._replace(none_until=0)
                if wait := allowance.wait(terms, mine, now, cost):
                    return new, wait
            return allowance.granted(terms, new, now, cost), 0

        return await self._step(step)

    async def _alone(self, cost: int) -> Grant:
        """The host's own decision."""
        terms, begun = self._terms, time.monotonic()
        untold = self._tally is not None

        def step(state: State, now: int) -> tuple[State, int]:
            if wait := allowance.wait(terms, state, now, cost):
                return state, wait
            return allowance.granted(terms, state, now, cost, untold=untold), 0

        wait = await self._step(step)
        return _refused(wait) if wait else Grant(0.0, begun + self._lag / 2)

    async def _ask(
        self, cost: int = 0, block: int = 0, untold: Calls = (), now: int = 0
    ) -> Told | None:
        """What the tally answers. None, and it is noted, where it does not; None where
        there is none."""
        if self._tally is None:
            return None
        ages = [(now - at, n) for at, n in untold]
        try:
            return await self._tally.ask(self.name, self._terms, cost, block, ages)
        except TierUnavailable as e:

            def lost(state: State, now: int) -> tuple[State, bool]:
                return allowance.lost(self._terms, state, now, cost), state.away

            if not await self._step(lost):
                log.warning(
                    "budget %s: Redis does not answer (%s): this host keeps to its "
                    "share",
                    *(self.name, e),
                )
            return None

    def _wait(self, cost: int) -> int:
        return allowance.wait(self._terms, self._state(), _now(), cost)

    def _state(self) -> State:
        return self._read(self._ledger.look(self._key))

    def _read(self, record: Any) -> State:
        state = State() if record is None else State(*record)
        if self._tally is None and state.lost_at:  # there was one, before a restart
            return state._replace(away=False, lost_at=0)
        return state

    async def _change(self, step: Callable[[State, int], State]) -> State:
        def both(state: State, now: int) -> tuple[State, State]:
            new = step(state, now)
            return new, new

        return await self._step(both)

    async def _step(self, step: Callable[[State, int], tuple[State, T]]) -> T:
        """Change what the ledger has, and return what the step says beside it."""

        def change(record: Any) -> tuple[Any, T]:
            old = self._read(record)
            new, said = step(old, _now())
            return (record if new == old else list(new)), said

        return await self._ledger.change(self._key, change)


class Limits:
    """A worker's door to the budgets and breakers of its host and fleet."""

    def __init__(self, cache: Cache) -> None:
        """Beside the segment of `cache`, and in its Redis, if it has one."""
        config = cache.config
        self._cache = cache
        self._ledger = Ledger(config.name)
        self._tally: Tally | None = None
        if config.l2 is not None:
            from .tally import Tally  # its client takes a quarter of a second to load

            app = config.app or config.name
            self._tally = Tally(config.l2, app, config.l2_deadline)
        self._budgets: dict[str, Budget] = {}
        self._beats: asyncio.Task[None] | None = None

    def budget(self, name: str, calls: int, seconds: float) -> Budget:
        """The budget of that name: the same for all who give it."""
        made = Budget(name, calls, seconds, self._ledger, self._tally)
        self._budgets[name] = made
        if self._tally is not None and self._beats is None:
            self._beats = asyncio.get_running_loop().create_task(self._beat())
        return made

    def breaker(
        self, name: str, *, failures: int, successes: int, seconds: float
    ) -> Breaker:
        """The breaker of that name."""
        return Breaker(
            *(name, self._ledger, self._cache),
            failures=failures,
            successes=successes,
            seconds=seconds,
        )

    async def close(self) -> None:
        """Leave the ledger to others, and Redis."""
        while self._beats is not None and not self._beats.done():
            self._beats.cancel()  # the client forgets one that comes at a deadline
            await asyncio.wait((self._beats,), timeout=0.1)
        if self._tally is not None:
            await self._tally.close()
        await self._ledger.close()

    async def _beat(self) -> None:
        """One worker of the host looks at the tally of each budget, once a second."""
        while True:
            try:
                await self._look()
            except Exception as e:
                log.warning("limits: %s: %s", type(e).__name__, e)
            await asyncio.sleep(BEAT * random.uniform(0.9, 1.1))

    async def _look(self) -> None:
        # a turn for each: other workers, or applications, may not know of all of them
        due = [
            budget
            for name, budget in list(self._budgets.items())
            if await self._ledger.turn(f"beat:{name}", BEAT * 0.8)
        ]
        hosts = (await self._cache.confirmed(0)).hosts or 0 if due else 0
        for budget in due:
            await budget.beat(hosts)


def _now() -> int:
    return time.monotonic_ns() // 1000


def _seconds(span: int) -> float:
    return span / SECOND


def _refused(wait: int) -> Grant:
    return Grant(_seconds(wait), 0.0)
