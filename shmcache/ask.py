"""Ask: what one `acquire` wants of L2, and how its replies become an answer.

Age is told by what is left: life - PTTL. A record's birth here is the moment the
request was sent less that age, and a millisecond more for Redis' rounding, so that
no copy of a value lives longer than the value.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .envelope import FOREVER_MS, Envelope
from .record import FOREVER, FRESH, STALE, Record

NONE, WON, WAIT, FAILED, NO_MEMORY = 0, 1, 2, 3, 4
TOKEN_BYTES = 16
MS = 1_000_000

# what `acquire.lua` answers about a value
NO_VALUE, IS_FRESH = b"0", b"2"
_NO_TOKEN = bytes(TOKEN_BYTES)

# its one string
_HEAD = struct.Struct("8s17s17s")
_VALUE = struct.Struct("c17s8s")
_LEASE = struct.Struct("c17s5s")


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
    """WAIT: the token to name as `waited` in the next ask; b"": none."""
    error: bytes = b""
    """FAILED: what the holder that was waited for left behind."""


class Invalidation(NamedTuple):
    """One name whose older values are void, as `invalidate.lua` takes it."""

    kind: bytes
    """d delete a key, x expire it; t, u a tag's or namespace's number, hard and soft;
    c, y everything, hard and soft; g everything, hard, and a gap to followers."""
    name: bytes | int
    """A key, a number, or b""."""
    nonce: int = 0
    """Of the record of a set."""
    token: bytes = b""
    """Of a set: takes the key's lease."""
    instead_of: bytes = b""
    """Only if the key's lease stands under this token."""

    @property
    def of_key(self) -> bool:
        return self.kind in (b"d", b"x")

    def packed(self) -> bytes:
        """As the script's argument."""
        name = self.name if isinstance(self.name, bytes) else b"%d" % self.name
        nonce = self.nonce.to_bytes(8, "little")
        tokens = (self.token or _NO_TOKEN) + (self.instead_of or _NO_TOKEN)
        return self.kind + nonce + tokens + name


class Done(NamedTuple):
    """What became of invalidations: all are in the stream but those that are lost."""

    clock: FleetClock
    """After the last of them."""
    lost: frozenset[int]
    """Which of them, by position, were refused by their `instead_of`."""


class Reply(NamedTuple):
    """One key's part of the reply of `acquire.lua`."""

    worth: bytes
    left_ms: int
    nonce: bytes
    lease: int
    wait_ms: int
    text: bytes
    """Token that stands, or error."""

    @property
    def state(self) -> int:
        return FRESH if self.worth == IS_FRESH else STALE

    def answer(self, record: Record | None, clock: FleetClock) -> Answer:
        lease = self.lease
        if lease == WAIT:
            holder = self.text if len(self.text) == TOKEN_BYTES else b""
            return Answer(record, lease, self.wait_ms, clock, holder)
        if lease == FAILED:
            return Answer(record, lease, 0, clock, b"", self.text)
        return Answer(record, lease, 0, clock)


def rebased(envelope: Envelope, state: int, left_ms: int, sent: int) -> Record:
    """The record, as it was when the request was sent, by this host's clock.

    One that was expired by request is stale since its birth:
    1. A process looks at its clock, and is stopped. 2. A sibling asks for the record,
    and stores it here. 3. The first goes on, and judges the record by the time of 1.
    """
    value, kind, ttl_ms, grace_ms, _, _, _, nonce, fill_us, tags = envelope
    if ttl_ms == FOREVER_MS:
        birth, fresh_until, dead_at = sent, FOREVER, FOREVER
        if left_ms >= 0:  # expired by request: only its grace is left
            fresh_until, dead_at = 0, sent + left_ms * MS
    else:
        life = ttl_ms + grace_ms
        age = life - left_ms + 1 if left_ms <= life else 1
        birth = sent - (age if age < life else life) * MS
        fresh_until = birth + ttl_ms * MS
        dead_at = birth + life * MS
        if birth < 0 or dead_at > FOREVER:
            fresh_until = max(0, min(FOREVER, fresh_until))
            birth, dead_at = max(0, birth), max(0, min(FOREVER, dead_at))
    if state == STALE and fresh_until > sent:
        fresh_until = min(birth, fresh_until) if ttl_ms != FOREVER_MS else 0
    return Record(
        value, state, kind, birth, fresh_until, dead_at, 0, nonce, fill_us, tags
    )


class Ask:
    """One caller's wish, until it is settled."""

    __slots__ = ("args", "key", "offer", "settled")

    def __init__(
        self,
        key: bytes,
        offer: bytes = b"",
        instead_of: bytes = b"",
        early: bool = False,
        channel: bytes = b"",
        waited: bytes = b"",
    ) -> None:
        self.key = key
        self.offer = offer
        self.args = b""
        """As the script's argument; b"" if the value alone is wanted."""
        if offer:
            tokens = (offer, instead_of or _NO_TOKEN, waited or _NO_TOKEN)
            self.args = b"".join((b"1" if early else b"0", *tokens, channel))
        self.settled: asyncio.Future[Answer | Exception] = (
            asyncio.get_running_loop().create_future()
        )

    def settle(self, result: Answer | Exception) -> None:
        """An exception is a result like another: it may be that nobody waits."""
        if not self.settled.done():
            self.settled.set_result(result)


def settle_all(asks: Iterable[Ask], result: Exception | None) -> None:
    """None: each is settled by itself."""
    if result is not None:
        for ask in asks:
            ask.settle(result)


class Replies:
    """The reply of `acquire.lua`, read in its order."""

    def __init__(self, data: bytes, now: int) -> None:
        """`now` is our time after it came: that makes Redis no later than it was."""
        incarnation, clock, time = _HEAD.unpack_from(data)
        if incarnation == bytes(8):
            incarnation = b""
        self.clock = FleetClock(incarnation, int(clock), int(time) + -now // MS)
        self._data = data
        self._at = _HEAD.size

    def each(self, count: int) -> Iterator[Reply]:
        """Of each key."""
        data = self._data
        for _ in range(count):
            worth, left, nonce = _VALUE.unpack_from(data, self._at)
            lease, wait, size = _LEASE.unpack_from(data, self._at + _VALUE.size)
            start = self._at + _VALUE.size + _LEASE.size
            self._at = start + int(size)
            text = data[start : self._at]
            yield Reply(worth, int(left), nonce, int(lease), int(wait), text)
