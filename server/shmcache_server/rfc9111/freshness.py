"""How long a response is fresh, how old it is, how long it may be served stale.

RFC 9111 §4.2, RFC 5861 §3. Times are seconds; wall-clock times are of the epoch.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache

from .directives import DELTA_MAX, Directives, delta

_NO_STALE = ("must-revalidate", "proxy-revalidate", "no-cache", "s-maxage")


@lru_cache(1024)
def parse_date(text: str | None) -> int | None:
    """Seconds of the epoch of an HTTP date (RFC 9110 §5.6.7), None if it is none."""
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return int(date.timestamp())


def lifetime(
    directives: Directives, expires: str | None, date: str | None, now: float
) -> int | None:
    """Seconds of freshness that the origin gave, None if it said nothing.

    RFC 9111 §4.2.1: s-maxage, else max-age, else Expires less Date. An Expires that
    is no date means already expired (§5.3).
    """
    for name in ("s-maxage", "max-age"):
        given = delta(directives, name)
        if given is not None:
            return given
    if expires is None:
        return None
    end = parse_date(expires)
    if end is None:
        return 0
    sent = parse_date(date)
    return min(max(0, end - (int(now) if sent is None else sent)), DELTA_MAX)


def initial_age(
    age: str | None, date: str | None, response_delay: float, now: float
) -> float:
    """How old a response was when it arrived: RFC 9111 §4.2.3.

    `now` is the wall clock at its arrival, `response_delay` the seconds since the
    request was sent. An Age that is no number is ignored (§5.1).
    """
    text = (age or "").split(",")[0].strip()
    valid = text.isascii() and text.isdigit()
    said = min(int(text[:12]), DELTA_MAX) if valid else 0
    sent = parse_date(date)
    apparent = 0 if sent is None else max(0, int(now) - sent)
    return max(float(apparent), said + response_delay)


def grace(directives: Directives) -> int:
    """Seconds it may be served stale while it is fetched again: RFC 5861 §3.

    None where the origin forbids stale answers: RFC 9111 §4.2.4 counts
    must-revalidate, proxy-revalidate, no-cache and s-maxage.
    """
    if any(name in directives for name in _NO_STALE):
        return 0
    return delta(directives, "stale-while-revalidate") or 0
