"""Small programs that bring processes into each other's way, and who must notice what.

Processes are a1 and a2 on the first host, b1 and b2 on the second, each with a few
operations in order. Invalidations are numbered from 1; `after(1)` starts an operation
when the first one has returned.
"""

from __future__ import annotations

from .parts import Faults
from .rules import Rule
from .world import Op, Scenario

A, B = 0, 1
GET, PLAIN, FAIL, REFRESH = Op("get"), Op("plain"), Op("fail"), Op("refresh")
FETCH = Op("fetch")
DELETE, PURGE, SET = Op("delete", 1), Op("purge", 1), Op("set", 1)
FOLLOW, DRAIN = Op("follow"), Op("drain")


def after(i: int, op: Op) -> Op:
    return op._replace(after=op.after | 1 << i)


def second(op: Op) -> Op:
    return op._replace(i=2)


SCENARIOS = {
    # -- one host, no Redis
    "cold key": Scenario(
        "a wave on one host, every wake-up heard, nobody polls",
        ((A, (GET,)), (A, (GET,)), (A, (GET,))),
        l2=None, polls=False, one_fetch=True,
    ),
    "cold key, kills": Scenario(
        "a wave on one host; one dies, a wake-up is lost",
        ((A, (GET,)), (A, (GET,)), (A, (GET,))),
        Faults(kills=1, unheard=1), l2=None,
    ),
    "claim set": Scenario(
        "two takers, and another key's claim before theirs, freed at any moment",
        ((A, (GET,)), (A, (GET,))),
        l2=None, slots=2,
    ),
    "overdue holder": Scenario(
        "a holder that was stopped comes back; the claim alone refuses it",
        ((A, (GET,)), (A, (GET, GET))),
        Faults(overdue=1, vanished=1), l2=None,
    ),
    "delete without Redis": Scenario(
        "a delete against a fetch and a wave after it",
        ((A, (GET,)), (A, (DELETE, after(1, GET)))),
        l2=None, l1=(True, False),
    ),
    "fetch after delete": Scenario(
        "a fetch begun after a delete is stored, and the next get hits",
        ((A, (GET, after(1, GET))), (A, (DELETE,))),
        l2=None, one_fetch=True,
    ),
    # -- one host and Redis
    "delete": Scenario(
        "a delete against a get that promotes or computes, and a get after it",
        ((A, (GET,)), (A, (DELETE, GET))),
        Faults(unanswered=1), l2=True,
    ),
    "purge": Scenario(
        "a delete of the tag against a fetch under a lease, and a get after it",
        ((A, (GET,)), (A, (PURGE, GET))),
        l2=True,
    ),
    "hung fetch": Scenario(
        "a fetch that never ends, a delete, and a get after it",
        ((A, (GET,)), (A, (DELETE, GET))),
        Faults(expiries=1), hung=0,
    ),
    "latecomer": Scenario(
        "a get joins its process' flight after the tag was deleted",
        ((A, (GET,)), (A, (after(1, Op("join", flight=0)),)), (A, (PURGE,))),
    ),
    "take-over": Scenario(
        "a stopped holder's claim and lease are taken over; it comes back",
        ((A, (GET,)), (A, (GET,))),
        Faults(overdue=1),
    ),
    "killed holder": Scenario(
        "the holder dies at any step",
        ((A, (GET,)), (A, (GET,))),
        Faults(kills=1, unanswered=1),
    ),
    # -- two hosts
    "two hosts, nobody polls": Scenario(
        "a fetch on each host; the wake-ups are enough",
        ((A, (GET,)), (B, (GET,))),
        polls=False, one_fetch=True,
    ),
    "two hosts, deaf": Scenario(
        "a fetch on each host; a message is lost, or a holder dies",
        ((A, (GET,)), (B, (GET,))),
        Faults(unheard=1, kills=1),
    ),
    "late lease": Scenario(
        "an acquire arrives after another host's delete",
        ((A, (GET,)), (B, (DELETE, GET))),
        Faults(unanswered=1),
    ),
    "lost lease": Scenario(
        "a lease ends under its holder, and another host has the next",
        ((A, (GET,)), (B, (GET,))),
        Faults(expiries=1),
    ),
    "failed fetch": Scenario(
        "a fetch fails on one host; others wait for it, or come later",
        ((A, (FAIL,)), (B, (GET,)), (B, (GET,))),
    ),
    "refresh": Scenario(
        "an early refresh on one host, a plain get on another process",
        ((A, (REFRESH,)), (A, (PLAIN,))),
        l2=True,
    ),
    "killed holder, leases last": Scenario(
        "the holder dies at any step, and nobody waits for its lease to end",
        ((A, (GET,)), (A, (GET,))),
        Faults(kills=1), lasting=True,
    ),
    "delete across hosts": Scenario(
        "a delete on one host, a get and a follower on the other",
        ((A, (DELETE,)), (B, (GET,)), (B, (FOLLOW,)), (A, (DRAIN,))),
        Faults(unanswered=1), l1=(False, True), l2=True,
    ),
    "killed sender": Scenario(
        "a delete's sender dies; siblings send it and follow",
        ((A, (DELETE,)), (A, (FOLLOW,)), (A, (DRAIN,))),
        Faults(kills=1), l1=(True, False), l2=True, mortal=1,
    ),
    "set across hosts": Scenario(
        "a set on one host, a get without a lease and a follower on the other",
        ((A, (SET,)), (B, (GET,)), (B, (FOLLOW,))),
        Faults(unanswered=1), l1=(False, True), l2=True,
    ),
    "set and fetch": Scenario(
        "a set on one host, a fetch without a lease and a follower on the other",
        ((A, (SET,)), (B, (GET,)), (B, (FOLLOW,))),
        Faults(unanswered=1),
    ),
    "set and delete": Scenario(
        "a set on one host, then a delete on the other; a late command",
        ((A, (SET,)), (B, (second(DELETE),)), (A, (DRAIN,))),
        Faults(unanswered=1),
    ),
    "own echo": Scenario(
        "a set, a get and a follower on one host, which holds the old value",
        ((A, (SET,)), (A, (GET,)), (A, (FOLLOW,))),
        Faults(unanswered=1), l1=(True, False), l2=True,
    ),
    "own echo, killed sender": Scenario(
        "a set whose sender dies at any step; a plain get and a follower there",
        ((A, (SET,)), (A, (PLAIN,)), (A, (FOLLOW,)), (A, (DRAIN,))),
        Faults(kills=1), l1=(True, False), l2=True, mortal=1,
    ),
    "own echo, two sets": Scenario(
        "a set on each host, a follower and a fetch without a lease on the first",
        ((A, (SET,)), (B, (second(SET),)), (A, (FOLLOW,)), (A, (FETCH,))),
    ),
    "own echo, failover": Scenario(
        "a set, an old copy of Redis, a plain get and a follower",
        ((A, (SET,)), (A, (PLAIN,)), (A, (FOLLOW,))),
        Faults(copies=1, failovers=1), l2=True,
    ),
    "two sets": Scenario(
        "two sets at once, and a follower",
        ((A, (SET,)), (B, (second(SET),)), (B, (FOLLOW,))),
    ),
    "set, delete, follower": Scenario(
        "the other host's delete is applied before the set's stamp is noted",
        ((A, (SET,)), (B, (second(DELETE),)), (A, (FOLLOW,))),
        Faults(unanswered=1),
    ),
    "killed follower": Scenario(
        "a follower dies at any step; its sibling goes on",
        ((A, (DELETE,)), (B, (FOLLOW,)), (B, (FOLLOW,))),
        Faults(kills=1), l1=(False, True), mortal=2,
    ),
    "trimmed stream": Scenario(
        "entries are gone before they were read, and a follower dies",
        ((A, (DELETE,)), (B, (FOLLOW,)), (B, (FOLLOW,))),
        Faults(kills=1, trims=1), l1=(False, True), mortal=2,
    ),
    "evicted :g": Scenario(
        ":g is lost, the stream not; a follower dies",
        ((A, (DELETE, second(DELETE))), (B, (FOLLOW,)), (B, (FOLLOW,))),
        Faults(kills=1, evictions=1), l1=(False, True), mortal=2,
    ),
    "failover": Scenario(
        "an old copy of Redis comes back after a delete; a get on the same host",
        ((A, (DELETE, GET)), (A, (FOLLOW,))),
        Faults(copies=1, failovers=1), l2=True,
    ),
    "failover, two hosts": Scenario(
        "an old copy of Redis comes back; both hosts follow, a follower dies",
        ((A, (DELETE,)), (A, (FOLLOW,)), (B, (FOLLOW,)), (B, (FOLLOW,))),
        Faults(kills=1, copies=1, failovers=1), l1=(False, True), l2=True, mortal=4,
    ),
    "overflow": Scenario(
        "no room in the outbox, and a script without an answer",
        ((A, (DELETE,)), (A, (DRAIN,)), (B, (FOLLOW,))),
        Faults(unanswered=1), l1=(False, True), capacity=0,
    ),
    "overflow, and a get": Scenario(
        "no room in the outbox, and a get on the same host",
        ((A, (DELETE, GET)), (A, (DRAIN,))),
        Faults(unanswered=1), l2=True, capacity=0,
    ),
    "set in the outbox": Scenario(
        "a set that could not be sent, then another host's delete",
        ((A, (SET,)), (B, (after(1, second(DELETE)),)), (A, (DRAIN,))),
        Faults(unanswered=1),
    ),
    "rival followers": Scenario(
        "a follower that was stopped goes on; :g was lost meanwhile",
        ((A, (DELETE, second(DELETE)._replace(over=3))), (B, (FOLLOW,)),
         (B, (FOLLOW,)), (B, (after(1, FETCH),))),
        Faults(evictions=1), rivals=True,
    ),
    "two failovers": Scenario(
        "to a copy of the copy: `:g` names neither this Redis nor the last",
        ((A, (DELETE,)), (B, (FOLLOW,))),
        Faults(copies=2, failovers=2), l2=True,
    ),
    "failover and sets": Scenario(
        "a set, another host's delete and an old copy of Redis, followed",
        ((A, (SET,)), (A, (FOLLOW,)), (B, (second(DELETE),))),
        Faults(copies=1, failovers=1),
    ),
    "two by two, faults": Scenario(
        "a fetch and a delete on one host, a get and a follower on the other",
        ((A, (GET,)), (A, (DELETE,)), (B, (FETCH,)), (B, (FOLLOW,))),
        Faults(unanswered=1, expiries=1, overdue=1),
    ),
}  # fmt: skip

