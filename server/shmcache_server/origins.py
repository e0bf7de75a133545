"""The origin: what is asked of it, and what it answers, brought into our form.

Fields that belong to one connection are removed both ways (RFC 9110 §7.6.1), and so
is what a client could use to make an origin answer for another URL, host, scheme,
address or method than the one in the key: such an answer would poison the cache.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from typing import Any

import aiohttp
from aiohttp import HttpVersion11
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from .config import Config
from .connections import NO_BODY, Connection, Pool
from .rfc9111 import directives as cache_control

VIA = "1.1 shmcache"
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
UNKEYED = frozenset(
    {
        "cf-connecting-ip",
        "cf-visitor",
        "client-ip",
        "cloudfront-forwarded-proto",
        "fastly-client-ip",
        "fastly-ssl",
        "forwarded",
        "front-end-https",
        "proxy",
        "proxy-client-ip",
        "remote-user",
        "script-name",
        "true-client-ip",
        "wl-proxy-client-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-host",
        "x-http-host-override",
        "x-http-method",
        "x-http-method-override",
        "x-method",
        "x-method-override",
        "x-original-host",
        "x-original-uri",
        "x-original-url",
        "x-proxyuser-ip",
        "x-real-ip",
        "x-remote-ip",
        "x-remote-user",
        "x-rewrite-url",
        "x-scheme",
        "x-script-name",
        "x-url-scheme",
    }
)
"""What frameworks take for URL, host, scheme, client or method of a request;
`-` stands for `_` too, which they do not tell apart."""
_UNKEYED_FAMILIES = ("x-forwarded", "x-envoy-")
CONDITIONS = frozenset(
    {
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
    }
)
_OURS = frozenset({"accept-encoding", "content-length", "expect", "host", "via"})
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_NOT_KEPT = HOP_BY_HOP | {"age", "content-length"}
"""Of a response: of one hop, or written anew for each client."""
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_IN_VALUE = re.compile(rb"[\r\n\0]")
_FAILURES = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)
_STATUSES = range(200, 1000)
"""Of an answer; 101 would be another protocol's beginning."""


class OriginError(Exception):
    """The origin cannot be reached, or what it sends is not a whole response."""

    status = 502


class OriginTimeout(OriginError):
    """The origin did not answer in time."""

    status = 504


@dataclass(slots=True)
class Asking:
    """A request as the origin gets it."""

    method: str
    target: str
    """Path and query as the client sent them."""
    fields: CIMultiDict[str]
    body: Any = None


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
    directives: cache_control.Directives = field(default_factory=dict)

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
            raise OriginTimeout("origin: fell silent within a body") from e
        except (aiohttp.ClientError, OSError) as e:
            raise OriginError(f"origin: broke off a body: {_words(e)}") from e

    def close(self) -> None:
        """Done with it: the connection is reused if the body was read to its end."""
        connection, self.connection = self.connection, None
        if connection is not None:
            if not self.content.at_eof():
                connection.force_close()
            connection.done()


class Origin:
    """One origin, and a worker's connections to it."""

    def __init__(self, config: Config) -> None:
        self._base = config.origin.base
        self._pool = Pool(config)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    async def ask(self, asking: Asking) -> Answering:
        """Send the request and await the head of its answer; `OriginError`."""
        method, fields = asking.method, asking.fields
        fields["Host"] = self._pool.host
        if asking.body is None:
            if method not in _BODILESS:
                fields["Content-Length"] = "0"  # RFC 9110 §8.6
        elif "Content-Length" not in fields:
            fields["Transfer-Encoding"] = "chunked"
        connection = None
        try:
            connection = await self._pool.take()
            message, content = await connection.ask(
                method, asking.target, fields, asking.body
            )
            return _answering(method, message, content, connection)
        except BaseException as e:
            if connection is not None:
                connection.force_close()
                connection.done()
            if isinstance(e, TimeoutError):
                raise OriginTimeout(f"origin {self._base}: no answer in time") from e
            if isinstance(e, _FAILURES):
                raise OriginError(f"origin {self._base}: {_words(e)}") from e
            raise


def request_fields(
    fields: CIMultiDictProxy[str], *, drop: frozenset[str] = frozenset()
) -> CIMultiDict[str]:
    """A client's end-to-end fields, less those of the key and of `drop`; Via added."""
    gone = _not_sent(drop)
    if "Connection" in fields:
        gone = gone | named(fields.getall("Connection"))
    sent = CIMultiDict((n, v) for n, v in fields.items() if not _dropped(n, gone))
    sent["Via"] = ", ".join([*fields.getall("Via", ()), VIA])
    return sent


@lru_cache(16)
def _not_sent(drop: frozenset[str]) -> frozenset[str]:
    return HOP_BY_HOP | UNKEYED | _OURS | drop


def _dropped(name: str, gone: frozenset[str]) -> bool:
    lower, plain, unkeyed = _spelled(name)
    return unkeyed or lower in gone or plain in gone


@lru_cache(1024)
def _spelled(name: str) -> tuple[str, str, bool]:
    """In lower case, with `-` for `_` too, and whether its family is not in the key."""
    lower = name.lower()
    plain = lower.replace("_", "-")
    return lower, plain, plain.startswith(_UNKEYED_FAMILIES)


def named(connection: Iterable[str]) -> frozenset[str]:
    """The fields that Connection names: RFC 9110 §7.6.1."""
    return frozenset(
        name.strip().lower() for field in connection for name in field.split(",")
    )


def _answering(
    method: str,
    message: RawResponseMessage,
    content: StreamReader,
    connection: Connection,
) -> Answering:
    fields, status = message.headers, message.code
    if status not in _STATUSES:
        raise OriginError(f"origin: status {status} is no answer")
    length = fields.get("Content-Length")
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
        directives=cache_control.parse(fields.getall("Cache-Control", ())),
    )


def _head(message: RawResponseMessage) -> bytes:
    fields = message.headers
    gone = _NOT_KEPT
    if "Connection" in fields:
        gone = gone | named(fields.getall("Connection"))
    reason = (message.reason or "").encode("utf-8", "surrogateescape")
    lines = [b"HTTP/1.1 %d %b\r\n" % (message.code, reason)]
    for name, value in message.raw_headers:
        # RFC 9112 §5.1: with a space before the colon it means what the next hop
        # makes of it.
        lower = _token(name)
        if not lower or _BAD_IN_VALUE.search(value):
            raise OriginError("origin: a malformed field")
        if lower not in gone:
            lines.append(b"%b: %b\r\n" % (name, value))
    if "Date" not in fields:
        # RFC 9110 §6.6.1: who receives a response without one adds it.
        lines.append(_date(int(time.time())))
    lines.append(f"Via: {VIA}\r\n".encode())
    return b"".join(lines)


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


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
