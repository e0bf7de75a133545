"""Ranges of bytes, asked for and stored: RFC 9110 §14, RFC 9111 §3.3 and §3.4.

A stored part is a piece: where it begins and its bytes. Pieces of one representation,
which all bear the same strong validator, are combined; without one, pieces stand each
for itself. A request is answered where they hold all it asks for.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from . import dates, etags
from .fields import Fields
from .validation import Validators

MOST = 8
"""Ranges of one request; more of them are answered with the whole, as RFC 9110 §14.2
allows: they cost more than they save."""

_SPEC = re.compile(r"[ \t]*+(?:([0-9]++)-([0-9]*+)|-([0-9]++))[ \t]*+\Z")
_CONTENT_RANGE = re.compile(
    r"bytes ++([0-9]++)-([0-9]++)/([0-9]++|\*)\Z", re.IGNORECASE
)
_DIGITS_MAX = 18


class Spec(NamedTuple):
    """One range as it was asked for: `first` None: the last so many bytes; `last`
    None: up to the end."""

    first: int | None
    last: int | None


class Span(NamedTuple):
    """Bytes of a representation, `stop` not included."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Parts:
    """What a request with Range is answered with: no spans: 416."""

    spans: tuple[Span, ...]
    length: int


# -- asked for


def parse(lines: Iterable[str]) -> tuple[Spec, ...] | None:
    """The ranges of Range; None where it is to be ignored: another unit, what is no
    range, or more than MOST of them (RFC 9110 §14.2)."""
    values = list(lines)
    if len(values) != 1:
        return None
    unit, equals, rest = values[0].strip(" \t").partition("=")
    if unit.lower() != "bytes" or not equals or rest.count(",") >= MOST:
        return None
    specs = tuple(map(_spec, rest.split(",")))
    return None if None in specs else tuple(spec for spec in specs if spec is not None)


def plan(
    specs: tuple[Spec, ...] | None,
    length: int,
    stored: Validators,
    if_range: str | None = None,
) -> Parts | None:
    """What of a whole stored 200 of `length` bytes answers a GET with these ranges;
    None: all of it, as if there were no Range."""
    if specs is None or not holds(if_range, stored):
        return None
    if length == 0 and any(spec.first is None for spec in specs):
        return None  # satisfiable, but no Content-Range can say so
    spans = tuple(span for spec in specs if (span := _span(spec, length)))
    if len(spans) > 1 and sum(stop - start for start, stop in spans) > length:
        return None  # overlapping: RFC 9110 §17.15
    return Parts(spans, length)


def holds(if_range: str | None, stored: Validators) -> bool:
    """Whether the client's part is of the stored representation: RFC 9110 §13.1.5. A
    tag is compared strongly; a date must be the Last-Modified itself, and strong."""
    if if_range is None:
        return True
    text = if_range.strip(" \t")
    if '"' in text:
        return etags.strongly_equal(text, stored.etag)
    date = dates.parse(text)
    return date is not None and date == stored.strong_date


def head_206(fields: Fields, span: Span, length: int | None) -> Fields:
    """The fields of a 206 with one range, from those of the stored response; its
    length is the span's: RFC 9110 §15.3.7.1."""
    kept = without(fields)
    return [*kept, ("Content-Range", content_range(span, length))]


def head_416(length: int) -> Fields:
    """RFC 9110 §15.5.17: how long the representation is."""
    return [("Content-Range", f"bytes */{length}")]


def multipart(
    spans: Sequence[Span], length: int, content_type: str | None, boundary: str
) -> tuple[str, list[bytes], bytes]:
    """A 206 with several ranges: its Content-Type, what stands before each range, what
    ends it (RFC 9110 §14.6). The caller sees that `boundary` is not in the bytes."""
    before: list[bytes] = []
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    for at, span in enumerate(spans):
        told = f"Content-Range: {content_range(span, length)}\r\n\r\n"
        start = "" if at == 0 else "\r\n"
        before.append(f"{start}--{boundary}\r\n{kind}{told}".encode("latin-1"))
    end = f"\r\n--{boundary}--\r\n".encode("latin-1")
    return f"multipart/byteranges; boundary={boundary}", before, end


