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

Inside a compute
    1. A's compute asks for B, which is computed elsewhere.
    2. There, B's compute asks for A: each waits for the other.
    So a wait inside a compute, for another's flight, claim or lease, ends after the
    soft timeout (`NESTED_WAIT` where there is none). Then the caller computes for
    itself and stores nothing. A flight of its own that computes is not waited for in
    vain, and is not cut short. Where A is asked for inside A's own compute, that is
    told at once (`nesting.py`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from . import fill as fills
from . import nesting
from .claim import Claim, Held
from .compute import Compute, run, shared_error
from .errors import (
    CacheError,
    ComputeFailed,
    ComputeTimeout,
    Overloaded,
    ReentrantCompute,
)
from .fill import Terms
from .holder import Holder
from .job import (
    Home,
    Job,
    OnWait,
    Outcome,
    Until,
    WaitedTooLong,
    failures_in,
    found,
    nonce,
    patience,
    tags_of,
)
from .keys import error_key
from .l1 import FREED_ERROR, FREED_PASS, FREED_REFUSED
from .record import ERROR, FRESH, PASS, STALE, VALUE, Record

log = logging.getLogger("shmcache")

NESTED_WAIT = 5.0
"""Seconds; longer than a lease lives, so that a dead holder's work is taken over."""


class Flight:
    """One key's way from a miss to a fill. `answer` is set once."""

    def __init__(self, home: Home, job: Job) -> None:
        self.home = home
        self.job = job
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Outcome] = loop.create_future()
        self.answer.add_done_callback(_retrieved)
        self._stale: Outcome | None = None
        """L2's, for those who wait longer than the soft timeout, or in vain."""
        self._timer: asyncio.TimerHandle | None = None
        self._late = False
        # nobody waits for a refresh: it is inside of no compute
        context = nesting.outside() if job.refresh and not job.own else None
        self.task = loop.create_task(
            self._run(), name="shmcache-flight", context=context
        )

    @property
    def overtaken(self) -> bool:
        """Whether an invalidation came since the stamp."""
        raised = self.home.l1.table.highest(self.job.key, self.job.terms.tags)
        return raised > self.job.stamp

    async def _run(self) -> None:
        limit = 2 * self.home.config.hard_timeout
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(limit, self._too_late)
        try:
            self._resolve(await self._lead_or_wait())
        except asyncio.CancelledError:
            if self._late and self.task.uncancel() == 0:
                self._fail(ComputeTimeout(f"no answer within {limit:g} s"))
                return
            self._fail(CacheError("the cache was closed"))
            raise
        except WaitedTooLong:
            gave_up = Outcome(None, "l1", self.job.stamp, gave_up=True)
            self._resolve(self._standing() or gave_up)
        except Exception as e:
            self._fail(e)
        except BaseException as e:  # nobody waits for ever for what ended so
            self._fail(ComputeFailed(type(e).__name__, "the compute was ended by it"))
            raise
        finally:
            deadline.cancel()
            if self._timer is not None:
                self._timer.cancel()

    def _too_late(self) -> None:
        """What `asyncio.timeout` does, for a third of its price."""
        self._late = True
        self.task.cancel()

    def _resolve(self, outcome: Outcome) -> None:
        if not self.answer.done():
            self.answer.set_result(outcome)

    def _fail(self, error: Exception) -> None:
        if (stale := self._standing()) is not None:
            self._resolve(stale)
        elif not self.answer.done():
            self.answer.set_exception(error)

    def _standing(self) -> Outcome | None:
        """The stale answer, while its grace lasts."""
        if self._stale is None or self._stale.over(self.home.l1.clock.now()):
            return None
        return self._stale

    def _has_stale(self, outcome: Outcome) -> None:
        """L2 has a stale value: its callers wait for a fresh one no longer than they
        would for L1's."""
        self._stale = outcome
        if soft := self.home.config.soft_timeout:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(soft, self._waited_enough)
        else:
            self._resolve(outcome)

    def _waited_enough(self) -> None:
        if (stale := self._standing()) is not None:
            self._resolve(stale)

    # -- step 4: the claim

    async def _lead_or_wait(self) -> Outcome:
        refusals = 0
        while True:
            took = self.home.claims.take(self.job.key)
            if isinstance(took, Claim):
                holder = Holder(self.home, self.job, took, self._has_stale)
                outcome = await holder.run()
                if outcome is not None:
                    return outcome
                continue
            if self.job.on_wait is not None:
                self.job.on_wait(self.home.claims.slot_of(took))
            async with patience(self.job):
                ended = await self.home.claims.wait(took)
            self.job.stamp = self.home.l1.table.clock()
            if self.job.own:
                continue
            if (outcome := found(self.home.l1, self.job)) is not None:
                return outcome
            if ended == FREED_ERROR:
                self._raise_shared(took)
            refusals += ended == FREED_REFUSED
            if ended == FREED_PASS or refusals >= 2:
                record = await self.home.lookup.fresh(self.job.key)
                if record is None:
                    return Outcome(None, "l1", self.job.stamp)
                return Outcome(record, "l2", record.stamp)

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
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiters = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    async def resolve(
        self,
        key: bytes,
        compute: Compute,
        terms: Terms,
        until: Until = None,
        on_wait: OnWait = None,
    ) -> Outcome | None:
        """Steps 3 to 7: join or start the key's flight, and await its answer; None if
        `until` was done before it was there.

        `ReentrantCompute` inside the key's own compute; `Overloaded` above the caps.
        """
        if nesting.inside_of(self.home.l1, key):
            self.home.l1.count("reentrant")
            raise ReentrantCompute(f"the compute of {key!r} asks for {key!r} itself")
        self._check_cap("waiters_max", self._waiters)
        self._waiters += 1
        try:
            outcome = await self._resolved(key, compute, terms, until, on_wait)
        finally:
            self._waiters -= 1
        if outcome is None:
            return None
        if outcome.record is not None and outcome.record.kind == ERROR:
            raise shared_error(outcome.record.value)
        return outcome

    async def _resolved(
        self,
        key: bytes,
        compute: Compute,
        terms: Terms,
        until: Until,
        on_wait: OnWait,
    ) -> Outcome | None:
        l1 = self.home.l1
        note, ends, began = l1.table.clock(), self._ends(), l1.clock.now()
        while True:
            flight = self._flights.get(key)
            own = flight is None or flight.overtaken
            if flight is None or own:
                job = Job(
                    *(key, compute, terms, False, l1.table.clock(), None, ends),
                    on_wait=on_wait,
                )
                flight = self._launch(job)
            patience = None if own else ends
            outcome = await self._answer(flight, own, patience, until)
            if until is not None and until.done():
                return None
            if outcome is None or (own and outcome.gave_up):
                break
            if not outcome.gave_up:
                if outcome.record is None or (outcome.own_only and not own):
                    return await self._apart(key, compute, terms, until)
                lived = outcome.lived(began) or (own and outcome.source == "compute")
                if lived and self._answers(key, outcome, note):
                    outcome = self._as_it_stands(key, outcome, own)
                    if own:
                        return outcome
                    l1.count("coalesced")
                    return outcome._replace(source="flight")
            if not await self._done(flight.task, patience, until):
                if until is not None and until.done():
                    return None
                break
        l1.count("soft_timeouts")
        return await self._apart(key, compute, terms, until, store=False)

    async def _answer(
        self, flight: Flight, own: bool, ends: float | None, until: Until
    ) -> Outcome | None:
        """A flight's answer; None if it was not there in time."""
        if until is not None and ends is None:
            await _either(flight.answer, until)
            if not flight.answer.done():
                return None
        elif ends is not None and not await self._done(flight.answer, ends, until):
            return None
        try:
            return await asyncio.shield(flight.answer)
        except ReentrantCompute:
            if own or not flight.job.nested:
                raise
            # a cycle that its beginner is in; of ours we hear in a flight of our own
            return Outcome(None, "l1", flight.job.stamp, gave_up=True)

    @staticmethod
    async def _done(
        work: asyncio.Future[Any], ends: float | None, until: Until = None
    ) -> bool:
        """Wait for it; whether it was done by `ends`, and before `until`."""
        patience = None
        if ends is not None:
            patience = max(0.0, ends - asyncio.get_running_loop().time())
        await asyncio.wait(
            (work,) if until is None else (work, until),
            timeout=patience,
            return_when=asyncio.FIRST_COMPLETED,
        )
        return work.done()

    def _answers(self, key: bytes, outcome: Outcome, note: int) -> bool:
        """Whether a caller with this note may be told. A failure that was made stale
        is none any more; a stale answer may have been there for long."""
        record = outcome.record
        assert record is not None
        if outcome.over(self.home.l1.clock.now()):
            return False
        if note <= outcome.stamp:
            return True
        soft = record.kind != VALUE
        raised = self.home.l1.table.highest(key, record.tags, soft=soft)
        return raised <= outcome.stamp

    def _as_it_stands(self, key: bytes, outcome: Outcome, own: bool) -> Outcome:
        """Stale, if it was expired since it was begun, or found to be fresh by a
        process that was then stopped until it was not; who joined has found what the
        flight's own caller computed."""
        record = outcome.record
        assert record is not None
        if record.state != FRESH:
            return outcome
        found = outcome.source != "compute" or not own
        over = found and self.home.l1.clock.now() >= record.fresh_until
        raised = self.home.l1.table.highest(key, record.tags, soft=True)
        if not over and raised <= outcome.stamp:
            return outcome
        return outcome._replace(record=record._replace(state=STALE))

    def refresh(
        self, key: bytes, compute: Compute, terms: Terms, seen: Record | None = None
    ) -> Flight | None:
        """See that a background refresh of the key runs: the one under way, or a new
        one; None if one failed a moment ago, or there are too many. `seen`: the fresh
        record that chance says to refresh early."""
        flight = self._flights.get(key)
        if flight is not None or self._backs_off(key):
            return flight
        if len(self._tasks) >= self.home.config.flights_max:
            self.home.l1.count("overloaded")
            return None
        note = self.home.l1.table.clock()
        flight = self._launch(Job(key, compute, terms, True, note, seen))
        flight.answer.add_done_callback(_log_failure)
        return flight

    async def refreshed(
        self, key: bytes, compute: Compute, terms: Terms
    ) -> Outcome | None:
        """As `refresh`; what it answers within the soft timeout, None if nothing."""
        soft, note = self.home.config.soft_timeout, self.home.l1.table.clock()
        flight = self.refresh(key, compute, terms)
        if flight is None or not soft or nesting.inside_of(self.home.l1, key):
            return None
        if self._waiters >= self.home.config.waiters_max:
            return None
        self._waiters += 1
        try:
            done, _ = await asyncio.wait((flight.answer,), timeout=soft)
        finally:
            self._waiters -= 1
        if not done:
            self.home.l1.count("soft_timeouts")
            return None
        if flight.answer.cancelled() or flight.answer.exception() is not None:
            return None
        outcome, own = flight.answer.result(), flight.job.compute is compute
        if outcome.record is None or (outcome.own_only and not own):
            return None
        fresh = (outcome.record.kind, outcome.record.state) == (VALUE, FRESH)
        return outcome if fresh and self._answers(key, outcome, note) else None

    async def recomputed(self, key: bytes, compute: Compute, terms: Terms) -> Outcome:
        """What this very compute makes now, in the place of whatever stands; others'
        flights of the key are waited for, and are no answer."""
        l1 = self.home.l1
        if nesting.inside_of(l1, key):
            l1.count("reentrant")
            raise ReentrantCompute(f"the compute of {key!r} asks for {key!r} itself")
        ends = self._ends()
        while (flight := self._flights.get(key)) is not None:
            if not await self._done(flight.task, ends):
                l1.count("soft_timeouts")
                return await self._alone(key, compute, terms, store=False)
        job = Job(key, compute, terms, True, l1.table.clock(), None, ends, own=True)
        flight = self._launch(job)
        outcome = await asyncio.shield(flight.answer)
        if outcome.record is None:  # it waited in vain, inside a compute
            return await self._alone(key, compute, terms, store=False)
        return outcome

    async def close(self) -> None:
        """Cancel what still flies; its callers get `CacheError`."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _launch(self, job: Job) -> Flight:
        if self._closed:
            raise CacheError("the cache is closed")
        self._check_cap("flights_max", len(self._tasks))
        flight = Flight(self.home, job)
        self._flights[job.key] = flight
        self._tasks.add(flight.task)
        flight.task.add_done_callback(lambda _: self._landed(flight))
        return flight

    def _landed(self, flight: Flight) -> None:
        self._tasks.discard(flight.task)
        if self._flights.get(flight.job.key) is flight:  # not its successor
            del self._flights[flight.job.key]

    def _check_cap(self, setting: str, now: int) -> None:
        cap = getattr(self.home.config, setting)
        if now >= cap:
            self.home.l1.count("overloaded")
            raise Overloaded(f"{setting}={cap}: as many are under way")

    def _ends(self) -> float | None:
        """Loop time at which a caller waits no longer for others; None: it does."""
        if not nesting.inside_any():
            return None
        soft = self.home.config.soft_timeout or NESTED_WAIT
        return asyncio.get_running_loop().time() + soft

    def _backs_off(self, key: bytes) -> bool:
        """Whether the key's compute failed on this host so lately that a refresh had
        better wait."""
        mark = self.home.l1.look(error_key(key))
        if mark is None or mark.state != FRESH:
            return False
        return failures_in(self.home.l1, key) > 0

    async def _apart(
        self,
        key: bytes,
        compute: Compute,
        terms: Terms,
        until: Until,
        *,
        store: bool = True,
    ) -> Outcome | None:
        """As `_alone`; who waits only `until` leaves the rest to a task."""
        work = self._alone(key, compute, terms, store=store)
        if until is None:
            return await work
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_retrieved)
        try:
            await _either(task, until)
        except asyncio.CancelledError:
            task.cancel()
            raise
        return None if until.done() else task.result()

    async def _alone(
        self, key: bytes, compute: Compute, terms: Terms, *, store: bool = True
    ) -> Outcome:
        """Compute for this caller: after `pass`, where an answer that may be shared
        after all removes the mark; or after a wait that was in vain."""
        home, l1 = self.home, self.home.l1
        stamp = l1.table.clock()
        limit = home.config.hard_timeout
        fill = fills.wrap(await run(l1, key, compute, limit))
        lives = fills.life(fill, terms)
        record = fills.to_record(
            fill,
            lives,
            home.codec,
            now=l1.clock.now(),
            stamp=stamp,
            nonce=nonce(),
            tags=tags_of(fill, terms),
        )
        if store and fill.shareable and lives.stored:
            mark = l1.look(key)
            if mark is not None and mark.kind == PASS:
                await home.forget(key)
        return Outcome(record, "compute", stamp, own_only=True)


def _log_failure(answer: asyncio.Future[Outcome]) -> None:
    error = None if answer.cancelled() else answer.exception()
    if error is not None:
        log.info("refresh failed: %s: %s", type(error).__name__, error)


async def _either(one: asyncio.Future[Any], other: asyncio.Future[Any]) -> None:
    """Wait until one of the two is done."""
    if one.done() or other.done():
        return
    waiter = asyncio.get_running_loop().create_future()

    def over(_: asyncio.Future[Any]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    one.add_done_callback(over)
    other.add_done_callback(over)
    try:
        await waiter
    finally:
        one.remove_done_callback(over)
        other.remove_done_callback(over)


def _retrieved(answer: asyncio.Future[Outcome]) -> None:
    """A failure that no caller is left to hear is none to complain of."""
    if not answer.cancelled():
        answer.exception()
