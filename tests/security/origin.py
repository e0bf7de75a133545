"""An origin on raw sockets: it keeps every byte, and sends what the test says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.security.wire import Malformed, Message, request

VIA = "1.1 shmcache"
"""What every request bears that the server wrote; a smuggled one does not."""

WITHIN = 5.0


class Last(bytes):
    """What is sent before the connection is closed."""


Said = bytes | tuple[bytes, ...]
"""Of several pieces each is sent when the gate is opened after the one before."""
Answer = Callable[[Message], Said]


def said(
    body: bytes | str = b"", *lines: str, status: str = "200 OK", age: int = 60
) -> bytes:
    """An answer that any cache may store for `age` seconds, unless `lines` say else."""
    data = body.encode() if isinstance(body, str) else body
    head = [f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(data)}"]
    if age and not any(line.lower().startswith("cache-control:") for line in lines):
        head.append(f"Cache-Control: max-age={age}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + data


class Origin:
    """Answers with what `answer` makes of a request."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.faults: list[str] = []
        """What came that is no request, or could be taken for two."""
        self.gate = threading.Event()
        self.ended = threading.Event()
        """A connection on which several pieces were said is closed."""
        self.answer: Answer = lambda asked: said(b"hello")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._in_pieces: set[socket.socket] = set()

    def reset(self) -> None:
        """Forget what was heard."""
        self.heard, self.faults = [], []
        self.gate.clear()
        self.ended.clear()
        self.answer = lambda asked: said(b"hello")

    def targets(self) -> list[str]:
        return [asked.target for asked in self.heard]

    def about(self, path: str) -> list[Message]:
        """The requests whose target begins so."""
        return [asked for asked in self.heard if asked.target.startswith(path)]

    def accept(self) -> None:
        """Until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.add(connection)
                threading.Thread(
                    target=self._serve, args=(connection,), daemon=True
                ).start()

    def close(self) -> None:
        for connection in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._talk(connection)
        self._open.discard(connection)
        if connection in self._in_pieces:
            self.ended.set()

    def _say(self, connection: socket.socket, answer: Said) -> None:
        first, *rest = answer if isinstance(answer, tuple) else (answer,)
        connection.sendall(first)
        for piece in rest:
            self._in_pieces.add(connection)
            self.gate.wait(WITHIN)
            connection.sendall(piece)

    def _talk(self, connection: socket.socket) -> None:
        waiting = b""
        while data := connection.recv(65536):
            waiting += data
            try:
                while (asked := request(waiting)) is not None:
                    waiting = waiting[len(asked.raw) :]
                    self.heard.append(asked)
                    if VIA not in asked.get("Via"):
                        self.faults.append(f"not written by the server: {asked.raw!r}")
                    answer = self.answer(asked)
                    self._say(connection, answer)
                    if isinstance(answer, Last):
                        return
            except Malformed as e:
                self.faults.append(f"{e} in {waiting!r}")
                return


@contextmanager
def origin() -> Iterator[Origin]:
    """One that listens."""
    opened = Origin()
    accepting = threading.Thread(target=opened.accept, daemon=True)
    accepting.start()
    try:
        yield opened
    finally:
        opened.close()
        accepting.join()