def content_range(span: Span, length: int | None) -> str:
    """Content-Range of a span; `length` None: not known."""
    return f"bytes {span.start}-{span.stop - 1}/{'*' if length is None else length}"


def without(fields: Fields) -> Fields:
    """The fields without those of another part, or of the whole."""
    gone = ("content-length", "content-range")
    return [(n, v) for n, v in fields if n.lower() not in gone]


# -- stored


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a representation, from `start` on."""

    start: int
    data: bytes


def held(lines: Iterable[str], size: int) -> tuple[Span, int | None] | None:
    """Where the `size` bytes stand that a 206 brings, and the whole's length, None if
    not told.

    None where it cannot be trusted: no Content-Range, several, an invalid one (RFC
    9110 §14.4), or more bytes than it tells of. Fewer are a piece that broke off: RFC
    9111 §3.3.
    """
    values = list(lines)
    match = _CONTENT_RANGE.match(values[0].strip(" \t")) if len(values) == 1 else None
    if match is None or max(map(len, match.groups())) > _DIGITS_MAX:
        return None
    first, last = int(match[1]), int(match[2])
    length = None if match[3] == "*" else int(match[3])
    if last < first or (length is not None and length <= last):
        return None
    if not 0 < size <= last - first + 1:
        return None
    return Span(first, first + size), length


def one(specs: tuple[Spec, ...] | None, length: int | None) -> Span | None:
    """The one range that is asked for; None where there are several, or nothing of it.
    Without the length nobody knows where a range up to the end, or from it, is."""
    if specs is None or len(specs) != 1:
        return None
    (spec,) = specs
    if length is not None:
        return _span(spec, length)
    if spec.first is None or spec.last is None:
        return None
    return Span(spec.first, spec.last + 1)


def cover(spans: Sequence[Span], wanted: Span) -> list[int] | None:
    """Which of the spans hold all of `wanted` together, in the order of their bytes,
    as few as can be; None where some of it is in none. Of those that serve alike it is
    the first."""
    coming = deque(sorted(range(len(spans)), key=lambda i: spans[i].start))
    found: list[int] = []
    at, best = wanted.start, (wanted.start, 0)
    while at < wanted.stop:
        while coming and spans[coming[0]].start <= at:
            i = coming.popleft()
            best = max(best, (min(spans[i].stop, wanted.stop), -i))
        if best[0] <= at:
            return None
        at = best[0]
        found.append(-best[1])
    return found


def combined(pieces: Iterable[Piece], wanted: Span) -> bytes:
    """The bytes of a span that pieces of one strong validator hold, in the order of
    `cover`: RFC 9111 §3.4."""
    taken: list[bytes] = []
    at = wanted.start
    for start, data in ((piece.start, piece.data) for piece in pieces):
        part = data[at - start : wanted.stop - start]
        taken.append(part)
        at += len(part)
    return b"".join(taken)


def _spec(text: str) -> Spec | None:
    match = _SPEC.match(text)
    if match is None or max(len(part or "") for part in match.groups()) > _DIGITS_MAX:
        return None
    if match[3] is not None:
        return Spec(None, int(match[3]))
    first = int(match[1])
    last = int(match[2]) if match[2] else None
    return None if last is not None and last < first else Spec(first, last)


def _span(spec: Spec, length: int) -> Span | None:
    """What of a representation it is; None if nothing: RFC 9110 §14.1.2."""
    if spec.first is None:
        start = max(0, length - (spec.last or 0))
        return Span(start, length) if start < length else None
    if spec.first >= length:
        return None
    stop = length if spec.last is None else min(spec.last + 1, length)
    return Span(spec.first, stop)
