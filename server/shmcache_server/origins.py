"""The origin: what is asked of it, and what it answers, brought into our form.

Fields that belong to one connection are removed (RFC 9110 §7.6.1); of a request,
`forwarded.py` has removed them.

Asking again
    Where no connection was to be had nothing was sent: the next upstream is asked, and
    for a safe method, after a pause, all once more. Where a kept connection ended
    before any byte of an answer the origin may have acted: a safe method is sent once
    more, by a new connection, any other never. Both stay inside the deadline, and the
    second of each within a budget.

Over the limit
    Where there is a budget of calls (`limits.py`), each time that an upstream is asked
    is one, and one that it does not grant is not made.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from typing import Any

import aiohttp
from aiohttp import HttpVersion11
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from .config import Config
from .connections import NO_BODY, Connection, SlowClient
from .forwarded import CONDITIONS as CONDITIONS
from .forwarded import VIA
from .forwarded import request_fields as request_fields
from .limits import Budget as Calls
from .limits import Grant
from .pool import Busy
from .rfc9111.fields import HOP_BY_HOP, of_connection
from .upstreams import FAILURES, Budget, Upstream, Upstreams

_VIA_LINE = f"Via: {VIA}\r\n".encode()
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_REPEATED = frozenset({"GET", "HEAD", "OPTIONS"})
_FAULTS = frozenset({500, 502, 503, 504})
PAUSE = 0.1
"""Seconds before a first retry at most, doubled for each further one: long enough for
a server that is being restarted."""
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


class OriginDown(OriginError):
    """No upstream is asked at the moment, for each has failed of late."""

    status = 503
    unsent = True


class TunnelsTaken(OriginError):
    """As many tunnels are open as may be."""

    status = 503


class OverBudget(OriginError):
    """The budget has no call left; nothing was asked."""

    status = 503


Interim = Callable[[int, bytes], None]
"""Told of each answer before the final one, but 100 and 101: its status, and all of
it, ready to be sent to a client of HTTP/1.1."""


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
            raise OriginTimeout(f"origin: {_words(e)}") from e
        except (aiohttp.ClientError, OSError) as e:
            raise OriginError(f"origin: broke off a body: {_words(e)}") from e

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


class Origin:
    """The origin, and a worker's connections to its upstreams."""

    def __init__(self, config: Config, calls: Calls | None = None) -> None:
        """`calls`: the budget that each request is within, if there is one."""
        self.upstreams = Upstreams(config)
        self.calls = calls
        self.tunnels = config.origin.tunnels
        """How many more may be open."""
        self.tunnel_idle = config.origin.tunnel_timeout
        self.retried = 0
        self.refused = 0
        """Requests that came while all upstreams were down."""
        self.over_budget = 0
        """Times that the budget of calls had none left."""
        self._connect = config.origin.connect_timeout
        self._first_byte = config.origin.first_byte_timeout or config.origin.timeout
        self._patience = config.origin.patience
        self._total = config.origin.total_timeout
        self._retries = config.origin.retries
        self._faults = config.origin.breaker_5xx
        self._budget = Budget()

    async def close(self) -> None:
        """Close every connection."""
        await self.upstreams.close()

    def stats(self) -> dict[str, Any]:
        """Its upstreams and their states; how often it was asked again, and how many
        requests were refused while all were down, or over the budget."""
        upstreams = self.upstreams.stats()
        return {
            "upstreams": upstreams,
            "retried": self.retried,
            "refused": self.refused,
            "over_budget": self.over_budget,
        }

    def due(self, kind: str) -> float:
        """Seconds until the origin may be asked again, after a failure of the class
        with that name."""
        if kind == OverBudget.__name__ and self.calls is not None:
            return self.calls.wait()
        return self.upstreams.due()

    async def ask(self, asking: Asking, interim: Interim | None = None) -> Answering:
        """Send the request and await the head of its answer; `OriginError`."""
        method, fields = asking.method, asking.fields
        if asking.body is None:
            if method not in _BODILESS:
                fields["Content-Length"] = "0"  # RFC 9110 §8.6
        elif "Content-Length" not in fields:
            fields["Transfer-Encoding"] = "chunked"
        began = time.monotonic()
        upstream = self._choose(asking)
        at_hand = asking.body is None and self.calls is None
        kept = upstream.pool.kept() if at_hand else None
        try:
            return await self._once(upstream, asking, began, interim, kept)
        except OriginError as e:
            if not (e.unsent or e.unheard):
                raise
            return await self._again(e, upstream, asking, began, interim)

    async def upgrade(self, asking: Asking) -> Answering:
        """Ask for another protocol by a connection of its own; its answer may be 101,
        and the connection is the caller's to `switch` then. Whatever it is, it has a
        place among the tunnels until it is closed: nothing else bounds what is beside
        the pool. Raises `TunnelsTaken`, `OriginError`."""
        if not self.tunnels:
            raise TunnelsTaken("origin: as many tunnels are open as may be")
        self.tunnels -= 1
        try:
            answering = await self._upgraded(asking)
        except BaseException:
            self._tunnel_left()
            raise
        answering.leave = self._tunnel_left
        return answering

    # -- inside

    def _tunnel_left(self) -> None:
        self.tunnels += 1

    async def _upgraded(self, asking: Asking) -> Answering:
        tried: list[Upstream] = []
        began = time.monotonic()
        upstream: Upstream | None = self._choose(asking)
        while upstream is not None:
            tried.append(upstream)
            try:
                return await self._once(upstream, asking, began, None, tunnel=True)
            except OriginError as e:
                upstream = self.upstreams.choose(tried) if e.unsent else None
                if upstream is None or self._left(began) <= 0:
                    raise
        raise AssertionError

    async def _granted(self) -> Grant:
        """A call of the budget; raises `OverBudget`."""
        assert self.calls is not None
        grant = await self.calls.take()
        if grant.granted:
            return grant
        self.over_budget += 1
        raise OverBudget("origin: over its budget")

    def _choose(self, asking: Asking) -> Upstream:
        only = self.upstreams.only
        if only is not None and not only.probe_at:
            return only
        repeated = asking.body is None and asking.method in _REPEATED
        upstream = self.upstreams.choose(probing=repeated)
        if upstream is None:
            self.refused += 1
            raise OriginDown("origin: down, and left alone for a while")
        return upstream

    def _left(self, began: float) -> float:
        """Seconds of the deadline for a head."""
        return began + self._patience - time.monotonic()

    async def _again(
        self,
        error: OriginError,
        upstream: Upstream,
        asking: Asking,
        began: float,
        interim: Interim | None,
    ) -> Answering:
        """What comes of asking again, else the error of the last time."""
        tried, pauses, fresh = [upstream], 0, False
        repeated = asking.body is None and asking.method in _REPEATED
        while True:
            fresh = fresh or error.unheard
            other = None
            if error.unsent:
                other = self.upstreams.choose(tried, probing=repeated)
            if other is None:
                late = isinstance(error, OriginTimeout)
                if not repeated or late or not (error.unsent or error.unheard):
                    raise error
                pause = random.uniform(0, PAUSE * 2**pauses)
                if pauses >= self._retries or self._left(began) <= pause:
                    raise error
                if not self._budget.spend(sum(u.asked for u in self.upstreams.all)):
                    raise error
                pauses += 1
                self.retried += 1
                await asyncio.sleep(pause)
                tried.clear()
                other = self.upstreams.choose()
            if other is None or self._left(began) <= 0:
                raise error
            tried.append(other)
            try:
                return await self._once(other, asking, began, interim, fresh=fresh)
            except OriginError as e:
                error = e

    async def _once(
        self,
        upstream: Upstream,
        asking: Asking,
        began: float,
        interim: Interim | None,
        connection: Connection | None = None,
        *,
        fresh: bool = False,
        tunnel: bool = False,
    ) -> Answering:
        """Ask one upstream; by `connection`, if there is one at hand."""
        grant = None if self.calls is None else await self._granted()
        upstream.asked += 1
        asking.fields["Host"] = upstream.pool.host
        patience = self._first_byte
        try:
            if connection is None:
                connection = await self._connected(
                    upstream, asking, began, fresh=fresh, tunnel=tunnel
                )
                patience = min(patience, self._left(began))
                if grant is not None and grant.late:
                    await self._granted()
            message, content = await connection.ask(
                asking.method,
                asking.target,
                asking.fields,
                asking.body,
                patience,
                self._total and began + self._total,
                interim and _Interims(interim),
            )
            answering = _answering(
                asking.method, message, content, connection, switches=tunnel
            )
        except BaseException as e:
            error = _failure(upstream, connection, e)
            if connection is not None:
                _leave(connection, tunnel)
            if error is None:
                raise
            raise error from e
        if self._faults and answering.status in _FAULTS:
            upstream.failed()
        elif upstream.failures:
            upstream.succeeded()
        return answering

    async def _connected(
        self,
        upstream: Upstream,
        asking: Asking,
        began: float,
        *,
        fresh: bool,
        tunnel: bool,
    ) -> Connection:
        patience, body = min(self._connect, self._left(began)), asking.body is not None
        if tunnel:
            return await upstream.pool.open(patience)
        return await upstream.pool.take(patience, fresh=fresh, body=body)


