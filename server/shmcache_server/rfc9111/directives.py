"""Cache-Control parsed: RFC 9111 §5.2."""

from __future__ import annotations

import re
from collections.abc import Iterable

Directives = dict[str, str | None]
"""Lower-case name to its argument, unquoted; None where it has none."""

DELTA_MAX = 2**31
"""RFC 9111 §1.2.2: what a number too large to represent counts as."""
MALFORMED = ""
"""Stands among the directives where a line holds what is none: nobody knows what was
meant, and it may have been `private`."""

# Possessive throughout: no input is read more than twice.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++")
_DIRECTIVE = re.compile(
    rf"""({_NAME.pattern})
    (?:[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|([^\s,;"]*+)))?+
    [ \t]*+(?:,|\Z)""",
    re.VERBOSE,
)
_BETWEEN = re.compile(r"[ \t,]*+")


def parse(fields: Iterable[str]) -> Directives:
    """The directives of all Cache-Control lines; of a repeated one the first counts.

    RFC 9111 §4.2.1 lets a cache take the first of several values. Each line is read by
    itself, so that a quote left open in one does not swallow the next.
    """
    found: Directives = {}
    for field in fields:
        _parse_line(field, found)
    return found


def _parse_line(field: str, found: Directives) -> None:
    at = _skipped(field, 0)
    while at < len(field):
        match = _DIRECTIVE.match(field, at)
        if match is None:
            found[MALFORMED] = None
            if begun := _NAME.match(field, at):
                found.setdefault(begun[0].lower(), None)
            comma = field.find(",", at)
            end = comma if comma >= 0 else len(field)
        else:
            name, quoted, token = match[1], match[2], match[3]
            if quoted is not None:
                token = re.sub(r"\\(.)", r"\1", quoted)
            found.setdefault(name.lower(), token)
            end = match.end()
        at = _skipped(field, end)


def _skipped(field: str, at: int) -> int:
    """Where the next directive begins."""
    match = _BETWEEN.match(field, at)
    return match.end() if match else at


def delta(directives: Directives, name: str) -> int | None:
    """Seconds that directive `name` gives; None where it does not stand.

    An argument that is no number counts as 0: RFC 9111 §4.2.1 asks that invalid
    freshness information makes a response stale.
    """
    if name not in directives:
        return None
    text = directives[name] or ""
    if not (text.isascii() and text.isdigit()):
        return 0
    return min(int(text), DELTA_MAX) if len(text) <= 12 else DELTA_MAX