LARGER = {
    "wait and delete": Scenario(
        "one host waits for the other's lease while the key is deleted",
        ((A, (GET,)), (B, (GET,)), (A, (DELETE,))),
    ),
    "evicted :g, outbox": Scenario(
        ":g is lost, the stream not; what was not appended is sent again",
        ((A, (DELETE, second(DELETE))), (B, (FOLLOW,)), (A, (DRAIN,))),
        Faults(evictions=1), l1=(False, True),
    ),
    "two by two": Scenario(
        "a get on each host against a delete of the tag, and a follower",
        ((A, (GET,)), (A, (PURGE,)), (B, (GET,)), (B, (FOLLOW,))),
    ),
    "set, tag, follower": Scenario(
        "a set, the other host's delete of the tag, and fetches without Redis there",
        ((A, (SET,)), (B, (second(PURGE),)), (A, (FOLLOW,)), (B, (FETCH,))),
        Faults(unanswered=1),
    ),
    "trimmed stream and sets": Scenario(
        "a set and a delete, whose entries are gone before they were read",
        ((A, (SET,)), (B, (second(DELETE),)), (A, (FOLLOW,))),
        Faults(trims=2, unanswered=1),
    ),
    "evicted :g and sets": Scenario(
        "a set and a delete, between which :g is lost",
        ((A, (SET,)), (B, (second(DELETE),)), (A, (FOLLOW,))),
        Faults(evictions=1, unanswered=1),
    ),
    "failover and a get": Scenario(
        "a get, the other host's delete of the tag and an old copy of Redis",
        ((A, (GET,)), (B, (PURGE,)), (A, (FOLLOW,))),
        Faults(copies=1, failovers=1), l2=True,
    ),
    "overflow and sets": Scenario(
        "a set that found no room in the outbox; a fetch on the other host",
        ((A, (SET,)), (A, (DRAIN,)), (B, (FETCH,)), (B, (FOLLOW,))),
        Faults(unanswered=1), l1=(True, True), capacity=0,
    ),
}  # fmt: skip
"""Explored where time is; the largest takes minutes."""

