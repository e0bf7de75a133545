"""How long a response is fresh, how old it is, how long it may be served stale.

RFC 9111 §4.2, RFC 5861. Times are seconds; wall-clock times are of the epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from . import dates
from .directives import DELTA_MAX, FINE, Directives, delta, seconds, whole

HEURISTIC = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})
"""Status codes that may be fresh by a guess: RFC 9110 §15.1."""
HEURISTIC_MOST = 86400
"""A guess is at most a day: what is older than ten may change today, too."""
_HEURISTIC_SHARE = 10
ERRORS = frozenset({500, 502, 503, 504})
"""Those that RFC 5861 §4 calls errors."""

_NO_STALE = ("must-revalidate", "proxy-revalidate", "s-maxage")
"""RFC 9111 §4.2.4; s-maxage says what proxy-revalidate does (§5.2.2.10)."""


def parse_date(text: str | None) -> int | None:
    """Seconds of the epoch of an HTTP date (RFC 9110 §5.6.7), None if it is none."""
    return dates.parse(text)


# -- how long


def lifetime(
    directives: Directives, expires: str | None, date: str | None, now: float
) -> float | None:
    """Seconds of freshness that the origin gave, None if it said nothing.

    RFC 9111 §4.2.1: s-maxage, else max-age, else Expires less Date. An Expires that
    is no date means already expired (§5.3). Before all of them counts our own
    max-age-ms.
    """
    fine = delta(directives, FINE)
    if fine is not None:
        return fine / 1000
    for name in ("s-maxage", "max-age"):
        given = delta(directives, name)
        if given is not None:
            return given
    if expires is None:
        return None
    end = dates.parse(expires, now)
    if end is None:
        return 0
    sent = dates.parse(date, now)
    return min(max(0, end - (int(now) if sent is None else sent)), DELTA_MAX)


def heuristic(
    status: int,
    directives: Directives,
    last_modified: str | None,
    date: str | None,
    now: float,
) -> int | None:
    """Seconds of freshness to be guessed where the origin gave none (`lifetime` is
    None): a tenth of the time since it was modified, at most a day.

    RFC 9111 §4.2.2: only for the status codes that allow it, and for any other that
    `public` marks. None where there is no guess.
    """
    if status not in HEURISTIC and "public" not in directives:
        return None
    modified = dates.parse(last_modified, now)
    if modified is None:
        return None
    sent = dates.parse(date, now)
    unchanged = (int(now) if sent is None else sent) - modified
    return min(max(0, unchanged) // _HEURISTIC_SHARE, HEURISTIC_MOST)


# -- how old


def said_age(lines: Iterable[str], *, strict: bool = False) -> int:
    """Seconds that Age tells: RFC 9111 §5.1.

    Of several values the first counts, and one that is no number is ignored: both
    are a SHOULD. `strict` takes what is not exactly one number for a response of
    unknown age, which is never fresh, as caches before RFC 9111 did.
    """
    values = list(lines)
    members = [part.strip(" \t") for line in values for part in line.split(",", 1)]
    first = seconds(members[0]) if members else 0
    if strict and (len(members) > 1 or first is None):
        return DELTA_MAX
    return first or 0


def arrival_age(
    age: Iterable[str],
    date: str | None,
    response_delay: float,
    now: float,
    strict: bool = False,
) -> float:
    """How old a response was when it arrived: the corrected_initial_age of RFC 9111
    §4.2.3.

    `age` are the lines of Age, `now` the wall clock at its arrival, `response_delay`
    the seconds since the request was sent. `strict` as in `said_age`.
    """
    sent = dates.parse(date, now)
    apparent = 0 if sent is None else max(0, int(now) - sent)
    return max(float(apparent), said_age(age, strict=strict) + response_delay)


# -- how long stale


@dataclass(frozen=True, slots=True)
class Windows:
    """Seconds past its freshness for which a response may be served stale."""

    while_revalidate: int = 0
    """While it is fetched again: RFC 5861 §3."""
    if_error: int = 0
    """Instead of an error of the origin's: RFC 5861 §4."""
    if_cut_off: int = 0
    """Instead of an error of ours, where the origin cannot be reached at all."""


def windows(
    directives: Directives, *, if_error: int = 0, if_cut_off: int = 0
) -> Windows:
    """What the origin allows, or the operator where it says nothing.

    RFC 9111 §4.2.4: nobody may, where the origin forbids it. A cache that is cut off
    may without having been told so; `if_error` is the operator's word, whose use for
    an answer of 5xx takes an agreement with the origin.
    """
    if not may_be_stale(directives):
        return Windows()
    said = delta(directives, "stale-if-error")
    return Windows(
        while_revalidate=delta(directives, "stale-while-revalidate") or 0,
        if_error=if_error if said is None else said,
        if_cut_off=if_cut_off if said is None else max(said, if_cut_off),
    )


def may_be_stale(directives: Directives) -> bool:
    """Whether no directive forbids to serve it stale: RFC 9111 §4.2.4. A no-cache
    with field names forbids nothing of the rest (§5.2.2.4)."""
    forbidden = any(name in directives for name in _NO_STALE)
    return not forbidden and not whole(directives, "no-cache")


def grace(directives: Directives) -> int:
    """Seconds it may be served stale while it is fetched again, as in `windows`."""
    return windows(directives).while_revalidate


# -- what a client asks for


@dataclass(frozen=True, slots=True)
class Wishes:
    """A client's: RFC 9111 §5.2.1. All of them are advice."""

    max_age: float = math.inf
    min_fresh: float = 0
    max_stale: float | None = None
    """None: it says nothing of it."""
    no_cache: bool = False
    only_if_cached: bool = False


def wishes(directives: Directives) -> Wishes:
    """Those of a request's directives. A max-stale without argument takes any age; an
    argument that is no number asks for what no stored response has."""
    max_age = delta(directives, "max-age")
    stale = delta(directives, "max-stale")
    return Wishes(
        max_age=math.inf if max_age is None else max_age,
        min_fresh=delta(directives, "min-fresh") or 0,
        max_stale=math.inf if directives.get("max-stale", "") is None else stale,
        no_cache="no-cache" in directives,
        only_if_cached="only-if-cached" in directives,
    )


def satisfies(
    wished: Wishes,
    age: float,
    lifetime: float,
    directives: Directives,
    grace: float = 0,
) -> bool:
    """Whether a stored response with this age, lifetime and directives may answer the
    request without waiting for the origin: RFC 9111 §4, §5.2.1. `grace`: seconds for
    which it is served while it is fetched again (RFC 5861 §3), to a client that says
    nothing of ages."""
    if wished.no_cache or age > wished.max_age:
        return False
    left = lifetime - age
    if left > 0:
        return left >= wished.min_fresh
    if wished.min_fresh > 0:
        return False
    if wished.max_stale is None:
        return wished.max_age == math.inf and -left < grace
    return -left <= wished.max_stale > 0 and may_be_stale(directives)
