"""Sharing: whether a response may answer others, for how long, and without what.

The rules are those of `rfc9111`; here they are asked about one response, whose fields
may have come just now or be those of a stored one that a 304 has brought up to date.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from multidict import MultiMapping

from .config import Config
from .rfc9111 import directives, freshness, storing, targeted, vary
from .rfc9111.directives import Directives
from .rfc9111.validation import Validators
from .routes import NONE, Route


class Shared(NamedTuple):
    """How a response may be stored for all."""

    lifetime: float
    """Seconds from its making."""
    grace: float
    """Seconds more it may be served while it is fetched again; 0 of both: each use is
    to be validated."""
    drop: frozenset[str]
    """Fields that only its own client gets."""
    names: tuple[str, ...]
    """What it varies by beside the encoding, which the key has."""
    validated: bool
    """Whether the origin can be asked if it still holds."""


class Sharing:
    """The operator's choices, and what comes of them."""

    def __init__(self, config: Config) -> None:
        caching = config.caching
        self._policy = storing.Policy(
            default_ttl=config.origin.default_ttl,
            heuristics=caching.heuristics,
            error_most=caching.error_ttl,
        )
        self._explicit = lru_cache(1024)(self._of_directives)
        self._if_error = int(caching.stale_if_error)
        self._if_cut_off = int(caching.stale_if_cut_off)

    def of(
        self,
        asked: storing.Asked,
        status: int,
        fields: MultiMapping[str],
        now: float,
        *,
        of_target: bool = False,
        route: Route = NONE,
    ) -> Shared | None:
        """Of a response with this status; None if it may not be stored for all.
        `of_target`: its Content-Location is the URL.

        A part is what the whole would be (RFC 9111 §3.3), and varies by Range: it
        answers who asks for the same part.
        """
        controls = _controls(fields)
        said = _control(*controls)
        get = fields.get
        validators = Validators(get("ETag"), get("Last-Modified"), get("Date"))
        about = (
            *(asked, status, controls, tuple(fields.getall("Vary", ()))),
            *("Set-Cookie" in fields, validators.usable, of_target, route),
        )
        if not _EXPLICIT.isdisjoint(said.directives):  # no matter when
            return self._explicit(*about)
        given = freshness.lifetime(said.directives, said.expires, validators.date, now)
        guessed = None
        if given is None:
            guessed = freshness.heuristic(
                200 if status == 206 else status,
                said.directives,
                validators.last_modified,
                validators.date,
                now,
            )
        return self._judged(given, guessed, *about)

    def _of_directives(
        self,
        asked: storing.Asked,
        status: int,
        controls: tuple[tuple[str, ...], ...],
        *about: Any,
    ) -> Shared | None:
        """Of one whose directives tell its lifetime: it does not depend on times."""
        given = freshness.lifetime(_control(*controls).directives, None, None, 0)
        return self._judged(given, None, asked, status, controls, *about)

    def _judged(
        self,
        given: float | None,
        guessed: int | None,
        asked: storing.Asked,
        status: int,
        controls: tuple[tuple[str, ...], ...],
        vary_lines: tuple[str, ...],
        set_cookie: bool,
        validated: bool,
        of_target: bool,
        route: Route,
    ) -> Shared | None:
        said, part = _control(*controls), status == 206
        if (
            route.ttl is not None
            and (status < 400 or status in storing.LASTING)  # else a request's fault
            and (asked.method == "GET" or given is not None)  # RFC 9110 §9.3.3
        ):
            given = route.ttl
        names = _names(vary_lines)
        answered = storing.Answered(
            status=200 if part else status,
            directives=said.directives,
            lifetime=given,
            set_cookie=set_cookie,
            vary_shareable=names is not None,
            heuristic=guessed,
            validator=validated,
            of_target=of_target,
        )
        policy = self._policy
        if route.default_ttl is not None:
            policy = replace(policy, default_ttl=route.default_ttl)
        shared = storing.share(asked, answered, policy)
        if shared is None:
            return None
        return Shared(
            lifetime=shared.lifetime,
            grace=freshness.grace(said.directives),
            drop=shared.drop,
            names=_named(names or (), part),
            validated=validated,
        )

    def windows(self, fields: MultiMapping[str]) -> freshness.Windows:
        """For how long a stored response may be served stale."""
        return freshness.windows(
            said_by(fields), if_error=self._if_error, if_cut_off=self._if_cut_off
        )


_CONTROLS = (*targeted.FIELDS, "Cache-Control", "Expires")
_EXPLICIT = frozenset({"max-age", "s-maxage", directives.FINE})


def _controls(fields: MultiMapping[str]) -> tuple[tuple[str, ...], ...]:
    """The lines of each of `_CONTROLS`."""
    return tuple([tuple(fields.getall(name, ())) for name in _CONTROLS])


@lru_cache(1024)
def _control(*lines: tuple[str, ...]) -> targeted.Control:
    """What `_CONTROLS` say: an origin says few things, and often."""
    return targeted.control(dict(zip(_CONTROLS, lines, strict=True)).__getitem__)


def said_by(fields: MultiMapping[str]) -> Directives:
    """The directives of a response that count for us."""
    return _control(*_controls(fields)).directives


@lru_cache(1024)
def _names(lines: tuple[str, ...]) -> tuple[str, ...] | None:
    return vary.names(lines)


def _named(names: tuple[str, ...], part: bool) -> tuple[str, ...]:
    found = {n for n in names if n != "accept-encoding"}
    return tuple(sorted(found | {"range"} if part else found))
