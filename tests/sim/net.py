"""The way between simulated processes and the simulated Redis.

A `SimTransport` stands where asyncio's would, below the library's own connections, and
carries bytes. Requests and replies travel apart: each may be late, lost, in pieces, or
the last of its connection; what a sender has given up is executed all the same.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hiredis

from .simredis import Refused, SimRedis, Status, script_name, split_xread

if TYPE_CHECKING:
    from .world import Process, World

Words = Sequence[bytes]


@dataclass
class Faults:
    """Chances of what may befall a request or a reply; all 0 when none is wanted."""

    spread: float = 0.0003
    """Seconds by which messages are under way, more or less; no fault."""
    late: float = 0.0
    """Of a delay up to `late_most` seconds, of request and reply each."""
    late_most: float = 1.0
    lose_request: float = 0.0
    """It is not executed, and nothing comes back on its connection any more."""
    lose_reply: float = 0.0
    cut: float = 0.0
    """The connection ends at once; the request was executed, or was not."""
    lose_message: float = 0.0
    split: float = 0.0
    """The commands of a pipeline are executed with others' between them, and a reply
    arrives in two pieces."""


class Server:
    """Where connections arrive: one Redis, those who wait in it, its subscribers."""

    def __init__(self, world: World, redis: SimRedis) -> None:
        self.world = world
        self.redis = redis
        self.hung_until = 0.0
        self.down = False
        self.lines: dict[SimTransport, None] = {}
        self.blocked: list[_Blocked] = []

    def receive(self, line: SimTransport, commands: list[Words]) -> None:
        """Execute what arrived, and answer it."""
        world = self.world
        if world.now < self.hung_until:
            world.at(self.hung_until, self.receive, line, commands)
            return
        if self.down:
            return
        if len(commands) > 1 and world.chance(world.faults.split):
            later = world.now + world.random.uniform(0, 0.002)
            world.at(later, self.receive, line, commands[1:])
            commands = commands[:1]
        replies = [
            self._execute(line, command)
            for command in commands
            if command[0] != b"XREAD" or not self._block(line, command)
        ]
        if replies:
            line.answer(replies)
        self._spread()

    def _execute(self, line: SimTransport, command: Words) -> Any:
        if command[0] == b"SUBSCRIBE":
            line.channels.add(command[1])
            return [b"subscribe", command[1], len(line.channels)]
        if command[0] == b"PING" and line.channels:
            return [b"pong", b""]
        reply = self.redis.execute(command)
        if self.world.traced and command[0] not in (b"INFO", b"PEXPIRE"):
            self.world.trace("redis:", line.process, told(command), "->", reply)
        return reply

    def _block(self, line: SimTransport, command: Words) -> bool:
        """Whether the read waits: it names BLOCK, and there is nothing yet."""
        words = command[1:]
        _, block, streams = split_xread(words)
        if block is None or self.redis.xread(*words) is not None:
            return False
        waiting = _Blocked(line, words, {key for key, _ in streams})
        self.blocked.append(waiting)
        if block:
            self.world.at(self.world.now + block / 1000, self._unblock, waiting)
        return True

    def _unblock(self, waiting: _Blocked) -> None:
        if waiting in self.blocked:
            self.blocked.remove(waiting)
            waiting.line.answer([self.redis.xread(*waiting.words)])

    def _spread(self) -> None:
        """Messages to their subscribers, new entries to those who wait for them."""
        redis, world = self.redis, self.world
        if redis.published:
            messages, redis.published = redis.published, []
            for channel, message in messages:
                for line in self.lines:
                    lost = world.chance(world.faults.lose_message)
                    if channel in line.channels and not lost:
                        line.answer([[b"message", channel, message]])
        if redis.appended:
            grown, redis.appended = redis.appended, set()
            for waiting in [b for b in self.blocked if not grown.isdisjoint(b.keys)]:
                self._unblock(waiting)

    def forget(self, line: SimTransport) -> None:
        self.lines.pop(line, None)
        self.blocked = [b for b in self.blocked if b.line is not line]

    def cut_all(self) -> None:
        """Reset every connection."""
        for line in list(self.lines):
            line.reset()


@dataclass(eq=False)
class _Blocked:
    line: SimTransport
    words: Words
    keys: set[bytes]


class SimTransport(asyncio.Transport):
    """One connection, from its making to its end."""

    def __init__(self, process: Process, server: Server, protocol: Any) -> None:
        super().__init__()
        self.process = process
        self.world = process.world
        self.channels: set[bytes] = set()
        self._server = server
        self._protocol = protocol
        self._reader = hiredis.Reader()
        self._open = True
        self._mute = False
        """Nothing arrives any more, either way."""
        self._arrives = self._answers = self.world.now
        server.lines[self] = None
        process.lines.append(self)

    # -- the client's side

    def write(self, data: Any) -> None:
        if not self._open or self._mute:
            return
        world, faults = self.world, self.world.faults
        if world.chance(faults.lose_request):
            self._mute = True
            return
        if world.chance(faults.cut):
            self.reset()
            if world.chance(0.5):
                return
        self._reader.feed(data)
        commands = []
        while (command := self._reader.gets()) is not False:
            commands.append(command)
        self._arrives = max(self._arrives, world.arrival(self.process))
        world.at(self._arrives, self._server.receive, self, commands)

    def close(self) -> None:
        """What is under way to the server arrives there; nothing comes back."""
        self._lost(None)

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    # -- the server's side

    def answer(self, replies: list[Any]) -> None:
        """Send replies back, in order."""
        world, faults = self.world, self.world.faults
        if self._mute or not self._open:
            return
        if world.chance(faults.lose_reply):
            self._mute = True
            return
        data = b"".join(map(encoded, replies))
        pieces = [data]
        if len(data) > 1 and world.chance(faults.split):
            cut = world.random.randrange(1, len(data))
            pieces = [data[:cut], data[cut:]]
        for piece in pieces:
            self._answers = max(self._answers, world.arrival(self.process))
            world.at(self._answers, self._deliver, piece)

    def _deliver(self, data: bytes) -> None:
        if self._open:
            self.process.loop.call_soon(self._received, data)

    def _received(self, data: bytes) -> None:
        if self._open:
            self._protocol.data_received(data)

    def reset(self) -> None:
        """By the peer, or on the way."""
        self._lost(ConnectionResetError("Connection lost"))

    def _lost(self, error: Exception | None) -> None:
        if self._open:
            self._open = False
            self._server.forget(self)
            self.process.loop.call_soon(self._protocol.connection_lost, error)


async def connected(process: Process, factory: Any) -> tuple[SimTransport, Any]:
    """What `create_connection` answers."""
    world = process.world
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Server | None] = loop.create_future()

    def accept() -> None:
        server = world.server
        if world.now < server.hung_until:  # its backlog
            world.at(server.hung_until, accept)
        else:
            world.at(world.arrival(process), settle, server)

    def settle(server: Server) -> None:
        if not made.done():
            made.set_result(None if server.down else server)

    world.at(world.arrival(process), accept)
    server = await made
    if server is None:
        raise ConnectionRefusedError("Connection refused")
    protocol = factory()
    transport = SimTransport(process, server, protocol)
    protocol.connection_made(transport)
    return transport, protocol


def encoded(reply: Any) -> bytes:
    """A reply as Redis writes it."""
    kind = type(reply)
    if kind is bytes:
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if kind is int:
        return b":%d\r\n" % reply
    if reply is None:
        return b"$-1\r\n"
    if kind is Status:
        return b"+%b\r\n" % reply
    if kind is Refused:
        return b"-%b\r\n" % reply.text
    return b"*%d\r\n%b" % (len(reply), b"".join(map(encoded, reply)))


_UNREADABLE = re.compile(rb"[^ -~]+")


def told(command: Words) -> str:
    """A command for people: scripts by their names, keys without their prefix."""
    words = list(command)
    if words[0] in (b"EVAL", b"EVALSHA"):
        words[:2] = [script_name(words[1])]
    return " ".join(
        _UNREADABLE.sub(b"?", word.replace(b"shmcache:{sim:0}:", b"")).decode()[:40]
        or "''"
        for word in words
    )


def latency(chance: random.Random, faults: Faults) -> float:
    """Seconds that a message is under way."""
    if faults.late and chance.random() < faults.late:
        return chance.random() * faults.late_most
    return 0.0001 + faults.spread * chance.random()
