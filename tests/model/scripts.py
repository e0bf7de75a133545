"""The five scripts as Redis runs them, each in one step."""

from __future__ import annotations

from .parts import NOBODY, Command, Entry, Filled, Reply
from .rules import Rule
from .world import World


def execute(w: World, c: Command) -> Reply:
    return SCRIPTS[c.name](w, c)


def make_g(w: World) -> None:
    """Where there is none."""
    r = w.redis
    if r.incarnation:
        return
    w.made += 1
    r.incarnation, r.clock, r.tag, r.settled = w.made, 0, 0, r.identity
    if w.keeps(Rule.NEW_G_DELETES_S):
        r.stream, r.top = (), 0


def wake(w: World) -> None:
    """Publish to the noted channels."""
    for p in w.processes:
        if w.redis.waiters >> p.me & 1 and p.at in ("asked", "waits"):
            p.told = True
    w.redis.waiters = 0


def grant(w: World, c: Command) -> None:
    w.redis.lease, w.redis.holder = c.token, c.sender


def worth(w: World) -> int:
    """The value, 0: none."""
    r, v = w.redis, w.redis.value
    if v is None:
        return 0
    dead = v.incarnation != r.incarnation and w.keeps(Rule.INCARNATION_CHECKED)
    raised = r.tag > v.clock and w.keeps(Rule.CLOCK_CHECKED)
    return 0 if dead or raised else v.value


def acquire(w: World, c: Command) -> Reply:
    r = w.redis
    value = worth(w)
    if not c.token or (value and not c.early):
        return Reply("none", value, r.incarnation, r.clock)
    if r.failed and (c.waited == r.failed or not w.keeps(Rule.ERROR_TO_WAITERS)):
        return Reply("failed")
    if not r.lease or r.lease == c.instead_of:
        make_g(w)
        grant(w, c)
        return Reply("won", value, r.incarnation, r.clock)
    if w.keeps(Rule.WAITER_NOTED_IN_ACQUIRE):
        r.waiters |= 1 << c.sender
    return Reply("wait", value, r.incarnation, r.clock, r.lease)


def note_waiter(w: World, c: Command) -> Reply:
    """What `acquire` does at once, as a command of its own."""
    w.redis.waiters |= 1 << c.sender
    return Reply("noted")


def renew(w: World, c: Command) -> Reply:
    if w.redis.lease != c.token and not w.keeps(Rule.RENEW_NEVER_MAKES):
        grant(w, c)
    return Reply("renewed")


def put_fenced(w: World, c: Command) -> Reply:
    r = w.redis
    if r.lease != c.token and w.keeps(Rule.TOKEN_CHECKED):
        return Reply("lost")
    raised = c.incarnation != r.incarnation or r.tag > c.clock
    if raised and w.keeps(Rule.RAISE_CHECKED):
        r.lease = 0
        wake(w)
        return Reply("raised")
    if not r.lease or r.holder != c.sender:
        w.broken = f"v{c.value} was accepted in L2 after its lease had passed on"
    r.value = Filled(c.value, c.incarnation, c.clock)
    r.lease = 0
    wake(w)
    return Reply("stored")


def plain_set(w: World, c: Command) -> Reply:
    """A set without a lease."""
    w.redis.value = Filled(c.value, w.redis.incarnation, w.redis.clock)
    return Reply("stored")


def abandon(w: World, c: Command) -> Reply:
    """With the words of a failure."""
    r = w.redis
    if r.lease == c.token:
        r.lease, r.failed = 0, c.token
        for p in w.processes:
            if p.at not in ("get", "done", "dead"):
                p.heard = True
        wake(w)
    return Reply("abandoned")


def invalidate(w: World, c: Command) -> Reply:
    """A set's gives its token the lease; `value` is its nonce."""
    r = w.redis
    make_g(w)
    r.clock += 1
    if c.kind == "d":
        r.value = None
        if w.keeps(Rule.DELETE_TAKES_LEASE) or c.token:
            r.lease, r.holder = 0, NOBODY
        if c.token:
            grant(w, c)
        wake(w)
    else:
        r.tag = r.clock
    if c.value and w.processes[c.sender].sent == c:  # a set's moment is its script
        w.knows(c.value, w.appended | w.everywhere())
    if r.clock <= r.top:
        return Reply("")  # XADD: the id is equal or smaller than the top item's
    r.stream, r.top = (*r.stream, Entry(r.clock, c.kind, c.i, c.value)), r.clock
    w.appended |= c.i if c.kind == "g" else 1 << c.i
    return Reply("appended", 0, r.incarnation, r.clock)


SCRIPTS = {
    f.__name__: f
    for f in (
        acquire, note_waiter, renew, put_fenced, plain_set, abandon, invalidate
    )
}  # fmt: skip
