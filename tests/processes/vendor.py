"""A vendor that counts: `vendor.py PORT FILE`, and the file has a line for each
request, the monotonic clock's nanoseconds when it was read."""

from __future__ import annotations

import asyncio
import os
import sys
import time

ANSWER = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: 2\r\n\r\nhi"


class Vendor(asyncio.Protocol):
    """Whole requests without bodies, one read each."""

    def __init__(self, out: int) -> None:
        self._out = out

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"\r\n\r\n")):
            os.write(self._out, b"%d\n" % time.monotonic_ns())
            self._transport.write(ANSWER)


async def main(port: int, path: str) -> None:
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Vendor(out), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
