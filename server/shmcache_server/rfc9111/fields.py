"""Fields of a message on their way, and which of them are stored: RFC 9111 §3.1."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from functools import lru_cache

Fields = list[tuple[str, str]]
"""Name and value of each line, in their order."""

HOP_BY_HOP = frozenset(
    {
        *(
            "connection",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authentication-info",
        ),
        *("proxy-authorization", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    }
)
"""Of one connection, whether Connection names them or not: RFC 9110 §7.6.1, and for
what is between a client and its own proxy RFC 9111 §3.1. Trailer announces what is
dropped here (§6.5.1)."""
NOT_STORED = HOP_BY_HOP | {"age", "warning", "set-cookie"}
"""Age is counted anew for each answer (§5.1). Warning is no more (§5.5), and told of
one answer. A Set-Cookie is one client's, by choice: even a 304 may bring it."""
ESSENTIAL = frozenset(
    {
        *("cache-control", "content-encoding", "content-language", "content-length"),
        *("content-location", "content-range", "content-type", "date", "etag"),
        *("expires", "host", "last-modified", "location", "set-cookie", "vary"),
    }
)
"""Without these the rest means something else, or is treated otherwise. No sender may
name one in Connection (RFC 9110 §7.6.1): it is not heeded."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++")


def tokens(lines: Iterable[str]) -> tuple[str, ...]:
    """The members of a list of names, in lower case, in their order, each once; what
    is no token among them as it stands."""
    members = (part.strip(" \t").lower() for line in lines for part in line.split(","))
    return tuple(dict.fromkeys(member for member in members if member))


def is_token(text: str) -> bool:
    """Whether a field could have this name: RFC 9110 §5.6.2."""
    return _TOKEN.fullmatch(text) is not None


def of_connection(lines: Iterable[str]) -> frozenset[str]:
    """The fields that Connection names, in lower case: they end here, too."""
    return _of_connection(tuple(lines))


@lru_cache(64)
def _of_connection(lines: tuple[str, ...]) -> frozenset[str]:
    return frozenset(tokens(lines)) - ESSENTIAL


def values(fields: Fields, name: str) -> list[str]:
    """The lines of a field."""
    lower = name.lower()
    return [value for n, value in fields if n.lower() == lower]


def value(fields: Fields, name: str) -> str | None:
    """The first line of a field."""
    return next(iter(values(fields, name)), None)


def of_head(head: bytes) -> Fields:
    """The fields of a head: a status line and lines that end in CRLF each."""
    found: Fields = []
    for line in head.split(b"\r\n")[1:]:
        name, colon, text = line.partition(b":")
        if colon:
            found.append((name.decode("latin-1"), _decoded(text.strip(b" \t"))))
    return found


def to_lines(fields: Fields) -> bytes:
    """The lines of a head below its status line."""
    lines = (f"{name}: {text}\r\n" for name, text in fields)
    return "".join(lines).encode("utf-8", "surrogateescape")


def _decoded(text: bytes) -> str:
    """As aiohttp does it: any byte comes out again as it came."""
    return text.decode("utf-8", "surrogateescape")


def stored(fields: Fields, drop: Container[str] = ()) -> Fields:
    """What is stored of a response's fields, without `drop`: those that `private` or
    `no-cache` names."""
    gone = NOT_STORED | of_connection(values(fields, "Connection"))
    return [(n, v) for n, v in fields if (m := n.lower()) not in gone and m not in drop]
