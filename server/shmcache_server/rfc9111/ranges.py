"""Ranges of bytes, asked for and stored: RFC 9110 §14, RFC 9111 §3.3 and §3.4.

A stored part is a piece: where it begins and its bytes. Pieces of one representation,
which all bear the same strong validator, are combined; without one, pieces stand each
for itself. A request is answered of one piece that holds all it asks for.
"""

from __future__ import annotations

import re
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

    @property
    def span(self) -> Span:
        """Where they stand."""
        return Span(self.start, self.start + len(self.data))


def piece(lines: Iterable[str], data: bytes) -> tuple[Piece, int | None] | None:
    """The piece that a 206 brings, and the whole's length, None if not told.

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
    if not 0 < len(data) <= last - first + 1:
        return None
    return Piece(first, data), length


def combine(stored: Sequence[Piece], new: Piece) -> tuple[Piece, ...]:
    """The pieces with a new one of the same strong validator (`validation.same_bytes`):
    those that touch become one, in order, none overlapping: RFC 9111 §3.4. Bytes that
    differ from the new ones are the new ones'."""
    start, stop = new.span
    before, after = b"", b""
    apart: list[Piece] = []
    for one in stored:
        if one.span.stop < start or one.start > stop:
            apart.append(one)
            continue
        if one.start < start:
            before = max(before, one.data[: start - one.start], key=len)
        if one.span.stop > stop:
            after = max(after, one.data[stop - one.start :], key=len)
    joined = Piece(start - len(before), before + new.data + after)
    return tuple(sorted([*apart, joined], key=lambda one: one.start))


def complete(pieces: Sequence[Piece], length: int | None) -> bytes | None:
    """The whole representation, if it is here: it may be stored as a 200."""
    if length is None or len(pieces) != 1 or pieces[0].span != (0, length):
        return None
    return pieces[0].data


def missing(pieces: Sequence[Piece], length: int) -> tuple[Span, ...]:
    """What is not here of the whole; to be asked for with If-Range, of a strong
    validator alone: what comes could not be combined otherwise."""
    gaps: list[Span] = []
    at = 0
    for one in sorted(pieces, key=lambda one: one.start):
        if one.start > at:
            gaps.append(Span(at, one.start))
        at = max(at, one.span.stop)
    return (*gaps, Span(at, length)) if at < length else tuple(gaps)


def found(
    pieces: Sequence[Piece], length: int | None, specs: tuple[Spec, ...] | None
) -> tuple[Span, bytes] | None:
    """The one range that a request asks for, if a piece holds all of it: RFC 9111 §3.3.
    Without the length nobody knows where a range up to the end, or from it, is."""
    if specs is None or len(specs) != 1:
        return None
    spec = specs[0]
    if length is not None:
        span = _span(spec, length)
    elif spec.first is None or spec.last is None:
        return None
    else:
        span = Span(spec.first, spec.last + 1)
    for one in pieces if span else ():
        if span and one.start <= span.start and span.stop <= one.span.stop:
            return span, one.data[span.start - one.start : span.stop - one.start]
    return None


def same(asked: tuple[Spec, ...] | None, stored: tuple[Spec, ...] | None) -> bool:
    """Whether a request asks for the ranges that a stored 206 was the answer to: it
    answers this one, too, just as it came (RFC 9111 §4), whatever its pieces hold."""
    return asked is not None and asked == stored


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
