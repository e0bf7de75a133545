"""What processes do, cut into steps: one access of shared words, one command each.

A step is a function of the world and its process. It changes both, or answers False:
it cannot go on yet. What it leaves in `at` is the name of the process' next step. Its
docstring is its line in a trace.
"""

from __future__ import annotations

from collections.abc import Callable

from .parts import LOST, OK, OLDER, RAISED, Command, Process, Record, Reply
from .rules import Rule
from .world import World

Step = Callable[[World, Process], bool | None]
NO_ANSWER = Reply("")
STEPS: dict[str, Step] = {}


def step(f: Step) -> Step:
    """An operation begins with the step of its name; `set_` is `set`."""
    STEPS[f.__name__.rstrip("_")] = f
    return f


def finish(w: World, p: Process) -> None:
    """The operation is over; its registers are forgotten."""
    p.todo += 1
    w.redis.waiters &= ~(1 << p.me)
    ops = w.scenario.processes[p.me][1]
    p.reset(ops[p.todo].verb if p.todo < len(ops) else "done")


def send(w: World, p: Process, name: str, **fields: int | str | bool) -> None:
    """On a connection made now, unless it is a stranger's."""
    r = w.redis
    if r.identity != w.host(p).identity and w.keeps(Rule.STRANGERS_NOT_READ):
        p.reply = NO_ANSWER
    else:
        p.reply = None
        p.sent = Command(name, p.me, r.identity, **fields)  # type: ignore[arg-type]


def post(w: World, p: Process, name: str, **fields: int) -> None:
    """A command whose reply nobody waits for."""
    c = Command(name, p.me, w.redis.identity, **fields)  # type: ignore[arg-type]
    w.net = tuple(sorted((*w.net, c)))


def store(w: World, p: Process, value: int, stamp: int, *, claimed: bool = True) -> str:
    """In L1, under the shard's lock."""
    h = w.host(p)
    ours = not claimed or h.claims[p.slot].word == p.word
    if not ours and w.keeps(Rule.CLAIM_CHECKED):
        return LOST
    if h.highest() > stamp and w.keeps(Rule.STORE_CHECKED):
        return RAISED
    if not claimed and w.keeps(Rule.NEWER_ONLY) and h.read() > value:
        return OLDER
    if not ours:
        w.broken = f"v{value} was accepted in L1 after its claim had passed on"
    if h.fresh() > value:
        w.broken = f"L1 went back from v{h.fresh()} to v{value}"
    h.record = Record(value, stamp)
    return OK
