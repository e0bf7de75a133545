"""Cache-Control parsed: RFC 9111 §5.2."""

from __future__ import annotations

import re
from collections.abc import Iterable

Directives = dict[str, str | None]
"""Lower-case name to its argument, unquoted; None where it has none."""

DELTA_MAX = 2**31
"""RFC 9111 §1.2.2: what a number too large to represent counts as."""

_DIRECTIVE = re.compile(
    r"""[\s,]*([^\s,=;"]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)(?:"|\Z)|([^\s,]*)))?[^,]*"""
)


def parse(fields: Iterable[str]) -> Directives:
    """The directives of all Cache-Control lines; of a repeated one the first counts.

    RFC 9111 §4.2.1 lets a cache take the first of several values.
    """
    found: Directives = {}
    for match in _DIRECTIVE.finditer(", ".join(fields)):
        name, quoted, token = match.groups()
        if quoted is not None:
            quoted = re.sub(r"\\(.)", r"\1", quoted)
        found.setdefault(name.lower(), quoted if quoted is not None else token)
    return found


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
