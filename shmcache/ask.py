"""Ask: what one `acquire` wants of L2, and how its replies become an answer.

Age is told by what is left: life - PTTL. A record's birth here is the moment the
request was sent less that age, and a millisecond more for Redis' rounding, so that
no copy of a value lives longer than the value.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from .envelope import FOREVER_MS, Envelope
from .record import FOREVER, FRESH, STALE, Record

NONE, WON, WAIT, FAILED = 0, 1, 2, 3
MS = 1_000_000

# what `acquire.lua` answers about a value
_NO_VALUE, _FRESH = 0, 2


class FleetClock(NamedTuple):
    """When a fill began, as Redis saw it: what `put_fenced` compares."""

    incarnation: bytes
    """Which `:g` the clock is of; b"" where there was none."""
    clock: int
    """Invalidations of the fleet until then."""
    ahead_ms: int
    """Redis' time less ours, never more than it was."""


class Answer(NamedTuple):
    """What L2 answers to an `acquire`."""

    record: Record | None
    """FRESH or STALE, its times rebased to this host, its stamp left to the caller."""
    lease: int
    """NONE (not asked, or a fresh value stands), WON, WAIT, or FAILED."""
    wait_ms: int
    """WAIT: what is left of the lease that stands."""
    clock: FleetClock
    holder: bytes = b""
    """WAIT: the token to name as `waited` in the next ask."""
    error: bytes = b""
    """FAILED: what the holder that was waited for left behind."""


class Reply(NamedTuple):
    """One key's part of the reply of `acquire.lua`."""

    worth: int
    nonce: bytes
    left_ms: int
    lease: int
    wait_ms: int
    text: bytes
    """Token that stands, or error."""

    @property
    def has_value(self) -> bool:
        return self.worth != _NO_VALUE

    @property
    def fresh(self) -> bool:
        return self.worth == _FRESH

    def answer(self, record: Record | None, clock: FleetClock) -> Answer:
        return Answer(
            record,
            self.lease,
            self.wait_ms if self.lease == WAIT else 0,
            clock,
            self.text if self.lease == WAIT else b"",
            self.text if self.lease == FAILED else b"",
        )

    def record(self, envelope: Envelope, sent: int) -> Record:
        """The record, as it was when the request was sent."""
        life = envelope.ttl_ms + envelope.grace_ms
        if envelope.ttl_ms == FOREVER_MS:
            birth, fresh_until, dead_at = sent, FOREVER, FOREVER
            if self.left_ms >= 0:  # expired by request: only its grace is left
                dead_at = sent + self.left_ms * MS
        else:
            # no end, or one beyond its life, was not set by us: count none of its ttl
            tampered = not 0 <= self.left_ms <= life
            left = min(life, envelope.grace_ms) if tampered else self.left_ms
            birth = sent - min(life, life - left + 1) * MS
            fresh_until = min(FOREVER, birth + envelope.ttl_ms * MS)
            dead_at = min(FOREVER, birth + life * MS)
        if not self.fresh:
            fresh_until = min(fresh_until, sent)
        return Record(
            envelope.value,
            FRESH if self.fresh else STALE,
            envelope.kind,
            birth,
            fresh_until,
            dead_at,
            0,
            envelope.nonce,
            envelope.fill_us,
            envelope.tags,
        )


class Ask:
    """One caller's wish, until it is settled."""

    def __init__(
        self,
        key: bytes,
        offer: bytes,
        instead_of: bytes,
        early: bool,
        channel: bytes,
        waited: bytes,
    ) -> None:
        self.key = key
        self.wants_lease = bool(offer)
        self.args = (offer, instead_of, b"1" if early else b"", channel, waited)
        self.settled: asyncio.Future[Answer | Exception] = (
            asyncio.get_running_loop().create_future()
        )

    def settle(self, result: Answer | Exception) -> None:
        """An exception is a result like another: it may be that nobody waits."""
        if not self.settled.done():
            self.settled.set_result(result)
