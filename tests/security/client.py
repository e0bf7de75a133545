"""A client on raw sockets: it sends what it is told, and reads strictly."""

from __future__ import annotations

import contextlib
import socket
from types import TracebackType

from tests.security.wire import Message, answer

WITHIN = 5.0
"""Seconds in which a request that is whole is answered, or its connection closed."""


class Silent(AssertionError):
    """Neither an answer nor the connection's end came in time."""


class Client:
    """One connection."""

    def __init__(self, port: int, within: float = WITHIN) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=within)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        """What has come and was not read as an answer."""
        self.ended = False

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """All of it, unless the connection is closed meanwhile."""
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)

    def within(self, seconds: float) -> None:
        """From here on wait for so long."""
        self._socket.settimeout(seconds)

    def answer(self, method: str = "GET") -> Message | None:
        """The next answer; None: the connection was closed without."""
        while True:
            found = answer(self.data, method, ended=self.ended)
            if found is not None:
                self.data = self.data[len(found.raw) :]
                return found
            if self.ended:
                assert not self.data, f"half an answer: {self.data!r}"
                return None
            self.more()

    def more(self) -> None:
        """Wait for more, or the end; `Silent`."""
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise Silent(f"after {self.data!r}") from None
        except ConnectionError:
            data = b""
        self.data += data
        self.ended = not data

    def closed(self) -> bool:
        """Whether the connection is closed now, with nothing more on it."""
        while not self.ended:
            try:
                self.more()
            except Silent:
                return False
        return not self.data


def get(target: str | bytes, *lines: str | bytes, method: str = "GET") -> bytes:
    """A request for the host `front`, unless a line names another."""
    path = target.encode() if isinstance(target, str) else target
    fields = [li.encode("latin-1") if isinstance(li, str) else li for li in lines]
    if not any(field.lower().startswith(b"host:") for field in fields):
        fields.insert(0, b"Host: front")
    return b"\r\n".join(
        [b"%b %b HTTP/1.1" % (method.encode(), path), *fields, b"", b""]
    )


def ask(port: int, data: bytes, method: str = "GET") -> Message | None:
    """The answer to one request on a connection of its own."""
    with Client(port) as client:
        client.send(data)
        return client.answer(method)
