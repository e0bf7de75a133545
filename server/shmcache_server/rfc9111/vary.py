"""Which answers one key may hold: RFC 9111 §4.1, Vary reduced to Accept-Encoding.

The key carries one letter for whether the client takes gzip, and the origin is asked
for just that, so an answer that varies by Accept-Encoding is right for all who share
the key. One that varies by anything else is not shared.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

GZIP, IDENTITY = "z", "i"
"""Letters of the key."""
LETTERS = (GZIP, IDENTITY)


def shareable(fields: Iterable[str]) -> bool:
    """Whether an answer with these Vary lines is right for everyone of its key.

    `Vary: *` never is: RFC 9111 §4.1.
    """
    names = {n.strip().lower() for field in fields for n in field.split(",")}
    return names <= {"", "accept-encoding"}


@lru_cache(1024)
def letter(accept_encoding: str | None) -> str:
    """GZIP if the client takes it: RFC 9110 §12.5.3, weights of zero and `*` heeded."""
    star = None
    for part in (accept_encoding or "").split(","):
        coding, *parameters = part.split(";")
        taken = _weight(parameters) > 0
        match coding.strip().lower():
            case "gzip" | "x-gzip":
                return GZIP if taken else IDENTITY
            case "*":
                star = taken
    return GZIP if star else IDENTITY


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
