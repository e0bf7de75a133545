"""Followers: what a host reads of the stream, and applies to its segment."""

from __future__ import annotations

from .parts import Entry, Host, Process
from .rules import Rule
from .scripts import make_g
from .steps import step
from .world import World


def behind(w: World, h: Host) -> str:
    """What a follower has to do: identity, gap, entries, or "" nothing."""
    r = w.redis
    if r.identity != h.identity:
        return "identity"
    if r.incarnation != h.incarnation:
        return "gap"
    after = [e for e in r.stream if e.clock > h.position]
    if after and (after[0].clock == h.position + 1 or not w.keeps(Rule.GAP_FOUND)):
        return "entries"
    if r.clock > h.position and w.keeps(Rule.GAP_FOUND):
        return "gap"
    return ""


def leads(w: World, p: Process) -> bool:
    """Whether it has the role: the first that lives, or any where rivals are."""
    first = [
        q.me for q in w.processes
        if q.host == p.host and w.op_verb(q) == "follow" and q.at != "dead"
    ]  # fmt: skip
    return w.scenario.rivals or first[:1] == [p.me]


@step
def follow(w: World, p: Process) -> bool | None:
    """reads Redis' identity, clock and stream"""
    h, r = w.host(p), w.redis
    found = behind(w, h)
    if not found or not leads(w, p):
        return False
    if found == "entries":
        p.entries = tuple(e for e in r.stream if e.clock > h.position)
        p.base = (h.position, h.placed, 0)
        p.at = "apply" if w.keeps(Rule.POSITION_AFTER) else "move"
        return None
    if found == "identity":
        settle(w, h)
    make_g(w)
    p.note, p.value = h.position, h.placed
    p.base = (r.identity, r.incarnation, r.clock)
    p.at = "raise_gap"
    if not w.keeps(Rule.GAP_RAISED_FIRST):
        p.at = "move_over_gap"
    elif not w.keeps(Rule.IDENTITY_LAST):
        p.at = "note_identity"
    return None


def settle(w: World, h: Host) -> None:
    """A script: a new incarnation, unless another follower made it."""
    r = w.redis
    was = r.settled if w.keeps(Rule.SETTLED_FROM_R) else h.identity
    if not r.incarnation or r.settled != was or r.settled == r.identity:
        return
    r.settled = r.identity
    if w.keeps(Rule.NEW_INCARNATION):
        w.made += 1
        r.incarnation, r.stream, r.top = w.made, (), 0


def passed_over(w: World, h: Host, p: Process, entry: Entry) -> bool:
    """Whether nothing of it is left to be done here."""
    own = entry.i in [o.i for q in w.processes if q.host == p.host
                      for o in w.scenario.processes[q.me][1] if o.i]  # fmt: skip
    if own and not w.keeps(Rule.ECHO_APPLIED):
        return True
    settled = entry.nonce in h.settled or not w.keeps(Rule.SETTLED_BY_SENDER)
    return bool(entry.nonce) and settled


@step
def apply(w: World, p: Process) -> None:
    """applies an entry to the segment"""
    h, entry = w.host(p), p.entries[0]
    if passed_over(w, h, p, entry):
        pass
    elif not entry.nonce:
        h.invalidate(entry.kind)
    elif not w.keeps(Rule.NONCE_SPARES_ONE):
        h.invalidate("d", h.record.value if h.record else 0)
    elif not w.keeps(Rule.NONCE_RAISES):
        if h.record and h.record.value != entry.nonce:
            h.record = None
    else:
        h.invalidate("d", entry.nonce)
    if len(p.entries) > 1:
        p.entries = p.entries[1:]
    elif w.keeps(Rule.POSITION_AFTER):
        p.at = "move"
    else:
        p.reset("follow")


def unmoved(w: World, h: Host, position: int, placed: int) -> bool:
    """Whether the CAS of the position finds what was read."""
    if not w.keeps(Rule.POSITION_BY_CAS):
        return True
    here = h.placed if w.keeps(Rule.POSITION_OF_INCARNATION) else placed
    return (h.position, here) == (position, placed)


@step
def move(w: World, p: Process) -> None:
    """moves the position behind what it applied"""
    h = w.host(p)
    if unmoved(w, h, p.base[0], p.base[1]):
        h.position = p.entries[-1].clock
    if w.keeps(Rule.POSITION_AFTER):
        p.reset("follow")
    else:
        p.at = "apply"


@step
def raise_gap(w: World, p: Process) -> None:
    """raises the gap word"""
    w.host(p).invalidate("gap")
    p.at = "move_over_gap"
    if not w.keeps(Rule.GAP_RAISED_FIRST):
        p.at = "note_identity"


@step
def move_over_gap(w: World, p: Process) -> None:
    """moves the position over the gap"""
    h = w.host(p)
    if not unmoved(w, h, p.note, p.value):
        p.reset("follow")
        return
    h.position, h.placed = p.base[2], p.base[1]
    p.at = "note_identity"
    if not w.keeps(Rule.GAP_RAISED_FIRST):
        p.at = "raise_gap"
    elif not w.keeps(Rule.IDENTITY_LAST):
        p.reset("follow")


@step
def note_identity(w: World, p: Process) -> None:
    """notes identity and incarnation"""
    h = w.host(p)
    h.identity, h.incarnation = p.base[:2]
    if w.keeps(Rule.IDENTITY_LAST):
        p.reset("follow")
    else:
        p.at = "raise_gap"
