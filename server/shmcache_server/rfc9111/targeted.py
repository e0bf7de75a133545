"""Targeted fields, which speak to one cache or to one kind of them: RFC 9213."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import http_sf

from . import directives
from .directives import FINE, Directives

OURS = "Shmcache-Cache-Control"
FIELDS = (OURS, "CDN-Cache-Control")
"""The target list of §2.2, the most specific first."""
_NUMBERS = frozenset(
    {"max-age", "s-maxage", "stale-while-revalidate", "stale-if-error", FINE}
)
_NAMES = frozenset({"private", "no-cache"})
_FLAGS = frozenset(
    {"no-store", "public", "must-revalidate", "proxy-revalidate", "must-understand"}
)


class Control(NamedTuple):
    """What a response says of its caching, to this cache."""

    directives: Directives
    expires: str | None
    targeted: bool = False
    """Whether a targeted field said it."""


def control(getall: Callable[[str], Iterable[str]]) -> Control:
    """What the fields of a response say; `getall` gives the lines of a field.

    The first targeted field that is valid and not empty takes the place of
    Cache-Control and of Expires, wholly: RFC 9213 §2.2.
    """
    for name in FIELDS:
        if said := parse(getall(name)):
            if name != OURS:
                said.pop(FINE, None)
            return Control(said, None, True)
    expires = next(iter(getall("Expires")), None)
    said = directives.parse(getall("Cache-Control"))
    said.pop(FINE, None)
    return Control(said, expires)


def parse(lines: Iterable[str]) -> Directives | None:
    """The directives of a targeted field; None if it is invalid, empty or not there.

    A dictionary of structured fields, parameters ignored (§2.1). A value of a type
    that its directive does not have makes the field invalid.
    """
    try:
        members = http_sf.parse(", ".join(lines).encode("ascii"), tltype="dictionary")
    except ValueError:
        return None
    if not isinstance(members, dict) or not members:
        return None
    found: Directives = {}
    for name, member in members.items():
        value = member[0] if isinstance(member, tuple) else member
        if not _fits(name, value):
            return None
        found[name] = None if value is True else str(value)
    return found


def _fits(name: str, value: object) -> bool:
    """Whether the directive may have this value. One that is not known here may have
    any: nothing is done about it."""
    if name in _NUMBERS:
        return isinstance(value, int) and not isinstance(value, bool)
    if name in _NAMES:
        return value is True or isinstance(value, str)
    return value is True or name not in _FLAGS
