"""Lock: one of the fleet at a time, by the election that computes go through.

Its key is claimed on the host and leased in the fleet, as a compute's is: a holder that
dies is noticed within milliseconds on its own host, and on others when its lease ends;
those who wait are woken.

What it is worth
    While a holder's event loop runs, and its Redis goes on answering and forgets
    nothing, nobody else has the lock. A holder that is stopped for longer than a lease
    lives has lost it, and so has one whose Redis was replaced, flushed, or evicted the
    lease: `lost` is set within a second or two, and what it does meanwhile it does
    beside another. Where that matters, hand the `token` to a store that compares it.
        A claim is voided by invalidations, of which an unrelated key's may be one, and
    all by `clear`. That would make two holders of a lock: so it is noted under a stamp
    above all of them.
        No host decides alone: where L2 does not answer, nobody gets the lock.
"""

from __future__ import annotations

import asyncio
import os
from typing import Self

from .claim import BEAT, Claim
from .errors import CacheError, LockTimeout, Overloaded, TierUnavailable
from .l1 import FREED
from .l2 import WON
from .lease import Lease
from .parts import Parts

_ALWAYS = 2**63 - 1
"""A stamp, and a deadline, that nothing is ever above."""
RETRY, TRIES = 0.05, 5
"""Seconds until a host without L2 and without a free claim looks again; and how
often."""


class Lock:
    """To be held by `async with`, once; made by `Cache.lock`."""

    def __init__(self, parts: Parts, key: bytes, name: str, wait: float | None) -> None:
        self.token = b""
        """Of who has it: 16 bytes, anew each time."""
        self.lost = asyncio.Event()
        """Set, a moment later, where it was lost before it was released."""
        self.freed: asyncio.Future[None]
        """Done when this process has it no longer."""
        self._parts = parts
        self._key = key
        self._name = name
        self._wait = wait
        self._used = False
        self._claim: Claim | None = None
        self._lease: Lease | None = None
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    async def acquire(self) -> None:
        """`LockTimeout` if it was not to be had in time, `TierUnavailable` if L2 does
        not answer, `Overloaded` if this host has no claim left for it."""
        if self._used:
            raise CacheError(f"lock {self._name!r}: this one was held already")
        self._used = True
        await self._parts.start()
        try:
            async with asyncio.timeout(self._wait or None):
                await self._mine()
        except TimeoutError as e:
            if isinstance(e, CacheError):
                raise
            raise LockTimeout(
                f"lock {self._name!r}: not to be had within {self._wait:g} s"
            ) from None

    def release(self) -> None:
        """Let others have it; nothing where it is not held. A forked child lets its
        parent's be."""
        if not self.token:
            return
        claim, lease, watching = self._claim, self._lease, self._watching
        self.token, self._claim, self._lease, self._watching = b"", None, None, None
        if self._parts.l1.segment.forked:
            return
        self._leave()
        if watching is not None:
            watching.cancel()
        if claim is not None:
            self._parts.claims.free(claim, FREED)
        if lease is not None and self._parts.l2 is not None:
            lease.stop()
            self._parts.l2.abandon_later(self._key, lease.token)

    def lose(self) -> None:
        """Its cache is closed."""
        self.lost.set()
        self.release()

    # -- in this process, then on the host, then in the fleet

    async def _mine(self) -> None:
        self._open()
        locks = self._parts.locks
        while (held := locks.get(self._key)) is not None:
            self._refuse_to_wait()
            await asyncio.shield(held.freed)
            self._open()
        self.freed = asyncio.get_running_loop().create_future()
        locks[self._key] = self
        try:
            while not await self._elected():
                self._open()
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        if self._parts.locks.get(self._key) is self:
            del self._parts.locks[self._key]
        if not self.freed.done():
            self.freed.set_result(None)

    def _open(self) -> None:
        if self._parts.closing is not None:
            raise CacheError("the cache is closed")

    def _refuse_to_wait(self) -> None:
        if self._wait == 0:
            raise LockTimeout(f"lock {self._name!r}: somebody else has it")

    async def _elected(self) -> bool:
        claims, tries = self._parts.claims, 0
        while not isinstance(took := claims.take(self._key), Claim):
            self._refuse_to_wait()
            await claims.wait(took)
            self._open()
        while took.index < 0 and self._parts.l2 is None:
            # its set is full, of others' computes, or of locks
            if (tries := tries + 1) == TRIES:
                raise Overloaded(f"lock {self._name!r}: no claim is free for it")
            await asyncio.sleep(RETRY)
            self._open()
            if isinstance(again := claims.take(self._key), Claim):
                took = again
            else:
                return False
        lease: Lease | None = None
        try:
            lease = await self._leased(took)
            token = os.urandom(16) if lease is None else lease.token
            # who was stopped meanwhile may have lost the claim: begin anew
            if not self._note(took, token):
                if lease is not None and self._parts.l2 is not None:
                    lease.stop()
                    self._parts.l2.abandon_later(self._key, token)
                return False
        except BaseException:
            claims.free(took, FREED)
            raise
        self._claim, self._lease, self.token = took, lease, token
        self._watching = asyncio.get_running_loop().create_task(
            self._watch(took, lease), name="shmcache-lock"
        )
        return True

    def _note(self, claim: Claim, token: bytes) -> bool:
        return self._parts.claims.note(claim, _ALWAYS, _ALWAYS, token)

    async def _leased(self, claim: Claim) -> Lease | None:
        """The fleet's; None where there is no L2, or where the claim was lost."""
        l2, leases = self._parts.l2, self._parts.leases
        if l2 is None or leases is None:
            return None
        instead_of, waited = claim.instead_of, b""
        while True:
            token = os.urandom(16)  # offered once: who takes the claim over reads it
            if not self._note(claim, token):
                return None
            try:
                answer = await l2.acquire(
                    self._key,
                    offer=token,
                    instead_of=instead_of,
                    early=True,
                    channel=leases.channel,
                    waited=waited,
                )
            except BaseException as error:  # it may be granted late
                l2.abandon_later(self._key, token)
                if isinstance(error, TierUnavailable):
                    raise TierUnavailable(f"lock {self._name!r}: {error}") from error
                raise
            if answer.lease == WON:
                return leases.hold(self._key, token, answer.clock)
            self._refuse_to_wait()
            instead_of, waited = b"", answer.holder
            await leases.wait(self._key, answer.wait_ms)
            self._open()

    async def _watch(self, claim: Claim, lease: Lease | None) -> None:
        """Until either is another's."""
        while self._note(claim, self.token):
            if lease is not None and lease.lost.is_set():
                break
            await asyncio.sleep(BEAT)
        self.lost.set()
