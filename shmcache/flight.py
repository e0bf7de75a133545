"""Flight: one computation per key in this process; latecomers share its result.

A flight carries a miss through steps 3 to 7 of *How a get works*: it is one task,
which takes the host's claim and becomes its holder, or waits for who has it. Callers
only await its answer, so a caller that is cancelled leaves and the others still get
the value.

Who may be answered
    1. A caller reads the invalidation clock when it joins: its note.
    2. The flight reads it after it took the claim, and again before each ask: its
       stamp. What it finds or computes is at least as new as the stamp.
    3. A delete that returned before 1 may have come after 2.
    So a caller whose note is above the stamp is answered only if nothing that the
    value bears was raised since the stamp; otherwise it looks again. A caller that
    joins a flight already overtaken by an invalidation starts its successor at once.
"""

from __future__ import annotations

import asyncio
import logging
import os

from . import fill as fills
from . import policy
from .claim import Claim, Held
from .errors import CacheError, ComputeTimeout
from .fill import Terms
from .holder import (
    Compute,
    Holder,
    Home,
    Job,
    Outcome,
    found,
    from_l2,
    run,
    shared_error,
)
from .keys import error_key
from .l1 import FREED_ERROR, FREED_PASS, FREED_REFUSED
from .policy import SECOND
from .record import ERROR, PASS

log = logging.getLogger("shmcache")

_BACKOFFS_MAX = 10_000


class Flight:
    """One key's way from a miss to a fill. `answer` is set once."""

    def __init__(
        self, home: Home, key: bytes, compute: Compute, terms: Terms, refresh: bool
    ) -> None:
        self.home = home
        self.job = Job(key, compute, terms, refresh, home.l1.table.clock())
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Outcome] = loop.create_future()
        self.answer.add_done_callback(_retrieved)
        self.task = loop.create_task(self._run(), name="shmcache-flight")

    @property
    def overtaken(self) -> bool:
        """Whether an invalidation came since the stamp."""
        raised = self.home.l1.table.highest(self.job.key, self.job.terms.tags)
        return raised > self.job.stamp

    async def _run(self) -> None:
        limit = 2 * self.home.config.hard_timeout
        try:
            async with asyncio.timeout(limit) as timer:
                self._resolve(await self._lead_or_wait())
        except asyncio.CancelledError:
            self._fail(CacheError("the cache was closed"))
            raise
        except TimeoutError as e:
            late = ComputeTimeout(f"no answer within {limit:g} s")
            self._fail(late if timer.expired() else e)
        except Exception as e:
            self._fail(e)

    def _resolve(self, outcome: Outcome) -> None:
        if not self.answer.done():
            self.answer.set_result(outcome)

    def _fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    # -- step 4: the claim

    async def _lead_or_wait(self) -> Outcome:
        refusals = 0
        while True:
            took = self.home.claims.take(self.job.key)
            if isinstance(took, Claim):
                holder = Holder(self.home, self.job, took, self._resolve)
                outcome = await holder.run()
                if outcome is not None:
                    return outcome
                continue
            ended = await self.home.claims.wait(took)
            self.job.stamp = self.home.l1.table.clock()
            if (outcome := found(self.home.l1, self.job)) is not None:
                return outcome
            if ended == FREED_ERROR:
                self._raise_shared(took)
            refusals += ended == FREED_REFUSED
            if ended == FREED_PASS or refusals >= 2:
                outcome = await from_l2(self.home, self.job)
                return outcome or Outcome(None, "l1", self.job.stamp)

    def _raise_shared(self, held: Held) -> None:
        """The failure of the holder that we waited for, if it was left for us."""
        record = self.home.l1.look(error_key(self.job.key))
        if record is not None and record.kind == ERROR and record.nonce == held.word:
            raise shared_error(record.value)


class Flights:
    """This process' flights, by key."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._flights: dict[bytes, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._backoff: dict[bytes, tuple[int, int]] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    async def resolve(self, key: bytes, compute: Compute, terms: Terms) -> Outcome:
        """Steps 3 to 7: join or start the key's flight, and await its answer."""
        table = self.home.l1.table
        note = table.clock()
        while True:
            flight = self._flights.get(key)
            own = flight is None or flight.overtaken
            if flight is None or own:
                flight = self._launch(key, compute, terms)
            outcome = await asyncio.shield(flight.answer)
            if outcome.record is None or (outcome.own_only and not own):
                return await self._alone(key, compute, terms)
            if note <= outcome.stamp or (
                table.highest(key, outcome.record.tags) <= outcome.stamp
            ):
                if own:
                    return outcome
                self.home.l1.count("coalesced")
                return outcome._replace(source="flight")
            await asyncio.wait((flight.task,))

    def refresh(self, key: bytes, compute: Compute, terms: Terms) -> None:
        """Start one background refresh, unless one runs or failed a moment ago."""
        if key in self._flights:
            return
        failures, not_before = self._backoff.get(key, (0, 0))
        if self.home.l1.clock.now() < not_before:
            return
        flight = self._launch(key, compute, terms, refresh=True)
        flight.answer.add_done_callback(
            lambda answer: self._refreshed(key, failures, answer)
        )

    async def close(self) -> None:
        """Cancel what still flies; its callers get `CacheError`."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _launch(
        self, key: bytes, compute: Compute, terms: Terms, refresh: bool = False
    ) -> Flight:
        if self._closed:
            raise CacheError("the cache is closed")
        flight = Flight(self.home, key, compute, terms, refresh)
        self._flights[key] = flight
        self._tasks.add(flight.task)
        flight.task.add_done_callback(lambda _: self._landed(flight))
        return flight

    def _landed(self, flight: Flight) -> None:
        self._tasks.discard(flight.task)
        if self._flights.get(flight.job.key) is flight:  # not its successor
            del self._flights[flight.job.key]

    def _refreshed(
        self, key: bytes, failures: int, answer: asyncio.Future[Outcome]
    ) -> None:
        self._backoff.pop(key, None)
        error = None if answer.cancelled() else answer.exception()
        if error is not None:
            log.info("refresh failed: %s: %s", type(error).__name__, error)
        elif answer.cancelled() or answer.result().stored:
            return  # else the stale record stands: each hit would start the next
        delay = policy.retry_delay(failures + 1)
        while len(self._backoff) >= _BACKOFFS_MAX:
            del self._backoff[next(iter(self._backoff))]
        not_before = self.home.l1.clock.now() + int(delay * SECOND)
        self._backoff[key] = (failures + 1, not_before)

    async def _alone(self, key: bytes, compute: Compute, terms: Terms) -> Outcome:
        """After `pass`: compute for this caller; an answer that may be shared after
        all removes the mark."""
        l1 = self.home.l1
        stamp = l1.table.clock()
        fill = fills.wrap(await run(self.home, compute))
        lives = fills.life(fill, terms)
        now = l1.clock.now()
        nonce = int.from_bytes(os.urandom(8), "little")
        record = fills.to_record(
            fill, lives, self.home.codec, now=now, stamp=stamp, nonce=nonce
        )
        if fill.shareable and lives.stored:
            mark = l1.look(key)
            if mark is not None and mark.kind == PASS:
                await self.home.forget(key)
        return Outcome(record, "compute", stamp, own_only=True)


def _retrieved(answer: asyncio.Future[Outcome]) -> None:
    """A failure that no caller is left to hear is none to complain of."""
    if not answer.cancelled():
        answer.exception()
