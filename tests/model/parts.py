"""The parts of a world: Redis, a segment, a process, a command on the wire.

Everything is a small int or a tuple of them. A value is the number of its fetch; what
a fetch knows is a set of bits, one for each invalidation begun before it. So "an older
fetch" is one that lacks the bit. Every record bears the tag, so the tag's stripe and
the clear word mean the same to it, and one word stands for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

T = TypeVar("T")

NOBODY = -1
NEVER = 1 << 30
"""Lowest unsent clock of an empty outbox."""

OK, RAISED, LOST, OLDER = "stored", "raised", "lost", "older"


class Entry(NamedTuple):
    """Of the stream; in the outbox its clock is the host's."""

    clock: int
    kind: str
    """d a key's delete, t the tag's, g everything, after an overflow."""
    i: int
    """Which invalidation of the scenario it is."""
    nonce: int = 0
    """Value of a set; 0: it is none."""


class Command(NamedTuple):
    """Sent, and executed at any time later or never."""

    name: str
    sender: int
    to: int
    """Identity of the Redis that the connection was made to."""
    token: int = 0
    instead_of: int = 0
    waited: int = 0
    early: bool = False
    value: int = 0
    incarnation: int = 0
    clock: int = 0
    kind: str = ""
    i: int = 0


class Reply(NamedTuple):
    """What a script answers; `says` is "" where no answer came."""

    says: str
    value: int = 0
    incarnation: int = 0
    clock: int = 0
    token: int = 0


class Claim(NamedTuple):
    """A claim's word, and what is noted beside it."""

    owner: int = NOBODY
    word: int = 0
    stamp: int = NEVER
    token: int = 0
    tentative: bool = False


class Record(NamedTuple):
    """In L1."""

    value: int
    stamp: int


class Filled(NamedTuple):
    """In L2: a value, and the clock it was begun under."""

    value: int
    incarnation: int
    clock: int


class Faults(NamedTuple):
    """How often each may still happen."""

    kills: int = 0
    unanswered: int = 0
    """Replies that are lost, or come after the sender gave up."""
    expiries: int = 0
    """Leases that end although their holder lives."""
    overdue: int = 0
    """Living holders that are taken for stopped."""
    unheard: int = 0
    """Lost wake-ups, datagrams and messages."""
    failovers: int = 0
    copies: int = 0
    """Replicas that fall behind: what a failover brings back."""
    trims: int = 0
    evictions: int = 0
    """Of `:g`; the stream stays."""
    vanished: int = 0
    """Of the record in L1."""


def copied(part: T) -> T:
    """As `copy.copy`, without its ways around."""
    new = object.__new__(type(part))
    new.__dict__.update(part.__dict__)
    return new


@dataclass
class Redis:
    """What the fleet shares."""

    identity: int = 1
    settled: int = 1
    """The identity that `:g` names."""
    incarnation: int = 1
    """0: there is no `:g`."""
    clock: int = 0
    tag: int = 0
    """Clock at the tag's last raise."""
    value: Filled | None = None
    lease: int = 0
    holder: int = NOBODY
    """To whom the lease was granted: for the properties, no script sees it."""
    stream: tuple[Entry, ...] = ()
    top: int = 0
    """The stream's last id, also when it was trimmed."""
    waiters: int = 0
    failed: int = 0
    """Token of a lease whose holder left an error."""

    def fresh(self) -> int:
        """The value that stands, 0: none."""
        v = self.value
        if v is None or v.incarnation != self.incarnation or self.tag > v.clock:
            return 0
        return v.value


@dataclass
class Host:
    """A segment."""

    clock: int = 0
    key: int = 0
    tag: int = 0
    gap: int = 0
    record: Record | None = None
    claims: tuple[Claim, ...] = (Claim(),)
    bits: int = 0
    outbox: tuple[Entry, ...] = ()
    overflow: int = NEVER
    overflown: int = 0
    """Invalidations that did not fit: for the properties."""
    settled: tuple[int, ...] = ()
    """Values of sets whose senders raised after their scripts' answers."""
    position: int = 0
    placed: int = 1
    """The position's incarnation, in one word with it."""
    incarnation: int = 1
    identity: int = 1

    def highest(self) -> int:
        return max(self.key, self.tag)

    def lowest(self) -> int:
        """Clock of the lowest unsent entry, overflow included."""
        return min([self.overflow, *(e.clock for e in self.outbox)])

    def read(self) -> int:
        """The value for a reader, stale by the gap word too; 0: a miss."""
        r = self.record
        return 0 if r is None or self.tag > r.stamp else r.value

    def fresh(self) -> int:
        r = self.record
        return self.read() if r is not None and self.gap <= r.stamp else 0

    def invalidate(self, kind: str, spare: int = 0) -> None:
        """Take a number, raise, drop."""
        self.clock += 1
        if kind == "d":
            self.key = self.clock
            if self.record is not None and (not spare or self.record.value != spare):
                self.record = None
        elif kind == "t":
            self.tag = self.clock
        else:
            self.gap = self.clock


@dataclass(eq=False)
class Process:
    """Where a process stands, and its registers; those are zero between operations."""

    me: int
    host: int
    at: str
    todo: int = 0
    must: int = 0
    """Invalidations that had returned on its host when its get started."""
    heard: bool = True
    """It was under way when the error was left."""
    note: int = 0
    stamp: int = 0
    lowest: int = 0
    word: int = 0
    seen: int = 0
    slot: int = 0
    token: int = 0
    instead_of: int = 0
    waited: int = 0
    early: bool = False
    begun: tuple[int, int] = (0, 0)
    leased: bool = False
    value: int = 0
    woken: bool = False
    told: bool = False
    sent: Command | None = None
    reply: Reply | None = None
    entries: tuple[Entry, ...] = ()
    base: tuple[int, int, int] = (0, 0, 0)

    def reset(self, at: str) -> None:
        self.__dict__.update(Process(self.me, self.host, at, self.todo).__dict__)
