"""Connections to one Redis, on which nothing happens behind our back.

The client library would retry a lease ten times, reconnect a subscription silently and
hold a hung command for a minute. So its connections are used bare: each exchange is
written once and read once, and a connection whose exchange did not end is closed, for
its next reply would be another's.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, cast
from urllib.parse import parse_qs, urlsplit

from redis.asyncio.connection import AbstractConnection as Connection
from redis.asyncio.connection import Connection as TcpConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    NoScriptError,
    ResponseError,
)

from .errors import ConfigError

__all__ = [
    "Command",
    "Connection",
    "Link",
    "NoScriptError",
    "ask",
    "cut",
    "forever",
    "hang_up",
    "pauses",
    "read",
]

Command = Sequence[bytes | str | int]
CONNECTIONS = 8
"""Of a process, beside those of the follower and the wake-ups. Batches wait for a free
one and grow meanwhile, which costs Redis less than more connections would."""

_OPTIONS = {
    "redis": {"db"},
    "unix": {"db", "username", "password"},
    "rediss": {"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}
    | {"ssl_check_hostname", "ssl_min_version"},
}


class Link:
    """A few connections to the Redis of one URL."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """`timeout` bounds connecting, and each read and write. `ConfigError` if the
        URL is not one."""
        settings = dict(_parse(url))
        self._make = settings.pop("connection_class", TcpConnection)
        self._settings = {
            **settings,
            "protocol": 2,  # with 3 the check of a dirty connection is off
            "driver_info": None,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
        }
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[Connection] = []
        self.connects = 0

    async def exchange(self, *commands: Command) -> list[Any]:
        """The reply to each command; an error reply stands in its place.

        Raises whatever befalls the connection, which is closed then.
        """
        async with self._free:
            connection = self._idle.pop() if self._idle else self._connection()
            try:
                if connection.is_connected and await connection.can_read():
                    # closed by the server, or bytes that nobody asked for
                    await connection.disconnect(nowait=True)
                if not connection.is_connected:
                    self.connects += 1
                    await _open(connection)
                return await ask(connection, *commands)
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                self._idle.append(connection)

    async def connect(self) -> Connection:
        """A connection of the caller's own; it must `hang_up` on it."""
        connection = self._connection()
        try:
            self.connects += 1
            await _open(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def check(self) -> None:
        """`ConfigError` names a setting that can never work; else whatever befell."""
        try:
            pong, info = await self.exchange(("PING",), ("INFO", "server"))
        except Exception as error:
            # what a handshake met is wrapped in a ConnectionError
            for met in (error, error.__cause__):
                _refuse(met)
            raise
        if isinstance(pong, Exception):
            raise ConfigError(f"l2: Redis refused a PING: {pong}")
        if isinstance(info, bytes) and _version(info) < (6, 2):
            raise ConfigError("l2: expected Redis 6.2 or newer, or Valkey")

    async def close(self) -> None:
        """Close what is idle. Exchanges must have ended."""
        while self._idle:
            await hang_up(self._idle.pop())

    def _connection(self) -> Connection:
        return cast(Connection, self._make(**self._settings))


async def ask(connection: Connection, *commands: Command) -> list[Any]:
    """`exchange` on a connection of one's own."""
    packed = connection.pack_commands(commands)
    await connection.send_packed_command(packed)
    return [await _reply(connection) for _ in commands]


async def read(connection: Connection) -> Any:
    """The next reply or message, however long it takes. Cancelling closes."""
    return await connection.read_response(timeout=math.inf)


async def hang_up(connection: Connection) -> None:
    """Close; whatever is wrong with it does not matter any more."""
    try:
        await connection.disconnect()
    except Exception:  # a peer that is gone, in any of its forms
        await connection.disconnect(nowait=True)


async def cut(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until they have ended.

    Once is not enough: the library writes under `asyncio.wait_for`, which before
    Python 3.12 forgets a cancellation that comes as the write ends.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.1)


def pauses(low: float = 0.1, high: float = 5.0) -> Iterator[float]:
    """Seconds to wait before each next try: doubling, shortened by chance."""
    pause = low
    while True:
        yield pause * random.uniform(0.5, 1)
        pause = min(high, pause * 2)


async def forever(
    work: Callable[[], Awaitable[None]],
    progress: Callable[[], int],
    broken: Callable[[Exception], None],
    high: float = 5.0,
) -> NoReturn:
    """Do `work` again whenever it ends: with pauses, which begin anew when it came so
    far that `progress` rose. `broken` is told of what ended it."""
    pause = pauses(high=high)
    while True:
        before = progress()
        try:
            await work()
        except Exception as error:  # whatever the library makes of a lost peer
            broken(error)
        if progress() > before:
            pause = pauses(high=high)
        await asyncio.sleep(next(pause))


async def _open(connection: Connection) -> None:
    await connection.connect()  # type: ignore[no-untyped-call]


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def _refuse(error: BaseException | None) -> None:
    if isinstance(error, AuthenticationError):
        raise ConfigError("l2: Redis refused the user or the password") from None
    if isinstance(error, InvalidResponse):
        raise ConfigError("l2: what answers there is not Redis") from None
    if isinstance(error, ResponseError):
        raise ConfigError(f"l2: Redis refused the connection: {error}") from None


def _version(info: bytes) -> tuple[int, ...]:
    for line in info.splitlines():
        if line.startswith(b"redis_version:"):
            return tuple(int(n) for n in line[14:].split(b".")[:2] if n.isdigit())
    return ()


def _parse(url: str) -> dict[str, Any]:
    """Settings of a connection. No message repeats the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigError(
            "l2: expected a URL such as redis://host:6379/0, with a port up to 65535"
        ) from None
    if parts.scheme not in _OPTIONS:
        raise ConfigError("l2: expected a redis://, rediss:// or unix:// URL")
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise ConfigError("l2: expected the socket's path, unix:///path/to/socket")
    else:
        if not parts.hostname:
            raise ConfigError(f"l2: expected a host, {parts.scheme}://host:6379/0")
        if parts.path.strip("/") and not parts.path.strip("/").isdigit():
            raise ConfigError("l2: expected the database's number after the host")
    unknown = parse_qs(parts.query).keys() - _OPTIONS[parts.scheme]
    if unknown:
        names = ", ".join(sorted(_OPTIONS[parts.scheme]))
        raise ConfigError(f"l2: unknown option in the URL; there are {names}")
    try:
        return cast(dict[str, Any], parse_url(url))
    except ValueError:
        raise ConfigError("l2: an option in the URL has a malformed value") from None