NOTICED = {
    Rule.TENTATIVE_THEN_CONFIRMED: "claim set",
    Rule.NOTED_AFTER_CLAIM: "fetch after delete",
    Rule.NOTED_AGAIN: "set and fetch",
    Rule.SECOND_PEEK: "cold key",
    Rule.VOID_TAKEN_OVER: "hung fetch",
    Rule.CLAIM_CHECKED: "overdue holder",
    Rule.BIT_THEN_REREAD: "cold key",
    Rule.WORD_THEN_BITMAP: "cold key",
    Rule.CLAIM_POLLED: "cold key, kills",
    Rule.ERROR_TO_WAITERS: "failed fetch",
    Rule.FRESH_TOKEN: "take-over",
    Rule.LEASE_TAKEN_OVER: "killed holder, leases last",
    Rule.TOKEN_CHECKED: "lost lease",
    Rule.RAISE_CHECKED: "failover and sets",
    Rule.CLOCK_CHECKED: "purge",
    Rule.INCARNATION_CHECKED: "failover",
    Rule.LEASE_BEFORE_COMPUTE: "delete",
    Rule.RENEW_NEVER_MAKES: "hung fetch",
    Rule.L2_BEFORE_L1: "lost lease",
    Rule.WAITER_NOTED_IN_ACQUIRE: "two hosts, nobody polls",
    Rule.LEASE_POLLED: "two hosts, deaf",
    Rule.STAMP_BEFORE_ASK: "delete",
    Rule.STORE_CHECKED: "delete",
    Rule.NEWER_ONLY: "refresh",
    Rule.NOTE_AGAINST_STAMP: "latecomer",
    Rule.LOWEST_UNSENT: "delete",
    Rule.LOWEST_AFTER_NOTE: "delete",
    Rule.DELETE_TAKES_LEASE: "set and delete",
    Rule.SENT_BY_REPLY: "delete",
    Rule.ENTRY_FIRST: "delete",
    Rule.SET_TAKES_LEASE: "set and delete",
    Rule.SET_ANSWERED: "set, delete, follower",
    Rule.ECHO_APPLIED: "killed sender",
    Rule.SETTLED_BY_SENDER: "set across hosts",
    Rule.NONCE_SPARES_ONE: "set across hosts",
    Rule.NONCE_RAISES: "set and fetch",
    Rule.POSITION_AFTER: "killed follower",
    Rule.POSITION_BY_CAS: "rival followers",
    Rule.POSITION_OF_INCARNATION: "rival followers",
    Rule.GAP_FOUND: "trimmed stream",
    Rule.GAP_RAISED_FIRST: "trimmed stream",
    Rule.IDENTITY_LAST: "failover, two hosts",
    Rule.STRANGERS_NOT_READ: "failover",
    Rule.NEW_INCARNATION: "failover",
    Rule.SETTLED_FROM_R: "two failovers",
    Rule.OUTBOX_SENT_BY_SIBLINGS: "killed sender",
    Rule.OVERFLOW_CLEARS: "overflow",
    Rule.OUTBOX_SETS_ARE_DELETES: "set in the outbox",
}
"""A rule taken out, and the scenario that must notice."""
