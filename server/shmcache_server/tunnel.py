"""Tunnels: a client's connection, upgraded to WebSocket, tied to one of the origin's.

Beginning
    The origin is asked by a new connection, which nobody used before. Only a 101 that
    answers this very handshake makes a tunnel (RFC 6455 §4.1): an origin made to say
    101 otherwise would have the client speak to it past the cache. Any other answer is
    a response as others are.

Bytes
    Each side's bytes are written to the other as they come. A side that takes nothing
    stops the other from being read, so that what is held is what a loop reads at once
    and one write buffer.

Ending
    A side that ends what it sends ends what the other receives; the other direction
    goes on for as long as something passes, but not in silence for long. A side that
    breaks off breaks the other off. So does silence of both.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from .answering import Answering, OriginError
from .origins import Asking, Origin
from .rfc9111.fields import of_connection

LINGER = 10.0
"""Seconds of silence after one side has ended."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Tunnelled(web.StreamResponse):
    """What is left of a request whose connection was a tunnel until now."""

    def __init__(self) -> None:
        super().__init__(status=101)
        self._keep_alive = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Sent already."""
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Ended already."""


def wanted(request: web.BaseRequest) -> bool:
    """Whether it asks for a WebSocket, as RFC 6455 §4.1 has it, and nothing else."""
    fields = request.headers
    return (
        request.method == "GET"
        and request.version == HttpVersion11
        and [v.lower() for v in fields.getall("Upgrade", ())] == ["websocket"]
        and "upgrade" in of_connection(fields.getall("Connection", ()))
        and len(fields.getall("Sec-WebSocket-Key", ())) == 1
        and not request.body_exists
        and "Content-Length" not in fields
        and "Transfer-Encoding" not in fields
    )


async def tunnel(
    request: web.BaseRequest, origin: Origin, asking: Asking
) -> Answering | Tunnelled:
    """Ask for the WebSocket that the client wants. `Tunnelled` once it has been, and
    has ended; else the origin's answer, to be passed on and closed as any other.

    `asking` is the request as it would be passed through, without a body. Raises
    `OriginError`.
    """
    asking.fields["Connection"] = "Upgrade"
    asking.fields["Upgrade"] = "websocket"
    answering = await origin.upgrade(asking)
    if answering.status != 101:
        return answering
    try:
        _check(request, answering)
        await _tied(request, answering, origin.tunnel_idle)
    finally:
        answering.close()
    return Tunnelled()


def _check(request: web.BaseRequest, answering: Answering) -> None:
    """`OriginError` if the 101 is not the answer to this handshake."""
    fields = answering.fields
    key = request.headers["Sec-WebSocket-Key"].strip().encode()
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
    if (
        fields.get("Upgrade", "").strip().lower() != "websocket"
        or "upgrade" not in of_connection(fields.getall("Connection", ()))
        or fields.getall("Sec-WebSocket-Accept", ()) != [accept]
        or "Content-Length" in fields
        or "Transfer-Encoding" in fields
    ):
        raise OriginError("origin: a 101 that answers another handshake")


async def _tied(request: web.BaseRequest, answering: Answering, idle: float) -> None:
    """Tie both connections, and await the end of both."""
    protocol, client = request.protocol, request.transport
    connection = answering.connection
    assert connection is not None
    if client is None or client.is_closing():
        return  # the client left
    server, late = connection.switch()
    if server is None or server.is_closing():
        raise OriginError("origin: broke off a tunnel as it began")
    early = _Early()
    # What the client sent behind its request; aiohttp has kept it for such as this.
    protocol.set_parser(early)  # type: ignore[arg-type]
    ties = _Ties(idle)
    ours = _End(ties, client, protocol)
    theirs = _End(ties, server, connection)
    ours.other, theirs.other = theirs, ours
    client.set_protocol(ours)
    server.set_protocol(theirs)
    head = answering.head + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    client.write(head + late)
    if early.data:
        server.write(early.data)
    try:
        await ties.ended()
    finally:
        ties.abort()


class _Early:
    """In the place of a parser of frames: keeps what it is fed."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        pass


class _End(asyncio.Protocol):
    """One side of a tunnel. `before` was the transport's protocol; it has the
    connection in its books, so it is told of the end."""

    other: _End

    def __init__(self, ties: _Ties, transport: asyncio.Transport, before: Any) -> None:
        self.transport = transport
        self.lost = False
        self.sent_all = False
        self._ties = ties
        self._before = before
        ties.ends.append(self)

    def data_received(self, data: bytes) -> None:
        self._ties.moved()
        if not self.other.lost:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        self.sent_all = True
        self._ties.ending()
        other = self.other
        if other.sent_all or other.lost or not other.transport.can_write_eof():
            other.transport.close()
            return False
        other.transport.write_eof()
        return self.transport.can_write_eof()

    def pause_writing(self) -> None:
        if not (self.other.lost or self.other.sent_all):
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self._ties.moved()
        if not (self.other.lost or self.other.sent_all):
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._before.connection_lost(exc)
        if not self.other.lost:
            if exc is None:
                self.other.transport.close()  # once it has taken what is written
            else:
                self.other.transport.abort()
        self._ties.ending()


class _Ties:
    """Both ends, and how long they may be silent."""

    def __init__(self, idle: float) -> None:
        self.ends: list[_End] = []
        self._loop = asyncio.get_running_loop()
        self._idle = idle
        self._moved = self._loop.time()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._timer = self._loop.call_later(idle, self._look)

    async def ended(self) -> None:
        """Both ends are lost."""
        await self._over

    def moved(self) -> None:
        """Something passed."""
        self._moved = self._loop.time()

    def ending(self) -> None:
        """One side has ended: silence is borne for less long, and of two none."""
        if all(end.lost for end in self.ends):
            self._timer.cancel()
            if not self._over.done():
                self._over.set_result(None)
            return
        self._idle = min(self._idle, LINGER)
        self.moved()
        self._timer.cancel()
        self._timer = self._loop.call_later(self._idle, self._look)

    def abort(self) -> None:
        """Break off what is open."""
        self._timer.cancel()
        for end in self.ends:
            if not end.lost:
                end.transport.abort()

    def _look(self) -> None:
        due = self._moved + self._idle
        if self._loop.time() >= due:
            self.abort()
        else:
            self._timer = self._loop.call_at(due, self._look)
