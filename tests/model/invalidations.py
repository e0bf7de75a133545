"""Invalidations and sets by their sender, and the outbox, sent by whoever finds it."""

from __future__ import annotations

from .parts import Entry, Host, Process, Record
from .rules import Rule
from .steps import finish, send, step, store
from .world import World


def add_to_outbox(w: World, h: Host, entry: Entry) -> None:
    if len(h.outbox) < w.scenario.capacity:
        h.outbox = (*h.outbox, entry)
    elif w.keeps(Rule.OVERFLOW_CLEARS):
        h.overflow = min(h.overflow, entry.clock)
        h.overflown |= 1 << entry.i


def begin(w: World, p: Process, kind: str) -> None:
    i = w.op(p).i
    w.begun |= 1 << i
    w.wave = 0
    if w.keeps(Rule.ENTRY_FIRST):
        entry = Entry(w.host(p).clock, kind, i, p.value)
        add_to_outbox(w, w.host(p), entry)
    p.at = "raises"


@step
def delete(w: World, p: Process) -> None:
    """starts a delete: an entry in the outbox"""
    begin(w, p, "d")


@step
def purge(w: World, p: Process) -> None:
    """starts a delete of the tag: an entry in the outbox"""
    begin(w, p, "t")


@step
def set_(w: World, p: Process) -> None:
    """starts a set: an entry in the outbox"""
    w.begun |= 1 << w.op(p).i
    p.value = w.fetch()
    begin(w, p, "d")


def kind_of(w: World, p: Process) -> str:
    return "t" if w.op(p).verb == "purge" else "d"


@step
def raises(w: World, p: Process) -> None:
    """raises and drops; sends the script"""
    h, kind = w.host(p), kind_of(w, p)
    if w.keeps(Rule.RAISED_BEFORE) or w.scenario.l2 is None:
        h.invalidate(kind)
    if w.scenario.l2 is None:
        w.returns(p.host, w.op(p).i)
        finish(w, p)
        return
    if p.value and w.keeps(Rule.SET_TAKES_LEASE):
        p.token = w.fresh_token()
    send(w, p, "invalidate", kind=kind, i=w.op(p).i, token=p.token, value=p.value)
    p.at = "raises_again"


@step
def raises_again(w: World, p: Process) -> bool | None:
    """has the script's answer or none; raises and drops again"""
    if p.reply is None:
        return False
    if w.keeps(Rule.RAISED_AFTER):
        w.host(p).invalidate(kind_of(w, p))
    p.at = "ends"
    return None


@step
def ends(w: World, p: Process) -> None:
    """marks its entry sent where the script said appended"""
    h, i = w.host(p), w.op(p).i
    assert p.reply is not None
    appended = p.reply.says == "appended"
    if not w.keeps(Rule.ENTRY_FIRST) and not appended:
        add_to_outbox(w, h, Entry(h.clock, kind_of(w, p), i, p.value))
    if appended or not w.keeps(Rule.SENT_BY_REPLY):
        h.outbox = tuple(e for e in h.outbox if e.i != i)
    if not p.value:
        w.returns(p.host, i)
        finish(w, p)
    elif appended:
        settles(h, p.value)
        p.begun, p.at = (p.reply.incarnation, p.reply.clock), "set_put"
    else:
        set_here(w, p)


def set_here(w: World, p: Process) -> None:
    """Raise and store under one hold of the lock: Redis is away."""
    h = w.host(p)
    h.invalidate("d")
    h.record = Record(p.value, h.clock)
    w.knows(p.value, w.begun)
    w.returns(p.host, w.op(p).i)
    finish(w, p)


def settles(h: Host, value: int) -> None:
    h.settled = tuple(sorted({*h.settled, value}))


@step
def set_put(w: World, p: Process) -> None:
    """notes the clock; sends put_fenced with the set's value"""
    p.stamp, (incarnation, clock) = w.host(p).clock, p.begun
    name = "put_fenced" if p.token else "plain_set"
    send(
        w, p, name,
        token=p.token, value=p.value, incarnation=incarnation, clock=clock,
    )  # fmt: skip
    p.at = "set_stored"


@step
def set_stored(w: World, p: Process) -> bool | None:
    """has the answer; stores in L1 unless it was refused"""
    if p.reply is None:
        return False
    unanswered = not p.reply.says and not w.keeps(Rule.SET_ANSWERED)
    if p.reply.says == "stored" or unanswered:
        store(w, p, p.value, p.stamp, claimed=False)
    w.returns(p.host, w.op(p).i)
    finish(w, p)
    return None


# -- the outbox, sent by whoever finds entries


@step
def drain(w: World, p: Process) -> bool | None:
    """sends what stands in the outbox"""
    h = w.host(p)
    if not w.keeps(Rule.OUTBOX_SENT_BY_SIBLINGS):
        return False
    if w.redis.identity != h.identity:
        return False
    if h.outbox:
        entry = h.outbox[0]
        p.entries = (entry,)
        if entry.nonce and not w.keeps(Rule.OUTBOX_SETS_ARE_DELETES):
            send(w, p, "plain_set", value=entry.nonce)
        else:
            send(w, p, "invalidate", kind=entry.kind, i=entry.i)
    elif h.overflown:
        p.base = (h.overflow, h.overflown, 0)
        send(w, p, "invalidate", kind="g", i=h.overflown)
    else:
        return False
    p.at = "drained"
    return None


@step
def drained(w: World, p: Process) -> bool | None:
    """has the answer for its entry, and marks it sent"""
    if p.reply is None:
        return False
    h = w.host(p)
    if p.reply.says and p.entries:
        h.outbox = tuple(e for e in h.outbox if e != p.entries[0])
    elif p.reply.says and (h.overflow, h.overflown) == p.base[:2]:
        h.overflow, h.overflown = Host.overflow, 0
    p.reset("drain")
    return None
