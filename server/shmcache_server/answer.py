"""Answers as they leave: a head of ready bytes, then a body, whole or on its way.

aiohttp's own response builds its head field by field. A stored head is bytes already,
so these write it as it is, with the few fields that differ from answer to answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import cast

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from multidict import CIMultiDictProxy

from . import parts
from .rfc9111 import validation
from .stored import StoredResponse

_JOIN_MAX = 64 * 1024
"""Bytes up to which copying head and body together is cheaper than two writes."""

_RESET = struct.pack("ii", 1, 0)
"""Linger: what is left is dropped at the close, and the peer told so."""


class Answer(web.StreamResponse):
    """A head of ready bytes and a whole body. `head` ends in CRLF, without the empty
    line; its Content-Length is its own affair."""

    def __init__(
        self, status: int, head: bytes, body: bytes = b"", *, close: bool = False
    ) -> None:
        super().__init__(status=status)
        self.head = head
        self.payload = body
        self.close = close

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing is sent before the end: head and body leave together."""
        if request.method == "HEAD":
            self.payload = b""
        self._writer = request.writer
        self._keep_alive = request.keep_alive and not self.close
        self._connection = _connection(request, self._keep_alive)
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Send all of it, and wait where the client does not take it: it may have sent
        a thousand requests behind this one, and what they are answered is held."""
        head = self.head + self._connection
        writer = self._writer
        if len(self.payload) <= _JOIN_MAX:
            await writer.write(head + self.payload)
        else:
            await writer.write(head)
            await writer.write(self.payload)
        self._body_length = len(self.payload)
        await writer.write_eof()
        await writer.drain()


def own(
    status: int, kind: str, body: str, fields: str = "", *, close: bool = False
) -> Answer:
    """An answer in words of our own, without any the status's; never cached. `kind`:
    their media type; `fields`: lines that end in CRLF."""
    words = (body or HTTPStatus(status).phrase).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: {kind}; charset=utf-8\r\n"
        f"Content-Length: {len(words)}\r\n"
        f"Cache-Control: no-store\r\n{fields}"
    )
    if status == 405:
        head += "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    return Answer(status, head.encode(), words, close=close)


def from_store(
    method: str, fields: CIMultiDictProxy[str], found: StoredResponse, ours: bytes
) -> Answer:
    """A stored response to a GET or HEAD with these fields, or 304 where the client's
    own copy still holds; `ours` are the lines behind its head."""
    since = fields.get(hdrs.IF_MODIFIED_SINCE)
    if since is not None and len(fields.getall(hdrs.IF_MODIFIED_SINCE)) > 1:
        since = None  # RFC 9110 §13.1.3
    # RFC 9110 §13.2.1: only where the answer without the condition would be a 2xx.
    if found.status in (200, 206) and validation.not_modified(
        fields.getall(hdrs.IF_NONE_MATCH, ()),
        since,
        found.etag,
        None if since is None else found.modified,
    ):
        return Answer(304, found.not_modified_head() + ours)
    if method == "GET" and found.status == 200 and hdrs.RANGE in fields:
        part = parts.of(fields, found)
        if part is not None:
            return Answer(part.status, part.head + ours, part.body)
    body = b"" if method == "HEAD" else found.body
    return Answer(found.status, found.head + ours, body)


class Stream(web.StreamResponse):
    """A head of ready bytes and a body that is still coming.

    With `length` None the end is told by chunks, or to HTTP/1.0 by the connection's.
    `begun` is what has come of the body; it leaves with the head. A client that takes
    nothing for `stall` seconds is cut off: what feeds the body waits for it.
    """

    def __init__(
        self,
        status: int,
        head: bytes,
        length: int | None,
        body: AsyncIterator[bytes] | None,
        stall: float,
        begun: bytes = b"",
    ) -> None:
        super().__init__(status=status)
        self.head = head
        self.length = length
        self.chunks = body
        self.stall = stall
        self.begun = begun

    async def send(self, request: web.BaseRequest) -> None:
        """Send all of it. What the body raises, and ConnectionError where the client
        is gone, is raised once the client's connection is broken: it must not take
        what it has for the whole."""
        writer = request.writer
        chunked = self.chunks is not None and self.length is None
        keep = request.keep_alive
        framing = b""
        if self.length is not None:
            framing = b"Content-Length: %d\r\n" % self.length
        elif chunked and request.version >= HttpVersion11:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif chunked:
            keep = chunked = False
        self._keep_alive = keep
        begun = self.begun
        if chunked and begun:
            begun = b"%x\r\n%b\r\n" % (len(begun), begun)
        head = self.head + framing + _connection(request, keep) + begun
        try:
            await self._write(request, head)
            if chunked:
                writer.enable_chunking()
            if self.chunks is not None:
                async for chunk in self.chunks:
                    await self._write(request, chunk)
            await writer.write_eof()
        except BaseException:
            abort(request)
            raise

    async def _write(self, request: web.BaseRequest, data: bytes) -> None:
        writer = cast(StreamWriter, request.writer)
        await writer.write(data, drain=False)
        if not request.protocol.writing_paused:
            return
        try:
            async with asyncio.timeout(self.stall):
                await writer.drain()
        except TimeoutError:
            raise ConnectionAbortedError("the client takes nothing") from None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Sent already."""
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Sent already."""


def abort(request: web.BaseRequest) -> None:
    """Break the client's connection off. For HTTP/1.0 its mere end may be that of a
    whole body (RFC 9112 §6.3): a reset is none."""
    transport = request.transport
    if transport is None:
        return
    if request.version < HttpVersion11:
        with contextlib.suppress(OSError):  # it is closed already
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def _connection(request: web.BaseRequest, keep_alive: bool) -> bytes:
    """The Connection field where it says other than the version does, and the empty
    line: RFC 9112 §9.3."""
    if keep_alive:
        if request.version == HttpVersion10:
            return b"Connection: keep-alive\r\n\r\n"
    elif request.version == HttpVersion11:
        return b"Connection: close\r\n\r\n"
    return b"\r\n"
