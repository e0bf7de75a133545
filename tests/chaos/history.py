"""The checker of recorded runs: what no reader may ever have been answered.

Age
    A value is as old as the begin of the fetch that brought it; a set's value is as old
    as the set's end, for the set may have come into force then. A value is *older* than
    a void (delete, set, clear, ...) if that makes it older than the void's begin. So
    what overlaps is allowed either way, and what is found is certain.

Rules, by the name of the violation
    old on its host     a read that began after a void had returned on the same host was
                        answered with an older value
    old in the fleet    the same, with the void on another host, after `FLEET` seconds
                        with the link up (flagged stale: after `FLEET_STALE`)
    fresh though soft   as both above, for a soft void and a value flagged fresh
    dead                a value was answered after its ttl and grace
    never written       nobody wrote or fetched that value; or only later
    foreign, torn       the value bears another key; its bytes are not its own
    late, hung          a call did not end within its verb's limit
    error               a call raised what is not a compute's failure
    two fetches         of one key at a time, without a fault or a void that explains it

In the manner of CacheLib's ValueHistory: a hit must be the last value that was in force
before the read began, or one that came into force during it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.chaos.bounds import Bounds, Windows
from tests.chaos.journal import HARD, SOFT, Fault, Fetch, History, Read, Void
from tests.chaos.keys import BY_NAME

SECOND = 1_000_000_000
NOTICED = 3 * SECOND
"""Until a connection that a fault killed silently is known to be dead."""
SAMPLED = SECOND // 5
"""What a worker saw of L2 is taken to hold for so long before and after."""
FLEET = 4 * SECOND
"""Until what was invalidated elsewhere is not answered as fresh."""
FLEET_STALE = 8 * SECOND
"""Until it is not answered at all: a gap makes stale for 4 s, then it removes."""
LIMITS = {"peek": 1.0, "entry": 1.0}
"""Seconds that a call may take, by verb."""
LIMIT = 3.0
LIMIT_COMPUTING = 10.0
"""Twice the hard timeout that workers set, and slack for a busy machine."""
SLACK = SECOND // 2
EXPECTED = {"OriginFailed", "ComputeFailed", "ComputeTimeout", "Overloaded"}
"""What a call may raise, and..."""
UNSURE = {("TierUnavailable", v) for v in ("add", "compare_and_set", "touch")}
"""... where L2 went away before it told whether it was done."""
ALONE = 4 * SECOND
"""A fault so long before a fetch may explain a second one: a lease life, and more."""


class Violation(NamedTuple):
    kind: str
    at: int
    what: str


@dataclass
class Verdict:
    """What a history shows."""

    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """How often each kind of thing was seen."""
    longest: dict[str, float] = field(default_factory=dict)
    """The longest call of each verb, seconds, stops of its worker taken off."""
    behind: float = 0.0
    """The longest that an older value was answered on another host with the link up
    since it was invalidated, or since the link came up: seconds."""
    waves: Counter[int] = field(default_factory=Counter)
    """How many waves of misses had so many fetches at a time."""


class _Source(NamedTuple):
    """Where a value came from."""

    key: str
    begin: int
    as_old_as: int
    born: int


def check(history: History) -> Verdict:
    """Hold a history against the rules."""
    return _Check(history).run()


class _Check:
    def __init__(self, history: History) -> None:
        self.history = history
        self.verdict = Verdict()
        self.hosts = sorted({v.host for v in history.voids + history.reads})
        self.link = Windows(self._link_faults())
        self.any_fault = Windows((f.begin, f.end) for f in history.faults)
        self.stops = {
            worker: Windows(
                (f.begin, f.end)
                for f in history.faults
                if f.kind == "stop" and f.target == worker
            )
            for worker in {f.target for f in history.faults if f.kind == "stop"}
        }
        self.clock_steps = [f.begin for f in history.faults if f.kind == "clock"]
        self.hard: dict[str, list[Void]] = defaultdict(list)
        for void in self._returned((HARD,)):
            for key in void.keys:
                self.hard[key].append(void)
        self.sources = self._sources()
        self.touched = self._touches()

    def run(self) -> Verdict:
        self._reads()
        self._failures()
        self._durations()
        self._fetches()
        self.verdict.violations.sort(key=lambda v: v.at)
        return self.verdict

    # -- what is known

    def _link_faults(self) -> Iterable[tuple[int, int]]:
        for fault in self.history.faults:
            if fault.link:
                yield fault.begin, fault.end + NOTICED
        for sample in self.history.samples:
            if sample.l2 == "down":
                yield sample.at - SAMPLED, sample.at + SAMPLED

    def _end(self, call: Void | Fetch) -> int:
        """When it ended; at its worker's death if that came first."""
        if call.end is not None:
            return call.end
        return self.history.deaths.get(call.worker, 2**63)

    def _sources(self) -> dict[str, _Source]:
        sources = {}
        for fetch in self.history.fetches:
            end = self._end(fetch)
            if fetch.done:
                begin = fetch.begin
                sources[fetch.value] = _Source(fetch.key, begin, begin, end)
        for void in self.history.voids:
            if void.value is not None:
                end = self._end(void)
                sources[void.value] = _Source(void.keys[0], void.begin, end, end)
        return sources

    def _touches(self) -> dict[str, list[tuple[int, int]]]:
        """By key, begin and end of what gave a standing value another life."""
        touches = defaultdict(list)
        for void in self.history.voids:
            if void.verb == "touch":
                touches[void.keys[0]].append((void.begin, self._end(void)))
        return touches

    def _own(self, host: str, *forces: str) -> Bounds:
        """What the host knows of its own voids: all that have returned."""
        bounds = Bounds()
        for void in self._returned(forces):
            if void.host == host:
                for key in void.keys:
                    bounds.add(key, void.end or 0, void.begin)
        return bounds

    def _others(self, host: str, wait: int, *forces: str) -> Bounds:
        """What the host must know of the other hosts' voids: those that returned, once
        `wait` has passed with the link up; without a wait, all of them."""
        bounds = Bounds()
        for void in self._returned(forces):
            if void.host != host:
                end = void.end or 0
                known = self.link.clear_for(end, wait) if wait else end
                for key in void.keys:
                    bounds.add(key, known, void.begin)
        return bounds

    def _returned(self, forces: Sequence[str]) -> Iterable[Void]:
        return (
            v
            for v in self.history.voids
            if v.done and v.force in forces and v.end is not None
        )

    # -- rules

    def _reads(self) -> None:
        for host in self.hosts:
            own = self._own(host, HARD)
            own_soft = self._own(host, HARD, SOFT)
            fleet = self._others(host, FLEET, HARD)
            fleet_stale = self._others(host, FLEET_STALE, HARD)
            fleet_soft = self._others(host, FLEET, HARD, SOFT)
            at_all = self._others(host, 0, HARD)
            for read in self.history.reads:
                if read.host != host:
                    continue
                source = self._known(read)
                if source is None:
                    continue
                age, key, begin = source.as_old_as, read.key, read.begin
                if age < own.at(key, begin):
                    self._found("old on its host", read)
                elif age < fleet_stale.at(key, begin) or (
                    read.state == "fresh" and age < fleet.at(key, begin)
                ):
                    self._found("old in the fleet", read)
                elif read.state == "fresh" and self._softened(
                    read, age, own_soft, fleet_soft
                ):
                    self._found("fresh though soft", read)
                elif age < at_all.at(key, begin):
                    self._behind(read, age)
                self._life(read, source)

    def _softened(self, read: Read, age: int, *bounds: Bounds) -> bool:
        """Whether a value was made stale, and no touch has made it fresh again."""
        since = max(b.at(read.key, read.begin) for b in bounds)
        return age < since and not any(
            begin < read.end and end > since
            for begin, end in self.touched.get(read.key, ())
        )

    def _known(self, read: Read) -> _Source | None:
        """The source of what was read, where it has one."""
        counts = self.verdict.counts
        counts["reads"] += 1
        if read.value is None:
            counts["misses"] += 1
            return None
        counts["stale answers"] += read.state == "stale"
        source = self.sources.get(read.value)
        if read.value == "torn":
            self._found("torn", read)
        elif read.bears != read.key:
            self._found("foreign", read)
        elif source is None or source.begin > read.end or source.key != read.key:
            self._found("never written", read)
        else:
            return source
        return None

    def _life(self, read: Read, source: _Source) -> None:
        """Neither fresh after its ttl nor there at all after its grace."""
        if any(step < read.begin for step in self.clock_steps):
            return  # what came from Redis bears its time
        spec = BY_NAME[read.key]
        born = source.born
        for begin, end in self.touched.get(read.key, ()):
            if begin < read.end:
                born = max(born, end)
        ttl, grace = int(spec.ttl * SECOND), int(spec.grace * SECOND)
        if read.begin > born + ttl + grace + SLACK:
            self._found("dead", read)
        elif read.state == "fresh" and read.begin > born + ttl + SLACK:
            self._found("dead", read, "still flagged fresh")

    def _behind(self, read: Read, age: int) -> None:
        """An older value of another host, within the bound: how long it was."""
        self.verdict.counts["older answers across hosts"] += 1
        since = self.link.free_since(read.begin)
        if since is None:
            return
        first = min(
            v.end or 0
            for v in self.hard[read.key]
            if v.host != read.host and v.begin > age
        )
        seconds = (read.begin - max(first, since)) / SECOND
        self.verdict.behind = max(self.verdict.behind, seconds)

    def _found(self, kind: str, read: Read, more: str = "") -> None:
        source = self.sources.get(read.value or "")
        age = f"{(read.begin - source.as_old_as) / SECOND:.3f} s old" if source else ""
        words = (read.worker, read.verb, read.key, read.value, read.state, read.source)
        what = " ".join(w for w in (*words, age, more) if w)
        self.verdict.violations.append(Violation(kind, read.begin, what))

    def _failures(self) -> None:
        for failure in self.history.failures:
            self.verdict.counts["calls that raised"] += 1
            error = failure.error.partition(":")[0]
            if error in EXPECTED or (error, failure.verb) in UNSURE:
                continue
            kind = "hung" if error == "hung" else "error"
            what = f"{failure.worker} {failure.verb} {failure.key}: {failure.error}"
            self.verdict.violations.append(Violation(kind, failure.begin, what))

    def _durations(self) -> None:
        history = self.history
        ended = [v for v in history.voids if v.end is not None]
        for call in (*history.reads, *history.failures, *ended):
            begin, end = call.begin, call.end or 0
            stops = self.stops.get(call.worker)
            if stops is not None:
                end -= stops.overlap(begin, end)
            seconds = (end - begin) / SECOND
            longest = self.verdict.longest
            longest[call.verb] = max(longest.get(call.verb, 0.0), seconds)
            computing = call.verb.startswith("get_or_set")
            limit = LIMITS.get(call.verb, LIMIT_COMPUTING if computing else LIMIT)
            if seconds > limit:
                what = f"{call.worker} {call.verb}: {seconds:.3f} s, {limit:g} at most"
                self.verdict.violations.append(Violation("late", begin, what))

    def _fetches(self) -> None:
        """Waves: fetches of a key that overlap."""
        by_key: dict[str, list[Fetch]] = defaultdict(list)
        for fetch in sorted(self.history.fetches, key=lambda f: f.begin):
            by_key[fetch.key].append(fetch)
        voids: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for void in self.history.voids:
            for key in void.keys:
                voids[key].append((void.begin, self._end(void)))
        for key, fetches in by_key.items():
            disturbed = Windows(voids[key])
            wave: list[Fetch] = []
            for fetch in fetches:
                if wave and fetch.begin > max(map(self._end, wave)):
                    self._wave(wave, disturbed)
                    wave = []
                wave.append(fetch)
            self._wave(wave, disturbed)

    def _wave(self, wave: list[Fetch], disturbed: Windows) -> None:
        self.verdict.waves[len(wave)] += 1
        if len(wave) == 1:
            return
        first, last = wave[0].begin, wave[-1].begin
        if self.any_fault.touch(first - ALONE, last) or disturbed.touch(
            first - SLACK, last
        ):
            return
        what = f"{wave[0].key}: {', '.join(f.worker for f in wave)}"
        self.verdict.violations.append(Violation("two fetches", first, what))


def injected(faults: Iterable[Fault]) -> dict[str, tuple[int, float, int]]:
    """Count, seconds and touches of each kind."""
    sums: dict[str, tuple[int, float, int]] = {}
    for fault in faults:
        count, seconds, touched = sums.get(fault.kind, (0, 0.0, 0))
        lasted = (fault.end - fault.begin) / SECOND
        sums[fault.kind] = count + 1, seconds + lasted, touched + fault.touched
    return sums
