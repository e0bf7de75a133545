"""Holder: who has the host's claim asks L2, computes and fills (steps 5 to 7).

Who may write
    The record goes to L2 under the lease's token, then to L1 under the claim's word,
    each checked where it is stored. A refused store still answers its callers.

How a claim ends, for those who wait on the host
    stored: they look again and hit. error: the words of the failure lie in L1 for a
    second, and only who waited on this very claim word takes them. pass: the answer
    may not be shared, or cannot be stored; each computes for itself, at once.
    refused: they look again; the second time they go as after pass.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import fill as fills
from . import policy
from .claim import Claim, Claims
from .codec import MSGPACK, Codec
from .config import CacheConfig
from .errors import CodecError, ComputeFailed, ComputeTimeout, TierUnavailable
from .fill import Life, Terms
from .keys import error_key
from .l1 import (
    FREED,
    FREED_ERROR,
    FREED_PASS,
    FREED_REFUSED,
    FREED_STORED,
    L1,
    LOST,
    OK,
    RAISED,
    TOO_LARGE,
)
from .l2 import FULL as L2_FULL
from .l2 import L2, NONE, STORED, WON
from .lease import Lease, Leases
from .policy import SECOND
from .record import ERROR, FRESH, PASS, STALE, VALUE, Record

Compute = Callable[[], Any]
"""Called without arguments; what it returns is awaited if it can be."""
ERROR_LIFE = 1.0


class _ClaimLost(Exception):
    """Somebody took our claim over: look again."""


class Outcome(NamedTuple):
    """A flight's result."""

    record: Record | None
    """None after `pass`: compute for yourself."""
    source: str
    """l1, l2 or compute."""
    stamp: int
    own_only: bool = False
    """For the caller that started the flight, nobody else."""
    stored: bool = True
    """L1 has it for those who look again."""


class Home(NamedTuple):
    """What flights work with."""

    config: CacheConfig
    l1: L1
    claims: Claims
    codec: Codec
    l2: L2 | None
    leases: Leases | None
    forget: Callable[[bytes], Awaitable[object]]
    """Delete a key, here and in the fleet."""


@dataclass(slots=True)
class Job:
    """A key to be filled: what for, on which terms, begun under which clock."""

    key: bytes
    compute: Compute
    terms: Terms
    refresh: bool
    stamp: int


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
            outcome, ended = await self._compute_and_fill(lease)
            return outcome
        except _ClaimLost:
            return None
        except asyncio.CancelledError:
            # The cache is closing, or it took too long: nobody shall wait for the
            # end of a lease that nobody holds.
            if lease is not None:
                self._abandon_later(lease.token)
            raise
        except Exception as e:
            ended = FREED_ERROR
            self._leave_error(lease, e)
            raise
        finally:
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

    # -- step 5: value or lease

    async def _ask(self) -> Outcome | Lease | None:
        """L2's value, or the lease; None where L2 cannot be asked."""
        l2, leases = self.home.l2, self.home.leases
        if l2 is None or leases is None:
            return None
        instead_of = self.claim.instead_of
        waited = b""
        while True:
            offer = os.urandom(16)
            if not self._note(offer):
                raise _ClaimLost
            self._offered = offer
            try:
                answer = await l2.acquire(
                    self.job.key,
                    offer=offer,
                    instead_of=instead_of,
                    channel=leases.channel,
                    waited=waited,
                )
            except TierUnavailable:
                self.home.l1.count("l2_errors")
                return None
            self._offered = offer if answer.lease == WON else b""
            instead_of = b""
            if answer.record is not None:
                found = await self._promote(answer.record)
                if found is not None:
                    return found
                if answer.lease == NONE:
                    continue  # invalidated meanwhile: ask again
            if answer.lease == WON:
                self.home.l1.count("leases_won")
                return leases.hold(self.job.key, offer, answer.clock)
            if answer.error:
                raise shared_error(answer.error)
            waited = answer.holder
            self.home.l1.count("leases_waited")
            await leases.wait(self.job.key, answer.wait_ms)

    async def _promote(self, found: Record) -> Outcome | None:
        """Copy an L2 record into L1; None if it does not end the flight."""
        record = found._replace(stamp=self.job.stamp)
        stored = await self._store(record)
        if stored == LOST:
            raise _ClaimLost
        if stored == RAISED:
            return None
        if record.kind == PASS:
            return Outcome(None, "l2", self.job.stamp)
        if record.kind != VALUE:
            return None
        if stored == OK:
            self.home.l1.count("promotions")
        outcome = Outcome(record, "l2", self.job.stamp, stored=stored != TOO_LARGE)
        if record.state == FRESH:
            return outcome
        self._early(outcome)  # stale: its callers go, the flight becomes a refresh
        return None

    # -- step 6: compute; step 7: fill

    async def _compute_and_fill(self, lease: Lease | None) -> tuple[Outcome, int]:
        l1, codec = self.home.l1, self.home.codec
        if self.job.refresh:
            l1.count("refreshes")
        began = l1.clock.now()
        fill = fills.wrap(await run(self.home, self.job.compute))
        now = l1.clock.now()
        lives = fills.life(fill, self.job.terms)
        if lives.ttl is not None and self.home.config.jitter:
            shorter = policy.jittered(
                lives.ttl, self.home.config.jitter, random.random()
            )
            lives = Life(shorter, lives.grace)
        record = fills.to_record(
            fill,
            lives,
            codec,
            now=now,
            stamp=self.job.stamp,
            nonce=int.from_bytes(os.urandom(8), "little"),
            fill_us=(now - began) // 1000,
            tags=self.job.terms.tags,
        )
        outcome = Outcome(
            record, "compute", self.job.stamp, not fill.shareable, stored=False
        )
        if not fill.shareable:
            l1.count("passed")
            mark = fills.pass_mark(now=now, stamp=self.job.stamp)
            await self._fill(lease, mark)
            return outcome, FREED_PASS
        if not lives.stored:
            if lease is not None:
                self._abandon_later(lease.token)
            return outcome, FREED_PASS
        ended = await self._fill(lease, record)
        return outcome._replace(stored=ended == FREED_STORED), ended

    async def _fill(self, lease: Lease | None, record: Record) -> int:
        """Store in L2 under the lease, then in L1; how the claim ends."""
        l1 = self.home.l1
        if lease is not None and self.home.l2 is not None:
            try:
                answer = await self.home.l2.put_fenced(
                    self.job.key, lease.token, record, lease.clock
                )
            except TierUnavailable:
                l1.count("l2_errors")
            else:
                if answer == L2_FULL:
                    l1.count("fills_full")
                elif answer != STORED:
                    l1.count("fills_refused")
                    return FREED_REFUSED
        stored = await self._store(record)
        if stored == OK:
            return FREED_STORED
        if stored in (LOST, RAISED):
            l1.count("fills_refused")
            return FREED_REFUSED
        l1.count("fills_full")
        return FREED_PASS

    async def _store(self, record: Record) -> int:
        """Into L1, if the claim is still ours."""
        claim = self.claim.ref
        return await self.home.l1.put_patiently(
            self.job.key, record, claim=claim, newer_only=claim is None
        )

    # -- failure

    def _leave_error(self, lease: Lease | None, error: Exception) -> None:
        """Hand the failure to those who waited for it, here and on other hosts."""
        l1 = self.home.l1
        words = _words_of(error)
        if self.claim.index >= 0:
            mark = fills.mark(
                ERROR, words, ERROR_LIFE, now=l1.clock.now(), stamp=l1.table.clock()
            )
            l1.put(error_key(self.job.key), mark._replace(nonce=self.claim.word))
        if lease is not None:
            self._abandon_later(lease.token, words)

    def _abandon_later(self, token: bytes, words: bytes = b"") -> None:
        """Free a lease without waiting for the answer; it expires by itself else."""
        if self.home.l2 is not None and token:
            self.home.l2.abandon_later(self.job.key, token, words)


