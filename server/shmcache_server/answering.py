"""Answering: what an upstream answers, brought into our form.

Fields that belong to one connection are removed (RFC 9110 §7.6.1), Via is added, and
what a next hop could read otherwise than we do is refused.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache

import aiohttp
from aiohttp import HttpVersion11
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy

from .connections import NO_BODY, Connection
from .forwarded import VIA
from .rfc9111.fields import HOP_BY_HOP, of_connection

_VIA_LINE = f"Via: {VIA}\r\n".encode()
INTERIM_BYTES = 65536
"""Of the interim answers to one request; more are an attack, or a fault."""
_NOT_KEPT = HOP_BY_HOP | {"age", "content-length"}
"""Of a response: of one hop, or written anew for each client."""
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_IN_REASON = re.compile(rb"[\0-\x08\n-\x1f\x7f]")
_BAD_IN_VALUE = re.compile(rb"[\r\n\0]")
_STATUSES = range(200, 1000)
"""Of an answer; 101 would be another protocol's beginning."""


class OriginError(Exception):
    """The origin cannot be reached, or what it sends is not a whole response."""

    status = 502
    unsent = False
    """No connection was to be had: the origin knows of nothing."""
    unheard = False
    """A kept connection ended before any byte of an answer."""


class OriginTimeout(OriginError):
    """The origin did not answer in time."""

    status = 504


Interim = Callable[[int, bytes], None]
"""Told of each answer before the final one, but 100 and 101: its status, and all of
it, ready to be sent to a client of HTTP/1.1."""


@dataclass(slots=True)
class Answering:
    """A response whose head has come; the body is read by `chunks`."""

    status: int
    fields: CIMultiDictProxy[str]
    head: bytes
    """Status line and end-to-end fields, Via added, each with its CRLF; no
    Content-Length and no Age."""
    length: int | None
    """Content-Length, None where it is not known."""
    whole: bool
    """Whether the end of the body can be told from a broken connection."""
    empty: bool
    """No body whatever the fields say: RFC 9112 §6.3."""
    content: StreamReader = field(repr=False)
    connection: Connection | None = field(repr=False)
    """Until it is closed."""
    leave: Callable[[], None] | None = None
    """Gives back its place among the tunnels: the connection is beside the pool's."""

    def at_hand(self) -> bytes | None:
        """All of the body, if it has come with the head; None: it has not."""
        content = self.content
        if not content.is_eof() or content.exception() is not None:
            return None
        return content.read_nowait()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; `OriginError` if it breaks off."""
        try:
            async for chunk in self.content.iter_any():
                yield chunk
        except TimeoutError as e:
            raise OriginTimeout(f"origin: {words_of(e)}") from e
        except (aiohttp.ClientError, OSError) as e:
            raise OriginError(f"origin: broke off a body: {words_of(e)}") from e

    def close(self) -> None:
        """Done with it: the connection is reused if the body was read to its end."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        if self.leave is not None:
            connection.discard()
            self.leave()
            return
        if not self.content.at_eof():
            connection.abort()
        connection.done()


def answering_of(
    method: str,
    message: RawResponseMessage,
    content: StreamReader,
    connection: Connection,
    *,
    switches: bool = False,
) -> Answering:
    fields, status = message.headers, message.code
    if status not in _STATUSES and not (switches and status == 101):
        raise OriginError(f"origin: status {status} is no answer")
    length = fields.get("Content-Length")
    if length is not None and len(length) > 18:  # aiohttp would see no body in 2^64-1
        raise OriginError("origin: a length beyond all measure")
    empty = method == "HEAD" or status in NO_BODY
    return Answering(
        status=status,
        fields=fields,
        head=_head(message),
        # RFC 9110 §8.6: a 204 has none.
        length=int(length) if length and length.isdigit() and status != 204 else None,
        whole=_chunked(message) or empty or length is not None,
        empty=empty,
        content=content,
        connection=connection,
    )


def _head(message: RawResponseMessage) -> bytes:
    lines = _lines(message, _NOT_KEPT)
    if "Date" not in message.headers:
        # RFC 9110 §6.6.1: who receives a response without one adds it.
        lines.append(_date(int(time.time())))
    lines.append(_VIA_LINE)
    return b"".join(lines)


def _lines(message: RawResponseMessage, gone: frozenset[str]) -> list[bytes]:
    """Status line and fields, without those that are gone or of one hop."""
    fields = message.headers
    if "Connection" in fields:
        gone = gone | of_connection(fields.getall("Connection"))
    reason = (message.reason or "").encode("utf-8", "surrogateescape")
    if _BAD_IN_REASON.search(reason):
        raise OriginError("origin: a malformed status line")
    lines = [b"HTTP/1.1 %d %b\r\n" % (message.code, reason)]
    for name, value in message.raw_headers:
        # RFC 9112 §5.1: with a space before the colon it means what the next hop
        # makes of it.
        lower = _token(name)
        if not lower or _BAD_IN_VALUE.search(value):
            raise OriginError("origin: a malformed field")
        if lower not in gone:
            lines.append(b"%b: %b\r\n" % (name, value))
    return lines


class Interims:
    """Passes on what comes before the final answer, within bounds."""

    def __init__(self, interim: Interim) -> None:
        self._interim = interim
        self._bytes = 0

    def __call__(self, message: RawResponseMessage) -> None:
        head = b"".join([*_lines(message, HOP_BY_HOP), b"\r\n"])
        self._bytes += len(head)
        if self._bytes > INTERIM_BYTES:
            raise OriginError(f"origin: interim answers of over {INTERIM_BYTES} bytes")
        self._interim(message.code, head)


@lru_cache(2)
def _date(now: int) -> bytes:
    return b"Date: %b\r\n" % formatdate(now, usegmt=True).encode()


@lru_cache(1024)
def _token(name: bytes) -> str:
    """A field's name in lower case; empty if it is none."""
    return name.lower().decode("latin-1") if _NAME.fullmatch(name) else ""


def _chunked(message: RawResponseMessage) -> bool:
    """Whether the body comes in chunks; `OriginError` for a coding that is not taken
    off: RFC 9112 §6.3, RFC 9111 §3.3."""
    codings = message.headers.getall("Transfer-Encoding", ())
    if not codings:
        return False
    if [coding.strip().lower() for coding in codings] != ["chunked"]:
        raise OriginError(f"origin: Transfer-Encoding {', '.join(codings)[:80]!r}")
    # RFC 9112 §6.1: of HTTP/1.0 the end of the chunks is not to be relied on.
    return message.version >= HttpVersion11


def words_of(error: BaseException) -> str:
    """On one line, for the log: an origin may have had a hand in them."""
    return " ".join(str(error).split())[:200] or type(error).__name__
