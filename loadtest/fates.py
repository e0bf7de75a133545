"""Fates: how the server answered, as an answer's Cache-Status (RFC 9211) tells it."""

from __future__ import annotations

FATES = ("hits", "stale", "misses", "coalesced")
REFUSED = "refused"
"""503 with Retry-After, where the origin's budget is spent."""
FAILED = "failed"


def fate(cache_status: str) -> str:
    """`hits`: fresh. `stale`: while a refresh runs, or the origin has failed.
    `misses`: fetched for this client. `coalesced`: by a fetch that was under way."""
    if "; hit" in cache_status:
        return "stale" if "; ttl=-" in cache_status else "hits"
    return "coalesced" if "; collapsed" in cache_status else "misses"
