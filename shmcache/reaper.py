"""Reaper: what a dead process left behind on its host is cleared away.

Its claims are taken over by those who wait for them, within a twentieth of a second.
What nobody here waits for would stand until somebody asks, and its leases would hold up
the other hosts for what is left of their lives. So each process, at its own beat, looks
for slots that have stopped beating and whose lock is free, and for those that were
taken anew, as by a worker that the master started in place of a dead one; then for the
claims that their former owners left, a thousand words a beat. Whoever takes such a
claim over by CAS gives its lease back and frees it. The key comes from L1, where a
holder leaves it once its compute is a slow one (`Claims.name`); without it the claim
stands until the lease must have ended.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import NamedTuple

from .claim import Claims
from .errors import TierUnavailable
from .keys import holder_key
from .l1 import FREED, HELD, L1, OK
from .l2 import L2
from .policy import SECOND

WORDS = 1024
"""Claims looked at in one beat."""
QUIET = SECOND
"""Without a beat for so long, a slot's lock is looked at."""
_WAYS = 8
"""Claims of a set, and..."""
_STATE = 0b111
"""Bits of a claim word that tell its state, as `table.h` draws them."""


class _Tenant(NamedTuple):
    """Who has a slot."""

    incarnation: int
    dead: bool


class Reaper:
    """This process' part in it; lives on one event loop."""

    def __init__(self, l1: L1, claims: Claims, l2: L2 | None, overdue: float) -> None:
        self._l1 = l1
        self._claims = claims
        self._l2 = l2
        self._overdue = int(overdue * SECOND)
        self._count = l1.table.geometry["claim_sets"] * _WAYS
        self._cleared: dict[int, _Tenant] = {}
        """Slots to tenants before whom nothing is left, nor of the dead ones."""
        self._looked_for: dict[int, _Tenant] = {}
        """Those of this round."""
        self._met: dict[int, tuple[int, int]] = {}
        """Slots to incarnations, and when each was first seen."""
        self._next = 0
        self._left_some = False
        self._tasks: set[asyncio.Task[None]] = set()

    def beat(self) -> None:
        """Look on, for no longer than some tenths of a millisecond."""
        if not self._looked_for:
            self._looked_for = self._find()
            self._next, self._left_some = 0, False
            if not self._looked_for:
                return
        end = min(self._next + WORDS, self._count)
        for index in range(self._next, end):
            word = self._l1.table.claim_word(index)
            if word & _STATE == HELD:
                self._look_at(index, word)
        self._next = end
        if end == self._count:
            if not self._left_some:
                self._cleared |= self._looked_for
            self._looked_for = {}

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _find(self) -> dict[int, _Tenant]:
        l1, now, found = self._l1, self._l1.clock.now(), {}
        for slot in count():
            try:
                incarnation, pid, beat = l1.table.slot_info(slot)
            except IndexError:
                break
            cleared = self._cleared.get(slot)
            if not pid or cleared == (incarnation, True):
                continue
            if self._met.get(slot, (-1, 0))[0] != incarnation:
                self._met[slot] = incarnation, now
            dead = now - beat >= QUIET and not l1.alive(slot, incarnation)
            if cleared != (incarnation, dead):
                found[slot] = _Tenant(incarnation, dead)
        return found

    def _look_at(self, index: int, word: int) -> None:
        table = self._l1.table
        _, slot, incarnation, _, _ = table.claim_parts(word)
        if slot not in self._looked_for or self._l1.alive(slot, incarnation):
            return
        noted = table.claim_noted(index, word)
        token = noted[2] if noted else b""
        key = self._key_of(index, word) if token else b""
        if token and not key and not self._lease_is_over(slot, incarnation):
            self._left_some = True
            return
        answer, taken, wake = table.claim_over(index, word)
        self._claims.wake(wake)
        if answer != OK:
            return
        self._l1.count("claims_reaped")
        if self._l2 is None or not key:
            self._free(index, taken)
            return
        work = self._give_back(self._l2, index, taken, key, token)
        task = asyncio.get_running_loop().create_task(work, name="shmcache-reaper")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _key_of(self, index: int, word: int) -> bytes:
        name = holder_key(index, word)
        record = self._l1.look(name)
        if record is None:
            return b""
        self._l1.table.drop(name)
        return record.value

    def _lease_is_over(self, slot: int, incarnation: int) -> bool:
        """Whether its holder renewed it too long ago: before it last beat, or before
        we met who has the slot now."""
        now = self._l1.clock.now()
        current, _, last = self._l1.table.slot_info(slot)
        if current != incarnation:
            met, last = self._met[slot]
            last = last if met == current else now
        return now - last > self._overdue + SECOND

    async def _give_back(
        self, l2: L2, index: int, word: int, key: bytes, token: bytes
    ) -> None:
        try:
            await l2.abandon(key, token)
        except TierUnavailable:
            self._l1.count("l2_errors")  # it ends by itself
        finally:
            self._free(index, word)

    def _free(self, index: int, word: int) -> None:
        _, wake = self._l1.table.claim_free(index, word, FREED)
        self._claims.wake(wake)
