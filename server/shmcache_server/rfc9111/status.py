"""Cache-Status: what the cache did with a request, by RFC 9211.

A list of structured fields (RFC 9651), but of so few shapes that they are written
down here. Never carries the key.
"""

from __future__ import annotations

import math

CACHE = "shmcache"
BYPASS = f"{CACHE}; fwd=bypass"
"""§2.2: not handled by the cache: ranges, bodies, conditions it leaves alone."""
FIELDS = "Age: %d\r\nCache-Status: %s\r\n"
"""What is written behind a stored head, after RFC 9111 §5.1."""
REQUEST = f"{CACHE}; fwd=request"
"""§2.2: what is fresh here is not what the client's directives allow."""
METHOD = f"{CACHE}; fwd=method"
"""§2.2: the method is never answered from the cache."""
HIT = f"{CACHE}; hit; ttl=%d"
"""Answered from the cache, fresh for so many seconds; below zero if stale (§2.4)."""


def hit(ttl: float) -> str:
    """`HIT` for a time that is no whole number."""
    return HIT % math.floor(ttl)


def forwarded(
    reason: str = "miss", *, stored: bool = False, collapsed: bool = False
) -> str:
    """Fetched from the origin because of `reason` (§2.2), then stored (§2.5), or
    answered by the fetch of another request (§2.6)."""
    return (
        f"{CACHE}; fwd={reason}"
        f"{'; stored' if stored else ''}{'; collapsed' if collapsed else ''}"
    )
