"""Readers: clients of one body each, that read all, slowly, or no more for a while.

Each byte is compared with the one that must come. A reader that is slow, or stops, has
a small socket: what it leaves, the server has on its hands.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from time import monotonic
from typing import cast

from . import bodies

WHOLE, BROKEN, REFUSED, WRONG = "whole", "broken off", "refused", "wrong"
"""How an answer ended: with all of the body; with a broken connection or framing; with
an error's status in place of it; with other bytes, or as if a part were all of it."""
_SMALL = 16 * 1024
"""Bytes of a slow reader's socket."""
_HEAD_END = b"\r\n\r\n"
_CHUNK_END = b"\r\n"


@dataclass(frozen=True)
class Way:
    """How a reader asks and reads."""

    rate: float = 0.0
    """Bytes a second; 0: as they come."""
    stops: bool = False
    """After the head, until it is told to go on."""
    version: str = "1.1"
    fields: str = ""
    """Of the request, each with its line's end."""


FAST = Way()
STOPS = Way(stops=True)
OLD = Way(version="1.0")


class Reader(asyncio.Protocol):
    """One request and its answer; times are of the loop's clock."""

    def __init__(self, path: str, size: int, way: Way) -> None:
        loop = asyncio.get_running_loop()
        self.asked = self.first = self.last = 0.0
        """The request left; the first byte of the body came; its last did."""
        self.got = 0
        """Bytes of the body."""
        self.headed: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self._path, self._size, self._way = path, size, way
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()
        self._framing = Framing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        way = self._way
        line = f"GET {self._path} HTTP/{way.version}\r\nHost: 127.0.0.1\r\n"
        transport.write(f"{line}{way.fields}\r\n".encode())
        self.asked = monotonic()

    def data_received(self, data: bytes) -> None:
        if not self.headed.done():
            self._head += data
            head, end, rest = bytes(self._head).partition(_HEAD_END)
            if not end:
                return
            self._begin(head.decode("latin-1").lower())
            if self._way.stops:
                self._pause()
            data = rest
        if data and not self.ended.done():
            self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._framing.by_close and exc is None and self.headed.done():
            self._end(WHOLE)
        self._end(BROKEN)

    def go_on(self) -> None:
        """Read the rest."""
        if self._transport is not None and not self.ended.done():
            self._transport.resume_reading()

    def leave(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- inside

    def _begin(self, head: str) -> None:
        self.headed.set_result(None)
        self._framing = Framing.of(head)
        if head.split(" ", 2)[1] != "200":
            self._end(REFUSED)

    def _take(self, data: bytes) -> None:
        try:
            for piece in self._framing.pieces(data):
                if not bodies.is_part(self._path, self.got, piece):
                    self._end(WRONG)
                self.last = monotonic()
                self.first = self.first or self.last
                self.got += len(piece)
        except ValueError:
            self._end(BROKEN)
        if self._framing.left == 0 and not self._framing.by_close:
            self._end(WHOLE)
        elif self._way.rate:
            late = self.first + self.got / self._way.rate - monotonic()
            if late > 0:
                self._pause()
                self._loop.call_later(late, self.go_on)

    def _pause(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()

    def _end(self, how: str) -> None:
        if self.ended.done():
            return
        if how == WHOLE and self.got != self._size:
            how = WRONG
        if not self.headed.done():
            self.headed.set_result(None)
        self.ended.set_result(how)
        self.leave()


@dataclass
class Framing:
    """Where an answer's body ends: RFC 9112 §6.3."""

    chunked: bool = False
    by_close: bool = False
    left: int = -1
    """Bytes until the end, or of this chunk with its line end; -1: not known yet."""
    _line: bytearray = field(default_factory=bytearray)

    @classmethod
    def of(cls, head: str) -> Framing:
        """By a head in lower case."""
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
        if "transfer-encoding" in fields:
            return cls(chunked=True)
        if "content-length" in fields:
            return cls(left=int(fields["content-length"]))
        return cls(by_close=True)

    def pieces(self, data: bytes) -> list[bytes]:
        """What of the body is in the data; ValueError if they are no chunks."""
        if self.by_close:
            return [data]
        if not self.chunked:
            self.left -= len(data)
            return [data]
        found = []
        while data and self.left != 0:
            if self.left < 0:
                data = self._size_line(data)
                continue
            of_body = data[: max(0, self.left - len(_CHUNK_END))]
            data, self.left = data[self.left :], self.left - len(data[: self.left])
            if of_body:
                found.append(of_body)
            self.left = self.left or -1
        return found

    def _size_line(self, data: bytes) -> bytes:
        """Of the next chunk; what is behind it."""
        self._line += data
        line, end, rest = bytes(self._line).partition(_CHUNK_END)
        if not end:
            return b""
        self._line.clear()
        size = int(line, 16)
        self.left = size + len(_CHUNK_END) if size else 0
        return rest


async def read(port: int, path: str, size: int, way: Way = FAST) -> Reader:
    """A reader that has asked for the body of a path, of `size` bytes."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    try:
        sock.setblocking(False)
        if way.rate or way.stops:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        _, reader = await loop.create_connection(
            lambda: Reader(path, size, way), sock=sock
        )
    except BaseException:
        sock.close()
        raise
    return reader
