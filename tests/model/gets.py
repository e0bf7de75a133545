"""Gets: peek, claim, ask Redis, compute, fill; plain gets, and who joins a flight."""

from __future__ import annotations

from .claims import freeing, note, peek
from .parts import LOST, OK, Process, Reply
from .rules import Rule
from .steps import finish, post, send, step, store
from .world import World


@step
def get(w: World, p: Process) -> None:
    """starts a get, notes the clock and peeks"""
    p.must = w.returned[p.host]
    p.heard, p.note = False, w.host(p).clock
    peek(w, p, "take")


@step
def fail(w: World, p: Process) -> None:
    """starts a get whose compute will fail, and peeks"""
    get(w, p)


@step
def refresh(w: World, p: Process) -> None:
    """starts an early refresh"""
    p.must, p.note = w.returned[p.host], w.host(p).clock
    p.early, p.at = True, "take"


@step
def noted(w: World, p: Process) -> None:
    """notes the clock in its claim, and peeks once more"""
    h = w.host(p)
    p.stamp = h.clock if w.keeps(Rule.NOTED_AFTER_CLAIM) else p.note
    if not note(h, p):
        return
    value = h.read()
    if value and not p.early and w.keeps(Rule.SECOND_PEEK):
        w.answer(p, value)
        freeing(p)
    elif w.scenario.l2 is None:
        compute(w, p)
    else:
        if not w.keeps(Rule.LOWEST_AFTER_NOTE):
            p.lowest = h.lowest()
        p.at = "ask"


# -- asking Redis


@step
def ask(w: World, p: Process) -> None:
    """notes the clock, and the token that it will offer"""
    h = w.host(p)
    if w.keeps(Rule.NOTED_AGAIN):
        p.stamp = h.clock
    p.token = w.fresh_token()
    if p.instead_of and not w.keeps(Rule.FRESH_TOKEN):
        p.token = p.instead_of
    if note(h, p, p.token):
        p.at = "lowest"


@step
def lowest(w: World, p: Process) -> None:
    """reads the lowest unsent entry, and sends acquire"""
    if w.keeps(Rule.LOWEST_AFTER_NOTE):
        p.lowest = w.host(p).lowest()
    send(
        w, p, "acquire",
        token=p.token, instead_of=p.instead_of, early=p.early, waited=p.waited,
    )  # fmt: skip
    p.at = "asked"


@step
def asked(w: World, p: Process) -> bool | None:
    """has the answer of acquire"""
    if p.reply is None:
        return False
    r, p.reply, h = p.reply, None, w.host(p)
    p.instead_of = p.waited = 0
    if r.says != "wait":
        leave(w, p)
    if r.says == "failed":
        failure(w, p)
    elif r.value and not (p.early and r.says == "won"):
        promote(w, p, r)
    elif r.says == "won" or not r.says:
        p.leased, p.begun = r.says == "won", (r.incarnation, r.clock)
        if not p.leased and not w.keeps(Rule.LEASE_BEFORE_COMPUTE):
            p.leased, p.begun = True, (h.incarnation, 9)
        compute(w, p)
    else:
        p.waited, p.at = r.token, "waits"
        if not w.keeps(Rule.WAITER_NOTED_IN_ACQUIRE):
            post(w, p, "note_waiter")
    return None


def failure(w: World, p: Process) -> None:
    if not p.heard:
        w.broken = "a get is answered with a failure from before it started"
    freeing(p)


def usable(w: World, p: Process) -> bool:
    return w.host(p).highest() <= p.lowest or not w.keeps(Rule.LOWEST_UNSENT)


def promote(w: World, p: Process, r: Reply) -> None:
    """Copy L2's value into L1, and be answered with it."""
    h = w.host(p)
    if not usable(w, p):
        p.early, p.at = True, "ask"
        if r.says == "wait":
            p.waited, p.at = r.token, "waits"
        return
    if not w.keeps(Rule.STAMP_BEFORE_ASK):
        p.stamp = h.clock
    stored = store(w, p, r.value, p.stamp)
    if stored == OK:
        w.answer(p, r.value)
        freeing(p)
    elif stored == LOST:
        p.word, p.at = 0, "take"
    else:
        p.at = "ask"


