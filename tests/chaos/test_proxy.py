"""Each fault of the proxy, as a plain socket sees it before a server that echoes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.chaos.proxy import PASS, ProxyProcess, frame_end, frames
from tests.helpers import until


class Upstream:
    """Answers each line with itself as a bulk reply, and keeps what it was asked."""

    def __init__(self, name: bytes = b"") -> None:
        self.asked: list[bytes] = []
        self._name = name
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if connection.getpeername() == self._farewell:
                return connection.close()
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    _farewell = None

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            for line in lines:
                word = line.strip()
                self.asked.append(word)
                body = self._name + word
                connection.sendall(b"$%d\r\n%s\r\n" % (len(body), body))

    def close(self) -> None:
        """Its clients must have gone."""
        with socket.socket() as last:
            last.bind(("127.0.0.1", 0))
            self._farewell = last.getsockname()
            last.connect(("127.0.0.1", self.port))
            for thread in self._threads:
                thread.join()
        self._listener.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    running = Upstream()
    yield running
    running.close()


@pytest.fixture
def proxy(upstream) -> Iterator[ProxyProcess]:
    running = ProxyProcess()
    try:
        running.open(upstream.address)
        yield running
    finally:
        running.close()


@pytest.fixture
def client(proxy) -> Iterator[socket.socket]:
    with connect(proxy) as connection:
        assert ask(connection, b"hello") == b"$5\r\nhello\r\n"
        yield connection


def connect(proxy: ProxyProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.ports[0]), timeout=5)


def ask(connection: socket.socket, word: bytes) -> bytes:
    connection.sendall(word + b"\n")
    return receive(connection, 1)


def receive(connection: socket.socket, replies: int) -> bytes:
    """So many whole replies, or what came before the end."""
    data = bytearray()
    while True:
        taken, whole = bytearray(data), list(frames(bytearray(data)))
        if len(whole) >= replies:
            return bytes(taken)
        chunk = connection.recv(4096)
        if not chunk:
            return bytes(data)
        data += chunk


def silent(connection: socket.socket, seconds: float = 0.1) -> bool:
    """Whether nothing comes: neither bytes nor an end."""
    connection.settimeout(seconds)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(5)
    return False


def test_proxy_without_a_fault_relays(client) -> None:
    assert ask(client, b"again") == b"$5\r\nagain\r\n"


def test_proxy_delay_holds_requests_up(proxy, client) -> None:
    proxy.fault(0, "delay", 0.2)
    began = time.monotonic()
    assert ask(client, b"late") == b"$4\r\nlate\r\n"
    assert time.monotonic() - began >= 0.2


def test_proxy_delay_delivers_the_request_of_a_client_that_has_gone(
    proxy, client, upstream
) -> None:
    proxy.fault(0, "delay", 0.2)
    client.sendall(b"testament\n")
    client.close()
    until(lambda: b"testament" in upstream.asked, 5, "the late request")


def test_proxy_drop_loses_the_connection_for_good(proxy, client, upstream) -> None:
    proxy.fault(0, "drop")
    client.sendall(b"vanishes\n")
    assert silent(client)
    assert proxy.fault(0, PASS) >= 1
    client.sendall(b"too\n")
    assert silent(client)
    assert upstream.asked == [b"hello"]
    with connect(proxy) as other:
        assert ask(other, b"new") == b"$3\r\nnew\r\n"


def test_proxy_mute_delivers_requests_and_no_reply(proxy, client, upstream) -> None:
    proxy.fault(0, "mute")
    client.sendall(b"done\n")
    until(lambda: b"done" in upstream.asked, 5, "the request")
    assert silent(client)
    proxy.fault(0, PASS)
    client.sendall(b"more\n")
    until(lambda: b"more" in upstream.asked, 5, "the next request")
    assert silent(client)


def test_proxy_split_sends_single_bytes(proxy, client) -> None:
    proxy.fault(0, "split")
    client.sendall(b"x" * 2000 + b"\n")
    reads = []
    while sum(map(len, reads)) < 2000 + 9:
        reads.append(client.recv(4096))
    assert b"".join(reads) == b"$2000\r\n" + b"x" * 2000 + b"\r\n"
    assert len(reads) > 2  # the kernel may join what is not fetched at once


def test_proxy_reset_breaks_off_a_reply(proxy, client) -> None:
    proxy.fault(0, "reset")
    client.sendall(b"x" * 100 + b"\n")
    with pytest.raises(ConnectionResetError):
        while client.recv(4096):
            pass
    with connect(proxy) as other, pytest.raises(ConnectionResetError):
        while ask(other, b"hello"):
            pass


def test_proxy_half_close_ends_replies_and_not_requests(
    proxy, client, upstream
) -> None:
    proxy.fault(0, "half_close")
    client.sendall(b"x" * 100 + b"\n")
    whole = b"$100\r\n" + b"x" * 100 + b"\r\n"
    assert receive(client, 1) == whole[: len(whole) // 2]
    client.sendall(b"still\n")
    until(lambda: b"still" in upstream.asked, 5, "the request after the FIN")


def test_proxy_repeat_leaves_a_connection_one_behind(proxy, client) -> None:
    proxy.fault(0, "repeat")
    client.sendall(b"second\n")
    both = receive(client, 2)
    assert both == b"$5\r\nhello\r\n$6\r\nsecond\r\n"
    proxy.fault(0, PASS)
    assert ask(client, b"third") == b"$5\r\nthird\r\n"


def test_proxy_refuse_leaves_nobody_listening(proxy, client) -> None:
    proxy.fault(0, "refuse")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.fault(0, PASS)
    with connect(proxy) as other:
        assert ask(other, b"back") == b"$4\r\nback\r\n"


def test_proxy_pointed_elsewhere_resets_and_goes_there(proxy, client) -> None:
    other = Upstream(b"other ")
    try:
        proxy.point(0, other.address)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with connect(proxy) as again:
            assert ask(again, b"hello") == b"$11\r\nother hello\r\n"
        assert proxy.connections(0) == 2
    finally:
        proxy.point(0, "127.0.0.1:1")
        other.close()


def test_proxy_upstream_gone_resets(proxy) -> None:
    proxy.point(0, "127.0.0.1:1")
    with pytest.raises(ConnectionResetError), connect(proxy) as connection:
        connection.recv(1)


@pytest.mark.parametrize(
    "reply",
    [
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":-12\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$4\r\na\r\nb\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*3\r\n:1\r\n*2\r\n$1\r\nx\r\n+y\r\n$-1\r\n",
    ],
)
def test_frames_of_every_form_at_every_cut(reply: bytes) -> None:
    assert frame_end(reply) == len(reply)
    for cut in range(len(reply)):
        assert frame_end(reply[:cut]) == -1
    data = bytearray(reply * 2 + reply[:-1])
    assert list(frames(data)) == [reply, reply]
    assert data == reply[:-1]
