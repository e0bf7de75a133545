"""The origin of all caches here: any path, a JSON body, and a count: `origin PORT`.

`/SIZE/...` answers SIZE bytes that any cache may keep for an hour. `/count` tells how
often the other paths were asked for. It is as fast as can be, so that a miss costs
what the cache makes of it.
"""

from __future__ import annotations

import asyncio
import sys
from email.utils import formatdate

import uvloop

from .document import document

HEAD = (
    "HTTP/1.1 200 OK\r\n"
    "Content-Type: application/json\r\n"
    "Content-Length: {size}\r\n"
    "Cache-Control: max-age=3600\r\n"
    'ETag: "{size}"\r\n'
    "Date: {date}\r\n\r\n"
)
END = b"\r\n\r\n"


class Answers:
    """Ready answers by size, made anew as the date changes; and the count."""

    def __init__(self) -> None:
        self.count = 0
        self._ready: dict[bytes, bytes] = {}
        self._forget()

    def of(self, request: bytes) -> bytes:
        size = request.split(b"/", 2)[1].split(b" ", 1)[0]
        if size == b"count":
            text = b"%d" % self.count
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (
                len(text),
                text,
            )
        self.count += 1
        return self._ready.get(size) or self._make(size)

    def _make(self, size: bytes) -> bytes:
        if not size.isdigit():
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        head = HEAD.format(size=int(size), date=formatdate(usegmt=True)).encode()
        made = self._ready[size] = head + document(int(size))
        return made

    def _forget(self) -> None:
        self._ready.clear()
        asyncio.get_running_loop().call_later(0.5, self._forget)


class Origin(asyncio.Protocol):
    """One connection."""

    def __init__(self, answers: Answers) -> None:
        self._of = answers.of
        self._rest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        *requests, self._rest = (self._rest + data).split(END)
        for request in requests:
            self._write(self._of(request))


async def main(port: int) -> None:
    answers = Answers()
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Origin(answers), "127.0.0.1", port, backlog=4096)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
