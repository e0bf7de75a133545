"""Which stored response answers which request: RFC 9111 §4.1.

Three ways. By the key: it carries one letter for whether the client takes gzip, and the
origin is asked for just that, so an answer that varies by Accept-Encoding is right for
all who share the key. By variants: beside the primary key stand the sets of names
that the URL's responses were seen to vary by, and under primary and secondary key the
variant; the secondary key is what the request says of those names, normalised. And by
the language that a client prefers (`prefers`).

What is normalised
    RFC 9111 §4.1 allows what does not change what the field means: whitespace where
    its syntax has it, several lines or one, the order where it says nothing (Accept,
    Accept-Charset, Accept-Language: their weights do), the case of languages.
    Accept-Encoding becomes the codings that the client takes of those known here; it
    means the same to an origin only if it is sent what is in the key (`codings`).
    Of fields that are no lists, commas and all that is beside them are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from .fields import is_token, tokens

GZIP, IDENTITY = "z", "i"
"""Letters of the key."""
LETTERS = (GZIP, IDENTITY)
CODINGS = ("zstd", "br", "gzip")
"""Those told apart in a secondary key."""
SETS_MOST = 4
"""Sets of names kept for a URL: each costs a look-up."""

Getall = Callable[[str], Iterable[str]]
"""The lines of a request's field."""

_RANKED = frozenset({"accept", "accept-charset", "accept-language"})
_CASELESS = frozenset({"accept-charset", "accept-language"})
_NO_LISTS = frozenset(
    {
        *("authorization", "cookie", "date", "from", "host", "if-modified-since"),
        *("if-range", "if-unmodified-since", "origin", "range", "referer"),
        *("user-agent",),
    }
)
_SPACED_COMMA = re.compile(
    r'("(?:[^"\\]|\\.)*+(?:"|\\?+\Z))|[ \t]*+,[ \t]*+|[ \t]++', re.DOTALL
)
_WEIGHT = re.compile(r"q[ \t]*+=[ \t]*+(0(?:\.[0-9]{0,3})?+|1(?:\.0{0,3})?+)", re.I)


@lru_cache(1024)
def letter(accept_encoding: str | None) -> str:
    """GZIP if the client takes it: RFC 9110 §12.5.3, weights of zero and `*` heeded."""
    return GZIP if _takes(accept_encoding or "", "gzip") else IDENTITY


def asked(letter: str) -> str:
    """The Accept-Encoding that the origin is sent for a key with this letter."""
    return "gzip" if letter == GZIP else "identity"


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


# -- variants


def names(fields: Iterable[str]) -> tuple[str, ...] | None:
    """The fields that a response varies by, in lower case and sorted; None where no
    second request can be told to match: `*`, or what is no name."""
    found = tokens(fields)
    if not all(map(is_token, found)) or "*" in found:
        return None
    return tuple(sorted(found))


def secondary(named: Iterable[str], getall: Getall) -> str:
    """The secondary key of a request for these names, sorted: two requests have one
    key if and only if their normalised fields are the same. The request is what the
    origin is sent: it answered that, with the fields that are ours to write.

    {length}:{name}{length}:{value} of each, the value's length `-` if it is not there.
    """
    parts: list[str] = []
    for name in named:
        value = normalised(name, getall(name))
        told = "-" if value is None else f"{len(value)}:{value}"
        parts.append(f"{len(name)}:{name}{told}")
    return "".join(parts)


def remembered(
    sets: Iterable[tuple[str, ...]], seen: tuple[str, ...]
) -> tuple[tuple[str, ...], ...]:
    """The sets of names of a URL, now that `seen` was: the newest first, SETS_MOST."""
    return (seen, *(other for other in sets if other != seen))[:SETS_MOST]


def normalised(name: str, lines: Iterable[str]) -> str | None:
    """What a request says of a field; None if nothing, which of Accept-Encoding is
    the same as no coding."""
    values = list(lines)
    text = ", ".join(values).strip(" \t")
    lower = name.lower()
    if lower == "accept-encoding":
        return ", ".join(codings(text))
    if not values:
        return None
    if lower in _NO_LISTS:
        return text
    if lower in _RANKED and '"' not in text:
        return ",".join(sorted(_ranked(text, caseless=lower in _CASELESS)))
    return _tight(text)


def codings(accept_encoding: str | None) -> tuple[str, ...]:
    """Those of CODINGS that the client takes, in their order; what the origin is to
    be asked for."""
    return tuple(c for c in CODINGS if _takes(accept_encoding or "", c))


def prefers(accept_language: Iterable[str], content_language: str | None) -> bool:
    """Whether the client ranks the language of a stored variant alone above all
    others.

    Then it is what negotiation would choose of it and whatever else there is (RFC
    9110 §12.5.4), though Accept-Language is another than the variant's. RFC 9111 §4.1
    has no such rule: who uses it chooses to.
    """
    language = (content_language or "").strip(" \t").lower()
    best: list[str] = []
    highest = 0.0
    for member in ",".join(accept_language).split(","):
        tag, *parameters = member.lower().split(";")
        tag, weight = tag.strip(" \t"), _weight(parameters)
        if highest < weight <= 1:
            best, highest = [tag], weight
        elif weight == highest > 0:
            best.append(tag)
    return best == [language] != [""]


def _ranked(text: str, *, caseless: bool) -> list[str]:
    """The members of a list with weights: no whitespace, no weight of 1, and a type's
    or a language's name in lower case."""
    members: list[str] = []
    for part in text.split(","):
        head, *parameters = (p.strip(" \t") for p in part.split(";"))
        if not head and not parameters:
            continue
        told = [head.lower()]
        for parameter in parameters:
            weight = _WEIGHT.fullmatch(parameter)
            if weight is None:
                told.append(parameter.lower() if caseless else parameter)
            elif float(weight[1]) < 1:
                told.append(f"q={float(weight[1]):g}")
        members.append(";".join(told))
    return members


def _tight(text: str) -> str:
    """A list without the whitespace around its commas, quoted strings left alone."""
    return _SPACED_COMMA.sub(_tightened, text)


def _tightened(match: re.Match[str]) -> str:
    found = match[0]
    if match[1] is not None or "," not in found:
        return found
    return ","


@lru_cache(1024)
def _takes(accept_encoding: str, coding: str) -> bool:
    star = False
    for part in accept_encoding.split(","):
        name, *parameters = part.split(";")
        lower = name.strip().lower()
        if lower.removeprefix("x-") == coding:  # x-gzip: RFC 9110 §8.4.1.3
            return _weight(parameters) > 0
        if lower == "*":
            star = _weight(parameters) > 0
    return star
