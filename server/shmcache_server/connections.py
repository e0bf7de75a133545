"""Connections to an origin: each carries one answer at a time, asked for by us.

What an origin sends unasked (the rest of a body longer than announced, the body of a
304) must never be taken for the answer to the next request. So a connection that
receives anything while nobody asks is closed, one on which something waits to be read
is not taken from the pool (`pool.py`), and one whose last answer may have a body that
its head denies is not put back.

aiohttp's protocol reads: its parser in C, its streams with their back-pressure. Its
session is left out. It follows redirects, keeps cookies, asks twice; and it costs as
much as all the rest of a miss.

Framing
    The parser is handed an answer and never a byte behind it. A head is handed over
    alone; it says how long the body is, and no more than that is handed over, so that
    what an origin sends beyond its own Content-Length cannot be taken for anything
    (RFC 9112 §6.3). Only the parser knows where chunks end; there the connection is
    used again if the last bytes were the shortest end that there is. Else something
    may be left in the parser: half a head, or a trailer field, which it would put
    among the fields of the next answer.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import aiohttp
from aiohttp import HttpVersion11
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, RawResponseMessage, StreamWriter
from aiohttp.http_writer import _serialize_headers  # in C
from aiohttp.streams import StreamReader
from multidict import CIMultiDict

NO_BODY = frozenset({204, 304})
_LAST = frozenset({101, *range(100)})
"""Below 200, yet no other answer follows."""
INTERIM_MAX = 16
"""Interim answers to one request; more are an attack, or a fault."""
AHEAD = 64 * 1024
"""Bytes of a body beyond which little is read ahead of its reader: twice that, and what
one read brings. Each body under way costs it, and as much at each step that follows."""
_BLANK = b"\r\n"
_HEAD_END = b"\r\n\r\n"
_CHUNKS_END = b"\r\n0\r\n\r\n"
_HEAD, _CHUNKED, _OPEN = -1, -2, -3
"""What is due where it is not a number of bytes: a head; chunks; all that comes."""


class SlowClient(aiohttp.ClientError):
    """It was the client that was awaited, and not the origin."""


class Keeper(Protocol):
    """Whose a connection is, and what holds for all of his."""

    timeout: float
    line_max: int
    field_max: int

    def put_back(self, connection: Connection) -> None: ...
    def drop(self, connection: Connection) -> None: ...
    def body_sent(self) -> None: ...


class Connection(ResponseHandler):
    """One connection; `asked` while it is somebody's."""

    def __init__(self, keeper: Keeper) -> None:
        super().__init__(asyncio.get_running_loop())
        self.asked = False
        self.heard = False
        """Whether anything came of the answer."""
        self.idle_since = 0.0
        """0.0: never, it is new."""
        self.sends_body = False
        """Whether it has a place among those that send a request's body."""
        self._keeper = keeper
        self._due = _HEAD
        self._bare = False
        """Whether a line of a head ended in LF alone."""
        self._exact = False
        """Whether what the parser is handed is one head and no more."""
        self._seam = b""
        """The last bytes handed over, of a head that goes on and of chunks."""
        self._heads_only: bool | None = None
        self._upload: asyncio.Task[None] | None = None
        self._awaiting: asyncio.TimerHandle | None = None
        """Of the final head."""
        self._overall: asyncio.TimerHandle | None = None
        self._patience = 0.0
        self._poll = select.poll()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        super().connection_made(transport)
        self._poll.register(transport.get_extra_info("socket"), select.POLLIN)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It has ended: with it a body of no length, unless it broke (RFC 9112 §8)."""
        body = self._payload
        if exc is not None and body is not None and not body.is_eof():
            body.set_exception(aiohttp.ClientPayloadError(f"cut: {exc}"))
        super().connection_lost(exc)

    def usable(self) -> bool:
        """Whether it can be asked: it is open, and neither bytes nor the end have come
        that the loop has not looked at."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        return not self._poll.poll(0)

    @property
    def unsent(self) -> bool:
        """Whether some of the request still waits to be taken by the origin."""
        transport = self.transport
        return transport is not None and transport.get_write_buffer_size() > 0

    async def ask(
        self,
        method: str,
        target: str,
        fields: CIMultiDict[str],
        body: AsyncIterator[bytes] | None,
        patience: float,
        until: float = 0.0,
        interim: Callable[[RawResponseMessage], None] | None = None,
    ) -> tuple[RawResponseMessage, StreamReader]:
        """Send a request and await the final head of its answer, for `patience` seconds
        from the request's end; by `until` of the monotonic clock the whole answer is to
        have come, if not 0. `interim` is told of each answer but 100 that comes before.

        Raises `ClientError`, `HttpProcessingError`, `OSError`. Whoever asks calls
        `done` in the end."""
        self._expect(heads_only=method == "HEAD")
        self._patience = patience
        if until:
            left = until - time.monotonic()
            self._overall = self._loop.call_later(max(0, left), self._late)
        line = f"{method} {target} HTTP/1.1"
        if body is None:
            head = _serialize_headers(line, fields)
            if self.transport is None or self.transport.is_closing():
                raise aiohttp.ClientConnectionResetError("closed by the origin")
            self.transport.write(head)
            self.start_timeout()
        else:
            writer = StreamWriter(self, self._loop)
            await writer.write_headers(line, fields)
            length = fields.get("Content-Length")
            if length is None:
                writer.enable_chunking()
            else:
                writer.length = int(length)
            self._upload = self._loop.create_task(self._send(writer, body))
        interims = 0
        while True:
            message, content = await self.read()
            if message.code >= 200 or message.code in _LAST:
                return message, content
            interims += 1
            said = message.headers
            if interims > INTERIM_MAX:
                raise aiohttp.ClientPayloadError(f"over {INTERIM_MAX} interim answers")
            if "Content-Length" in said or "Transfer-Encoding" in said:
                raise aiohttp.ClientPayloadError("an interim answer with a body")
            if interim is not None and message.code != 100:
                interim(message)

    def done(self) -> None:
        """Nobody reads its answer any more; asked again if that was read to the end."""
        self._leave()
        if self._due != 0 and (self._due != _CHUNKED or self._seam != _CHUNKS_END):
            self.force_close()
        self._keeper.put_back(self)

    def discard(self) -> None:
        """The same for one that was opened beside the turns: close it."""
        self._leave()
        self.abort()
        self._keeper.drop(self)

    def switch(self) -> tuple[asyncio.Transport | None, bytes]:
        """After 101: its transport, which is the caller's from here on as long as he
        tells of its end by `connection_lost`, and what came behind the head."""
        self._leave()
        self._drop_timeout()
        tail, self._tail = self._tail, b""
        if self._buffer_paused:
            self._resume_reading_for_buffer()
        return self.transport, tail

    def data_received(self, data: bytes) -> None:
        """Bytes from the origin; empty where the parser goes on with those it has."""
        if data and not self.asked:
            self.force_close()
            self.close()
        elif data and self._due == _HEAD:
            self._heads(data)
        else:
            if self._due == _CHUNKED:
                self._seam = (self._seam + data[-7:])[-7:]
            elif data and self._due != _OPEN:
                data = self._counted(data)
                if not data:
                    return
            super().data_received(data)
            if self._exception is not None:
                self._break_off()

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head: RFC 9112 §6.3 says when nothing may follow it, and §6.1 that the
        framing of HTTP/1.0 may be wrong."""
        message = data[0]
        code = message.code
        if code >= 200 or code in _LAST:
            if self._awaiting is not None:
                self._awaiting.cancel()
                self._awaiting = None
            empty = self._skip_payload or code in NO_BODY
            if empty or not self._exact or message.version < HttpVersion11:
                self.force_close()
            if not self._exact or code == 101:
                self._due = _OPEN
            elif empty:
                self._due = 0
            elif message.chunked:
                self._due, self._seam = _CHUNKED, b"\r\n"
            else:
                length = message.headers.get("Content-Length")
                self._due = _OPEN if length is None else int(length)
        super().feed_data(data, size)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """There is room again. Streams say so at each read; where nothing was paused
        the parser has nothing left."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def start_timeout(self) -> None:
        """The request has left: from here on the head's time runs."""
        if self._due == _HEAD:
            self._awaiting = self._loop.call_later(self._patience, self._unanswered)

    # -- inside

    def _expect(self, *, heads_only: bool) -> None:
        """From here on an answer is expected."""
        self.asked = True
        self.heard = False
        self._due = _HEAD
        self._seam = b""
        self._bare = False
        self._payload = None
        if self._heads_only != heads_only:
            self._heads_only = heads_only
            self.set_response_params(
                skip_payload=heads_only,
                read_until_eof=True,
                auto_decompress=False,
                read_bufsize=AHEAD,
                read_timeout=self._keeper.timeout,
                max_line_size=self._keeper.line_max,
                max_field_size=self._keeper.field_max,
            )

    def _leave(self) -> None:
        """Nobody's any more."""
        upload, self._upload = self._upload, None
        if upload is not None and not upload.done():
            self.force_close()
            upload.cancel()
        self._body_sent()
        if self._awaiting is not None:
            self._awaiting.cancel()
            self._awaiting = None
        if self._overall is not None:
            self._overall.cancel()
            self._overall = None
        self.asked = False

    def _heads(self, data: bytes) -> None:
        """Hand over head by head; what is behind the final one is its body's."""
        self.heard = True
        at = 0
        while at < len(data) and self._due == _HEAD:
            if len(self._buffer) > INTERIM_MAX:  # `ask` has not seen them yet
                return
            at = self._head(data, at)
            if self._exception is not None:
                return
        data = data[at:]
        if not data:
            self._reschedule_timeout()
        elif len(data) == self._due and self._parser is not None:
            self._due = 0
            self._parser.feed_data(data)  # cannot fail: its length is its only form
        else:
            self.data_received(data)

    def _head(self, data: bytes, at: int) -> int:
        """Hand over a head that begins or goes on at `at`; where that ends."""
        seam = self._seam
        if not seam and data[at] in _BLANK:  # the lines before a head may be empty
            left = len(data[at:].lstrip(_BLANK))
            if not left:
                return len(data)
            at = len(data) - left
        end = (seam + data).find(_HEAD_END, at) + 4 - len(seam)
        if end < 4 - len(seam):  # it goes on
            end = len(data)
            self._seam = (seam + data[at:])[-3:]
        elif seam:
            self._seam = b""
        piece = data[at:end]
        # Where a line ends in LF alone, the parser may see another end than we do.
        if piece.count(b"\n") != (seam[-1:] + piece).count(b"\r\n"):
            self._bare = True
        self._exact = not self._seam and not self._bare
        super().data_received(piece)
        return end

    def _counted(self, data: bytes) -> bytes:
        """As much of it as is due; the rest is nobody's answer."""
        due = self._due
        self._due = max(0, due - len(data))
        if len(data) > due:
            self.force_close()
            self._pause_transport_reading()
        return data[:due]

    def _break_off(self) -> None:
        """A body that the parser could not read is not told of it by aiohttp."""
        error, body = self._exception, self._payload
        if isinstance(error, HttpProcessingError) and body and not body.is_eof():
            body.set_exception(aiohttp.ClientPayloadError("malformed chunks"))

    def _reschedule_timeout(self) -> None:
        """Silence is measured within a body: a head has a time of its own, and what has
        come whole is awaited no more."""
        if self._due not in (_HEAD, 0):
            super()._reschedule_timeout()

    def _on_read_timeout(self) -> None:
        self._give_up("fell silent within a body")

    def _unanswered(self) -> None:
        self._awaiting = None
        self._give_up("no answer in time")

    def _late(self) -> None:
        self._overall = None
        if self._due != _HEAD and self._payload and self._payload.is_eof():
            return
        sending = self._upload is not None and not self._upload.done()
        if self._due == _HEAD and sending and not self.writing_paused:
            self.set_exception(SlowClient("a body took longer than total_timeout"))
        else:
            self._give_up("took longer than total_timeout for an answer")

    def _give_up(self, words: str) -> None:
        late = aiohttp.SocketTimeoutError(words)
        self.set_exception(late)
        if self._payload is not None:
            self._payload.set_exception(late)

    async def _send(self, writer: StreamWriter, body: AsyncIterator[bytes]) -> None:
        """A request's body, as it comes. Its failure is told to who awaits the head."""
        try:
            async for chunk in body:
                await writer.write(chunk, drain=False)
                if self.writing_paused:
                    async with asyncio.timeout(self._keeper.timeout):
                        await writer.drain()
            await writer.write_eof()
            self.start_timeout()
        except TimeoutError as e:
            late = aiohttp.SocketTimeoutError("the origin takes nothing")
            self.set_exception(late, e)
        except Exception as e:
            self.set_exception(aiohttp.ClientConnectionError(str(e)), e)
        finally:
            self._body_sent()

    def _body_sent(self) -> None:
        if self.sends_body:
            self.sends_body = False
            self._keeper.body_sent()
