"""Every state that a scenario can reach, breadth first; the first violation's trace."""

from __future__ import annotations

from typing import NamedTuple

from .events import following
from .parts import Claim, Filled, Host, Process, Record, Redis
from .properties import ended, judge
from .rules import Rule
from .world import Scenario, World


class Found(NamedTuple):
    """What an exploration came to."""

    states: int
    violation: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{n:3}  {line}" for n, line in enumerate(self.trace, 1)]
        return "\n".join([f"{self.states} states: {self.violation or 'ok'}", *lines])


def start(scenario: Scenario, without: frozenset[Rule]) -> World:
    redis, hosts = Redis(), [Host(), Host()]
    if scenario.l2:
        redis.value = Filled(1, 1, 0)
    for h, holds in zip(hosts, scenario.l1, strict=True):
        h.record = Record(1, 0) if holds else None
        if scenario.slots == 2:
            h.claims = (Claim(owner=0), Claim())  # word 0: another key's
    processes = [
        Process(me, host, ops[0].verb)
        for me, (host, ops) in enumerate(scenario.processes)
    ]
    return World(redis, hosts, processes, scenario.faults, scenario, without)


def explore(scenario: Scenario, *without: Rule, most: int = 3_000_000) -> Found:
    """Stops at the first violation, which has a shortest trace."""
    first = start(scenario, frozenset(without))
    numbers = {first.key(): 0}
    worlds: list[World | None] = [first]
    came: list[tuple[int, str]] = [(0, "")]
    before: list[list[int]] = [[]]  # by natural edges
    ends: list[int] = []
    for number, _ in enumerate(worlds):
        w = worlds[number]
        assert w is not None
        worlds[number] = None
        if ended(w):
            ends.append(number)
        for label, natural, then in following(w):
            key = then.key()
            at = numbers.get(key)
            if at is None:
                at = numbers[key] = len(worlds)
                worlds.append(then)
                came.append((number, label))
                before.append([])
            if natural:
                before[at].append(number)
            if violation := judge(then):
                trace = (*path(came, number), label)
                return Found(len(worlds), violation, trace)
        if len(worlds) > most:
            raise MemoryError(f"{scenario.what}: more than {most} states")
    stuck = unending(before, ends)
    if stuck is not None:
        violation = "somebody waits for ever: nothing leads to an end from here"
        return Found(len(worlds), violation, path(came, stuck))
    return Found(len(worlds))


def unending(before: list[list[int]], ends: list[int]) -> int | None:
    """The first state that no natural path leads on from to an end."""
    reached = bytearray(len(before))
    todo = list(ends)
    for number in todo:
        reached[number] = 1
    while todo:
        for b in before[todo.pop()]:
            if not reached[b]:
                reached[b] = 1
                todo.append(b)
    stuck = reached.find(0)
    return None if stuck < 0 else stuck


def path(came: list[tuple[int, str]], number: int) -> tuple[str, ...]:
    labels = []
    while number:
        number, label = came[number]
        labels.append(label)
    return tuple(reversed(labels))
