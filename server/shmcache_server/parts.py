"""Parts: what of stored responses a request with Range is answered with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from aiohttp import hdrs
from multidict import CIMultiDictProxy

from .rfc9111 import fields as lines
from .rfc9111 import ranges
from .rfc9111.ranges import Piece, Span
from .rfc9111.validation import Validators
from .stored import StoredResponse

_WHOLE, _PART = b"200 OK", b"206 Partial Content"


class Part(NamedTuple):
    """An answer: 206, or 416."""

    status: int
    head: bytes
    body: bytes


def of(fields: CIMultiDictProxy[str], found: StoredResponse) -> Part | None:
    """The part of a stored 200 that these fields ask for; None: all of it."""
    stored, size = lines.of_head(found.head), len(found.body)
    wanted = ranges.parse(fields.getall(hdrs.RANGE))
    plan = ranges.plan(wanted, size, Validators.of(stored), fields.get(hdrs.IF_RANGE))
    if plan is None:
        return None
    if not plan.spans:
        head = [*_kept(stored, "content-type", "etag"), *ranges.head_416(size)]
        return _part(b"416 Range Not Satisfiable", head, b"")
    if len(plan.spans) == 1:
        (span,) = plan.spans
        body = found.body[span.start : span.stop]
        return _part(_PART, ranges.head_206(stored, span, size), body)
    kind = lines.value(stored, "Content-Type")
    told, before, end = ranges.multipart(plan.spans, size, kind, _boundary(found.body))
    pieces = (found.body[start:stop] for start, stop in plan.spans)
    body = b"".join(b for both in zip(before, pieces, strict=True) for b in both) + end
    head = [*_kept(ranges.without(stored), "content-type"), ("Content-Type", told)]
    return _part(_PART, head, body)


def joined(
    pieces: Sequence[tuple[int, StoredResponse]],
    newest: StoredResponse,
    span: Span,
    length: int | None,
    *,
    whole: bool = False,
) -> StoredResponse:
    """What stored parts of one representation are joined to (RFC 9111 §3.4): the
    response for a span, with the fields of the newest. They begin where they are told
    to, and hold the span in this order. `whole`: it is all there is, and a 200."""
    body = ranges.combined((Piece(at, part.body) for at, part in pieces), span)
    fields = lines.of_head(newest.head)
    fields = ranges.without(fields) if whole else ranges.head_206(fields, span, length)
    told = _part(_WHOLE if whole else _PART, fields, body)
    return replace(newest, status=told.status, head=told.head, body=told.body)


def _part(status: bytes, head: lines.Fields, body: bytes) -> Part:
    head = [*head, ("Content-Length", str(len(body)))]
    first = b"HTTP/1.1 %b\r\n" % status
    return Part(int(status[:3]), first + lines.to_lines(head), body)


def _kept(fields: lines.Fields, *gone: str) -> lines.Fields:
    return [(n, v) for n, v in ranges.without(fields) if n.lower() not in gone]


def _boundary(body: bytes) -> str:
    while (drawn := os.urandom(12).hex()).encode() in body:
        pass
    return drawn