@step
def waits(w: World, p: Process) -> bool | None:
    """is told, or polls, and asks again"""
    polls = w.scenario.polls and w.keeps(Rule.LEASE_POLLED)
    if not (p.told or (polls and w.redis.lease != p.waited)):
        return False
    leave(w, p)
    p.at = "ask"
    return None


def leave(w: World, p: Process) -> None:
    """A message to who does not wait wakes nobody."""
    p.told = False
    w.redis.waiters &= ~(1 << p.me)


# -- compute and fill


def compute(w: World, p: Process) -> None:
    p.value, p.at = w.fetch(), "computed"
    if w.scenario.one_fetch and w.wave > 1:
        w.broken = "without any fault a wave of gets makes two fetches"
    if p.leased and not w.keeps(Rule.RENEW_NEVER_MAKES):
        post(w, p, "renew", token=p.token)


@step
def computed(w: World, p: Process) -> bool | None:
    """has computed; sends put_fenced where it has a lease"""
    if w.scenario.hung == p.me and w.fetches[p.value] != w.begun:
        return False
    if w.op(p).verb == "fail":
        post(w, p, "abandon", token=p.token)
        freeing(p)
    elif p.leased:
        incarnation, clock = p.begun
        send(
            w, p, "put_fenced",
            token=p.token, value=p.value, incarnation=incarnation, clock=clock,
        )  # fmt: skip
        p.at = "put"
    else:
        fill(w, p)
    return None


@step
def put(w: World, p: Process) -> bool | None:
    """has the answer of put_fenced; fills L1 unless it was refused"""
    if p.reply is None:
        return False
    refused = p.reply.says in ("lost", "raised")
    p.reply = None
    if refused and w.keeps(Rule.L2_BEFORE_L1):
        w.answer(p, p.value)
        freeing(p)
        return None
    if refused:
        w.broken = f"v{p.value} was accepted in L1, its lease known to have passed on"
    fill(w, p)
    return None


def fill(w: World, p: Process) -> None:
    store(w, p, p.value, p.stamp)
    w.answer(p, p.value)
    freeing(p)


# -- a get that does not compute


@step
def plain(w: World, p: Process) -> None:
    """starts a plain get, peeks and notes the clock"""
    p.must = w.returned[p.host]
    p.stamp = w.host(p).clock
    peek(w, p, "plain_lowest")


@step
def plain_lowest(w: World, p: Process) -> None:
    """reads the lowest unsent entry, and asks for the value alone"""
    p.lowest = w.host(p).lowest()
    send(w, p, "acquire")
    p.at = "plain_asked"


@step
def plain_asked(w: World, p: Process) -> bool | None:
    """has the value; promotes it"""
    if p.reply is None:
        return False
    value = p.reply.value
    if value and usable(w, p):
        if not w.keeps(Rule.STAMP_BEFORE_ASK):
            p.stamp = w.host(p).clock
        store(w, p, value, p.stamp, claimed=False)
        w.answer(p, value)
    finish(w, p)
    return None


@step
def fetch(w: World, p: Process) -> None:
    """gets, computes and fills L1 at once, as where Redis is away"""
    p.must, p.stamp = w.returned[p.host], w.host(p).clock
    value = w.host(p).fresh() or w.fetch()
    store(w, p, value, p.stamp, claimed=False)
    w.answer(p, value)
    finish(w, p)


# -- a latecomer in the same process


@step
def join(w: World, p: Process) -> None:
    """comes to a flight of its process, unless that was overtaken"""
    h, flight = w.host(p), w.processes[w.op(p).flight]
    p.must, p.note = w.returned[p.host], h.clock
    flies = flight.at in ("asked", "waits", "computed", "put", "ask", "lowest")
    if flies and h.key <= flight.stamp:  # the value's tags are not known yet
        p.at = "joined"
    else:
        finish(w, p)


@step
def joined(w: World, p: Process) -> bool:
    return False  # until the flight answers


@step
def told_by_flight(w: World, p: Process) -> None:
    """has the flight's answer, and takes it or looks again"""
    fits = p.note <= p.stamp or w.host(p).highest() <= p.stamp
    if fits or not w.keeps(Rule.NOTE_AGAINST_STAMP):
        w.answer(p, p.value)
    finish(w, p)
