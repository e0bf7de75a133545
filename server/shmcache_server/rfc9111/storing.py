"""Which responses a shared cache may store: RFC 9111 §3."""

from __future__ import annotations

from dataclasses import dataclass

from . import directives
from .directives import MALFORMED, Directives
from .fields import ESSENTIAL

_FOR_ALL = {"public", "s-maxage"}
_FOR_AUTHORIZED = {*_FOR_ALL, "must-revalidate"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request decides whether its answer may be shared."""

    no_store: bool = False
    authorization: bool = False
    cookie: bool = False
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class Answered:
    """What of a response decides whether it may be shared."""

    status: int
    directives: Directives
    lifetime: float | None
    """Seconds of freshness that the origin gave; None: it said nothing."""
    set_cookie: bool = False
    vary_shareable: bool = True
    """Whether Vary names what a second request can be compared by: no `*`."""
    heuristic: int | None = None
    """Seconds that `freshness.heuristic` guesses; None: it guesses nothing."""
    validator: bool = False
    """Whether the origin can be asked if it still holds: ETag or Last-Modified."""
    of_target: bool = False
    """Whether Content-Location is the URL that was asked for."""


UNDERSTOOD = frozenset(
    {
        *(200, 201, 202, 203, 204, 205, 300, 301, 302, 303, 307, 308),
        *(400, 402, 403, 404, 405, 406, 409, 410, 414, 415, 422),
        *(500, 501, 502, 503, 504),
    }
)
"""Status codes that must-understand may rely on: RFC 9111 §5.2.2.3."""
ONE_REQUESTS = frozenset(
    {
        *(206, 304),
        *(401, 407, 408, 411, 412, 413, 416, 417, 421, 424, 425, 426, 428, 429, 431),
        *(505, 511),
    }
)
"""Never stored as a response to the URL: answers to a range or to a condition, and
those that tell of one client's credentials, rate, fields or connection."""
LASTING = frozenset({404, 410})
"""Errors that tell of the resource. Any other, one client's request may have caused."""


@dataclass(frozen=True, slots=True)
class Policy:
    """An operator's choices."""

    default_ttl: float = 0
    """Seconds for a 200 that says nothing of its freshness."""
    heuristics: bool = True
    error_most: float = 10
    """Seconds at most for errors that are not LASTING: a poisoned one ends soon."""


@dataclass(frozen=True, slots=True)
class Shared:
    """How a response may be stored for all."""

    lifetime: float
    """Seconds; 0: stored to be validated before each use."""
    drop: frozenset[str] = frozenset()
    """Fields, in lower case, that only its own client gets: `private` and `no-cache`
    with field names."""


def share(asked: Asked, answered: Answered, policy: Policy) -> Shared | None:
    """Whether the answer may be stored for all, and how; None if it may not be.

    RFC 9111 §3, and stricter in four things: a Set-Cookie is never shared; an answer
    made for somebody's cookies only with `public` or s-maxage; ONE_REQUESTS and what
    cannot be used, being neither fresh nor validatable, are not stored.
    """
    said, status = answered.directives, answered.status
    if status < 200 or status in ONE_REQUESTS or not _method_allows(asked, answered):
        return None
    if "must-understand" in said:
        # §5.2.2.3: who understands the status code leaves no-store aside.
        if status not in UNDERSTOOD:
            return None
    elif "no-store" in said:
        return None
    drop = directives.named(said, "private") | directives.named(said, "no-cache")
    if asked.no_store or MALFORMED in said or directives.whole(said, "private"):
        return None  # §5.2.1.5, §5.2.2.7
    if drop & ESSENTIAL or answered.set_cookie or not answered.vary_shareable:
        return None  # §4.1, §7.3
    if not _credentials_allow(asked, said):
        return None
    ttl = _ttl(answered, policy)
    if directives.whole(said, "no-cache"):
        ttl = 0  # §5.2.2.4
    if ttl <= 0 and not answered.validator:
        return None
    return Shared(max(ttl, 0), drop)


def _method_allows(asked: Asked, answered: Answered) -> bool:
    """§3, RFC 9110 §9.3: GET; and POST with explicit freshness whose response is, by
    its Content-Location, what a GET of the same URL gets. HEAD brings no content."""
    if asked.method == "POST":
        return answered.of_target and answered.lifetime is not None
    return asked.method == "GET"


def _credentials_allow(asked: Asked, said: Directives) -> bool:
    """§3.5; and an answer made for somebody's cookies is theirs, unless the origin
    says it is for all."""
    if asked.authorization and not said.keys() & _FOR_AUTHORIZED:
        return False
    return not asked.cookie or bool(said.keys() & _FOR_ALL)


def _ttl(answered: Answered, policy: Policy) -> float:
    ttl: float | None = answered.lifetime
    if ttl is None and policy.heuristics:
        ttl = answered.heuristic
    if ttl is None:
        ttl = policy.default_ttl if answered.status == 200 else 0
    if answered.status >= 400 and answered.status not in LASTING:
        return min(ttl, policy.error_most)
    return ttl
