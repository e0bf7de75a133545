"""Claims: who of a host computes, and how the others wait (steps 3 and 4 of a get)."""

from __future__ import annotations

from .parts import NOBODY, Claim, Host, Process
from .rules import Rule
from .steps import finish, step
from .world import World


def peek(w: World, p: Process, otherwise: str) -> None:
    value = w.host(p).read()
    if value:
        w.answer(p, value)
        finish(w, p)
    else:
        p.at = otherwise


def put_claim(h: Host, slot: int, claim: Claim) -> None:
    h.claims = (*h.claims[:slot], claim, *h.claims[slot + 1 :])


def ours(c: Claim) -> bool:
    """The key's; another key's has word 0."""
    return c.owner != NOBODY and c.word > 0


def void(w: World, h: Host, c: Claim) -> bool:
    raised = c.stamp < h.key and w.keeps(Rule.VOID_TAKEN_OVER)
    return raised or w.processes[c.owner].at == "dead"


@step
def take(w: World, p: Process) -> None:
    """looks at the key's claims"""
    h = w.host(p)
    for slot, c in enumerate(h.claims):
        if ours(c):
            if not c.tentative and void(w, h, c):
                take_over(w, p, slot)
            else:
                p.slot, p.seen, p.at = slot, c.word, "set_bit"
            return
    free = [s for s, c in enumerate(h.claims) if c.owner == NOBODY]
    p.slot = free[0]
    if len(h.claims) == 1:
        own(w, p, Claim(p.me, w.fresh_word()))
    else:
        p.seen, p.at = h.claims[p.slot].word, "take_free"


def own(w: World, p: Process, claim: Claim) -> None:
    put_claim(w.host(p), p.slot, claim)
    p.word, p.seen, p.at = claim.word, 0, "noted"


def take_over(w: World, p: Process, slot: int) -> None:
    """By one CAS; the lease will be asked for instead of the token in the claim."""
    h = w.host(p)
    if w.keeps(Rule.LEASE_TAKEN_OVER):
        p.instead_of = h.claims[slot].token
    p.slot = slot
    own(w, p, Claim(p.me, w.fresh_word(), token=p.instead_of))
    bits, h.bits = h.bits, 0
    wake(w, bits)


def wake(w: World, bits: int) -> None:
    for q in w.processes:
        if bits >> q.me & 1 and q.at in ("reread", "parked"):
            q.woken = True


@step
def take_free(w: World, p: Process) -> None:
    """takes a free entry"""
    h = w.host(p)
    if h.claims[p.slot].owner != NOBODY:
        p.at = "take"
        return
    claim = Claim(p.me, w.fresh_word(), tentative=True)
    own(w, p, claim)
    if w.keeps(Rule.TENTATIVE_THEN_CONFIRMED):
        p.at = "look_again"
    else:
        confirm(w, p)


@step
def look_again(w: World, p: Process) -> None:
    """looks at the other entry"""
    h = w.host(p)
    other = 1 - p.slot
    c = h.claims[other]
    p.at = "confirm"
    if not ours(c):
        return
    if c.tentative and other > p.slot:
        put_claim(h, other, Claim())
    elif h.claims[p.slot].word == p.word:  # withdraw
        put_claim(h, p.slot, Claim())
        p.word, p.at = 0, "take"
    else:
        p.word, p.at = 0, "take"


@step
def confirm(w: World, p: Process) -> None:
    """confirms its claim"""
    h = w.host(p)
    mine = h.claims[p.slot]
    if mine.word != p.word:
        p.word, p.at = 0, "take"
        return
    if any(ours(c) and not c.tentative for c in h.claims):
        w.broken = "two processes of a host hold the key's claim"
    put_claim(h, p.slot, mine._replace(tentative=False))
    p.at = "noted"


def note(h: Host, p: Process, token: int = 0) -> bool:
    """Beside the claim; False: it is lost, look again from the start."""
    claim = h.claims[p.slot]
    if claim.word != p.word:
        p.word, p.at = 0, "take"
        return False
    if token:
        claim = claim._replace(token=token)
    put_claim(h, p.slot, claim._replace(stamp=p.stamp))
    return True


# -- waiting on the host


@step
def set_bit(w: World, p: Process) -> None:
    """sets its bit in the claim's bitmap"""
    w.host(p).bits |= 1 << p.me
    p.at = "reread" if w.keeps(Rule.BIT_THEN_REREAD) else "parked"


@step
def reread(w: World, p: Process) -> None:
    """reads the claim's word again"""
    if w.host(p).claims[p.slot].word == p.seen:
        p.at = "parked"
    else:
        look(w, p)


@step
def parked(w: World, p: Process) -> bool | None:
    """is woken, or polls, and looks again"""
    c = w.host(p).claims[p.slot]
    gone = c.word != p.seen or w.processes[c.owner].at == "dead"
    polls = w.scenario.polls and w.keeps(Rule.CLAIM_POLLED)
    if not (p.woken or (polls and gone)):
        return False
    look(w, p)
    return None


def look(w: World, p: Process) -> None:
    p.woken, p.seen = False, 0
    w.host(p).bits &= ~(1 << p.me)  # a bit of who is not parked wakes nobody
    peek(w, p, "take")


def freeing(p: Process) -> None:
    """Answered; what is left to do needs the claim alone."""
    slot, word = p.slot, p.word
    p.reset("free")
    p.slot, p.word = slot, word


@step
def free(w: World, p: Process) -> None:
    """frees its claim"""
    h = w.host(p)
    if h.claims[p.slot].word != p.word:
        finish(w, p)
    elif w.keeps(Rule.WORD_THEN_BITMAP):
        put_claim(h, p.slot, Claim())
        p.at = "take_bitmap"
    else:
        p.base, h.bits = (h.bits, 0, 0), 0
        p.at = "free_late"


@step
def take_bitmap(w: World, p: Process) -> None:
    """takes the bitmap and wakes all in it"""
    h = w.host(p)
    bits, h.bits = h.bits, 0
    finish(w, p)
    wake(w, bits)


@step
def free_late(w: World, p: Process) -> None:
    """frees its claim, the bitmap taken before"""
    bits = p.base[0]
    if w.host(p).claims[p.slot].word == p.word:
        put_claim(w.host(p), p.slot, Claim())
    finish(w, p)
    wake(w, bits)
