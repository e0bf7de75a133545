"""Many clients at once, in a process of its own: `wave.py CLIENTS HOST:PORT...`.

For each line "connect" on stdin all clients connect anew, spread over the addresses;
each is answered once on /healthz, so that a worker has accepted it. For each other
line, a path, all ask for it in one loop turn. A JSON line answers each: after a wave,
how it went. Times run from a client's own send to the last byte of its answer; `span`
from the first send to the last byte of all. The aiohttp client would spend more than
the tenth of a second that is being measured, so this is a bare protocol.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections import Counter
from typing import cast

import uvloop


class Client(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def ask(self, path: str) -> asyncio.Future[None]:
        self.data = b""
        self.status, self.body, self.fields = 0, b"", {}
        self.done = asyncio.get_running_loop().create_future()
        self.sent = time.monotonic()
        host = self.transport.get_extra_info("peername")[1]
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{host}\r\n\r\n"
        self.transport.write(head.encode())
        return self.done

    def close(self) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.data += data
        if not self.done.done() and self._whole():
            self.received = time.monotonic()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.received = time.monotonic()
            self.done.set_result(None)

    def _whole(self) -> bool:
        head, found, rest = self.data.partition(b"\r\n\r\n")
        if not found:
            return False
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        if "content-length" in fields:
            body = rest if len(rest) >= int(fields["content-length"]) else None
        else:
            body = unchunked(rest)
        if body is None:
            return False
        self.status, self.body, self.fields = int(lines[0].split()[1]), body, fields
        return True


def unchunked(data: bytes) -> bytes | None:
    """The body of a chunked message, None while its end is not there."""
    body = b""
    while True:
        size, found, data = data.partition(b"\r\n")
        if not found:
            return None
        n = int(size, 16)
        if len(data) < n + 2:
            return None
        if n == 0:
            return body
        body, data = body + data[:n], data[n + 2 :]


async def connect(addresses: list[tuple[str, int]], n: int) -> list[Client]:
    """`n` connections, each accepted by a worker."""
    loop = asyncio.get_running_loop()
    clients = []
    for i in range(n):
        host, port = addresses[i % len(addresses)]
        clients.append((await loop.create_connection(Client, host, port))[1])
    await asyncio.gather(*(c.ask("/healthz") for c in clients))
    assert all(c.status == 200 for c in clients), Counter(c.status for c in clients)
    return clients


async def wave(clients: list[Client], path: str) -> dict[str, object]:
    await asyncio.gather(*(c.ask(path) for c in clients))
    return {
        "statuses": Counter(str(c.status) for c in clients),
        "bodies": Counter(hashlib.sha256(c.body).hexdigest() for c in clients),
        "cache": Counter(c.fields.get("cache-status", "") for c in clients),
        "slowest": max(c.received - c.sent for c in clients),
        "span": max(c.received for c in clients) - min(c.sent for c in clients),
    }


async def main() -> None:
    n = int(sys.argv[1])
    pairs = [a.rsplit(":", 1) for a in sys.argv[2:]]
    addresses = [(host, int(port)) for host, port in pairs]
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line == "connect\n":
            for c in clients:
                c.close()
            clients = await connect(addresses, n)
            print(json.dumps(n), flush=True)
        else:
            print(json.dumps(await wave(clients, line.strip())), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
