"""Holder: who has the host's claim asks L2, computes and fills (steps 5 to 7).

Who may write
    The record goes to L2 under the lease's token, then to L1 under the claim's word,
    each checked where it is stored. A refused store still answers its callers.

How a claim ends, for those who wait on the host
    stored: they look again and hit. error: the words of the failure lie in L1 for a
    second, and only who waited on this very claim word takes them. pass: the answer
    may not be shared, or cannot be stored; each computes for itself, at once.
    refused: they look again; the second time they go as after pass.
    A failure that its caller named as an answer is stored in place of a value, and ends
    the claim as one.

Early refresh
    Chance says when (`policy.due_early`), the lease who: it is asked for although the
    value is fresh. Where L2 has a younger one by now, that is promoted and the lease
    given back. A host without the lease waits, in the background, and promotes.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable

from . import fill as fills
from . import policy
from .claim import Claim
from .compute import run, shared_error, words_of
from .errors import CacheError, ReentrantCompute, TierUnavailable
from .fill import Life
from .job import (
    Home,
    Job,
    Outcome,
    WaitedTooLong,
    failures_in,
    found,
    nonce,
    patience,
    tags_of,
)
from .keys import error_key
from .l1 import (
    FREED,
    FREED_ERROR,
    FREED_PASS,
    FREED_REFUSED,
    FREED_STORED,
    LOST,
    OK,
    RAISED,
    STANDS,
    TOO_LARGE,
)
from .l2 import FULL as L2_FULL
from .l2 import NONE, STORED, WON
from .lease import Lease
from .policy import SECOND
from .record import ERROR, FRESH, PASS, VALUE, Record

SLOW_AFTER = 0.2
"""Seconds after which a compute is a slow one: should its process die, the key must be
known to whoever gives its lease back; and its lease may be lost."""


class _ClaimLost(Exception):
    """Somebody took our claim over: look again."""


class Holder:
    """Carries one job through under one claim."""

    def __init__(
        self, home: Home, job: Job, claim: Claim, early: Callable[[Outcome], None]
    ) -> None:
        self.home = home
        self.job = job
        self.claim = claim
        self._early = early
        """Told a stale L2 record while the job goes on as a refresh."""
        self._offered = b""
        """Token of the lease that we have, or may have been granted."""
        self._slow: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stood = 0
        """The nonce of what stood in L1 when L2 was asked last; 0: nothing did."""
        self._stored_error = False
        """The failure stands in place of the key's value."""

    async def run(self) -> Outcome | None:
        """The outcome, the claim freed; None: look again from the start."""
        lease: Lease | None = None
        ended = FREED
        try:
            self._note()
            if (outcome := found(self.home.l1, self.job)) is not None:
                return outcome
            asked = await self._ask()
            if isinstance(asked, Outcome):
                ended = FREED_STORED if asked.stored else FREED_PASS
                return asked
            lease = asked
            if lease is not None:
                self._slow = asyncio.get_running_loop().call_later(
                    SLOW_AFTER, self._is_slow, lease
                )
            outcome, ended = await self._compute_and_fill(lease)
            if self.job.refresh:
                self._refreshed(outcome, ended)
            return outcome
        except _ClaimLost:
            return None
        except asyncio.CancelledError:
            # The cache is closing, or it took too long: nobody shall wait for the
            # end of a lease that nobody holds.
            if lease is not None:
                self._abandon_later(lease.token)
            raise
        except WaitedTooLong:
            raise
        except Exception as e:
            ended = FREED_STORED if self._stored_error else FREED_ERROR
            if isinstance(e, ReentrantCompute) and self.job.nested:
                ended = FREED  # a cycle that those who wait may not be in
                if lease is not None:
                    self._abandon_later(lease.token)
            elif not self._stored_error:
                self._leave_error(lease, e)
            raise
        finally:
            for work in (self._slow, self._watch):
                if work is not None:
                    work.cancel()
            if lease is not None:
                lease.stop()
            else:  # an ask without an answer may be granted late: so at the end
                self._abandon_later(self._offered)
            self.home.claims.free(self.claim, ended)

    def _note(self, token: bytes = b"") -> bool:
        """Note the clock anew, in the claim too; False if the claim is lost."""
        l1 = self.home.l1
        self.job.stamp = l1.table.clock()
        deadline = l1.clock.now() + int(self.home.config.hard_timeout * SECOND)
        return self.home.claims.note(self.claim, self.job.stamp, deadline, token)

    def _is_slow(self, lease: Lease) -> None:
        self.home.claims.name(self.claim)
        work = self._end_with(lease)
        loop = asyncio.get_running_loop()
        self._watch = loop.create_task(work, name="shmcache-lease-watch")

    async def _end_with(self, lease: Lease) -> None:
        """Give the claim up with a lease that was lost: who waits for it asks L2 now,
        not when our compute ends, whose store is refused. While L2 is away the claim
        alone decides, and is kept."""
        await lease.lost.wait()
        l2 = self.home.l2
        if l2 is not None and l2.up(l2.partition(self.job.key)):
            self.home.claims.free(self.claim, FREED_REFUSED)

    # -- step 5: value or lease

    async def _ask(self) -> Outcome | Lease | None:
        """L2's value, or the lease; None where L2 cannot be asked."""
        l2, leases = self.home.l2, self.home.leases
        if l2 is None or leases is None:
            self._stood = self._standing()
            return None
        instead_of, waited = self.claim.instead_of, b""
        early = self.job.seen is not None or self.job.own
        while True:
            offer = os.urandom(16)
            if not self._note(offer):
                raise _ClaimLost
            self._offered, lowest = offer, self.home.l1.lowest()
            self._stood = self._standing()
            try:
                answer = await l2.acquire(
                    self.job.key,
                    offer=offer,
                    instead_of=instead_of,
                    early=early,
                    channel=leases.channel,
                    waited=waited,
                )
            except TierUnavailable:
                self.home.l1.count("l2_errors")
                return None
            self._offered = offer if answer.lease == WON else b""
            instead_of, early = b"", self.job.own
            if answer.record is not None and not self.job.own:
                ended, early = await self._judge(answer.record, answer.lease, lowest)
                if ended is not None:
                    return ended
                if answer.lease == NONE:
                    continue  # not to be used: ask again
            if answer.lease == WON:
                self.home.l1.count("leases_won")
                return leases.hold(self.job.key, offer, answer.clock)
            if answer.error:
                raise shared_error(answer.error)
            waited = b"" if self.job.own else answer.holder
            self.home.l1.count("leases_waited")
            async with patience(self.job):
                await leases.wait(self.job.key, answer.wait_ms)

    async def _judge(
        self, record: Record, lease: int, lowest: int
    ) -> tuple[Outcome | None, bool]:
        """What becomes of a record of L2: the flight's outcome, or None and whether to
        ask for the lease although the value is fresh."""
        if not self.home.l1.usable(self.job.key, record.tags, lowest):
            return None, True
        if self._known(record):
            if lease != NONE:
                return None, False
            return self._outcome(record), False
        return await self._promote(record), False

    def _outcome(self, record: Record) -> Outcome:
        stamp = self.job.stamp
        return Outcome(record._replace(stamp=stamp), "l2", stamp)

    def _known(self, record: Record) -> bool:
        """Whether it is no younger than the one to be refreshed early."""
        seen = self.job.seen
        return seen is not None and (
            record.nonce == seen.nonce or record.birth <= seen.birth
        )

    async def _promote(self, found: Record) -> Outcome | None:
        """Copy an L2 record into L1; None if it does not end the flight."""
        record = found._replace(stamp=self.job.stamp)
        stored = await self._store(record, self._stood)
        if stored in (LOST, STANDS):
            raise _ClaimLost
        if stored == RAISED:
            return None
        if record.kind == PASS:
            return Outcome(None, "l2", self.job.stamp)
        if stored == OK:
            self._stood = record.nonce
            self.home.l1.count("promotions")
        outcome = Outcome(record, "l2", self.job.stamp, stored=stored != TOO_LARGE)
        if record.state == FRESH:
            return outcome
        if record.kind != VALUE:
            return None
        self._early(outcome)  # stale: its callers go, the flight becomes a refresh
        return None

    # -- step 6: compute; step 7: fill

    async def _compute_and_fill(self, lease: Lease | None) -> tuple[Outcome, int]:
        l1, terms = self.home.l1, self.job.terms
        if self.job.refresh:
            l1.count("refreshes")
            l1.count("early_refreshes", self.job.seen is not None)
        began = l1.clock.now()
        try:
            limit = self.home.config.hard_timeout
            fill = fills.wrap(await run(l1, self.job.key, self.job.compute, limit))
        except terms.errors as e:
            await self._fill_error(lease, e)
            raise
        now = l1.clock.now()
        lives = fills.life(fill, terms)
        if lives.ttl is not None and self.home.config.jitter:
            shorter = policy.jittered(
                lives.ttl, self.home.config.jitter, random.random()
            )
            lives = Life(shorter, lives.grace)
        record = fills.to_record(
            fill,
            lives,
            self.home.codec,
            now=now,
            stamp=self.job.stamp,
            nonce=nonce(),
            fill_us=(now - began) // 1000,
            tags=tags_of(fill, terms),
        )
        outcome = Outcome(
            record, "compute", self.job.stamp, not fill.shareable, stored=False
        )
        if not fill.shareable:
            l1.count("passed")
            mark = fills.pass_mark(now=now, stamp=self.job.stamp, nonce=nonce())
            await self._fill(lease, mark)
            return outcome, FREED_PASS
        if not lives.stored:
            if lease is not None:
                self._abandon_later(lease.token)
            return outcome, FREED_PASS
        ended = await self._fill(lease, record)
        return outcome._replace(stored=ended == FREED_STORED), ended

    async def _fill_error(self, lease: Lease | None, error: Exception) -> None:
        """Store a failure that is an answer, in place of the key's value."""
        l1, terms = self.home.l1, self.job.terms
        if terms.error_ttl == 0:
            return
        record = fills.error_record(
            words_of(error),
            terms,
            now=l1.clock.now(),
            stamp=self.job.stamp,
            nonce=nonce(),
        )
        if await self._fill(lease, record) == FREED_STORED:
            self._stored_error = True
            l1.count("errors_stored")

    async def _fill(self, lease: Lease | None, record: Record) -> int:
        """Store in L2 under the lease, then in L1; how the claim ends."""
        l1, stood = self.home.l1, self._stood
        if lease is not None and self.home.l2 is not None:
            standing = self._standing()
            try:
                answer = await self.home.l2.put_fenced(
                    self.job.key, lease.token, record, lease.clock
                )
            except TierUnavailable:
                l1.count("l2_errors")
            else:
                stood = standing
                if answer == L2_FULL:
                    l1.count("fills_full")
                elif answer != STORED:
                    l1.count("fills_refused")
                    return FREED_REFUSED
        stored = await self._store(record, stood)
        if stored == OK:
            return FREED_STORED
        if stored in (LOST, RAISED, STANDS):
            l1.count("fills_refused")
            return FREED_REFUSED
        l1.count("fills_full")
        return FREED_PASS

    def _standing(self) -> int:
        if self.home.l2 is None:
            return 0  # it is the claim that tells
        return self.home.l1.standing(self.job.key)

    async def _store(self, record: Record, stood: int) -> int:
        """Into L1, if the claim is still ours, in the place of what `stood` there
        before L2 was sent what it answered to, and of nothing that came since:

        1. We fill, and L2 stores it; we have not read its answer. 2. Another host sets
        the key. 3. A sibling reads the set's value, and promotes it. 4. We read the
        answer, and would store over what is younger.

        So too where 1 is an ask that L2 answered by a value. Where it did not answer to
        the fill, our lease may be gone since it was granted: then what stood when we
        asked for it is all that we may replace.
        """
        claim, l1 = self.claim.ref, self.home.l1
        if self.home.l2 is None:
            return await l1.put_patiently(
                self.job.key, record, claim=claim, newer_only=claim is None
            )
        stored = await l1.put_patiently(
            self.job.key, record, claim=claim, absent_only=not stood, if_nonce=stood
        )
        if stored == STANDS and self._standing() == record.nonce:
            return OK  # a sibling promoted it
        return stored

    # -- failure

    def _leave_error(self, lease: Lease | None, error: Exception) -> None:
        """Hand the failure to those who waited for it, here and on other hosts."""
        words = words_of(error)
        self._mark_failed(words, self.claim.word if self.claim.index >= 0 else 0)
        if lease is not None:
            self._abandon_later(lease.token, words)

    def _refreshed(self, outcome: Outcome, ended: int) -> None:
        """A refresh that stored nothing counts as failed: the stale record stands, and
        each hit would start the next. One that was refused was overtaken: by an
        invalidation, after which the next begins at once, or by who has the lease."""
        if outcome.stored or ended == FREED_REFUSED:
            self.home.l1.table.drop(error_key(self.job.key))
        else:
            self._mark_failed(words_of(CacheError("its refresh stored nothing")), 0)

    def _mark_failed(self, words: bytes, word: int) -> None:
        """Leave a failure on this host: to those who waited on the claim `word`, and
        to those who would try again."""
        l1, key = self.home.l1, error_key(self.job.key)
        failures = failures_in(l1, self.job.key) + 1
        mark = fills.mark(
            ERROR,
            words,
            policy.retry_delay(failures),
            now=l1.clock.now(),
            stamp=l1.table.clock(),
        )
        l1.put(key, mark._replace(nonce=word, fill_us=failures))

    def _abandon_later(self, token: bytes, words: bytes = b"") -> None:
        """Free a lease without waiting for the answer; it expires by itself else."""
        if self.home.l2 is not None and token:
            self.home.l2.abandon_later(self.job.key, token, words)