def found(l1: L1, job: Job) -> Outcome | None:
    """What L1 holds for the job by now; a refresh wants a fresh record."""
    record = l1.look(job.key)
    if record is None or record.state not in (FRESH, STALE):
        return None
    if record.kind == PASS:
        return Outcome(None, "l1", job.stamp)
    if record.kind != VALUE or (job.refresh and record.state == STALE):
        return None
    return Outcome(record, "l1", job.stamp)


async def run(home: Home, compute: Compute) -> Any:
    """Call a compute function, bounded by the hard timeout; counted, and its failure
    too."""
    home.l1.count("computes")
    try:
        return await _bounded(compute, home.config.hard_timeout)
    except Exception:
        home.l1.count("compute_errors")
        raise


async def _bounded(compute: Compute, limit: float) -> Any:
    try:
        async with asyncio.timeout(limit) as timer:
            result = compute()
            return await result if inspect.isawaitable(result) else result
    except asyncio.CancelledError as e:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # It awaited what somebody else cancelled: its own failure, not our end.
        raise ComputeFailed("CancelledError", "the compute was cancelled") from e
    except TimeoutError as e:
        if timer.expired():
            raise ComputeTimeout(f"the compute ran longer than {limit:g} s") from e
        raise


async def from_l2(home: Home, job: Job) -> Outcome | None:
    """A fresh value in L2, asked for without a lease: where L1 cannot hold it, those
    who waited take it from there, all at once."""
    if home.l2 is None or not home.l2.available:
        return None
    job.stamp = home.l1.table.clock()
    try:
        record = (await home.l2.acquire(job.key)).record
    except TierUnavailable:
        return None
    if record is None or (record.kind, record.state) != (VALUE, FRESH):
        return None
    if home.l1.table.highest(job.key, record.tags) > job.stamp:
        return None
    return Outcome(record._replace(stamp=job.stamp), "l2", job.stamp)


def _words_of(error: Exception) -> bytes:
    """Kind and message of a failure, whatever its message is made of."""
    try:
        message = str(error)[:1000].encode("utf-8", "backslashreplace").decode()
    except Exception:  # its own __str__ failed
        message = ""
    return MSGPACK.encode([type(error).__name__, message])


def shared_error(words: bytes) -> ComputeFailed:
    """The failure that a holder elsewhere left."""
    try:
        kind, message = MSGPACK.decode(words)
    except (CodecError, TypeError, ValueError):
        kind, message = "Exception", "its words cannot be read"
    return ComputeFailed(str(kind), str(message))
