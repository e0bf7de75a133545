"""Relay: a live response on its way to the other workers of the host.

    Who waits for a fetch of another worker asks that worker for its live response, by a
    socket of the host, and reads it as it comes. Its own clients read it there along.

    asks      the key, with its length before it
    answers   nothing, and the end: there was none to be shared
              else what is known of the response, then its body in pieces, each with its
              length before it; an empty piece is the end, and any other end is a body
              that broke off

Both look who the other is: a process of the same user, and nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]
from multidict import CIMultiDict, CIMultiDictProxy

from .answering import Answering, OriginError
from .live import LiveResponse, Reader

log = logging.getLogger("shmcache")

PIECE_MAX = 1 << 20
_LENGTH = struct.Struct(">I")
_ASKED = 5.0
"""Seconds within which who connects says what for."""
_PEER = struct.Struct("3i")

Find = Callable[[str], Awaitable[LiveResponse | None]]


class Relay:
    """What a worker gives to the others."""

    def __init__(self, name: str, slot: int, find: Find) -> None:
        """`find` awaits the live response of a key."""
        self._address = _address(name, slot)
        self._find = find
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen; without the address, which any user of the host may have taken, the
        others fetch for themselves."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self._address)
        except OSError as e:
            listener.close()
            log.warning("other workers cannot read along here: %s", e)
            return
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    async def close(self) -> None:
        """Serve no more; what is under way breaks off."""
        if self._server is not None:
            self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            if _is_ours(writer):
                await self._answer(reader, writer)
        except (OSError, OriginError, asyncio.IncompleteReadError, TimeoutError):
            writer.transport.abort()
        finally:
            writer.close()
            self._serving.discard(task)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with asyncio.timeout(_ASKED):
            key = (await _read(reader)).decode()
        gone = asyncio.ensure_future(reader.read(1))  # says no more: it left
        finding = asyncio.ensure_future(self._find(key))
        try:
            await asyncio.wait((gone, finding), return_when=asyncio.FIRST_COMPLETED)
            live = finding.result() if finding.done() else None
            if live is not None:
                await _send(live, writer)
        finally:
            gone.cancel()
            finding.cancel()


async def _send(live: LiveResponse, writer: asyncio.StreamWriter) -> None:
    answering = live.answering
    reader = Reader(live, writer.transport.abort)
    try:
        about = {
            "m": live.mark,
            "t": live.tags,
            "a": live.age(),
            "s": answering.status,
            "h": live.head_for_all,
            "l": answering.length,
            "e": answering.empty,
            "w": live.whoever_comes,
        }
        _write(writer, msgpack.packb(about))
        async for chunk in reader.chunks():
            for at in range(0, len(chunk), PIECE_MAX):
                _write(writer, chunk[at : at + PIECE_MAX])
            await writer.drain()
        _write(writer, b"")
        await writer.drain()
    finally:
        reader.close()


@dataclass(slots=True)
class Relayed(Answering):
    """A response that another worker reads from the origin."""

    mark: int = 0
    tags: tuple[str, ...] = ()
    age: float = 0.0
    whoever_comes: bool = True
    received: float = 0.0
    stall: float | None = None
    """Seconds within which the next piece comes from a worker that is not stopped."""
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    def at_hand(self) -> bytes | None:
        """Nothing is."""
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; `OriginError` if it breaks off."""
        assert self.reader is not None
        try:
            while piece := await self._next(self.reader):
                yield piece
        except (OSError, asyncio.IncompleteReadError) as e:  # TimeoutError among them
            raise OriginError("origin: another worker's fetch broke off") from e

    async def _next(self, reader: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(self.stall):
            return await _read(reader)

    def close(self) -> None:
        """Done with it."""
        if self.writer is not None:
            self.writer.close()

    def age_now(self) -> float:
        """Seconds since the origin made it."""
        return self.age + time.monotonic() - self.received


async def ask(name: str, slot: int, key: str) -> Relayed | None:
    """The live response of a key from the worker in `slot`; None if it has none to
    share, or cannot be asked."""
    reader, writer = None, None
    try:
        reader, writer = await _connected(_address(name, slot))
        if not _is_ours(writer):
            raise ConnectionRefusedError("another user's")
        _write(writer, key.encode())
        about = msgpack.unpackb(await _read(reader))
    except (OSError, asyncio.IncompleteReadError, ValueError):
        if writer is not None:
            writer.close()
        return None
    except BaseException:
        if writer is not None:
            writer.close()
        raise
    return Relayed(
        status=about["s"],
        fields=CIMultiDictProxy(CIMultiDict()),
        head=about["h"],
        length=about["l"],
        whole=True,
        empty=about["e"],
        content=None,  # type: ignore[arg-type]  # it is read by `reader`
        connection=None,
        mark=about["m"],
        tags=tuple(about["t"]),
        age=about["a"],
        whoever_comes=about["w"],
        received=time.monotonic(),
        reader=reader,
        writer=writer,
    )


def _address(name: str, slot: int) -> str:
    """In the abstract namespace, where nothing is left of who died."""
    return f"\0shmcache/{os.geteuid()}/{name}/{slot}"


async def _connected(
    address: str,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """By a socket of our own: uvloop ends a path at its first NUL."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
        return await asyncio.open_unix_connection(sock=sock)
    except BaseException:
        sock.close()
        raise


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    sock = writer.get_extra_info("socket")
    said = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return bool(_PEER.unpack(said)[1] == os.geteuid())


def _write(writer: asyncio.StreamWriter, piece: bytes) -> None:
    writer.write(_LENGTH.pack(len(piece)) + piece)


async def _read(reader: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > PIECE_MAX:
        raise ConnectionAbortedError("a piece is too long")
    return await reader.readexactly(length) if length else b""
