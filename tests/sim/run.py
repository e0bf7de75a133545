"""One history from its seed: made, run, settled, checked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from shmcache.codec import MSGPACK
from shmcache.envelope import unpack_envelope
from shmcache.l1 import ALL_SENT
from shmcache.record import VALUE
from shmcache.scripts import Names

from .attachment import FOCUSES, SimHost
from .fleet import Fleet
from .history import Value, Violation
from .program import LONG, LONGEST, SETTLE, SHORT, Program
from .world import Process, Stuck, World

_GENERATIONS = Names("sim").generations
SHORTS = 0.97
"""Of histories: most of what can go wrong does so with one key and few calls."""
LONG_SETTLES = 0.05
"""Of histories: in the others time ends when all hosts have heard of all."""


@dataclass
class Result:
    """What became of a seed."""

    seed: int
    violations: list[Violation]
    befell: list[str]
    steps: int
    lines: list[str]

    def __str__(self) -> str:
        told = "\n".join(f"{rule}: {text}" for rule, text in self.violations)
        return "\n".join(
            [f"seed {self.seed}", *self.lines, f"faults: {self.befell}", told]
        )


def run(fleet: Fleet, seed: int, traced: bool = False) -> Result:
    """Run one history. The same seed always runs the same one."""
    world = World(seed, fleet.hosts, traced)
    for host in fleet.hosts:
        host.reset(world)
    with fleet.chance(world):
        try:
            program = _run(world, seed)
        finally:
            world.close()
    program.history.shared = set(_shared(world))
    program.history.alone = world.alone
    violations = program.history.check(
        ages=not program.redis_jumped and not program.touched,
        swaps=not program.redis_lost and not program.gaps,
        adds=not program.redis_lost and not program.redis_jumped,
        softs=not program.touched and not program.redis_jumped,
    )
    violations += _fetched_once(program)
    return Result(seed, violations, program.befell, world.steps, world.lines)


def _shared(world: World) -> Iterable[int]:
    """Numbers of the values that Redis ever had."""
    for name, data in world.server.redis.stored:
        envelope = unpack_envelope(name, data)
        if envelope is not None and envelope.kind == VALUE:
            yield Value.of(MSGPACK.decode(envelope.value)).number


def _run(world: World, seed: int) -> Program:
    draw = world.random
    shape = SHORT if draw.random() < SHORTS else LONG
    program = Program(world, shape, quiet=draw.random() < 0.1)
    world.interruptions = draw.choice((0.0, 0.02, 0.1))
    if draw.random() < 0.5:
        world.focus, world.focus_weight = draw.choice(FOCUSES), 30
    world.draw_interruption()
    processes = [
        world.start(host)
        for host, count in zip(world.hosts, draw.choice(shape.processes), strict=True)
        for _ in range(count)
    ]
    if draw.random() < 0.7:
        _warm_up(program, processes)
    if not program.quiet:
        program.befall()
    for process in processes:
        for _ in range(draw.choice(shape.clients)):
            program.start(process, draw.choice(shape.operations))
    try:
        world.run(world.now + LONGEST, program.ended)
        _settle(program)
    except Stuck as stuck:
        program.history.troubles.append(Violation("endless", str(stuck)))
    for process in world.processes:
        for failure in process.loop.failures:
            program.history.troubles.append(Violation("failed", repr(failure)))
    return program


def _warm_up(program: Program, processes: list[Process]) -> None:
    """All are up, and some value may stand, before anything befalls them."""
    world = program.world
    starts = [p.loop.create_task(p.cache.start()) for p in processes]
    world.run(world.now + LONGEST, lambda: all(s.done() for s in starts))
    for key in program.keys:
        if world.random.random() < 0.5:
            process = world.random.choice(processes)
            first = process.loop.create_task(program._get_or_set(process, key))
            world.run(world.now + LONGEST, first.done)


def _settle(program: Program) -> None:
    """Faults end; after some time every process is asked for every key."""
    world, draw = program.world, program.world.random
    program.mend()
    world.run(world.now + LONGEST, program.ended)
    for task, process in program.calls.items():
        if not task.done() and not process.dead:
            program._trouble("endless", f"a call on {process}")
    for host in world.hosts:
        if not any(p.host is host for p in world.live):
            world.start(host)
    for process in world.live:
        process.loop.create_task(process.cache.start())
    if program.gaps and draw.random() < LONG_SETTLES:
        world.run(world.now + SETTLE)
    else:
        program.history.patient = False
        world.run(world.now + SETTLE, lambda: all(map(_followed, world.hosts)))
        if not all(map(_followed, world.hosts)):
            program._trouble("unsettled", "a host does not follow the fleet")
    program.history.settled = world.stamp()
    world.trace("settled")
    asked: list[asyncio.Task[None]] = []
    for host in world.hosts:
        process = draw.choice([p for p in world.live if p.host is host])
        for key in program.keys:
            verb = draw.choice((program._get, program._get_or_set))
            task = process.loop.create_task(verb(process, key))
            asked.append(task)
            world.run(world.now + LONGEST, task.done)
    for task in asked:
        if not task.done():
            program._trouble("endless", "a call after all had settled")
        elif task.exception() is not None:
            program.failed("a call after all had settled", task.exception())


def _followed(host: SimHost) -> bool:
    """Whether all that the host did is told, and all that the fleet did is applied."""
    redis = host.world.server.redis
    meta = redis.look(_GENERATIONS, dict) or {}
    return (
        host.place.identity == redis.identity
        and host.place.incarnation == int.from_bytes(meta.get(b"i", b"-"), "little")
        and host.place.position == int(meta.get(b"c", 0))
        and host.observer.outbox_lowest() == ALL_SENT
    )


def _fetched_once(program: Program) -> list[Violation]:
    """Without faults, one fetch for the first miss and three for each write. It voids
    the claim of a miss that was noted before it and won the lease after it, and the
    stream's echo of it that of a fetch which began after it."""
    if not program.quiet or program.terms.ttl == 0.3 or program.touched:
        return []
    found = []
    for key, fetches in program.fetches.items():
        writes = sum(w.about in (key, "t", "all") for w in program.history.writes)
        if fetches > 1 + 3 * writes:
            found.append(
                Violation("twice", f"{fetches} fetches of {key}, {writes} writes")
            )
    return found
