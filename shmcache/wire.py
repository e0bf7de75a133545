"""Wire: a connection to one Redis, on which nothing happens behind our back.

Redis' client library retries a lease ten times, reconnects a subscription silently and
holds a hung command for a minute, so connections are our own: what is written is
written once, read once and bounded in time, and a connection whose exchange did not
end is closed, for its next reply would be another's.

Identity
    A failover brings another history of the data: what was stored last may be gone,
    and what was deleted may be back. So each connection asks, as it is made, whose it
    is: the process behind it (its run_id, another one after a restart) and the history
    that it holds (its replication id, another one after a promotion). Only a master
    has an identity.
        A master takes another replication id also when its first replica joins, or an
    hour after its last one left. Who keeps a connection for long asks again, by
    `identify`; else it would take new connections for strangers for ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

from .resp import Command, ProtocolError, Replies, ReplyError, pack

__all__ = ["NotMasterError", "Took", "Wire", "untrusted"]

Took = Callable[[list[Any] | Exception], None]
"""Is told the replies to what was written, or what befell. It may not raise."""

_UNREAD = 1024
"""Messages of a slow reader, before Redis is made to wait."""
_GOODBYE = 0.25
_KEEPALIVE = {
    # a peer that vanished: the kernel ends the connection, also while we wait for it
    socket.TCP_KEEPIDLE: 2,
    socket.TCP_KEEPINTVL: 1,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 3000,
}


class NotMasterError(ConnectionError):
    """What answers there is a replica: nothing it says can be relied on."""


class Wire(asyncio.Protocol):
    """An open connection; `Address.open` makes one. One coroutine may use it at a
    time."""

    def __init__(self, where: str, timeout: float) -> None:
        self.where = where
        """What it was made to: host:port or a socket's path."""
        self.identity = 0
        """Of the master behind it, when it was last asked; 0: it never was."""
        self.version: tuple[int, ...] = ()
        self.mode = ""
        """standalone, cluster or sentinel."""
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self.born = self._loop.time()
        self._replies = Replies()
        self._unread: deque[Any] = deque()
        self._paused = False
        self._transport: asyncio.Transport | None = None
        self._wanted = 0
        self._took: Took | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._why: Exception = ConnectionError("l2: this connection was closed")

    def __repr__(self) -> str:
        return f"<Wire to {self.where}>"

    async def ask(self, *commands: Command, within: float = 0) -> list[Any]:
        """The reply to each command; an error reply stands in its place.

        `within` overrides the timeout. Whatever befalls is raised, and closes it: also
        a cancellation, for nobody will read what is under way.
        """
        if self._unread or self._replies.partial:
            self.end(ProtocolError("l2: a reply that nobody asked for"))
        answered: asyncio.Future[list[Any]] = self._loop.create_future()
        late = self._loop.call_later(within or self._timeout, self._late)
        try:
            self.begin(pack(commands), len(commands), partial(_answer, answered))
            return await answered
        except BaseException:
            self.drop()
            raise
        finally:
            late.cancel()

    def begin(self, data: bytes, wanted: int, took: Took) -> None:
        """Write commands, which `wanted` replies will answer: the connection must be
        `quiet`, and whoever cannot wait for them any longer must `end` it."""
        self._write(data)
        self._wanted, self._took = wanted, took

    async def send(self, *command: bytes | str | int) -> None:
        """Write a command; its replies are to be `read`."""
        self._write(pack([command]))

    async def read(self) -> Any:
        """The next reply or message, however long it takes; cancelled, it took none."""
        while not self._unread:
            await self._arrived()
        message = self._unread.popleft()
        if self._paused and not self._unread and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return message

    async def identify(self) -> int:
        """Ask whose connection it is, and note it. `NotMasterError` if it is not a
        master's, or not any more."""
        self.note(*await self.ask(("INFO", "server"), ("INFO", "replication")))
        return self.identity

    def note(self, server: Any, replication: Any) -> None:
        """`identify` by the replies to INFO server and INFO replication."""
        about = _fields(server) | _fields(replication)
        version = about.get(b"redis_version", b"").split(b".")[:2]
        self.version = tuple(int(n) for n in version if n.isdigit())
        # Valkey 8 has another name for it
        mode = about.get(b"redis_mode", about.get(b"server_mode", b""))
        self.mode = mode.decode()
        if about.get(b"role", b"master") != b"master":
            self.identity = 0
            raise NotMasterError("l2: a replica answers there, not a master")
        whose = about.get(b"run_id", b"") + about.get(b"master_replid", b"")
        digest = hashlib.blake2b(whose, digest_size=8).digest()
        self.identity = int.from_bytes(digest, "little") >> 1 or 1

    @property
    def quiet(self) -> bool:
        """Whether it is open, with nothing to read: what stands there before an
        exchange begins is nobody's reply."""
        idle = not self._unread and not self._replies.partial
        return idle and self._transport is not None

    async def hang_up(self) -> None:
        """Close; whatever is wrong with it does not matter any more."""
        if self._transport is not None:
            self._transport.close()  # TLS says goodbye, and is waited for
        await asyncio.wait({self._closed}, timeout=_GOODBYE)
        self.drop()

    def drop(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def end(self, why: Exception) -> None:
        """`drop`, and tell who waits for a reply why."""
        if self._transport is not None:
            self._why = why
        self.drop()
        self._tell(self._why)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._why)

    # -- how the loop tells of it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        known = transport.get_extra_info("socket")
        if known is not None and known.family != socket.AF_UNIX:
            with suppress(OSError):  # it was reset already, as will be seen
                known.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEPALIVE.items():
                    known.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        try:
            replies = self._replies.feed(data)
        except ProtocolError as error:
            self.end(error)
            return
        if len(replies) == self._wanted and not self._unread and self._took is not None:
            self._tell(replies)
            return
        self._unread += replies
        if self._took is not None:
            if len(self._unread) >= self._wanted:
                self._tell([self._unread.popleft() for _ in range(self._wanted)])
        elif self._waiter is None:
            full = len(self._unread) > _UNREAD
            if full and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
        elif self._unread and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(exc or ConnectionError("l2: Redis closed the connection"))
        if not self._closed.done():
            self._closed.set_result(None)

    # -- the parts of an exchange

    def _write(self, data: bytes) -> None:
        if self._transport is None:
            raise self._why
        self._transport.write(data)

    def _tell(self, replies: list[Any] | Exception) -> None:
        took, self._took = self._took, None
        if took is not None:
            took(replies)

    async def _arrived(self) -> None:
        """Until something is there to be read."""
        if self._transport is None:
            raise self._why
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _late(self) -> None:
        self.end(TimeoutError(f"l2: no answer within {self._timeout:g} s"))


def _answer(
    answered: asyncio.Future[list[Any]], replies: list[Any] | Exception
) -> None:
    if answered.done():  # cancelled
        return
    if isinstance(replies, Exception):
        answered.set_exception(replies)
    else:
        answered.set_result(replies)


def untrusted(reply: Any) -> bool:
    """Whether a reply tells that this is no master, or none that has its data."""
    if not isinstance(reply, ReplyError):
        return False
    # a script's error bears the code of the command that it ran
    return reply.code in (
        "READONLY",
        "LOADING",
        "MASTERDOWN",
        "NOAUTH",
        "UNBLOCKED",
    ) or "-READONLY " in str(reply)


def _fields(info: Any) -> dict[bytes, bytes]:
    if not isinstance(info, bytes):
        raise ProtocolError("l2: no answer to INFO")
    lines = (line.partition(b":") for line in info.splitlines())
    return {name: value for name, colon, value in lines if colon}
