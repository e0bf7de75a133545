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
VERSION = 1
_KEY_KEPT = 900
_LIST = b"\x83\xa1V" + bytes([VERSION])
"""How the document of a list begins: a map of three, the version first."""

Names = tuple[str, ...]


class Variants(NamedTuple):
    """The list of a URL."""

    mark: str
    sets: tuple[Names, ...]
    """Of names, the newest first."""

    @classmethod
    def begun(cls, names: Names) -> Self:
        """A list, now that one set was seen."""
        return cls(os.urandom(8).hex(), (names,))

    def seen(self, names: Names) -> Self:
        """It, now that this set was seen, too."""
        return self._replace(sets=vary.remembered(self.sets, names))

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
        document = {"V": VERSION, "k": self.mark, "n": self.sets}
        packed: bytes = msgpack.packb(document)
        return packed


def unpack(document: bytes) -> Variants | None:
    """The list of a document; None if it is something else."""
    if document[: len(_LIST)] != _LIST:
        return None
    try:
        found = msgpack.unpackb(document)
        return Variants(found["k"], tuple(tuple(names) for names in found["n"]))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return None
