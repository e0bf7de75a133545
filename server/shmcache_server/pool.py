"""The pool of an upstream's connections: at most so many, kept for a while.

What waits to be read on an idle connection is nobody's answer: it is not taken then.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import os
import socket
import ssl
from collections import deque
from typing import Any

from aiohappyeyeballs import addr_to_addr_infos, start_connection
from yarl import URL

from .config import Config
from .connections import Connection

KEPT = 15.0
"""Seconds that an idle connection is kept: shorter than servers keep theirs."""
_NEXT_ADDRESS = 0.25
"""Seconds after which another address is tried too: RFC 8305 §5."""
_RESOLVED = 10.0
"""Seconds for which a name's addresses are believed."""
_RESOLVING = 1.0
"""Seconds for which others are awaited where there are such of before."""


class Busy(TimeoutError):
    """All connections were taken for too long: no fault of the origin."""


class Pool:
    """At most so many connections to one origin; those idle are asked first."""

    def __init__(self, base: str, config: Config) -> None:
        """`base` is one of the origin's."""
        origin, url = config.origin, URL(base)
        self._socket = _socket_of(base)
        """Its path; empty: it is reached by TCP."""
        self.host = "localhost" if self._socket else url.host_port_subcomponent or ""
        """As the Host field names it."""
        self.timeout = origin.timeout
        self.line_max = config.limits.line
        self.field_max = config.limits.field
        self._name, self._port = url.raw_host or "", url.port
        self._patience = origin.connect_timeout
        self._tls = _client_context() if url.scheme == "https" else None
        self._max = self._turns = origin.connections
        """How many may be asked at a time, and how many more may now."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._bodies = asyncio.Semaphore(max(1, self._max // 2))
        """Of those, how many more may be sending a body: it comes as slowly as its
        client likes, and whoever sends none is not to wait for that."""
        self._addresses = _numeric(self._name, self._port or 0)
        """Until when they are believed, by the loop's clock; and they themselves."""
        self._resolving: asyncio.Future[list[Any]] | None = None
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many are idle."""
        return len(self._idle)

    @property
    def taken(self) -> int:
        """How many are asked, being opened or waited for."""
        return self._max - self._turns + len(self._waiting)

    def kept(self) -> Connection | None:
        """An idle connection, for who calls its `done`; None: `take` one."""
        if not self._idle or not self._turns:
            return None
        connection = self._reusable()
        if connection is not None:
            self._turns -= 1
        return connection

    async def take(
        self, patience: float, *, fresh: bool = False, body: bool = False
    ) -> Connection:
        """A connection, for who calls its `done`; a new one if `fresh`. By it a body is
        going to be sent, or not.

        Raises `OSError`; `TimeoutError` where none was opened in time, `Busy` where
        none came free, or too late to open another."""
        place = turn = False
        waited = not self._turns or (body and self._bodies.locked())
        try:
            async with asyncio.timeout(patience):
                if body:
                    place = await self._bodies.acquire()
                await self._turn()
                turn = True
                found = None if fresh else self._reusable()
                found = await self._connect() if found is None else found
                found.sends_body = body
                return found
        except BaseException as e:
            if place:
                self.body_sent()
            if turn:
                self._pass_on()
            if isinstance(e, TimeoutError) and (waited or not turn):
                raise Busy("all connections are taken") from None
            raise

    async def open(self, patience: float) -> Connection:
        """A new one beside the turns, for who calls its `discard`; raises `OSError`,
        `TimeoutError`."""
        async with asyncio.timeout(patience):
            return await self._connect()

    def put_back(self, connection: Connection) -> None:
        """It is nobody's any more."""
        self._pass_on()
        transport = connection.transport
        if (
            transport is None
            or transport.is_closing()
            or connection.should_close
            or connection.unsent
        ):
            self.drop(connection)
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(KEPT, self._sweep)

    def drop(self, connection: Connection) -> None:
        """Close one that is not idle; at once, where the origin was sent what it has
        not taken: it may never do so."""
        self._open.discard(connection)
        if connection.unsent:
            connection.abort()
        else:
            connection.close()

    def body_sent(self) -> None:
        """One that sent a body sends no more of it."""
        self._bodies.release()

    async def close(self) -> None:
        """Close all."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._resolving is not None:
            self._resolving.cancel()
        self._idle.clear()
        for connection in list(self._open):
            self.drop(connection)

    async def _turn(self) -> None:
        """In the order of those who wait."""
        if self._turns:
            self._turns -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except BaseException:
            if not waiter.cancelled():  # it had come to him as he left
                self._pass_on()
            elif waiter in self._waiting:  # nobody passed him over meanwhile
                self._waiting.remove(waiter)
            raise

    def _pass_on(self) -> None:
        """A turn has ended: it is the next one's who waits."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._turns += 1

    def _reusable(self) -> Connection | None:
        """The one that was used last, so that those too many grow old."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            self.drop(connection)
        return None

    async def _connect(self) -> Connection:
        address = self._socket
        raw = await (_connected(address) if address else self._by_tcp())
        making = asyncio.ensure_future(self._make(raw))
        try:
            connection = await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_leave)
            raise
        self._open.add(connection)
        return connection

    async def _make(self, raw: socket.socket) -> Connection:
        """A connection of a socket, to be awaited to its end, also by who leaves:
        1. He leaves as TLS is about to begin. 2. asyncio's transport stays open. 3. The
        socket is closed. 4. Another one has its number, which the transport reads."""
        loop, inode = asyncio.get_running_loop(), os.fstat(raw.fileno()).st_ino
        try:
            if self._socket:
                _, connection = await loop.create_unix_connection(self._made, sock=raw)
            else:
                _, connection = await loop.create_connection(
                    self._made,
                    sock=raw,
                    ssl=self._tls,
                    server_hostname=self._name if self._tls else None,
                    ssl_handshake_timeout=self._patience if self._tls else None,
                )
        except BaseException:
            _close(raw, inode)
            raise
        return connection

    def _made(self) -> Connection:
        return Connection(self)

    async def _by_tcp(self) -> socket.socket:
        return await start_connection(
            await self._resolved(), happy_eyeballs_delay=_NEXT_ADDRESS, interleave=1
        )

    async def _resolved(self) -> list[Any]:
        until, found = self._addresses
        if asyncio.get_running_loop().time() < until:
            return found
        if self._resolving is None:
            self._resolving = asyncio.ensure_future(self._resolve())
            self._resolving.add_done_callback(self._has_resolved)
        resolving = self._resolving
        if not found:
            return await asyncio.shield(resolving)
        await asyncio.wait((resolving,), timeout=_RESOLVING)
        return self._addresses[1]

    async def _resolve(self) -> list[Any]:
        """One for all who wait: a resolver that hangs holds a thread, and those are
        few. Where it fails, what it said last goes on to be believed."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                self._name, self._port, type=socket.SOCK_STREAM
            )
        except OSError:
            found = self._addresses[1]
            if not found:
                raise
        self._addresses = (loop.time() + _RESOLVED, found)
        return found

    def _has_resolved(self, resolving: asyncio.Future[list[Any]]) -> None:
        self._resolving = None
        if not resolving.cancelled():
            resolving.exception()  # those who wait for it may have left

    def _sweep(self) -> None:
        """Close those that were idle for long; the eldest stand first."""
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_since <= loop.time() - KEPT:
            self.drop(self._idle.pop(0))
        self._sweeper = None
        if self._idle:
            until = self._idle[0].idle_since + KEPT
            self._sweeper = loop.call_at(until, self._sweep)


def _leave(making: asyncio.Future[Connection]) -> None:
    """Close what nobody waits for any more."""
    if not making.cancelled() and making.exception() is None:
        making.result().abort()


def _close(raw: socket.socket, inode: int) -> None:
    """Close a socket of which no connection came. uvloop may have closed it by its
    number and not told it so: 1. TLS begins, and what it writes fails. 2. The transport
    is closed. 3. It is given the socket. 4. The number is another one's."""
    try:
        ours = os.fstat(raw.fileno()).st_ino == inode
    except OSError:
        ours = False
    if ours:
        raw.close()
    else:
        raw.detach()


def _socket_of(base: str) -> str:
    """The address of a socket of this host: a path, or a NUL and a name."""
    if not base.startswith("unix://"):
        return ""
    path = base.removeprefix("unix://")
    return "\0" + path[1:] if path.startswith("@") else path


async def _connected(address: str) -> socket.socket:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, address)
    except BaseException:
        raw.close()
        raise
    return raw


def _numeric(name: str, port: int) -> tuple[float, list[Any]]:
    """The address that a name is, for ever; none for a name to be resolved."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return 0.0, []
    return math.inf, addr_to_addr_infos((name, port)) or []


def _client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
