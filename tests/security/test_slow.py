"""Slow clients by the hundred: each is given up in time, holds little, and delays
nobody else."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.helpers import connections, until
from tests.security.client import get
from tests.security.conftest import Front, fronting
from tests.security.origin import said
from tests.security.wire import Message

KEEPALIVE, STALL = 1.0, 0.5
SETTINGS = f"""
[server]
keepalive = {KEEPALIVE}

[origin]
timeout = {STALL}
connect_timeout = 0.5
connections = 16
"""
PROMPT = 1.0
"""Seconds within which others are answered, on a machine that does all this at once."""
BODY = b"POST /%d HTTP/1.1\r\nHost: front\r\nTransfer-Encoding: chunked\r\n\r\n"
HALF = b"GET /half HTTP/1.1\r\nHost: front\r\nX: "
MIB = 1 << 20


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with fronting(tmp_path_factory.mktemp("slow"), SETTINGS) as front:
        yield front


class Crowd:
    """Many clients, each of which says its first words, and then a drop at a time."""

    def __init__(self, port: int, firsts: list[bytes], drop: bytes) -> None:
        self.got = [b""] * len(firsts)
        self._drop = drop
        self._left = threading.Event()
        self._open = selectors.DefaultSelector()
        for at, first in enumerate(firsts):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(first)
            client.setblocking(False)
            self._open.register(client, selectors.EVENT_READ, at)
        self._dripping = threading.Thread(target=self._drip)

    @property
    def open(self) -> int:
        """How many the server has not closed."""
        return len(self._open.get_map() or ())

    def __enter__(self) -> Crowd:
        self._dripping.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._dripping.join()
        for key in list(self._open.get_map().values()):
            self._close(key.fileobj)
        self._open.close()

    def _drip(self) -> None:
        while not self._left.wait(0.05):
            for key, _ in self._open.select(0):
                self._read(key.fileobj, key.data)
            for key in list(self._open.get_map().values()) if self._drop else ():
                with contextlib.suppress(OSError):
                    key.fileobj.send(self._drop)  # type: ignore[union-attr]

    def _read(self, client: object, at: int) -> None:
        assert isinstance(client, socket.socket)
        data = b""
        with contextlib.suppress(ConnectionError):
            data = client.recv(65536)
        self.got[at] += data
        if not data:
            self._close(client)

    def _close(self, client: object) -> None:
        assert isinstance(client, socket.socket)
        self._open.unregister(client)
        client.close()


def others(front: Front, path: str, go_on: Callable[[], bool]) -> None:
    """Ask as others do, for hits and misses, as long as it is to go on."""
    asked = 0
    while go_on() or asked < 10:
        for target in (path, f"{path}/{asked}"):
            began = time.monotonic()
            answered = front.get(target)
            assert answered.status == 200, answered.raw
            assert time.monotonic() - began < PROMPT
        asked += 1


def status(got: bytes) -> bytes:
    return got[9:12]


@pytest.mark.parametrize(
    ("first", "drop"),
    [(b"", b""), (HALF, b"a"), (get("/known") + HALF, b"a")],
    ids=["idle", "first head", "second head"],
)
def test_slow_heads_are_given_up(front, path, first, drop) -> None:
    front.victims("/known")
    before, began = front.memory(), time.monotonic()
    with Crowd(front.port, [first] * 200, drop) as crowd:
        assert crowd.open == 200
        others(front, path, lambda: time.monotonic() < began + KEEPALIVE / 2)
        assert front.memory() - before < 200 * 64 * 1024
        until(lambda: not crowd.open, KEEPALIVE + 4, "all of them closed")


def test_slow_bodies_are_given_up(front, path) -> None:
    """More than there are connections to the origin, and never silent for long."""
    before = front.memory()
    with Crowd(front.port, [BODY % n for n in range(200)], b"1\r\na\r\n") as crowd:
        others(front, path, lambda: not all(crowd.got))
        assert front.memory() - before < 200 * 64 * 1024
        statuses = [status(got) for got in crowd.got]
        assert set(statuses) == {b"408", b"504"}, "in time; no place in time"


@contextmanager
def deaf(front: Front, requests: bytes, count: int) -> Iterator[None]:
    """Clients that ask for much and read nothing."""
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", front.port))
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.send(requests)
        clients.append(client)
    try:
        yield
    finally:
        for client in clients:
            client.close()


def known(front: Front, target: str, size: int) -> None:
    """Have an answer of so many bytes stored, and known to both lanes."""

    def answer(asked: Message) -> bytes:
        return said(bytes(size if asked.target == target else 1))

    front.origin.answer = answer
    front.victims(target)


def held(front: Front) -> int:
    """Connections of clients."""
    return sum(len(connections(p, local=front.port)) for p in front.server.pids())


LANES = {"fast": (), "slow": ("Range: bytes=0-",)}


@pytest.mark.parametrize("lines", LANES.values(), ids=LANES.keys())
@pytest.mark.parametrize("size", [60_000, 900_000])
def test_clients_that_read_nothing_hold_one_answer_each(
    front, path, size, lines
) -> None:
    """However many they ask for; and not for long."""
    known(front, path, size)
    until(lambda: not held(front), KEEPALIVE + 4, "nobody else's connections")
    before, count = front.memory(), 20
    peak = before

    def more() -> bool:
        nonlocal peak
        peak = max(peak, front.memory())
        return False

    with deaf(front, get(path, *lines) * 2000, count):
        others(front, path + "/other", more)
        assert peak - before < count * (size + MIB)
        until(lambda: held(front) == 0, 2 * STALL + KEEPALIVE + 4, "all of them cut")


@pytest.mark.parametrize(
    ("size", "sip"),
    [(900_000, 32768), (4 * MIB, 65536)],
    ids=["stored", "passed on"],
)
def test_client_that_reads_slowly_gets_all(front, path, size, sip) -> None:
    """For longer than one may be deaf, and with much untaken all the while."""
    known(front, path, size)
    got, began = 0, time.monotonic()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, sip)
        client.settimeout(5)
        client.connect(("127.0.0.1", front.port))
        client.sendall(get(path, "Connection: close"))
        while data := client.recv(sip):
            got += len(data)
            if time.monotonic() < began + 3 * STALL:
                time.sleep(STALL / 10)
    assert got > size
