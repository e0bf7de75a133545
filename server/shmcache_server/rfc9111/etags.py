"""Entity tags and what they are compared by: RFC 9110 §8.8.3."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TAG = r'(?:W/)?+"[\x21\x23-\x7e\x80-\U0010ffff]*+"'
_ONE = re.compile(_TAG)
_MEMBER = re.compile(rf"[ \t,]*+({_TAG})[ \t]*+(?:,|\Z)")
_BETWEEN = re.compile(r"[ \t,]*+")


def valid(tag: str | None) -> bool:
    """Whether it is an entity tag at all."""
    return tag is not None and _ONE.fullmatch(tag) is not None


def is_strong(tag: str | None) -> bool:
    """Whether it is one that promises the same bytes."""
    return valid(tag) and not _weak(tag)


def strongly_equal(one: str | None, other: str | None) -> bool:
    """RFC 9110 §8.8.3.2: both strong, and the same character by character."""
    return one == other and is_strong(one)


def weakly_equal(one: str | None, other: str | None) -> bool:
    """RFC 9110 §8.8.3.2: the same but for W/."""
    if one is None or other is None or not (valid(one) and valid(other)):
        return False
    return one.removeprefix("W/") == other.removeprefix("W/")


def parse(lines: Iterable[str]) -> list[str]:
    """The tags of If-None-Match or If-Match; what is none is left out, up to the next
    comma. `*` is none: see `any_tag`."""
    text = ",".join(lines)
    found: list[str] = []
    at = 0
    while at < len(text):
        match = _MEMBER.match(text, at)
        if match is not None:
            found.append(match[1])
            at = match.end()
        else:
            skipped = _BETWEEN.match(text, at)
            comma = text.find(",", skipped.end() if skipped else at)
            at = comma + 1 if comma >= 0 else len(text)
    return found


def any_tag(lines: Iterable[str]) -> bool:
    """Whether the condition is `*`: any representation there is."""
    return ",".join(lines).strip(" \t") == "*"


def _weak(tag: str | None) -> bool:
    return tag is not None and tag.startswith("W/")
