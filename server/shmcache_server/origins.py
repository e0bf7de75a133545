"""The origin: what is asked of it, of which upstream, and when it is asked again.

`forwarded.py` has removed the fields of a request that belong to one connection;
`answering.py` removes those of its answer.

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
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
from multidict import CIMultiDict

from .answering import (
    Answering,
    Interim,
    Interims,
    OriginError,
    OriginTimeout,
    answering_of,
    words_of,
)
from .config import Config
from .connections import Connection, SlowClient
from .forwarded import CONDITIONS as CONDITIONS
from .forwarded import request_fields as request_fields
from .limits import Budget as Calls
from .limits import Grant
from .pool import Busy
from .upstreams import FAILURES, Budget, Upstream, Upstreams

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_REPEATED = frozenset({"GET", "HEAD", "OPTIONS"})
_FAULTS = frozenset({500, 502, 503, 504})
PAUSE = 0.1
"""Seconds before a first retry at most, doubled for each further one: long enough for
a server that is being restarted."""


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


@dataclass(slots=True)
class Asking:
    """A request as the origin gets it."""

    method: str
    target: str
    """Path and query as the client sent them."""
    fields: CIMultiDict[str]
    body: Any = None


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
                interim and Interims(interim),
            )
            answering = answering_of(
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
    words = words_of(e)
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
