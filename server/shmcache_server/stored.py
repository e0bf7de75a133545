"""A stored response: the msgpack document that is its record's value.

    {"v": version, "s": status, "e": ETag or nil, "m": Last-Modified or nil,
     "h": head as bin, "b": body as bin}

The head is status line and fields as they go out, each ending in CRLF, Content-Length
among them; what differs from answer to answer (Age, Cache-Status, Connection) is added
behind it. Its times are the record's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgpack  # type: ignore[import-untyped]

from .rfc9111 import freshness

VERSION = 1
_OF_304 = (b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary")
"""What a 304 repeats (RFC 9110 §15.4.5), beside the fields of the way."""
_OF_THE_WAY = (b"via", b"cache-status")


@dataclass(slots=True)
class StoredResponse:
    """A response as it stands in the cache."""

    status: int
    etag: str | None
    last_modified: int | None
    """Seconds of the epoch."""
    head: bytes
    body: bytes

    def not_modified_head(self) -> bytes:
        """The head of a 304 in this response's place."""
        lines = self.head.split(b"\r\n")[1:-1]
        kept = [
            line
            for line in lines
            if line.partition(b":")[0].lower() in _OF_304 + _OF_THE_WAY
        ]
        return b"\r\n".join([b"HTTP/1.1 304 Not Modified", *kept, b""])


def pack(head: bytes, status: int, body: bytes) -> bytes:
    """The document of a response; its validators are read from the head."""
    etag, last_modified = None, None
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        match name.lower():
            case b"etag":
                etag = value.strip().decode("utf-8", "surrogateescape")
            case b"last-modified":
                last_modified = freshness.parse_date(value.strip().decode("latin-1"))
    packed: bytes = msgpack.packb(
        {
            "v": VERSION,
            "s": status,
            "e": etag,
            "m": last_modified,
            "h": head,
            "b": body,
        },
        unicode_errors="surrogateescape",
    )
    return packed


def unpack(document: bytes) -> StoredResponse | None:
    """The response of a document; None if another version wrote it, or it is none."""
    try:
        found = msgpack.unpackb(document, unicode_errors="surrogateescape")
        if found["v"] != VERSION:
            return None
        return StoredResponse(*(found[name] for name in "semhb"))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return None
