"""The floor: what a hit costs if the answer is always ready: `floor PORT SIZE`.

A uvloop protocol that looks for nothing but the blank line that ends a request, and
writes the same bytes for each. No server that leaves its writing to this loop's
transports can do less.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from .document import document

HEAD = (
    "HTTP/1.1 200 OK\r\n"
    "Content-Type: application/json\r\n"
    "Content-Length: {size}\r\n"
    "Cache-Control: max-age=3600\r\n"
    'ETag: "{size}"\r\n'
    "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    "Age: 1\r\n\r\n"
)
END = b"\r\n\r\n"


class Floor(asyncio.Protocol):
    """One connection."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._rest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        requests = data.count(END)
        self._rest = b"" if data.endswith(END) else data[data.rfind(END) + 1 :]
        if requests:
            self._write(self._answer if requests == 1 else self._answer * requests)


async def main(port: int, size: int) -> None:
    answer = HEAD.format(size=size).encode() + document(size)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Floor(answer), "127.0.0.1", port, backlog=4096)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
