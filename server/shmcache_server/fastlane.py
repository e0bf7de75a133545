"""The fast lane: a hit answered in `data_received`, before aiohttp builds a request.

What it may answer
    One or several complete requests, each a GET or HEAD whose header block has a known
    verdict, and whose record is fresh, or stale inside its grace once the refresh was
    handed on. All else goes on to aiohttp as it came, and so do the misses.

Verdicts
    There is no second HTTP parser here. A request that aiohttp's parser has read whole
    leaves a verdict under the exact bytes of its header block: whether a cache may
    answer such a request, and what its key begins with. Clients repeat these bytes.
    The target alone differs; it is made of characters that aiohttp takes as they are.

Level
    A verdict holds only where a request begins. An idle handler does not tell that:
    1. A client sends `GET /a HTTP/1.1` and half a field. The handler is idle, and the
       half is in aiohttp's parser. 2. It sends what looks like a whole request, which
       is the rest of the field's value.
    So a connection is *level* only if its parser is known to be between two requests:
    at its beginning, and after a chunk that ended in the only blank line within it and
    gave exactly one request, without a body and alone in the queue. And only what a
    level connection's parser read leaves a verdict, for else some of its fields are
    not in the chunk.
        Alone, because a parser that has given many keeps the rest to itself:
    1. Sixty requests come at once; it gives 31 and stops. 2. One is answered, and a
    chunk with another one comes. It gives exactly one, but of the first sixty.

Order
    While a request of the slow lane is under way the handler is not idle, and what
    comes goes behind it. A client that does not read is the slow lane's to pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_server import Server
from yarl import URL

from shmcache import Cache, CacheError

from . import stored
from ._splice import Known, Sender, splice
from .answer import from_store
from .config import Config
from .handler import Handler
from .key import Fields, Lead, Refused, conditional, directed, for_a_cache
from .request import Request
from .rfc9111 import status
from .stored import MARK, OFFSETS

REQUEST_MAX = 4096
"""Bytes of a request that may leave a verdict, which keeps its header block."""
TICK = 0.25
"""Seconds by which an idle connection may be closed late."""
FIELDS_MAX = 32
"""Of a header block that leaves a verdict, which keeps them."""
VERDICTS = 512
"""At most, and as many more that were not used lately."""
PIPELINED_MAX = 64
"""Answers at one go; the rest goes to the slow lane, which pauses the client."""
SPLICE_MAX = 16 * 1024
"""Bytes up to which one copy is cheaper than two pieces to write."""

_LINE_END = b" HTTP/1.1\r\n"
_METHODS = {b"GET /": 4, b"HEAD ": 5}
_TARGET = re.compile(rb"/[!\"$-~]*")
"""Visible ASCII but `#`, which ends a target."""


Hit = tuple[bytes, bool, int, int]
"""What `Cache.hit` answers."""


class Verdict(NamedTuple):
    """What is known of a header block that a cache may answer."""

    lead: Lead
    prefix: bytes
    """Of the key, where the target alone follows (`Keys.uniform`)."""
    plain: bool
    """No condition: the answer is the whole response."""
    fields: Fields


class Asked(NamedTuple):
    """A request that is known."""

    key: bytes
    whole: bool
    """A GET without a condition."""
    method: str
    target: bytes
    verdict: Verdict


class Lane:
    """What the connections of a worker share."""

    def __init__(self, cache: Cache, handler: Handler, config: Config) -> None:
        self.open = config.server.fast_lane
        self._heeds = config.caching.request_directives
        self._hit = cache.hit
        self._handler = handler
        self._request_max = min(REQUEST_MAX, config.limits.line)
        self.known = Known(cache.hit, longest=self._request_max, most=SPLICE_MAX)
        """What keys begin with, by the header blocks of verdicts that are plain; none
        where requests are logged."""
        self._uniform = handler.keys.uniform
        self._verdicts = tuple(Memo(VERDICTS, self.known.forget) for _ in range(2))
        """Of strangers, and of peers that are believed."""
        self._keepalive = config.server.keepalive
        self.stall = config.origin.timeout
        """Seconds after which a client that takes nothing is cut off."""
        self.closes = 0.0
        """Loop time until which a connection that is active now may be idle."""
        self._ticking: asyncio.TimerHandle | None = None
        self._logging = config.server.access_log
        self._fast, self._slow = (
            itertools.cycle(range(config.server.access_log_every)) for _ in range(2)
        )

    def answer(self, connection: Connection, data: bytes, found: Hit | None) -> bool:
        """Answer what is known; whether that was all of it. Else nothing was done, or
        the connection was given the rest. `found` is what L1 has, if it was looked up
        already."""
        asked = self._recognised(data, connection.trusted)
        if asked is None:
            return self._answer_each(connection, data)
        return self._answer(connection, asked, found)

    def trusts(self, peername: Any) -> bool:
        """Whether such a peer is believed."""
        return self._handler.keys.forwarding.trusts(_address(peername))

    def tick(self) -> None:
        """Keep the time, which each answer need not ask for then."""
        loop = asyncio.get_running_loop()
        self.closes = loop.time() + self._keepalive + TICK
        self._ticking = loop.call_later(TICK, self.tick)

    def close(self) -> None:
        """Tick no more."""
        if self._ticking is not None:
            self._ticking.cancel()

    def logs(self, sampled: bool) -> bool:
        """Whether a request of the slow lane is logged."""
        return sampled or not next(self._slow)

    def learn(
        self, data: bytes, message: RawRequestMessage, trusted: bool
    ) -> Lead | None:
        """Keep a verdict on the header block of `data`, which aiohttp's parser has
        read from its first byte as this one message; its lead, if it has one."""
        at = data.find(_LINE_END)
        start = _METHODS.get(data[:5])
        if start is None or at < 0 or len(data) > self._request_max:
            return None
        verdicts = self._verdicts[trusted]
        known = verdicts.get(data[at:])
        if known is not None:
            return known.lead
        fields = message.headers
        if (
            message.method != data[: start - 1].decode()
            or message.path.encode("utf-8", "surrogateescape") != data[start:at]
            or len(message.raw_headers) > FIELDS_MAX
            or message.should_close
            or message.upgrade
            or message.chunked
            or hdrs.CONTENT_LENGTH in fields
            or hdrs.TRANSFER_ENCODING in fields
            or hdrs.EXPECT in fields
            or not for_a_cache(fields)
            or (self._heeds and directed(fields))
        ):
            return None
        try:
            lead = self._handler.keys.lead(fields, trusted=trusted)
        except Refused:
            return None
        prefix = lead.prefix.encode()
        verdicts.put(data[at:], Verdict(lead, prefix, not conditional(fields), fields))
        return lead

    # -- inside

    def _recognised(self, data: bytes, trusted: bool) -> Asked | None:
        """By its header block."""
        at = data.find(_LINE_END)
        start = _METHODS.get(data[:5])
        if start is None or at < 0 or len(data) > self._request_max:
            return None
        verdict = self._verdicts[trusted].get(data[at:])
        if verdict is None:
            return None
        target = data[start:at]
        if not _TARGET.fullmatch(target):
            return None
        whole = verdict.plain and start == 4
        method = "GET" if start == 4 else "HEAD"
        if not self._uniform:
            keyed = verdict.lead.keyed(target.decode(), method)
            if not keyed.route.cache:
                return None
            return Asked(keyed.key.encode(), whole, method, target, verdict)
        if verdict.plain and not self._logging:
            self.known.know(data[at:], verdict.prefix)
        return Asked(verdict.prefix + target, whole, method, target, verdict)

    def _answer_each(self, connection: Connection, data: bytes) -> bool:
        """Several requests in one chunk, if every one is known: whoever sends what is
        none is answered as aiohttp does, from the first on."""
        known: list[tuple[int, Asked]] = []
        start = 0
        while start < len(data):
            end = data.find(b"\r\n\r\n", start) + 4
            whole = end >= 4 and end - start < len(data)
            asked = (
                self._recognised(data[start:end], connection.trusted) if whole else None
            )
            if asked is None:
                return False
            known.append((start, asked))
            start = end
        for at, (start, asked) in enumerate(known):
            if (
                at == PIPELINED_MAX
                or not connection.idle
                or not self._answer(connection, asked)
            ):
                if start:
                    connection.go_slow(data[start:])
                return start > 0
        return bool(known)

    def _answer(
        self, connection: Connection, asked: Asked, found: Hit | None = None
    ) -> bool:
        """`found` is what L1 has, if it was looked up already."""
        if self._logging and not next(self._fast):
            connection.sampled = True
            return False
        try:
            found = found or self._hit(asked.key)
            if found is None:
                return False
            document, stale, age, ttl = found
            if document[:4] != MARK:  # a list of variants, or to be validated
                return False
            if stale:
                self._refresh(connection, asked)
                ttl = min(ttl, -1)  # one may be stale before its time
        except CacheError:  # a key too long as it stands, or a cache that is closing
            return False
        transport = connection.transport
        assert transport is not None  # data came by it
        connection.sender.fall_behind()
        if not asked.whole:
            answer = _rarer(asked, document, age, ttl)
        elif len(document) <= SPLICE_MAX:
            answer = splice(document, age, ttl)
        else:
            answer = splice(document, age, ttl, False)
            if answer is not None:
                body = OFFSETS.unpack_from(document)[1]
                transport.writelines((answer, memoryview(document)[body:]))
                return True
        if answer is None:  # another version's
            return False
        transport.write(answer)
        return True

    def _refresh(self, connection: Connection, asked: Asked) -> None:
        self._handler.refresh(
            asked.verdict.lead.keyed(asked.target.decode(), asked.method),
            asked.verdict.fields,
            _address(connection.peername),
            "https" if connection.ssl_context else "http",
        )


def _address(peername: Any) -> str:
    """Of a peer; empty where it has none."""
    return str(peername[0] if isinstance(peername, list | tuple) else peername or "")


def _rarer(asked: Asked, document: bytes, age: int, ttl: int) -> bytes | None:
    """The answer to a HEAD, or to a client that has a copy."""
    found = stored.unpack(document)
    if found is None:
        return None
    ours = (status.FIELDS % (age, status.HIT % ttl)).encode()
    answer = from_store(asked.method, asked.verdict.fields, found, ours)
    return answer.head + b"\r\n" + answer.payload


class Memo:
    """Verdicts by header block, bounded: it forgets what was not used lately."""

    def __init__(self, size: int, forgot: Callable[[], None]) -> None:
        self._young: dict[bytes, Verdict] = {}
        self._old: dict[bytes, Verdict] = {}
        self._size = size
        self._forgot = forgot

    def get(self, block: bytes) -> Verdict | None:
        found = self._young.get(block)
        if found is None and (found := self._old.get(block)) is not None:
            self.put(block, found)
        return found

    def put(self, block: bytes, verdict: Verdict) -> None:
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
            self._forgot()  # whoever else holds some is to let go of them
        self._young[block] = verdict


class Connection(RequestHandler):
    """A connection of aiohttp's server whose hits take the fast lane."""

    __slots__ = (
        *("_lane", "_level", "_quick", "_taking", "_untaken"),
        *("judged", "sampled", "sender", "trusted"),
    )

    def __init__(self, manager: Server, lane: Lane, **options: Any) -> None:
        super().__init__(manager, **options)
        self._lane = lane
        self._level = lane.open
        """Whether aiohttp's parser is between two requests."""
        self._quick = False
        """Level, and known to be idle: nothing was given to aiohttp since."""
        self._taking: asyncio.TimerHandle | None = None
        """The next look at a client that is slow to take what it asked for."""
        self._untaken = 0
        """Bytes of that at the last look."""
        self.sampled = False
        """Whether the request that goes the slow lane is to be logged."""
        self.trusted = False
        """Whether what the peer says of its own client is believed."""
        self.judged: tuple[RawRequestMessage, Lead | None] | None = None
        """A message that came alone, and is no request yet; the lead of its block."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.sender = Sender(cast(asyncio.Transport, transport))
        self.trusted = self._lane.trusts(self.peername)

    @property
    def idle(self) -> bool:
        """Whether what comes now may be answered now."""
        waiter = self._waiter
        return waiter is not None and not waiter.done() and not self._paused

    def data_received(self, data: bytes) -> None:
        lane = self._lane
        if (self._quick or self._regained()) and not self._paused:
            found = lane.known.answer(data, self.sender)
            if found is True or (found is not False and lane.answer(self, data, found)):
                self._next_keepalive_close_time = lane.closes
                return
        self.go_slow(data)

    def _regained(self) -> bool:
        self._quick = self._level and self.idle
        return self._quick

    def close(self) -> None:
        self._quick = self._level = False
        super().close()

    def force_close(self) -> None:
        self._quick = self._level = False
        super().force_close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._untaken = 0
        self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look_no_more()
        self._begin_keepalive()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._look_no_more()
        super().connection_lost(exc)

    def go_slow(self, data: bytes) -> None:
        """Give it to aiohttp, and see where that leaves its parser."""
        self.sender.fall_behind()
        was_level, before = self._level, self._request_count
        self._quick = self._level = False
        super().data_received(data)
        if self._messages:
            self._tell_of_failure()
        if (
            self._request_count != before + 1
            or len(self._messages) != 1
            or self._upgraded
            or self._buffer_paused  # it keeps what it has not read yet
            or self._reading_paused
            or not data.endswith(b"\r\n\r\n")
            or data.find(b"\r\n\r\n") != len(data) - 4
            or data.count(b"\n") != data.count(b"\r\n")
        ):
            return
        message, payload = self._messages[0]
        if (
            isinstance(message, RawRequestMessage)
            and payload is EMPTY_PAYLOAD
            # of more than aiohttp can count it thinks that there is none
            and hdrs.CONTENT_LENGTH not in message.headers
        ):
            self._level = self._lane.open
            if was_level:
                lead = self._lane.learn(data, message, self.trusted)
                self.judged = message, lead

    def _tell_of_failure(self) -> None:
        """Break off the body that is being read, if it went on with what is none:
        aiohttp answers 400 behind it, and leaves its reader waiting."""
        failed, request = self._messages[-1][0], self._current_request
        if isinstance(failed, RawRequestMessage) or request is None:
            return
        if not request.content.is_eof():
            # in a turn: the chunk before it may just have woken the reader, which
            # looks for more before it looks for an error
            self._loop.call_soon(request.content.set_exception, failed.exc)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109
        """An answer of the fast lane that the client is still taking is under way,
        too. What has not ended in time is broken off: aiohttp would wait as long once
        more for it, until gunicorn kills the worker, which leaves the segment."""
        self._quick = self._level = False
        patience = 15.0 if timeout is None else timeout
        end = self._loop.call_later(patience, self._cut)
        try:
            if self._paused and not self._request_in_progress:
                with contextlib.suppress(ConnectionError):
                    await self._drain_helper()
            await super().shutdown(patience + 1)  # of the two, ours is to come first
        finally:
            end.cancel()

    def _look(self) -> None:
        """Cut off a client that has taken nothing since the last look: it holds what
        it is sent."""
        transport = self.transport
        if transport is None:
            return
        untaken = transport.get_write_buffer_size()
        if self._untaken and untaken >= self._untaken:
            transport.abort()
            return
        self._untaken = untaken
        self._taking = self._loop.call_later(self._lane.stall, self._look)

    def _look_no_more(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _cut(self) -> None:
        if self._task_handler is not None:
            self._task_handler.cancel()
        self.force_close()

    def _process_keepalive(self) -> None:
        if self._paused:  # not idle: the client is still taking an answer
            self._begin_keepalive()
        super()._process_keepalive()

    def _begin_keepalive(self) -> None:
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def log_access(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        time: float | None,
    ) -> None:
        if self._lane.logs(self.sampled):
            super().log_access(request, response, time)
        self.sampled = False


class FastServer(Server):
    """aiohttp's server, with our connections."""

    def __init__(self, lane: Lane, handler: Handler, **options: Any) -> None:
        super().__init__(handler, **options)
        self._lane = lane
        lane.tick()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await super().shutdown(timeout)
        self._lane.close()

    def __call__(self) -> Connection:
        return Connection(self, self._lane, loop=self._loop, **self._kwargs)

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        """aiohttp's parser lets an empty target be, and its request fails on it."""
        connection = cast(Connection, protocol)
        judged, connection.judged = connection.judged, None
        whole = message
        if message.url is None:
            whole = message._replace(path="", url=URL())
        request = Request(whole, payload, protocol, writer, task, self._loop)
        if judged is not None and judged[0] is message:
            request.lead = judged[1]
        return request
