"""Job: a key to be filled, what it is filled with, and what may come of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import tags
from .claim import Claims
from .codec import Codec
from .compute import Compute
from .config import CacheConfig
from .fill import Fill, Terms, _Unset
from .keys import error_key
from .l1 import L1
from .l2 import L2
from .lease import Leases
from .lookup import Lookup
from .record import FRESH, PASS, STALE, VALUE, Record

Until = asyncio.Future[Any] | None
"""What makes the rest of a caller's wait needless."""
OnWait = Callable[[int], None] | None
"""Told the slot of the process that the flight waits for."""


class Home(NamedTuple):
    """What flights work with."""

    config: CacheConfig
    l1: L1
    claims: Claims
    codec: Codec
    l2: L2 | None
    leases: Leases | None
    lookup: Lookup
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
    seen: Record | None = None
    """The fresh record that is refreshed early."""
    until: float | None = None
    """Loop time at which it waits no longer for others: begun inside a compute."""
    on_wait: OnWait = None
    own: bool = False
    """A recompute: what others have made, or failed to make, is no answer to it."""

    @property
    def nested(self) -> bool:
        """Begun inside a compute: what it fails with may be that compute's cycle."""
        return self.until is not None


class Outcome(NamedTuple):
    """A flight's result."""

    record: Record | None
    """None after `pass`: compute for yourself. Of kind ERROR: a failure that stands."""
    source: str
    """l1, l2 or compute."""
    stamp: int
    own_only: bool = False
    """For the caller that started the flight, nobody else."""
    stored: bool = True
    """L1 has it for those who look again."""
    gave_up: bool = False
    """No record because the flight, begun inside a compute, waited for too long."""

    def lived(self, began: int) -> bool:
        """Whether its life had not ended before a call began. A process may be stopped
        between a flight's answer and its landing: who comes then has not waited for
        what is dead by now, and looks again."""
        return self.record is None or self.record.dead_at >= began

    def over(self, now: int) -> bool:
        """Whether it was stale, and its grace has ended. What was just computed is
        told all the same."""
        record = self.record
        if record is None or self.source == "compute" or record.state != STALE:
            return False
        return now >= record.dead_at


class WaitedTooLong(Exception):
    """Inside a compute: what we wait for may be waiting for us."""


def found(l1: L1, job: Job) -> Outcome | None:
    """What L1 holds for the job by now; a refresh wants a fresh record, an early one
    another than it saw. Only a value is worth anything when it is stale."""
    record = None if job.own else l1.look(job.key)
    if record is None or record.state not in (FRESH, STALE):
        return None
    if record.state == STALE and (job.refresh or record.kind != VALUE):
        return None
    if record.kind == PASS:
        return Outcome(None, "l1", job.stamp)
    if job.seen is not None and record.nonce == job.seen.nonce:
        return None
    return Outcome(record, "l1", job.stamp)


def failures_in(l1: L1, key: bytes) -> int:
    """How often in a row the key's compute failed on this host, as far as is known."""
    mark, record = l1.look(error_key(key)), l1.look(key)
    if mark is None or (record is not None and record.birth > mark.birth):
        return 0  # it was filled since
    return mark.fill_us


@contextlib.asynccontextmanager
async def patience(job: Job) -> AsyncIterator[None]:
    """Bounds a wait for others by the job's own end, where it has one."""
    timer = asyncio.timeout_at(job.until)
    try:
        async with timer:
            yield
    except TimeoutError:
        if not timer.expired():
            raise
        raise WaitedTooLong from None


def tags_of(fill: Fill, terms: Terms) -> tuple[int, ...]:
    """The numbers of the fill's own tags, else the terms'."""
    if isinstance(fill.tags, _Unset):
        return terms.tags
    return tags.numbers(fill.tags, terms.prefix)


def nonce() -> int:
    """The mark of one fill."""
    return int.from_bytes(os.urandom(8), "little")
