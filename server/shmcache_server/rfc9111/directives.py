"""Cache-Control parsed: RFC 9111 §5.2, and Pragma, §5.4."""

from __future__ import annotations

import re
from collections.abc import Iterable

Directives = dict[str, str | None]
"""Lower-case name to its argument, unquoted; None where it has none."""

DELTA_MAX = 2**31
"""RFC 9111 §1.2.2: what a number too large to represent counts as."""
FINE = "max-age-ms"
"""max-age in thousandths of a second: our own, in our own targeted field alone."""
MALFORMED = ""
"""Stands among the directives where a line holds what is none: nobody knows what was
meant, and it may have been `private`."""

# Possessive throughout: no input is read more than twice.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++")
_DIRECTIVE = re.compile(
    rf"""({_NAME.pattern})
    (?:[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|((?:{_NAME.pattern})?+)))?+
    [ \t]*+(?:,|\Z)""",
    re.VERBOSE,
)
_BETWEEN = re.compile(r"[ \t,]*+")
_WITH_NAMES = ("private", "no-cache")
"""Those whose argument is a list of field names: RFC 9111 §5.2.2.4, §5.2.2.7."""
_DIGITS_MAX = 12


def parse(fields: Iterable[str]) -> Directives:
    """The directives of all Cache-Control lines; of a repeated one the first counts.

    RFC 9111 §4.2.1 lets a cache take the first of several values. Field names of
    several `private` or `no-cache` are joined; one without any stands for all fields.
    Each line is read by itself, so that a quote left open in one does not swallow the
    next.
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
                _add(found, begun[0].lower(), None)
            comma = field.find(",", at)
            end = comma if comma >= 0 else len(field)
        else:
            name, quoted, token = match[1], match[2], match[3]
            if quoted is None and name.lower() == "private":
                token = None  # `private=yes` names no field, whatever its grammar says
            elif quoted is not None:
                token = re.sub(r"\\(.)", r"\1", quoted)
            _add(found, name.lower(), token)
            end = match.end()
        at = _skipped(field, end)


def _add(found: Directives, name: str, argument: str | None) -> None:
    if name not in found:
        found[name] = argument
    elif name in _WITH_NAMES:
        names = _names(found[name]), _names(argument)
        found[name] = ",".join(sorted(names[0] | names[1])) if all(names) else None


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
    given = seconds(directives[name] or "")
    return 0 if given is None else given


def seconds(text: str) -> int | None:
    """A count of seconds, at most DELTA_MAX (RFC 9111 §1.2.2); None if it is none."""
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    return min(int(digits), DELTA_MAX) if len(digits) <= _DIGITS_MAX else DELTA_MAX


def whole(directives: Directives, name: str) -> bool:
    """Whether `private` or `no-cache` stands for the whole response: without field
    names, or with what are none."""
    return name in directives and not named(directives, name)


def named(directives: Directives, name: str) -> frozenset[str]:
    """The fields, in lower case, that `private` or `no-cache` is limited to."""
    return _names(directives.get(name))


def of_request(cache_control: Iterable[str], pragma: Iterable[str] = ()) -> Directives:
    """A request's directives; without Cache-Control, `Pragma: no-cache` says the same
    as it (RFC 9111 §5.4). A response's Pragma says nothing."""
    lines = list(cache_control)
    if lines:
        return parse(lines)
    return {"no-cache": None} if "no-cache" in parse(pragma) else {}


def _names(argument: str | None) -> frozenset[str]:
    """The field names of an argument; none where one of them is none."""
    parts = (part.strip(" \t").lower() for part in (argument or "").split(","))
    names = frozenset(filter(None, parts))
    return names if all(map(_NAME.fullmatch, names)) else frozenset()
