"""A TCP relay before a real redis-server, which does to it what networks do.

It runs in a process of its own (`ProxyProcess`) and has any number of fronts, each a
listening port before one upstream. An order is a JSON line on stdin, its answer a JSON
line on stdout; the process ends with its stdin.

Faults of a front
    delay       requests arrive `seconds` late, also those of a client that has gone
    drop        bytes of both directions vanish; such a connection is lost for good
    mute        requests arrive, replies vanish; lost for good too
    split       replies come in writes of one byte
    reset       a reply breaks off in its middle, by RST
    half_close  a reply breaks off in its middle, by FIN; requests still arrive
    repeat      each connection gets its previous reply once more before the next one,
                so that it is one behind for ever
    refuse      nobody listens, and connections are reset
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

FAULTS = (
    *("delay", "drop", "mute", "split"),
    *("reset", "half_close", "repeat", "refuse"),
)
PASS = "pass"
BYTEWISE = 512
"""Bytes of a reply that `split` sends one by one; the rest follows whole."""
_CHUNK = 1 << 16


def frame_end(data: bytes | bytearray, at: int = 0) -> int:
    """Where the RESP2 reply that begins at `at` ends; -1: not all of it is there."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return -1
    kind, rest = data[at : at + 1], line + 2
    if kind in (b"+", b"-", b":"):
        return rest
    if kind not in (b"$", b"*"):
        raise ValueError(f"no reply begins with {bytes(kind)!r}")
    count = int(data[at + 1 : line])
    if kind == b"$":
        rest += 0 if count < 0 else count + 2
        return rest if rest <= len(data) else -1
    for _ in range(count):
        rest = frame_end(data, rest)
        if rest < 0:
            return -1
    return rest


def frames(data: bytearray) -> Iterator[bytes]:
    """The whole replies at the head of `data`, taken off it."""
    while (end := frame_end(data)) > 0:
        yield bytes(data[:end])
        del data[:end]


