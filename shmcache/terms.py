"""Terms: what a caller wants of a fill, validated before any I/O and remembered.

Most programs ask on a few terms, again and again, so each is validated once. Types are
compared too: a ttl of True is not a ttl of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypedDict

from . import policy
from .fill import UNSET, Terms
from .policy import Ttl
from .tags import numbers

Errors = type[Exception] | tuple[type[Exception], ...]
Tags = Iterable[str]
TtlOf = Ttl | Callable[[Any], Ttl]
"""A ttl, or a function that tells it of the value."""


class Lives(TypedDict, total=False):
    """What `Cache.get_or_set` is told beside ttl and tags."""

    grace: Ttl
    negative_ttl: Any
    errors: Errors
    error_ttl: Ttl


class Wishes(Lives, total=False):
    """How `Cache.get_or_set` is to fill; told there."""

    ttl: TtlOf
    tags: Tags


def of(
    ttl: TtlOf = None,
    grace: Ttl = 0.0,
    tags: Tags = (),
    negative_ttl: Any = UNSET,
    errors: Errors = (),
    error_ttl: Ttl = 1.0,
    prefix: bytes = b"",
) -> Terms:
    """The terms; `ValueError` names the one that is wrong."""
    if type(tags) is not tuple and not isinstance(tags, str | bytes):
        tags = tuple(tags) if isinstance(tags, Iterable) else tags
    try:
        return _valid(ttl, grace, tags, negative_ttl, errors, error_ttl, prefix)
    except TypeError:  # of what cannot be hashed: a wrong one, told by its own check
        return _checked(ttl, grace, tags, negative_ttl, errors, error_ttl, prefix)


def _checked(
    ttl: TtlOf,
    grace: Ttl,
    tags: Tags,
    negative_ttl: Any,
    errors: Errors,
    error_ttl: Ttl,
    prefix: bytes,
) -> Terms:
    if negative_ttl is not UNSET:
        negative_ttl = policy.seconds(negative_ttl, "negative_ttl")
    return Terms(
        ttl if callable(ttl) else policy.seconds(ttl),
        policy.seconds(grace, "grace"),
        negative_ttl,
        numbers(tags, prefix),
        prefix,
        _classes(errors),
        policy.seconds(error_ttl, "error_ttl"),
    )


_valid: Callable[..., Terms] = lru_cache(maxsize=1024, typed=True)(_checked)


def _classes(errors: Errors) -> tuple[type[Exception], ...]:
    classes = errors if isinstance(errors, tuple) else (errors,)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, Exception)):
            raise ValueError(f"errors: expected classes of exceptions, not {one!r}")
    return classes
