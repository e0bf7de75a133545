"""Parts: what of a whole stored response a request with Range is answered with."""

from __future__ import annotations

import os
from typing import NamedTuple

from aiohttp import hdrs
from multidict import CIMultiDictProxy

from .rfc9111 import fields as lines
from .rfc9111 import ranges
from .rfc9111.validation import Validators
from .stored import StoredResponse


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
        return _part(b"206 Partial Content", ranges.head_206(stored, span, size), body)
    kind = lines.value(stored, "Content-Type")
    told, before, end = ranges.multipart(plan.spans, size, kind, _boundary(found.body))
    pieces = (found.body[start:stop] for start, stop in plan.spans)
    body = b"".join(b for both in zip(before, pieces, strict=True) for b in both) + end
    head = [*_kept(ranges.without(stored), "content-type"), ("Content-Type", told)]
    return _part(b"206 Partial Content", head, body)


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