class Relay:
    """One client's connection and the one to the upstream behind it."""

    def __init__(
        self, front: Front, reader: asyncio.StreamReader, client: asyncio.StreamWriter
    ) -> None:
        self._front = front
        self._reader = reader
        self._client = client
        self._server: asyncio.StreamWriter | None = None
        self._last = b""
        self._shifted = False
        self._lost = False
        """Nothing is relayed any more, in either direction."""
        self._muted = False

    async def run(self) -> None:
        """Until both directions have ended."""
        try:
            replies, self._server = await self._front.connect()
        except OSError:
            self.reset()
            return
        try:
            await asyncio.gather(self._up(self._server), self._down(replies))
        finally:
            self._server.close()
            self._client.close()

    def reset(self) -> None:
        """RST to the client; the upstream's end is closed as one that went away."""
        sock = self._client.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self._client.transport.abort()
        if self._server is not None:
            self._server.close()

    async def _up(self, server: asyncio.StreamWriter) -> None:
        """Requests; those that were read arrive, whatever becomes of the client."""
        with contextlib.suppress(OSError):
            while data := await self._reader.read(_CHUNK):
                if self._front.acts("drop"):
                    self._lost = True
                if self._front.acts("delay"):
                    await asyncio.sleep(self._front.seconds)
                if not self._lost:
                    server.write(data)
                    await server.drain()
        if not self._lost:  # a lost connection's end is not heard of either
            with contextlib.suppress(OSError):
                server.write_eof()

    async def _down(self, replies: asyncio.StreamReader) -> None:
        buffer = bytearray()
        with contextlib.suppress(OSError):
            while data := await replies.read(_CHUNK):
                buffer += data
                for frame in frames(buffer):
                    if self._muted or self._lost:
                        continue
                    await self._reply(frame)
        if not (self._muted or self._lost):
            self._client.close()

    async def _reply(self, frame: bytes) -> None:
        front, client, last = self._front, self._client, self._last
        self._last = frame
        if front.acts("drop"):
            self._lost = True
        elif front.acts("mute"):
            self._muted = True
        elif front.acts("reset"):
            client.write(frame[: len(frame) // 2])
            await client.drain()
            self._lost = True
            self.reset()
        elif front.acts("half_close"):
            client.write(frame[: len(frame) // 2])
            client.write_eof()
            self._muted = True
        elif front.acts("split"):
            await self._bytewise(frame)
        else:
            if last and not self._shifted and front.acts("repeat"):
                self._shifted = True
                frame = last + frame
            client.write(frame)
            await client.drain()

    async def _bytewise(self, frame: bytes) -> None:
        head, rest = frame[:BYTEWISE], frame[BYTEWISE:]
        for i in range(len(head)):
            self._client.write(head[i : i + 1])
            await self._client.drain()
            await asyncio.sleep(0)
        self._client.write(rest)
        await self._client.drain()


class Front:
    """One listening port, its upstream, and the fault that it is under."""

    def __init__(self, upstream: str) -> None:
        """`upstream`: host:port, or the path of a unix socket."""
        self.upstream = upstream
        self.fault = PASS
        self.seconds = 0.0
        self.port = 0
        self.touched = 0
        """How often the present fault, or the last one, has acted."""
        self.connections = 0
        """Accepted so far."""
        self._relays: dict[Relay, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None

    async def listen(self) -> int:
        """The port, the same one each time."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def set(self, fault: str, seconds: float = 0.0) -> None:
        """Put the front under a fault, or under none: `pass`."""
        if fault != PASS and fault not in FAULTS:
            raise ValueError(f"no fault is called {fault!r}")
        self.fault, self.seconds, self.touched = fault, seconds, 0
        if fault == "refuse":
            if self._server is not None:
                self._server.close()
                self._server = None
            self.touched += 1
            self.cut()
        elif self._server is None:
            await self.listen()

    def acts(self, fault: str) -> bool:
        """Whether the front is under this fault; counted."""
        if self.fault != fault:
            return False
        self.touched += 1
        return True

    def cut(self) -> None:
        """Reset every connection."""
        for relay in list(self._relays):
            relay.reset()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.upstream.startswith("/"):
            return await asyncio.open_unix_connection(self.upstream)
        host, _, port = self.upstream.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._relays.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        relay = Relay(self, reader, writer)
        task = asyncio.ensure_future(relay.run())
        self._relays[relay] = task
        try:
            await asyncio.wait({task})
        finally:
            del self._relays[relay]
            if not task.cancelled():
                task.exception()


# --- the process, and its handle --------------------------------------------------


async def obey(fronts: list[Front], order: dict[str, Any]) -> Any:
    """Carry out one order."""
    verb = order["do"]
    if verb == "open":
        fronts.append(Front(order["upstream"]))
        return await fronts[-1].listen()
    front = fronts[order["front"]]
    if verb == "fault":
        touched = front.touched
        await front.set(order["kind"], order["seconds"])
        return touched
    if verb == "point":
        front.upstream = order["upstream"]
        front.cut()
        return None
    if verb == "connections":
        return front.connections
    raise ValueError(verb)


async def main() -> None:
    fronts: list[Front] = []
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await obey(fronts, json.loads(line))), flush=True)
    for front in fronts:
        await front.close()


class ProxyProcess:
    """The relay in a process of its own, as its orderer sees it."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        """Of the fronts, by number."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=pipe, stdout=pipe, text=True
        )

    def open(self, upstream: str) -> int:
        """Another front: its number."""
        self.ports.append(int(self._order(do="open", upstream=upstream)))
        return len(self.ports) - 1

    def fault(self, front: int, kind: str, seconds: float = 0.0) -> int:
        """Set a front's fault; how often the one before has acted."""
        return int(self._order(do="fault", front=front, kind=kind, seconds=seconds))

    def point(self, front: int, upstream: str) -> None:
        """Send a front's connections elsewhere; the ones that stand are reset."""
        self._order(do="point", front=front, upstream=upstream)

    def connections(self, front: int) -> int:
        """Accepted by the front so far."""
        return int(self._order(do="connections", front=front))

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def _order(self, **order: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the proxy has died")
        return json.loads(answer)


if __name__ == "__main__":
    asyncio.run(main())
