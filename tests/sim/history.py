"""The history of reads and writes of a fleet, and the rules that it must keep.

In the manner of CacheLib's ValueHistory: each value says which fetch made it and when
that fetch began; each read and each write is recorded with its begin and its end. Times
are nanoseconds of one clock that all recorders share, so that one thing ended before
another began is known wherever it happened. The rules know nothing of how the cache
works; the simulation and the harness of real processes use the same ones.

Rules
    invented    a value that nobody fetched, or of another key, or before it was made
    stale       on one host: after an invalidation returned, a read that begins later
                is not answered with a fetch that began before that invalidation did;
                after a soft one, only with a stale answer
    resurrected on one host: after a read was answered by a fetch later than some
                invalidation, no later read is answered, as fresh, by one before it
    expired     a fresh answer past its ttl, or any past ttl and grace
    unsettled   after the fleet had time to settle, on every host: an answer from
                before any invalidation that returned before; where it had only time
                for the stream, but not for 4 s after a gap, a fresh one
    apart       ... or two hosts with the values of two different sets
    unwanted    a value whose write was refused
    swapped     two writes in the place of one and the same value
    endless     a call of a living process that did not end
    failed      a call that raised what it must not
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

FRESH, STALE, UNKNOWN = "fresh", "stale", "unknown"
SECOND = 1_000_000_000


class Value(NamedTuple):
    """What is cached: it tells where it comes from. Survives msgpack as a list."""

    key: str
    began: int
    """When its fetch began; of a set, when the set did."""
    number: int
    """Of the fetch: no two have the same."""
    is_set: bool
    ended: int = 0
    """When its fetch returned."""
    ttl_ns: int = 0
    """0: for ever."""
    grace_ns: int = 0
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, cached: Sequence[object]) -> Value:
        *fields, tags = cached
        return cls(*fields, tuple(tags))  # type: ignore[arg-type]


@dataclass(slots=True)
class Read:
    """A call that was answered; `value` None: a miss."""

    verb: str
    host: int
    key: str
    begin: int
    end: int
    value: Value | None
    state: str
    """FRESH, STALE, or UNKNOWN where the verb does not say."""
    source: str = ""


@dataclass(slots=True)
class Write:
    """A call that makes values void; of a set also `value`, which it stores."""

    verb: str
    host: int
    begin: int
    covers: Callable[[Value], bool]
    about: str
    """Key, tag or everything: for people."""
    soft: bool = False
    value: Value | None = None
    end: int | None = None
    """None: it never returned, for its process was killed or its caller gave up."""
    refused: bool = False
    """It says that it stored nothing."""
    swapped: int = 0
    """Version of the value that it was to take the place of."""
    told: bool = False
    """Redis knew of all that its host had made void, when it returned."""


class Violation(NamedTuple):
    rule: str
    text: str


@dataclass
class History:
    """What was recorded."""

    reads: list[Read] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    troubles: list[Violation] = field(default_factory=list)
    """Of `endless` and `failed`, told by the recorder."""
    settled: int | None = None
    """From here on the fleet agrees; writes that began later are not judged so."""
    patient: bool = True
    """By then nothing is stale for a gap any more."""
    shared: set[int] | None = None
    """Numbers of the values that Redis ever had; None: of all. One that a host made
    for itself, without an answer, tells nothing of what the fleet had told that host:
    1. another host is cut off, and deletes the key; 2. this one has no answer, and
    computes; 3. Redis answers it again, with what it was never told to delete."""
    alone: set[int] = field(default_factory=set)
    """Numbers of the values that a host stored on a condition of its own."""
    _ends: dict[int, int | None] = field(default_factory=dict)
    slack_ns: int = 5_000_000
    """By which an answer may be older than its ttl: the time a look takes."""

    def void(self, value: Value, write: Write) -> bool:
        """Whether the write makes the value void: its fetch began before the write
        did. A set takes effect at some time of its own, so it is older than a write
        only if it had returned; one that never did may be later than all."""
        if not value.is_set:
            return value.began < write.begin and write.covers(value)
        ended = self._set_ends().get(value.number)
        return ended is not None and ended < write.begin and write.covers(value)

    def _set_ends(self) -> dict[int, int | None]:
        if len(self._ends) != len(self.writes):
            self._ends = {
                w.value.number if w.value else -i: w.end
                for i, w in enumerate(self.writes, 1)
            }
        return self._ends

    def _refused(self) -> set[int]:
        return {w.value.number for w in self.writes if w.refused and w.value}

    def _alone(self, write: Write) -> bool:
        return write.value is not None and write.value.number in self.alone

    def _swapped(self, swaps: bool) -> Iterable[Violation]:
        done: dict[tuple[str, int], list[Write]] = {}
        for write in self.writes:
            if not write.swapped or write.end is None or write.refused:
                continue
            others = done.setdefault((write.about, write.swapped), [])
            for other in others:
                lone = self._alone(write) or self._alone(other)
                if other.host == write.host or (swaps and not lone):
                    yield Violation("swapped", f"{_named(other)}, {_named(write)}")
            others.append(write)

    def check(
        self,
        *,
        ages: bool = True,
        swaps: bool = True,
        softs: bool = True,
        adds: bool = True,
    ) -> list[Violation]:
        """All violations. `ages`: nobody moved Redis' clock, nor touched a value;
        `swaps`: nobody was cut off from the fleet, and Redis lost nothing: two hosts
        do not swap one version, unless for themselves (`alone`); `softs`: nobody
        touched a value, or moved Redis' clock, which makes a stale one fresh; `adds`:
        Redis lost and refused nothing, nor ended it early, after which two hosts may
        add to what one of them holds."""
        found = list(self.troubles)
        found += self._swapped(swaps)
        for read in self.reads:
            found += self._check_read(read, ages, softs)
        found += self._resurrections(swaps)
        if self.settled is not None:
            found += self._apart(self.settled, adds)
        return found

    def _check_read(self, read: Read, ages: bool, softs: bool) -> Iterable[Violation]:
        value = read.value
        if value is None:
            return
        if value.key != read.key or value.began > read.end:
            yield Violation("invented", f"{_told(read)}")
            return
        if value.number in self._refused():
            yield Violation("unwanted", f"{_told(read)}")
        for write in self.writes:
            if write.end is None or not self.void(value, write):
                continue
            if write.soft and (not softs or not _claims_freshness(read)):
                continue
            if write.host == read.host and write.end < read.begin:
                yield Violation("stale", f"{_told(read)}; before it {_named(write)}")
            elif (
                self.settled is not None
                and write.end < self.settled <= read.begin
                and (self.patient or read.state == FRESH)
            ):
                yield Violation("unsettled", f"{_told(read)}; {_named(write)}")
        if ages and value.ttl_ns:
            life = value.ttl_ns + (0 if read.state == FRESH else value.grace_ns)
            made = value.began if value.is_set else value.ended
            if read.begin > made + life + self.slack_ns and read.source != "compute":
                yield Violation("expired", f"{_told(read)}")

    def _resurrections(self, swaps: bool) -> Iterable[Violation]:
        for late in self.reads:
            old = late.value
            if old is None or late.state != FRESH:
                continue
            for write in self.writes:
                if write.soft or not self.void(old, write):
                    continue
                if (
                    write.verb == "swap"
                    and write.host != late.host
                    and (not swaps or self._alone(write))
                ):
                    continue  # the fleet need not know of it
                seen = self._seen_after(write, late)
                if seen is not None:
                    yield Violation(
                        "resurrected",
                        f"{_told(late)}; before it {_told(seen)}; {_named(write)}",
                    )

    def _seen_after(self, write: Write, late: Read) -> Read | None:
        """A read on `late`'s host, ended before it, that shows the write was in force:
        the set's own value, or a fetch begun after the write returned."""
        for read in self.reads:
            if (
                read.host == late.host
                and read.key == late.key
                and read.end < late.begin
                and read.value is not None
                and read.source not in ("compute", "flight")  # it may stand nowhere
                and (
                    write.host == late.host or write.told or self._is_shared(read.value)
                )
                and (
                    read.value == write.value
                    or (write.end is not None and read.value.began > write.end)
                )
            ):
                return read
        return None

    def _is_shared(self, value: Value) -> bool:
        return self.shared is None or value.number in self.shared

    def _apart(self, settled: int, adds: bool) -> Iterable[Violation]:
        added = {write.value for write in self.writes if write.verb == "add"}
        last: dict[str, dict[int, Read]] = {}
        for read in self.reads:
            if read.begin >= settled and read.value and read.state == FRESH:
                last.setdefault(read.key, {})[read.host] = read
        for reads in last.values():
            sets = {r.value for r in reads.values() if r.value and r.value.is_set}
            sets -= set() if adds else added
            if len(sets) > 1:
                yield Violation("apart", "; ".join(map(_told, reads.values())))


def _claims_freshness(read: Read) -> bool:
    """Whether a soft write in force should have shown. Who waits for a fetch is
    answered by it, though it was expired meanwhile."""
    return read.state == FRESH and read.source not in ("compute", "flight")


def _named(write: Write) -> str:
    end = "killed" if write.end is None else _at(write.end)
    own = f" = {write.value.number}" if write.value else ""
    where = f"on host {write.host}, {_at(write.begin)}-{end}"
    return f"{write.verb}({write.about}){own} {where}"


def _told(read: Read) -> str:
    value = read.value
    made = "nothing" if value is None else f"{value.number}, begun {_at(value.began)}"
    when = f"{_at(read.begin)}-{_at(read.end)}"
    return (
        f"{read.verb}({read.key}) on host {read.host}, {when}, answered {read.state} "
        f"by {made} from {read.source or '?'}"
    )


def _at(ns: int) -> str:
    return f"{ns / SECOND:.6f}"
