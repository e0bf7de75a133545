"""Which responses a shared cache may store: RFC 9111 §3."""

from __future__ import annotations

from dataclasses import dataclass

from .directives import MALFORMED, Directives

STORABLE = frozenset({200, 203, 204, 300, 301, 302, 307, 308, 404, 410})
"""Status codes understood here. Partial content is not, nor are errors that one
client's request may have caused: they would answer everybody else's."""

_FOR_ALL = {"public", "s-maxage"}
_FOR_AUTHORIZED = {*_FOR_ALL, "must-revalidate"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request decides whether its answer may be shared."""

    no_store: bool = False
    authorization: bool = False
    cookie: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """What of a response decides whether it may be shared."""

    status: int
    directives: Directives
    lifetime: int | None
    """Seconds of freshness that the origin gave; None: it said nothing."""
    set_cookie: bool = False
    vary_shareable: bool = True


def lifetime(asked: Asked, answered: Answered, default_ttl: float = 0) -> float | None:
    """Seconds for which the answer may be shared, None if it may not be.

    Without explicit freshness only a plain 200 takes the operator's default: §4.2.2
    allows a heuristic, and this is it. An answer that is never fresh is not shared.
    """
    if answered.status not in STORABLE or _forbidden(asked, answered):
        return None
    if answered.lifetime is None:
        ttl = default_ttl if answered.status == 200 else 0
    else:
        ttl = answered.lifetime
    return ttl if ttl > 0 else None


def _forbidden(asked: Asked, answered: Answered) -> bool:
    said = answered.directives
    if asked.no_store or "no-store" in said or MALFORMED in said:
        return True  # §5.2.1.5, §5.2.2.5
    if "private" in said or "no-cache" in said:
        # §5.2.2.7; and §5.2.2.4, whose answers cannot be used without asking again.
        # With field names they would forbid less: read as without.
        return True
    if answered.set_cookie or not answered.vary_shareable:
        return True  # §7.3, §4.1
    if asked.authorization and not said.keys() & _FOR_AUTHORIZED:
        return True  # §3.5
    # Stricter than the RFC: an answer made for somebody's cookies is theirs, unless
    # the origin says it is for all.
    return asked.cookie and not said.keys() & _FOR_ALL
