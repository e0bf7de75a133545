"""Lock: one of the fleet at a time, by the election that computes go through.

Its key is claimed on the host and leased in the fleet, as a compute's is: a holder that
dies is noticed within milliseconds on its own host, and on others when its lease ends;
those who wait are woken.

What it is worth
    While a holder's event loop runs, and Redis answers it, nobody else has the lock.
    One that is stopped for longer than a lease lives has lost it: `lost` is set as soon
    as it goes on, and what it does meanwhile it does beside another. Where that
    matters, hand the `token` to a store that compares it.
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
from .errors import CacheError, LockTimeout, TierUnavailable
from .l1 import FREED
from .l2 import WON
from .lease import Lease
from .parts import Parts

_ALWAYS = 2**63 - 1
"""A stamp, and a deadline, that nothing is ever above."""
_RETRY = 0.05
"""Seconds until a host without L2 and without a free claim looks again."""


class Lock:
    """To be held by `async with`, once; made by `Cache.lock`."""

    def __init__(self, parts: Parts, key: bytes, name: str, wait: float | None) -> None:
        self.token = b""
        """Of who has it: 16 bytes, anew each time."""
        self.lost = asyncio.Event()
        """Set, a moment later, where it was lost before it was released."""
        self._parts = parts
        self._key = key
        self._name = name
        self._wait = wait
        self._claim: Claim | None = None
        self._lease: Lease | None = None
        self._telling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    async def acquire(self) -> None:
        """`LockTimeout` if it was not to be had in time, `TierUnavailable` if L2 does
        not answer."""
        if self.token:
            raise CacheError(f"lock {self._name!r}: this one is held already")
        await self._parts.start()
        try:
            async with asyncio.timeout(self._wait):
                await self._mine()
        except TimeoutError as e:
            if isinstance(e, CacheError):
                raise
            raise LockTimeout(
                f"lock {self._name!r}: not to be had within {self._wait:g} s"
            ) from None

    def release(self) -> None:
        """Let others have it."""
        if not self.token:
            return
        claim, lease = self._claim, self._lease
        if self._telling is not None:
            self._telling.cancel()
        if lease is not None and self._parts.l2 is not None:
            lease.stop()
            self._parts.l2.abandon_later(self._key, lease.token)
        if claim is not None:
            self._parts.claims.free(claim, FREED)
        self._claim = self._lease = self._telling = None
        self.token = b""
        self._parts.locks.pop(self._key).set_result(None)

    async def _mine(self) -> None:
        """In this process, then on the host, then in the fleet."""
        locks = self._parts.locks
        while (held := locks.get(self._key)) is not None:
            await asyncio.shield(held)
        locks[self._key] = asyncio.get_running_loop().create_future()
        try:
            while not self.token:
                await self._elected()
        except BaseException:
            locks.pop(self._key).set_result(None)
            raise

    async def _elected(self) -> None:
        claims = self._parts.claims
        took = claims.take(self._key)
        if not isinstance(took, Claim):
            await claims.wait(took)
            return
        if took.index < 0 and self._parts.l2 is None:  # no claim is free
            await asyncio.sleep(_RETRY)
            return
        token = os.urandom(16)
        try:
            if not claims.note(took, _ALWAYS, _ALWAYS, token):
                return
            lease = await self._leased(took, token)
        except BaseException:
            claims.free(took, FREED)
            raise
        if lease is None and self._parts.l2 is not None:
            return
        self._claim, self._lease, self.token = took, lease, token
        self._telling = asyncio.get_running_loop().create_task(
            self._watch(took, lease), name="shmcache-lock"
        )

    async def _leased(self, claim: Claim, token: bytes) -> Lease | None:
        """The fleet's; None where there is no L2."""
        l2, leases = self._parts.l2, self._parts.leases
        if l2 is None or leases is None:
            return None
        instead_of, waited = claim.instead_of, b""
        try:
            while True:
                answer = await l2.acquire(
                    self._key,
                    offer=token,
                    instead_of=instead_of,
                    early=True,
                    channel=leases.channel,
                    waited=waited,
                )
                if answer.lease == WON:
                    return leases.hold(self._key, token, answer.clock)
                instead_of, waited = b"", answer.holder
                await leases.wait(self._key, answer.wait_ms)
        except BaseException as error:  # it may be granted late
            l2.abandon_later(self._key, token)
            if isinstance(error, TierUnavailable):
                raise TierUnavailable(f"lock {self._name!r}: {error}") from error
            raise

    async def _watch(self, claim: Claim, lease: Lease | None) -> None:
        """Until either is another's."""
        note = self._parts.claims.note
        while note(claim, _ALWAYS, _ALWAYS, self.token):
            if lease is not None and lease.lost.is_set():
                break
            await asyncio.sleep(BEAT)
        self.lost.set()