def _leave(connection: Connection, tunnel: bool) -> None:
    if tunnel:
        connection.discard()
    else:
        connection.abort()
        connection.done()


def _failure(
    upstream: Upstream, connection: Connection | None, e: BaseException
) -> OriginError | None:
    """What asking an upstream raised, as its callers know it; None: no fault of its."""
    if isinstance(e, OriginError):
        return e
    if not isinstance(e, FAILURES):
        return None
    late = isinstance(e, TimeoutError)
    words = _words(e)
    if connection is None and late and not isinstance(e, Busy):
        words = "no connection in time"
    error = (OriginTimeout if late else OriginError)(f"origin {upstream.base}: {words}")
    if isinstance(e, SlowClient):
        error.status = 408
    error.unsent = connection is None
    error.unheard = connection is not None and not late and _cut(e, connection)
    if (late or error.unsent) and not isinstance(e, Busy):
        upstream.failed()
    return error


def _cut(e: BaseException, connection: Connection) -> bool:
    """Whether a kept connection ended before any byte of an answer."""
    ended = isinstance(e, aiohttp.ClientConnectionError | ConnectionError)
    return ended and connection.idle_since > 0 and not connection.heard


def _answering(
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


class _Interims:
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


def _words(error: BaseException) -> str:
    """On one line, for the log: an origin may have had a hand in them."""
    return " ".join(str(error).split())[:200] or type(error).__name__
