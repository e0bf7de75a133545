"""The world: one key and one tag, a Redis, hosts, processes; and what a scenario is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from .parts import NOBODY, Command, Faults, Host, Process, Redis, copied
from .rules import Rule


class Op(NamedTuple):
    """One operation of a process' program."""

    verb: str
    i: int = 0
    """Which invalidation it is."""
    after: int = 0
    """Bits of the invalidations that must have returned before it starts."""
    flight: int = NOBODY
    """join: the process whose flight it is."""
    over: int = NOBODY
    """The process that must have ended before it starts."""


SERVICES = ("follow", "drain")
"""Operations that never end, and rest when there is nothing to do."""


class Scenario(NamedTuple):
    """A small program for each process, and the faults that may come."""

    what: str
    processes: tuple[tuple[int, tuple[Op, ...]], ...]
    faults: Faults = Faults()
    l1: tuple[bool, ...] = (False, False)
    """Whether each host's L1 holds the first value."""
    l2: bool | None = False
    """Whether Redis holds it; None: there is no Redis."""
    slots: int = 1
    """Of a claim's set; with two the first is another key's, freed at any moment."""
    capacity: int = 9
    """Of the outbox."""
    polls: bool = True
    mortal: int = -1
    """Bits of the processes that may be killed."""
    hung: int = NOBODY
    """A process whose compute never ends."""
    one_fetch: bool = False
    """Fetches begun after the last invalidation: one."""
    lasting: bool = False
    """No lease ends with its life."""
    rivals: bool = False
    """Several followers at once; else the next begins when one is dead."""


@dataclass
class World:
    """One state."""

    redis: Redis
    hosts: list[Host]
    processes: list[Process]
    faults: Faults
    scenario: Scenario
    without: frozenset[Rule] = frozenset()
    net: tuple[Command, ...] = ()
    """Commands whose senders wait no more."""
    copy: tuple[object, ...] | None = None
    fetches: tuple[int, ...] = (0, 0)
    """What each value knows, by its number; 0 is none, 1 is the first."""
    begun: int = 0
    returned: tuple[int, ...] = (0, 0)
    """Invalidations that returned, by host."""
    appended: int = 0
    made: int = 1
    """Incarnations so far."""
    wave: int = 0
    """Fetches begun since the last invalidation returned."""
    broken: str = field(default="", compare=False)

    # -- states

    def copied(self) -> World:
        new = copied(self)
        new.redis = copied(self.redis)
        new.hosts = [copied(h) for h in self.hosts]
        new.processes = [copied(p) for p in self.processes]
        return new

    def key(self) -> tuple[object, ...]:
        return (
            *self.redis.__dict__.values(),
            *[v for h in self.hosts for v in h.__dict__.values()],
            *[tuple(p.__dict__.values()) for p in self.processes],
            *(self.faults, self.net, self.copy, self.fetches, self.begun),
            *(self.returned, self.appended, self.made, self.wave),
        )

    def keeps(self, rule: Rule) -> bool:
        return rule not in self.without

    # -- names that nothing alive bears

    def fresh_token(self) -> int:
        """Random bytes: the least number that nothing bears."""
        used = {self.redis.lease, self.redis.failed}
        used |= {c.token for h in self.hosts for c in h.claims}
        for p in self.processes:
            used |= {p.token, p.instead_of, p.waited}
        commands = [*self.net, *(p.sent for p in self.processes if p.sent)]
        used |= {t for c in commands for t in (c.token, c.instead_of, c.waited)}
        if self.copy is not None:
            before = Redis(*self.copy)  # type: ignore[arg-type]
            used |= {before.lease, before.failed}
        return next(t for t in range(1, len(used) + 2) if t not in used)

    def fresh_word(self) -> int:
        """A sequence number: as above, of claim words."""
        used = {c.word for h in self.hosts for c in h.claims}
        for p in self.processes:
            used |= {p.word, p.seen}
        return next(w for w in range(1, len(used) + 2) if w not in used)

    # -- what properties look at

    def fetch(self) -> int:
        """Begin a fetch: its value."""
        if self.scenario.one_fetch and self.begun == self.everywhere():
            self.wave += 1
        self.fetches = (*self.fetches, self.begun)
        return len(self.fetches) - 1

    def knows(self, value: int, bits: int) -> None:
        f = self.fetches
        self.fetches = (*f[:value], f[value] | bits, *f[value + 1 :])

    def everywhere(self) -> int:
        """Invalidations that returned somewhere."""
        bits = 0
        for r in self.returned:
            bits |= r
        return bits

    def returns(self, host: int, i: int) -> None:
        r = self.returned
        self.returned = (*r[:host], r[host] | 1 << i, *r[host + 1 :])

    def answer(self, p: Process, value: int) -> None:
        """Property 1."""
        if p.must & ~self.fetches[value]:
            self.broken = (
                "a get that started after an invalidation had returned on its host is "
                f"answered with the older fetch v{value}"
            )
        for q in self.processes:
            if q.at == "joined" and self.op(q).flight == p.me:
                q.value, q.stamp, q.at = value, p.stamp, "told_by_flight"

    def op(self, p: Process) -> Op:
        """What the process is at."""
        return self.scenario.processes[p.me][1][p.todo]

    def op_verb(self, p: Process) -> str:
        ops = self.scenario.processes[p.me][1]
        return ops[p.todo].verb if p.todo < len(ops) else ""

    def host(self, p: Process) -> Host:
        return self.hosts[p.host]
