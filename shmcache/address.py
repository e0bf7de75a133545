"""Address: where one Redis is, and what lets us in there.

`ACL_RULES` is all that our user needs. No repr, message or log has the password.

What is of another kind than the URL says (a Sentinel, a node of a Cluster, a single
Redis) never works, so it is refused as it is entered, with the URL to write instead.
Redis and Valkey name their mode by two names; who names none is let in.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Any

from . import resolver
from .errors import ConfigError
from .resp import Command, ProtocolError, ReplyError
from .wire import Wire

__all__ = ["ACL_RULES", "Address", "refusal", "refused"]

ACL_RULES = (
    "resetchannels &shmcache:* ~shmcache:* -@all +evalsha +eval +info +ping +select "
    "+time +get +mget +getrange +set +setrange +del +pttl +expire +pexpire +persist "
    "+sadd +smembers +hset +hsetnx +hget +hmget +hgetall +hdel +hincrby +xadd "
    "+xread +xrange +publish +subscribe +cluster|slots +asking"
)
"""What a user of ours needs, in the words of ACL SETUSER, beside `on` and a password.
The scripts' own commands are among them: they run with the rights of their caller."""


_NO_TLS = "l2: no TLS with what answers there"
_MODE = re.compile(rb"^(?:redis|server)_mode:(\w+)", re.MULTILINE)
_KINDS = {
    "standalone": "a single Redis",
    "sentinel": "a Sentinel",
    "cluster": "a node of a Cluster",
}
"""By mode, as INFO says it."""
_HANDSHAKE = 0.8
"""Of the time to connect; in the rest it is found out whether TLS is spoken at all."""


class Address:
    """Where one Redis is, and all that is needed to be let in."""

    def __init__(
        self,
        host: str = "",
        port: int = 6379,
        *,
        path: str = "",
        user: str = "",
        password: str = "",
        db: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.host, self.port, self.path = host, port, path
        self._user, self._password, self._db, self._tls = user, password, db, tls

    def __repr__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def at(self, host: str, port: int) -> Address:
        """Another place where the same lets us in."""
        return Address(
            host,
            port,
            user=self._user,
            password=self._password,
            db=self._db,
            tls=self._tls,
        )

    async def open(
        self, seconds: float, *, mode: str = "standalone", any_role: bool = False
    ) -> Wire:
        """A connection to the master of that mode that is there; with `any_role` to
        whatever is, and its identity is not asked. `seconds` bounds this, and each
        exchange."""
        try:
            async with asyncio.timeout(seconds):
                wire = await self._connected(seconds)
        except TimeoutError:
            raise TimeoutError(f"l2: {self!r} could not be reached in time") from None
        try:
            await self._enter(wire, "" if any_role else mode)
        except BaseException:
            wire.drop()
            raise
        return wire

    async def _connected(self, seconds: float) -> Wire:
        loop = asyncio.get_running_loop()
        if self.path:
            _, wire = await loop.create_unix_connection(
                lambda: Wire(repr(self), seconds), self.path
            )
        else:
            wire = await self._connected_by_name(loop, seconds)
        return wire

    async def _connected_by_name(
        self, loop: asyncio.AbstractEventLoop, seconds: float
    ) -> Wire:
        """To the first of the host's addresses where somebody answers."""
        why: OSError | None = None
        for address in await resolver.addresses(self.host):
            try:
                async with asyncio.timeout(_HANDSHAKE * seconds if self._tls else None):
                    _, wire = await loop.create_connection(
                        lambda: Wire(repr(self), seconds),
                        address,
                        self.port,
                        ssl=self._tls,
                        server_hostname=self.host if self._tls else None,
                    )
                    return wire
            except TimeoutError:
                if self._tls and await _speaks_plainly(address, self.port):
                    raise ConfigError(_NO_TLS) from None
                raise
            except ssl.SSLError:  # somebody does
                raise
            except OSError as error:
                why = error
        raise why or OSError(f"l2: {self.host} has no address")

    async def _enter(self, wire: Wire, mode: str) -> None:
        """Log in and ask whose it is, in one round trip; without `mode` just log in."""
        commands: list[Command] = []
        if self._user or self._password:
            user = (self._user,) if self._user else ()
            commands.append(("AUTH", *user, self._password))
        if self._db:
            commands.append(("SELECT", self._db))
        entered = len(commands)
        if mode:
            commands += [("INFO", "server"), ("INFO", "replication")]
        replies = await wire.ask(*commands) if commands else []
        found = _mode(replies[entered]) if mode else ""
        if found not in ("", mode):  # first: it may refuse the rest for this
            raise self._other(found)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, ReplyError):
                raise refused(reply, secret=command[0] == "AUTH")
        if mode:
            wire.note(*replies[entered:])
            wire.mode = found or mode

    async def why(self, wire: Wire, reply: ReplyError, mode: str) -> Exception:
        """Why what answers here refuses what one of that mode is asked."""
        (server,) = await wire.ask(("INFO", "server"))
        found = _mode(server)
        return refused(reply) if found in ("", mode) else self._other(found)

    def _other(self, mode: str) -> ConfigError:
        """What answers here is of that mode, and the URL is for another."""
        scheme = "rediss" if self._tls else "redis"
        host = f"[{self.host}]" if ":" in self.host else self.host or "host"
        instead = {
            "sentinel": f"{scheme}+sentinel://{host}:{self.port}/SERVICE, SERVICE being"
            " the name by which it watches the master",
            "cluster": f"{scheme}+cluster://{host}:{self.port}",
        }
        single = f"unix://{self.path}" if self.path else f"{scheme}://{self!r}/0"
        return ConfigError(
            f"l2: {_KINDS.get(mode, mode)} answers at {self!r}: expected a URL for it, "
            f"{instead.get(mode, single)}"
        )


def _mode(server: Any) -> str:
    """What INFO server says of it, "" if nothing."""
    found = _MODE.search(server) if isinstance(server, bytes) else None
    return found[1].decode() if found else ""


async def _speaks_plainly(address: str, port: int) -> bool:
    """Whether a Redis without TLS is there: it waits for the end of what it takes for
    a command, and answers no handshake ever."""
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(b"PING\r\n")
        return await reader.read(1) in (b"+", b"-")
    finally:
        writer.transport.abort()


def refusal(error: BaseException | None) -> ConfigError | None:
    """What can never work as it is set; None: it may work later."""
    if isinstance(error, ConfigError):
        return error
    if isinstance(error, ProtocolError):
        return ConfigError("l2: what answers there is not Redis, or expects TLS")
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message
        return ConfigError(f"l2: the certificate of Redis was refused: {why}")
    if isinstance(error, ssl.SSLError):
        return ConfigError(f"{_NO_TLS}: {error.reason}")
    return None


_PASSING = ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "READONLY")


def refused(reply: ReplyError, *, secret: bool = False) -> Exception:
    """Why Redis does not let us in: as it is set, or only now. With `secret` its words
    are not repeated: a server that does not know AUTH repeats the password."""
    if reply.code in _PASSING or "max number of clients" in str(reply):
        return ConnectionError("l2: Redis is not ready to let anybody in")
    if secret or reply.code in ("NOAUTH", "WRONGPASS"):
        return ConfigError("l2: Redis refused the user or the password")
    return ConfigError(f"l2: Redis refused the connection: {reply}")
