"""Streams: bodies on their way through the server: memory, one fetch, stalls, breaks.

    python -m loadtest.streams [--quick] [--json FILE]

Real server processes; the origin and all clients are one loop in this process, so
that their times compare. A figure of bodies, bytes or answers that is missed ends the
program with code 1; times depend on the machine and only say met or MISSED.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import command
from .bodies import RESET, SHORT, Body
from .front import MB, Break, Front, Passed, Wave, breaking, front, passing, wave
from .readers import WHOLE, Way
from .report import Target, judged, median, percentile, shown, table

WORKERS = 4
SETTLED = 0.25
"""Seconds that a stalled client may cost others by chance."""
PATIENCE = 1.0
"""Seconds for which one may hold up others where nothing is stored: `live.py`."""
_FILES = 4096


KINDS = {
    "private": Body(0, "private"),
    "no-store": Body(0, "no-store"),
    "public, too large": Body(0),
    "public, length not told": Body(0, told=False),
    "asked with no-store": Body(0),
}
_ASKED = {"asked with no-store": "Cache-Control: no-store\r\n"}
"""Fields of the request."""
BREAKS = {
    "cut short": Body(0, ends=SHORT),
    "reset": Body(0, ends=RESET),
    "chunks, cut short": Body(0, told=False, ends=SHORT),
    "chunks, reset": Body(0, told=False, ends=RESET),
    "private, cut short": Body(0, "private", told=False, ends=SHORT),
}


@dataclass(frozen=True)
class Plan:
    """How much of what."""

    kinds: Sequence[str] = tuple(KINDS)
    large: int = 100 * MB
    readers: int = 8
    """Of large bodies, a body each; every other one is slow."""
    slow_seconds: float = 5.0
    """Of a slow one."""
    clients: int = 1000
    size: int = 256 * 1024
    seconds: float = 2.0
    """Over which a body is sent, and..."""
    spread: float = 1.0
    """...over which clients come."""
    rounds: int = 2
    stalled: Sequence[int] = (0, 1, 10)
    crowd: int = 24
    """Clients of a body that is not stored, beside the stalled."""
    flood: int = 16 * 1024 * 1024
    """Bytes of it: more than sockets hold."""
    broken: int = 40


QUICK = Plan(
    large=20 * MB, readers=4, slow_seconds=1, clients=200, seconds=1, spread=0.5,
    rounds=1, broken=20,
)  # fmt: skip


Waves = dict[int, list[Wave]]
"""The rounds by how many clients stalled."""


@dataclass
class Found:
    """All of it."""

    passed: dict[str, Passed] = field(default_factory=dict)
    stored: Waves = field(default_factory=dict)
    flowing: Waves = field(default_factory=dict)
    """Of a body that is not stored."""
    breaks: dict[str, Break] = field(default_factory=dict)


# --- measuring ---------------------------------------------------------------------


def measure(plan: Plan) -> Found:
    _allow_files()
    found = Found()
    for name in plan.kinds:
        command.note(name)
        with front(1) as one:
            body = replace(KINDS[name], size=plan.large)
            found.passed[name] = one.run(passing(one, body, _ways(name, plan)))
    with front(WORKERS) as all_of:
        command.note("one fetch, and stalls")
        stored = Body(plan.size, seconds=plan.seconds)
        found.stored = _waves(all_of, plan, stored, plan.clients, plan.spread)
        gathered = plan.seconds / 4
        # All wait for its head: who comes later finds it gone on.
        flowing = Body(plan.flood, seconds=plan.seconds, wait=2 * gathered, pieces=64)
        found.flowing = _waves(all_of, plan, flowing, plan.crowd, gathered)
        command.note("breaks")
        for name, kind in BREAKS.items():
            body = replace(kind, size=plan.size, seconds=plan.seconds / 4)
            found.breaks[name] = all_of.run(breaking(all_of, body, plan.broken))
    return found


def _ways(name: str, plan: Plan) -> list[Way]:
    fast = Way(fields=_ASKED.get(name, ""))
    slow = replace(fast, rate=plan.large / plan.slow_seconds)
    return [slow if i % 2 else fast for i in range(plan.readers)]


def _waves(front: Front, plan: Plan, body: Body, clients: int, spread: float) -> Waves:
    found: Waves = {stalled: [] for stalled in plan.stalled}
    for _ in range(plan.rounds):
        for stalled, waves in found.items():
            waves.append(front.run(wave(front, body, clients, stalled, spread)))
    return found


def _allow_files() -> None:
    """Each client is two sockets of this process at most, and one of the server's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _FILES:
        wanted = _FILES if hard < 0 else min(_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def last_ms(waves: Sequence[Wave]) -> float | None:
    """Until the last of all has the body; of the rounds, the median."""
    return median([max(one.last_ms, default=0) for one in waves])


def later_ms(waves: Waves, stalled: int) -> float | None:
    """By how much that is later with so many stalled."""
    without, with_them = last_ms(waves.get(0, [])), last_ms(waves[stalled])
    if without is None or with_them is None:
        return None
    return with_them - without


# --- telling -----------------------------------------------------------------------


def show(found: Found, plan: Plan) -> None:
    print(
        f"Bodies of {plan.large / MB:g} MB, a body to a client, through one worker:\n"
    )
    head = ["body", "clients", "MB grown", "MB a client", "seconds", "how they ended"]
    print(table(head, _passed(found)))
    print(
        f"\n{plan.size // 1024} KiB sent over {plan.seconds:g} s to {plan.clients:,} "
        f"clients of {WORKERS} workers, and a body that is not stored,\n"
        f"{plan.flood // 1024:,} KiB, to {plan.crowd}. Milliseconds from request and "
        "first piece to the first byte,\nfrom request and last piece to the last, and "
        "from the first request to the end:\n"
    )
    head = ["body", "stalled", "bodies", "first, median", "p99", "last, median", "p99",
            "end of all", "whole", "of the stalled"]  # fmt: skip
    print(table(head, _crowds(found)))
    for waves in found.stored.values():
        for one in waves:
            print(f"clients of each worker: {' '.join(map(str, one.workers))}")
    print("\nBodies that break off half-way:\n")
    head = ["body", "clients", "bodies", "asked for again", "how it ended"]
    print(table(head, _breaks(found)))


def _ends(ends: Counter[str]) -> str:
    return ", ".join(f"{number} {how}" for how, number in sorted(ends.items())) or "-"


def _passed(found: Found) -> Iterator[list[str]]:
    for name, one in found.passed.items():
        figures = (one.grew / MB, one.each_mb, one.seconds)
        cells = (shown(figure, ".2f") for figure in figures)
        yield [name, str(one.clients), *cells, _ends(one.ends)]


def _crowds(found: Found) -> Iterator[list[str]]:
    for name, crowds in (("stored", found.stored), ("not stored", found.flowing)):
        for stalled, waves in crowds.items():
            for one in waves:
                series = [
                    percentile(figures, share)
                    for figures in (one.first_ms, one.behind_ms)
                    for share in (0.5, 0.99)
                ]
                cells = (
                    shown(f, ",.1f") for f in [*series, percentile(one.last_ms, 1)]
                )
                whole = str(one.ends[WHOLE])
                start = [name, str(stalled), str(one.bodies)]
                yield [*start, *cells, whole, _ends(one.stalled)]


def _breaks(found: Found) -> Iterator[list[str]]:
    for name, one in found.breaks.items():
        figures = (one.ends.total(), one.bodies, one.again)
        yield [name, *map(str, figures), _ends(one.ends)]


def counts(found: Found) -> Iterator[Target]:
    """What must hold on any machine."""
    for name, one in found.passed.items():
        yield Target(f"{name}: MB a client", one.each_mb, 2)
        lost = one.clients - one.ends[WHOLE]
        yield Target(f"{name}: clients without all of it", lost, 0, form="d")
    for stalled, waves in found.stored.items():
        what = f"stored, {stalled} stalled"
        bodies = max(one.bodies for one in waves)
        yield Target(f"{what}: bodies of the origin", bodies, 1, form="d")
        wrong = sum(one.wrong for one in waves)
        yield Target(f"{what}: clients without all of it", wrong, 0, form="d")
        kept = sum(stalled - one.stalled[WHOLE] for one in waves)
        if stalled:
            yield Target(f"{what}: of those, without it", kept, 0, form="d")
    for stalled, waves in found.flowing.items():
        what = f"not stored, {stalled} stalled: clients without all of it"
        yield Target(what, sum(one.wrong for one in waves), 0, form="d")
    for name, broke in found.breaks.items():
        yield Target(f"{name}: clients not broken off", broke.wrong, 0, form="d")
        yield Target(f"{name}: asked for again", broke.again, 1, least=True, form="d")


def times(found: Found) -> Iterator[Target]:
    """What depends on the machine too, in milliseconds."""
    cold = [ms for one in found.stored.get(0, []) for ms in one.first_ms]
    form = ",.0f"
    yield Target("first byte, p99 ms", percentile(cold, 0.99), 250, form=form)
    for name, waves, most in (
        ("stored", found.stored, SETTLED),
        ("not stored", found.flowing, PATIENCE + SETTLED),
    ):
        for stalled in filter(None, waves):
            what = f"{name}, {stalled} stalled: others later by ms"
            yield Target(what, later_ms(waves, stalled), 1000 * most, form=form)


def as_json(found: Found, aims: Sequence[Target]) -> dict[str, Any]:
    def rounds(waves: Waves) -> dict[int, list[dict[str, Any]]]:
        return {n: [vars(one) for one in many] for n, many in waves.items()}

    return {
        "passed": {name: vars(one) for name, one in found.passed.items()},
        "stored": rounds(found.stored),
        "not_stored": rounds(found.flowing),
        "breaks": {name: vars(one) for name, one in found.breaks.items()},
        "targets": [aim.as_json() for aim in aims],
    }


def options(args: list[str] | None) -> argparse.Namespace:
    parser = command.options("streams", __doc__, quick=command.A_LOOK)
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> int:
    asked = options(args)
    plan = QUICK if asked.quick else Plan()
    found = measure(plan)
    show(found, plan)
    firm = list(counts(found))
    aims = [*firm, *times(found)]
    code = judged(aims, firm)
    if asked.json:
        asked.json.write_text(json.dumps(as_json(found, aims), indent=2) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(command.run("streams", main))
