"""Bodies: an origin that sends them over time, whole or broken off, and counts them.

A body is one pattern of bytes begun at a place of its path's own, so that a reader
knows each byte that it must get, and another path's body from this one.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import zlib
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from time import monotonic

PIECE_MAX = 128 * 1024
"""Bytes that are sent at once, and that are compared at once."""
_CHUNKED = "Transfer-Encoding: chunked"
_PERIOD = 65_521
_RESET = struct.pack("ii", 1, 0)
"""Linger: what is left is dropped, and the peer told so."""


@cache
def _pattern() -> bytes:
    block = random.Random(0).randbytes(_PERIOD)
    return block * (2 + PIECE_MAX // _PERIOD)


def _place(path: str, at: int) -> int:
    return (zlib.crc32(path.encode()) + at) % _PERIOD


def part(path: str, at: int, size: int) -> bytes:
    """`size` bytes, at most PIECE_MAX, of a path's body from byte `at` on."""
    place = _place(path, at)
    return _pattern()[place : place + size]


def is_part(path: str, at: int, data: bytes) -> bool:
    """Whether these are its bytes from byte `at` on."""
    for i in range(0, len(data), PIECE_MAX):
        piece = data[i : i + PIECE_MAX]
        if not _pattern().startswith(piece, _place(path, at + i)):
            return False
    return True


WHOLE, SHORT, RESET = "whole", "cut short", "reset"
"""How a body ends: as it should; by the connection's end, or its reset, half-way."""


@dataclass(frozen=True)
class Body:
    """One that the origin has."""

    size: int
    control: str = "max-age=600"
    """Its Cache-Control."""
    seconds: float = 0.0
    """Over which it is sent; 0: as fast as it is taken."""
    wait: float = 0.0
    """Seconds before its head."""
    told: bool = True
    """Its length is in its head; else it comes in chunks."""
    ends: str = WHOLE
    pieces: int = 16
    """In which it is sent, if over time."""


@dataclass
class Sent:
    """A body that was asked for; times of the monotonic clock."""

    first: float = 0.0
    """Its head and first piece left."""
    last: float = 0.0
    """So did all of it."""


@dataclass
class Origin:
    """What it has, and what of it was sent."""

    bodies: dict[str, Body] = field(default_factory=dict)
    sent: dict[str, list[Sent]] = field(default_factory=lambda: defaultdict(list))
    url: str = ""
    _server: asyncio.Server | None = None
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            # cancelled: by `close`
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._answer(reader, writer):
                    pass
        finally:
            writer.transport.abort()
            self._serving.discard(task)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether another may follow."""
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        body = self.bodies[path]
        sent = Sent()
        self.sent[path].append(sent)
        await asyncio.sleep(body.wait)
        framing = f"Content-Length: {body.size}" if body.told else _CHUNKED
        fields = f"Cache-Control: {body.control}\r\n{framing}"
        writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode())
        await _send(path, body, sent, writer)
        if body.ends == WHOLE:
            if not body.told:
                writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        if body.ends == RESET:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        return False


async def _send(
    path: str, body: Body, sent: Sent, writer: asyncio.StreamWriter
) -> None:
    """As much of it as is sent, in time: who held it up gets the rest at once."""
    size = body.size if body.ends == WHOLE else body.size // 2
    gap = body.seconds / max(1, body.pieces - 1)
    piece = -(-size // body.pieces) if body.seconds else PIECE_MAX
    began = monotonic()
    at = number = 0
    while at < size:
        due = began + number * gap
        if (early := due - monotonic()) > 0:
            await asyncio.sleep(early)
        end = min(size, at + piece)
        while at < end:
            data = part(path, at, min(PIECE_MAX, end - at))
            if writer.transport.is_closing():
                raise ConnectionAbortedError("the server left")
            writer.write(data if body.told else b"%x\r\n%b\r\n" % (len(data), data))
            sent.first = sent.first or monotonic()
            await writer.drain()
            at += len(data)
        number += 1
    sent.last = monotonic()
