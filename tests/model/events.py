"""What may happen next: a step, a script that runs, a lease that ends, or a fault.

Edges are natural or faults; of faults each scenario allows a few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from . import followers, gets, invalidations  # noqa: F401 their steps
from .claims import own, wake
from .parts import NOBODY, Claim, Command, Process, Redis
from .rules import Rule
from .scripts import execute
from .steps import NO_ANSWER, STEPS
from .world import World


class Edge(NamedTuple):
    label: str
    natural: bool
    world: World


def name(w: World, me: int) -> str:
    host = w.processes[me].host
    number = sum(p.host == host for p in w.processes[: me + 1])
    return f"{'ab'[host]}{number}"


def following(w: World) -> Iterator[Edge]:
    for p in w.processes:
        if p.at in ("done", "dead"):
            continue
        yield from steps(w, p)
        yield from faults_of(w, p)
    yield from wire(w)
    yield from redis(w)


def changed(
    w: World, label: str, change: Callable[[World], object], fault: str = ""
) -> Iterator[Edge]:
    """The world after a change, and one fault less if it is one."""
    if fault and not getattr(w.faults, fault):
        return
    new = w.copied()
    if fault:
        left = getattr(w.faults, fault) - 1
        new.faults = w.faults._replace(**{fault: left})
    if change(new) is not False:
        if new.net:
            new.net = tuple(c for c in new.net if not idle(new, c))
        yield Edge(label, not fault, new)


# -- processes


def resting(w: World, p: Process) -> bool:
    return p.at == w.op_verb(p)


def steps(w: World, p: Process) -> Iterator[Edge]:
    if p.sent is not None:
        label = f"Redis runs {p.sent.name} of {name(w, p.me)}"
        yield from changed(w, label, lambda new: run(new, p.me))
        return
    op = w.op(p)
    over = op.over == NOBODY or w.processes[op.over].at == "done"
    if resting(w, p) and (op.after & ~w.everywhere() or not over):
        return
    does = STEPS[p.at]
    label = f"{name(w, p.me)} {(does.__doc__ or '').strip()}"
    yield from changed(w, label, lambda new: does(new, new.processes[p.me]))


def run(w: World, me: int) -> bool:
    p = w.processes[me]
    assert p.sent is not None
    if p.sent.to != w.redis.identity:
        p.reply = NO_ANSWER  # the connection broke at the failover
    else:
        p.reply = execute(w, p.sent)
    p.sent = None
    return True


def faults_of(w: World, p: Process) -> Iterator[Edge]:
    me, who = p.me, name(w, p.me)
    if (not resting(w, p)) and w.scenario.mortal >> me & 1:
        yield from changed(w, f"{who} is killed", lambda new: kill(new, me), "kills")
    if p.sent is not None or (p.reply is not None and p.at in AWAIT):
        label = f"{who} gives up on its {p.sent.name if p.sent else 'answer'}"
        yield from changed(w, label, lambda new: give_up(new, me), "unanswered")
    if p.at == "parked":
        label = f"{who} finds the holder overdue and takes its claim over"
        yield from changed(w, label, lambda new: overdue(new, me), "overdue")
    if p.woken:
        label = f"a wake-up of {who} is lost"
        yield from changed(w, label, lambda new: unheard(new, me), "unheard")
    if p.told:
        label = f"a message to {who} is lost"
        yield from changed(w, label, lambda new: unheard(new, me), "unheard")


AWAIT = ("asked", "put", "plain_asked", "raises_again", "set_stored", "drained")


def kill(w: World, me: int) -> None:
    p = w.processes[me]
    if p.sent is not None:
        w.net = tuple(sorted((*w.net, p.sent)))
    todo = p.todo
    p.reset("dead")
    p.todo = todo


def give_up(w: World, me: int) -> None:
    p = w.processes[me]
    if p.sent is not None:
        w.net = tuple(sorted((*w.net, p.sent)))
    p.sent, p.reply = None, NO_ANSWER


def overdue(w: World, me: int) -> bool:
    p = w.processes[me]
    h = w.hosts[p.host]
    claim = h.claims[p.slot]
    if claim.word != p.seen or claim.tentative:
        return False
    if w.keeps(Rule.LEASE_TAKEN_OVER):
        p.instead_of = claim.token
    p.woken = False
    own(w, p, Claim(me, w.fresh_word(), token=p.instead_of))
    bits, h.bits = h.bits, 0
    wake(w, bits & ~(1 << me))
    return True


def unheard(w: World, me: int) -> None:
    p = w.processes[me]
    p.woken = p.told = False


# -- the wire and Redis


def wire(w: World) -> Iterator[Edge]:
    for at, c in enumerate(w.net):
        if c.to != w.redis.identity or c in w.net[:at]:
            continue
        label = f"a late {c.name} of {name(w, c.sender)} arrives, and Redis runs it"
        yield from changed(w, label, partial(late, at=at))


def late(w: World, at: int) -> None:
    c = w.net[at]
    w.net = (*w.net[:at], *w.net[at + 1 :])
    execute(w, c)


def idle(w: World, c: Command) -> bool:
    """Whether a late command can do nothing any more: its token stands nowhere."""
    if c.name not in ("put_fenced", "abandon") or w.copy is not None:
        return False
    granted = [d.token for d in asks_of(w)]
    return c.token not in (w.redis.lease, *granted) and w.keeps(Rule.TOKEN_CHECKED)


def asks_of(w: World) -> Iterator[Command]:
    for c in (*w.net, *(p.sent for p in w.processes if p.sent)):
        if c.name in ("acquire", "invalidate", "renew"):
            yield c


def held(w: World) -> bool:
    """Whether somebody alive still counts on the lease."""
    token = w.redis.lease
    return any(
        (p.at != "dead" and p.token == token and (p.leased or p.sent or p.reply))
        or (p.value and p.token == token)
        for p in w.processes
    )  # fmt: skip


def redis(w: World) -> Iterator[Edge]:
    r = w.redis
    if r.lease and not w.scenario.lasting:
        fault = "expiries" if held(w) else ""
        yield from changed(w, "the lease expires", expire, fault)
    if w.copy is None:
        yield from changed(w, "a replica falls behind", fall_behind, "copies")
    else:
        label = "failover: the old copy of Redis comes back"
        yield from changed(w, label, fail_over, "failovers")
    if r.stream:
        yield from changed(w, "the stream is trimmed", trim, "trims")
    if r.incarnation:
        yield from changed(w, "Redis evicts :g", evict, "evictions")
    for i, h in enumerate(w.hosts):
        if h.record is not None:
            label = f"L1 of {'ab'[i]} evicts its record"
            yield from changed(w, label, partial(vanish, host=i), "vanished")
        if h.claims[0].owner == 0 and h.claims[0].word == 0:
            label = f"another key's claim on {'ab'[i]} is freed"
            yield from changed(w, label, partial(neighbour, host=i))


def expire(w: World) -> None:
    w.redis.lease, w.redis.holder = 0, NOBODY


def fall_behind(w: World) -> None:
    w.copy = tuple(w.redis.__dict__.values())


def fail_over(w: World) -> None:
    assert w.copy is not None
    identity = w.redis.identity + 1
    w.redis = Redis(*w.copy)  # type: ignore[arg-type]
    w.redis.identity, w.copy = identity, None


def trim(w: World) -> None:
    w.redis.stream = w.redis.stream[1:]


def evict(w: World) -> None:
    r = w.redis
    r.incarnation = r.clock = r.tag = r.settled = 0


def vanish(w: World, host: int) -> None:
    w.hosts[host].record = None


def neighbour(w: World, host: int) -> None:
    h = w.hosts[host]
    h.claims = (Claim(), *h.claims[1:])
