"""Fill: what a compute returned, and the record that it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import policy
from .codec import Codec
from .policy import SECOND, Ttl
from .record import ERROR, FRESH, PASS, VALUE, Record

PASS_LIFE = 2.0
"""Seconds that a key is known for answers which may not be shared."""
_OLDEST = 1e9
"""Seconds; beyond it an age tells nothing more."""


class _Unset:
    """Stands where the caller's own setting holds."""


UNSET = _Unset()


@dataclass(frozen=True, slots=True)
class Fill:
    """What a compute may return in place of a bare value, to say more about it."""

    value: Any
    ttl: Ttl | _Unset = UNSET
    """In place of the caller's; 0 stores nothing."""
    grace: Ttl | _Unset = UNSET
    shareable: bool = True
    """False: an answer for the caller whose compute this was, and nobody else."""
    age: float = 0.0
    """Seconds that the value is old already; they count against its ttl."""
    tags: Sequence[str] | _Unset = UNSET
    """In place of the caller's."""
    negative: bool | _Unset = UNSET
    """Whether the value stands for an absent one, which lives for the caller's
    `negative_ttl`; else None does."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms on which a caller wants a key filled; seconds, None for ever."""

    ttl: float | Callable[[Any], Ttl] | None
    """Or what says it of a value."""
    grace: float | None = 0.0
    negative_ttl: float | _Unset | None = UNSET
    """For a value that is None."""
    tags: tuple[int, ...] = ()
    """Numbers that the record bears: its namespace's and its tags'."""
    prefix: bytes = b""
    """Of the namespace's keys."""
    errors: tuple[type[Exception], ...] = ()
    """Failures that are answers, stored in place of a value for..."""
    error_ttl: float | None = 1.0


@dataclass(frozen=True, slots=True)
class Life:
    """How long a fill lives from its birth, seconds; None for ever."""

    ttl: float | None
    grace: float | None

    @property
    def stored(self) -> bool:
        """A ttl of 0 stores nothing."""
        return self.ttl is None or self.ttl > 0


def wrap(result: Any) -> Fill:
    """A bare value as a fill."""
    return result if isinstance(result, Fill) else Fill(result)


def life(fill: Fill, terms: Terms) -> Life:
    """The fill's own ttl and grace, else those for an absent value, else the terms'."""
    ttl: Any = terms.ttl
    grace = terms.grace
    absent = fill.value is None if isinstance(fill.negative, _Unset) else fill.negative
    if absent and not isinstance(terms.negative_ttl, _Unset):
        ttl, grace = terms.negative_ttl, 0.0
    if not isinstance(fill.ttl, _Unset):
        ttl = policy.seconds(fill.ttl)
    elif callable(ttl):
        told: Any = ttl(fill.value)
        ttl = policy.seconds(told)
    if not isinstance(fill.grace, _Unset):
        grace = policy.seconds(fill.grace, "grace")
    return Life(ttl, grace)


def to_record(
    fill: Fill,
    lives: Life,
    codec: Codec,
    *,
    now: int,
    stamp: int,
    nonce: int,
    fill_us: int = 0,
    tags: tuple[int, ...] = (),
) -> Record:
    """The record of a fill whose compute returned at `now`; `CodecError` if its value
    cannot be encoded."""
    age = policy.seconds(fill.age, "age") or 0.0
    birth = now - int(min(age, _OLDEST) * SECOND)
    fresh_until = policy.after(birth, lives.ttl)
    dead_at = policy.after(fresh_until, lives.grace)
    return Record(
        value=codec.encode(fill.value),
        state=policy.state(now, fresh_until, dead_at),
        kind=VALUE,
        birth=birth,
        fresh_until=fresh_until,
        dead_at=dead_at,
        stamp=stamp,
        nonce=nonce,
        fill_us=min(fill_us, 2**32 - 1),
        tags=tags,
    )


def mark(
    kind: int, words: bytes, seconds: float | None, *, now: int, stamp: int
) -> Record:
    """A short-lived record that is no value: PASS, or ERROR with its words."""
    end = policy.after(now, seconds)
    return Record(words, FRESH, kind, now, end, end, stamp, 0, 0, ())


def error_record(
    words: bytes, terms: Terms, *, now: int, stamp: int, nonce: int
) -> Record:
    """The record of a failure that is an answer, in place of the key's value."""
    made = mark(ERROR, words, terms.error_ttl, now=now, stamp=stamp)
    return made._replace(nonce=nonce, tags=terms.tags)


def pass_mark(*, now: int, stamp: int, nonce: int) -> Record:
    """The record that says: answers of this key may not be shared."""
    made = mark(PASS, b"\xc0", PASS_LIFE, now=now, stamp=stamp)
    return made._replace(nonce=nonce)
