"""Pieces: the stored parts of a response, where the whole is not here.

RFC 9111 §3.3, §3.4. Each part is a variant of its URL, stored under the Range that it
was asked for by. Beside them stands the list of where their bytes are, by which a range
that nobody has asked for in just these words is answered, too.

All of a list are of one representation: they bear one strong validator, and may be
joined, or none, and each stands for itself. A part with another validator is of a newer
representation, and begins the list anew. What the list names may be gone, and is looked
at before it is used.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Self

import msgpack  # type: ignore[import-untyped]

from .rfc9111 import ranges
from .rfc9111.ranges import Span

NAME = "range:"
"""Stands for Range in the names that the key of a list is of; no field is called so."""
MOST = 128
"""Pieces of a list: those beyond it are found by their own Range alone."""
RANGE_MAX = 64
"""Characters of a Range that is listed."""
VERSION = 1
_LIST = b"\x84\xa1P" + bytes([VERSION])
"""How the document of a list begins: a map of four, the version first."""


class Held(NamedTuple):
    """One piece."""

    start: int
    stop: int
    ranges: str
    """What it was asked for by."""

    @property
    def span(self) -> Span:
        """Where its bytes stand."""
        return Span(self.start, self.stop)


class Pieces(NamedTuple):
    """The list of a response's."""

    validator: str
    """Strong; empty: they have none."""
    length: int | None
    """Of the whole; None: not told."""
    held: tuple[Held, ...]
    """The newest first."""

    def seen(self, new: Pieces) -> Self:
        """It, now that these of a newer response were seen, too."""
        known = None not in (self.length, new.length)
        if self.validator != new.validator or (known and self.length != new.length):
            return self._replace(
                validator=new.validator, length=new.length, held=new.held
            )
        length = self.length if new.length is None else new.length
        kept = (h for h in self.held if not any(_within(h, n) for n in new.held))
        return self._replace(length=length, held=(*new.held, *kept)[:MOST])

    def less(self, gone: Collection[Held]) -> Self:
        """It, without those that are not here."""
        return self._replace(held=tuple(h for h in self.held if h not in gone))

    def cover(self, span: Span) -> list[Held] | None:
        """Those that hold all of a span, in the order of their bytes."""
        found = ranges.cover([h.span for h in self.held], span)
        if found is None or (len(found) > 1 and not self.validator):
            return None
        return [self.held[i] for i in found]

    def pack(self) -> bytes:
        """The list as a record's value."""
        held = [told for h in self.held for told in h]
        document = {"P": VERSION, "v": self.validator, "l": self.length, "h": held}
        packed: bytes = msgpack.packb(document, unicode_errors="surrogateescape")
        return packed


def unpack(document: bytes) -> Pieces | None:
    """The list of a document; None if it is something else."""
    if document[: len(_LIST)] != _LIST:
        return None
    try:
        found = msgpack.unpackb(document, unicode_errors="surrogateescape")
        told = iter(found["h"])
        held = tuple(map(Held, told, told, told))
        return Pieces(found["v"], found["l"], held)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return None


def _within(old: Held, new: Held) -> bool:
    return new.start <= old.start and old.stop <= new.stop
