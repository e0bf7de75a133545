"""Variants: the responses of a URL that varies by fields of the request.

RFC 9111 §4.1. Under the URL's key stands the list of the sets of names that its
responses were seen to vary by, and a mark that was drawn when it was made. Under
the key, the mark and what a request says of the names of one set stands the
variant which answers it.

1. A variant is stored. 2. The URL is purged. 3. Another variant is fetched, and a
new list made. The old variant is not found by it: it has another mark. So who
deletes the list has deleted them all, whatever their keys are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import NamedTuple, Self

import msgpack  # type: ignore[import-untyped]

from .rfc9111 import vary

KEPT = 86_400.0
"""Seconds that a list is kept; the variants beyond it are fetched anew."""
VERSION = 2
SPOKEN_MOST = 16
"""Variants of a list whose language is known."""
SPOKEN_MAX = 256
"""Characters of a language and of the Accept-Language that got it."""
_KEY_KEPT = 900
_LIST = b"\x84\xa1V" + bytes([VERSION])
"""How the document of a list begins: a map of four, the version first."""

Names = tuple[str, ...]


class Spoken(NamedTuple):
    """A variant by Accept-Language, among other fields, whose language is known."""

    names: Names
    """What it varies by."""
    accepted: str
    """The Accept-Language that it was the answer to, normalised."""
    language: str
    """Its Content-Language."""


class Variants(NamedTuple):
    """The list of a URL."""

    mark: str
    sets: tuple[Names, ...]
    """Of names, the newest first."""
    spoken: tuple[Spoken, ...] = ()
    """The newest first."""

    @classmethod
    def begun(cls, names: Names, spoken: Spoken | None = None) -> Self:
        """A list, now that one set was seen."""
        known = () if spoken is None else (spoken,)
        return cls(os.urandom(8).hex(), (names,), known)

    def seen(self, names: Names, spoken: Spoken | None = None) -> Self:
        """It, now that this set was seen, too, of a variant in this language."""
        sets, known = vary.remembered(self.sets, names), self.spoken
        if spoken is not None and spoken not in known:
            others = (s for s in known if s[:2] != spoken[:2])
            known = (spoken, *others)[:SPOKEN_MOST]
        return self._replace(sets=sets, spoken=known)

    def key(
        self, key: str, names: Names, getall: Callable[[str], Iterable[str]]
    ) -> str:
        """Of the variant that answers a request for the URL of `key`; `getall` gives
        the lines of a field as the origin is sent it."""
        told = f"{key}#{self.mark}#{vary.secondary(names, getall)}"
        whole = told.encode("utf-8", "surrogateescape")
        return f"{key[:_KEY_KEPT]}#{blake2b(whole, digest_size=32).hexdigest()}"

    def pack(self) -> bytes:
        """The list as a record's value."""
        document = {"V": VERSION, "k": self.mark, "n": self.sets, "s": self.spoken}
        packed: bytes = msgpack.packb(document, unicode_errors="surrogateescape")
        return packed


def unpack(document: bytes) -> Variants | None:
    """The list of a document; None if it is something else."""
    if document[: len(_LIST)] != _LIST:
        return None
    try:
        found = msgpack.unpackb(document, unicode_errors="surrogateescape")
        spoken = tuple(Spoken(tuple(n), *told) for n, *told in found["s"])
        return Variants(found["k"], tuple(map(tuple, found["n"])), spoken)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return None
