"""Allowance: how many calls of a budget a host may grant, from what it knows. Pure.

Every time is a whole number of microseconds of the host's monotonic clock, which all
its processes share. A window is longer than the budget says by the time that a call
may be on its way (`limits.py`).

Who decides
    Without Redis the host does, by what it granted within the window. With Redis the
    fleet's tally does (`tally.lua`), and the host notes what it was granted.

The share
    Where the tally is away, or has not been whole for a window (Redis restarted, or
    was away), a host grants no more than its share, whatever the tally says:
    1. Redis goes. The host knows what the fleet had used at the last answer, which is
       a second old at most, and counts what was lost on its way as used.
    2. For a window from then it grants, in all, a share of what was left.
    3. After that window nothing that Redis granted counts any more: it grants a share
       of the budget in any window. A share below one call is one in a longer window.
    4. Redis answers. What was granted alone is told, and the share holds for one more
       window: not every host has told.
    What the tally granted to others between the last answer and the loss is not known
    here, nor to whom else it answers while this host alone is cut off.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

_at, _number = itemgetter(0), itemgetter(1)
PIECES = 1024
"""Of a window: calls within one are kept as one, at the time of the last."""
SECOND = 1_000_000

Calls = Sequence[Sequence[int]]
"""Each when, and how many; the oldest first."""


class Terms(NamedTuple):
    """A budget's."""

    calls: int
    span: int
    """Of a window."""


class State(NamedTuple):
    """What a host knows of a budget."""

    grants: Calls = ()
    """Those of this host."""
    untold: Calls = ()
    """Of these, those that it granted alone and the tally does not know of."""
    none_until: int = 0
    """The tally has no call left before."""
    blocked_until: int = 0
    """By request."""
    hosts: int = 0
    """Last seen; 0: never."""
    used: int = 0
    """In the fleet, at the last answer of a whole tally."""
    away: bool = False
    """The tally does not answer."""
    lost_at: int = 0
    """Since when the host keeps to its share; 0: it need not."""
    whole_at: int = 0
    """Until when it does."""


class Told(NamedTuple):
    """What the tally answers; durations from then on."""

    granted: bool
    wait: int
    """Until that many calls would be granted."""
    used: int
    none: int
    """Until one call would be; 0: there is one left."""
    blocked: int
    age: int
    """Since the tally was begun: what was before is forgotten."""


def wait(terms: Terms, state: State, now: int, cost: int) -> int:
    """How long until the host may grant that many calls; 0: now."""
    held = max(state.none_until, state.blocked_until) - now
    if held > 0:
        return held
    if not state.lost_at or not state.hosts:
        if state.lost_at and state.away:  # a fleet of how many? none was ever seen
            return SECOND
        return _until(state.grants, now, terms.span, terms.calls - cost)
    first_end = state.lost_at + terms.span
    if now < first_end:
        room = max(0, terms.calls - state.used) // state.hosts
        since = sum(n for at, n in state.grants if at >= state.lost_at)
        return 0 if since + cost <= room else first_end - now
    room, span = _share(terms, state.hosts)
    return _until(state.grants, now, span, room - cost)


def granted(
    terms: Terms, state: State, now: int, cost: int, *, untold: bool = False
) -> State:
    """With that many calls granted here; `untold`: the tally does not know."""
    state = state._replace(grants=_with(state.grants, now, cost, terms.span))
    if not untold:
        return state
    return state._replace(untold=_with(state.untold, now, cost, terms.span))


def heard(terms: Terms, state: State, now: int, told: Told) -> State:
    """After an answer of the tally."""
    none_until, blocked_until = state.none_until, state.blocked_until
    if told.none:
        none_until = max(none_until, now + told.none)
    if told.blocked:
        blocked_until = max(blocked_until, now + told.blocked)
    lost_at, whole_at, used = state.lost_at, state.whole_at, state.used
    if told.age < terms.span:
        lost_at, whole_at = lost_at or now, max(whole_at, now + terms.span - told.age)
    elif lost_at and now >= whole_at:
        lost_at = 0
    if not lost_at:
        used = told.used
    return state._replace(
        none_until=none_until,
        blocked_until=blocked_until,
        lost_at=lost_at,
        whole_at=whole_at,
        used=used,
    )


def lost(terms: Terms, state: State, now: int, cost: int) -> State:
    """After a question to the tally for so many calls that has no answer: it may have
    granted them."""
    return state._replace(
        away=True,
        lost_at=state.lost_at or now,
        whole_at=now + terms.span,
        used=min(terms.calls, state.used + cost),
    )


def found(terms: Terms, state: State, now: int, told: Calls, hosts: int) -> State:
    """The tally answers, and was told these calls; `hosts`: how many there are, 0
    where that is not known."""
    last = told[-1][0] if told else 0
    if state.lost_at:  # those that were cut off have not told yet that they live
        hosts = max(hosts, state.hosts)
    return state._replace(
        untold=[call for call in state.untold if call[0] > last],
        hosts=hosts or state.hosts,
        away=False,
        whole_at=now + terms.span if state.away else state.whole_at,
    )


def within(calls: Calls, now: int, span: int) -> int:
    """How many there were in the window that ends now."""
    return sum(map(_number, _recent(calls, now, span)))


def _share(terms: Terms, hosts: int) -> tuple[int, int]:
    """A host's, and the window that it is for."""
    room = terms.calls // hosts
    if room:
        return room, terms.span
    return 1, terms.span * -(-hosts // terms.calls)


def _until(calls: Calls, now: int, span: int, room: int) -> int:
    """How long until there were no more than `room` in a window; a whole window where
    that never is."""
    recent = _recent(calls, now, span)
    over = sum(map(_number, recent)) - room
    if over <= 0:
        return 0
    for at, n in recent:
        over -= n
        if over <= 0:
            return at + span - now
    return span


def _recent(calls: Calls, now: int, span: int) -> Calls:
    """Those of the window that ends now."""
    return calls[bisect_right(calls, now - span, key=_at) :]


def _with(calls: Calls, now: int, cost: int, span: int) -> Calls:
    """With more calls, and without those of before the window."""
    piece = max(1, span // PIECES)
    rest = [*_recent(calls, now, span)]
    if rest and rest[-1][0] // piece == now // piece:
        cost += rest.pop()[1]
    rest.append([now, cost])
    return rest
