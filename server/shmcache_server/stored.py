"""A stored response: the msgpack document that is its record's value.

    {"v": version, "o": offset of the head, "p": offset of the body, "s": status,
     "e": ETag or nil, "m": Last-Modified or nil, "t": fields that clients do not get,
     "h": head as bin, "b": body as bin}

The first three are of fixed width and come first, so that head and body are sliced
from the document without unpacking it.

The head is status line and fields as they go out, each ending in CRLF, Content-Length
among them; what differs from answer to answer (Age, Cache-Status, Connection) is added
behind it. Its times are the record's own.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import lru_cache

import msgpack  # type: ignore[import-untyped]

from .rfc9111 import freshness, validation
from .rfc9111.fields import Fields, of_head
from .rfc9111.validation import Validators

VERSION = 2
TO_VALIDATE = 3
"""The version of one that is to be validated before each use. It is dead when it is
stored, but the fast lane's clock is some milliseconds late, and might take it for
fresh: it does not know this version."""
_OF_304 = (b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary")
"""What a 304 repeats (RFC 9110 §15.4.5), beside the fields of the way."""
_OF_THE_WAY = (b"via", b"cache-status")

MARK = b"\x89\xa1v" + bytes([VERSION])
"""How a document of ours begins: a map of nine, the version first."""
OFFSETS = struct.Struct(">7xI3xI")
"""Of head and body, as they stand behind the mark."""
BODY_KEY = 7
"""Bytes between head and body: the body's name and its length, as bin 32."""
_ETAG = re.compile(rb"\r\netag:([^\r]*)", re.IGNORECASE)
_MODIFIED = re.compile(rb"\r\nlast-modified:([^\r]*)", re.IGNORECASE)
_DATE = re.compile(rb"\r\ndate:([^\r]*)", re.IGNORECASE)
_BEFORE = struct.Struct(">4s3sI3sI")


@dataclass(slots=True)
class StoredResponse:
    """A response as it stands in the cache."""

    status: int
    etag: str | None
    last_modified: int | None
    """Seconds of the epoch."""
    head: bytes
    body: bytes
    hidden: bytes = b""
    """Lines of a head that clients do not get."""

    @property
    def status_line(self) -> bytes:
        """Ending in CRLF."""
        return self.head[: self.head.index(b"\r\n") + 2]

    def fields(self) -> Fields:
        """Those of its head, and those that clients do not get."""
        return of_head(self.head + self.hidden)

    @property
    def modified(self) -> int | None:
        """Seconds of the epoch that If-Modified-Since is compared with: Last-Modified,
        where there is none Date (RFC 9111 §4.3.2)."""
        if self.last_modified is not None or _MODIFIED.search(self.head):
            return self.last_modified
        if found := _DATE.search(self.head):
            return freshness.parse_date(found[1].strip().decode("latin-1"))
        return None

    def conditions(self) -> Fields:
        """The fields that ask the origin if it still holds; none, if it cannot tell."""
        return validation.conditions([Validators.of(self.fields())])

    def not_modified_head(self) -> bytes:
        """The head of a 304 in this response's place."""
        lines = self.head.split(b"\r\n")[1:-1]
        kept = [
            line
            for line in lines
            if line.partition(b":")[0].lower() in _OF_304 + _OF_THE_WAY
        ]
        return b"\r\n".join([b"HTTP/1.1 304 Not Modified", *kept, b""])


def pack(
    head: bytes,
    status: int,
    body: bytes,
    to_validate: bool = False,
    hidden: frozenset[str] = frozenset(),
) -> bytes:
    """The document of a response; its validators are read from the head. `hidden`:
    fields that clients do not get, in lower case."""
    head, kept_back = without(head, hidden) if hidden else (head, b"")
    mark = MARK[:-1] + bytes([TO_VALIDATE]) if to_validate else MARK
    etag, last_modified = None, None
    if found := _ETAG.search(head):
        etag = found[1].strip().decode("utf-8", "surrogateescape")
    if found := _MODIFIED.search(head):
        last_modified = freshness.parse_date(found[1].strip().decode("latin-1"))
    about = b"\xa1s\xcd%b\xa1e%b\xa1m%b\xa1t%b\xa1h\xc6%b" % (
        *(status.to_bytes(2), _packed(etag), _packed(last_modified)),
        *(_packed(kept_back), len(head).to_bytes(4)),
    )
    at = _BEFORE.size + len(about)
    before = _BEFORE.pack(
        *(mark, b"\xa1o\xce", at, b"\xa1p\xce", at + len(head) + BODY_KEY)
    )
    return b"".join((before, about, head, b"\xa1b\xc6", len(body).to_bytes(4), body))


def without(head: bytes, names: frozenset[str]) -> tuple[bytes, bytes]:
    """A head less the lines of the fields of these names, in lower case; and those."""
    if not _any_of(names).search(head):
        return head, b""
    first, *lines = head.split(b"\r\n")[:-1]
    kept: list[bytes] = []
    gone: list[bytes] = []
    for line in lines:
        name = line.partition(b":")[0].lower().decode()
        (gone if name in names else kept).append(line)
    return b"\r\n".join([first, *kept, b""]), b"\r\n".join([*gone, b""])


@lru_cache(256)
def _any_of(names: frozenset[str]) -> re.Pattern[bytes]:
    either = "|".join(map(re.escape, names))
    return re.compile(rf"\r\n(?:{either})[ \t]*:".encode(), re.IGNORECASE)


def unpack(document: bytes) -> StoredResponse | None:
    """The response of a document; None if another version wrote it, or it is none."""
    try:
        found = msgpack.unpackb(document, unicode_errors="surrogateescape")
        if found["v"] not in (VERSION, TO_VALIDATE):
            return None
        return StoredResponse(*(found[name] for name in "semhbt"))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return None


def _packed(value: object) -> bytes:
    if value is None:
        return b"\xc0"
    if value == b"":
        return b"\xc4\x00"
    packed: bytes = msgpack.packb(value, unicode_errors="surrogateescape")
    return packed
