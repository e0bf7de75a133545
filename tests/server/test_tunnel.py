"""WebSockets through the server: real ones, and raw sockets on either side."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import trustme
import uvloop
from aiohttp import web

from shmcache_server import pool
from shmcache_server import tunnel as tunnels
from tests.server.conftest import Front, eventually, fronting

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % ACCEPT
)
OPEN = (
    b"GET /chat?a=1 HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
) % KEY


def tunnels_left(front: Front) -> int:
    assert front.runner.handler
    return front.runner.handler._origin.tunnels


# -- real ones


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=("chat",))
    await socket.prepare(request)
    async for message in socket:
        if message.data == "leave":
            break
        await socket._writer.send_frame(message.data.encode(), message.type)
    await socket.close(code=4000, message=b"bye")
    return socket


@pytest.fixture
async def echoing(aiohttp_server) -> AsyncIterator[Front]:
    app = web.Application()
    app.router.add_get("/chat", echo)
    server = await aiohttp_server(app)
    async with fronting(str(server.make_url("")).rstrip("/")) as front:
        yield front


async def test_messages_pass_both_ways(echoing) -> None:
    url = echoing.url + "/chat"
    async with echoing.session.ws_connect(url, protocols=("chat",)) as ws:
        assert ws.protocol == "chat"
        for text in ("a", "b" * 100_000, ""):
            await ws.send_str(text)
            assert await ws.receive_str(timeout=5) == text
        assert tunnels_left(echoing) == 255
    await eventually(lambda: tunnels_left(echoing) == 256)


async def test_close_of_the_origin_reaches_the_client(echoing) -> None:
    async with echoing.session.ws_connect(echoing.url + "/chat") as ws:
        await ws.send_str("leave")
        message = await ws.receive(timeout=5)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4000)
    await eventually(lambda: tunnels_left(echoing) == 256)


async def test_many_at_once(echoing) -> None:
    async def one(text: str) -> str:
        async with echoing.session.ws_connect(echoing.url + "/chat") as ws:
            await ws.send_str(text)
            return await ws.receive_str(timeout=5)

    texts = [str(i) for i in range(50)]
    assert await asyncio.gather(*map(one, texts)) == texts
    await eventually(lambda: tunnels_left(echoing) == 256)


async def test_refused_handshake_is_an_answer(echoing) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await echoing.session.ws_connect(echoing.url + "/nowhere")
    assert caught.value.status == 404
    assert tunnels_left(echoing) == 256


# -- raw ones


class Sides:
    """Both ends of a tunnel, as sockets."""

    def __init__(self, front: Front, listener: socket.socket) -> None:
        self.front = front
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self.client = socket.socket()
        self.server = socket.socket()
        self.head = b""

    async def open(self, then: bytes = b"", said: bytes = SWITCH) -> bytes:
        """Begin a tunnel, both sides sending more at once; what the client gets."""
        self.client.setblocking(False)
        await self._loop.sock_connect(self.client, ("127.0.0.1", self.front.port))
        await self._loop.sock_sendall(self.client, OPEN + then)
        self.server.close()
        self.server, _ = await self._loop.sock_accept(self._listener)
        self.server.setblocking(False)
        while b"\r\n\r\n" not in self.head:
            self.head += await self.receive(self.server)
        await self._loop.sock_sendall(self.server, said)
        return await self.receive(self.client)

    async def receive(self, side: socket.socket) -> bytes:
        async with asyncio.timeout(5):
            return await self._loop.sock_recv(side, 65536)

    async def ended(self, side: socket.socket) -> None:
        """Nothing comes there any more."""
        with contextlib.suppress(ConnectionResetError):
            assert await self.receive(side) == b""

    async def fill(self, side: socket.socket) -> int:
        """Send until nobody takes any more; how many bytes that was."""
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 * 2**20:
                async with asyncio.timeout(0.3):
                    await self._loop.sock_sendall(side, bytes(65536))
                sent += 65536
        return sent

    def close(self) -> None:
        self.client.close()
        self.server.close()


@asynccontextmanager
async def between(**settings: Any) -> AsyncIterator[Sides]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with fronting(url, **settings) as front:
            sides = Sides(front, listener)
            try:
                yield sides
                await eventually(lambda: tunnels_left(front) == front_max(front))
                used = front.runner.handler._origin.upstreams.all[0].pool
                assert not used._open and not used.taken
            finally:
                sides.close()


async def status(front: Front, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(request)
    try:
        return (await asyncio.wait_for(reader.readline(), 5)).split()[1]
    finally:
        writer.close()


def front_max(front: Front) -> int:
    return front.runner._config.origin.tunnels


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    async with between() as sides:
        yield sides


async def test_origin_gets_the_handshake(sides) -> None:
    got = await sides.open()
    head, _, rest = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n") and rest == b""
    lines = head.lower().split(b"\r\n")
    assert (
        lines.count(b"connection: upgrade") == lines.count(b"upgrade: websocket") == 1
    )
    asked = sides.head.lower().split(b"\r\n")
    assert asked[0] == b"get /chat?a=1 http/1.1"
    assert b"connection: upgrade" in asked and b"upgrade: websocket" in asked
    assert b"sec-websocket-key: " + KEY.lower() in asked
    sides.close()


async def test_bytes_behind_both_heads_pass(sides) -> None:
    """Neither side waits for the other."""
    got = await sides.open(then=b"early", said=SWITCH + b"late")
    assert got.endswith(b"\r\n\r\nlate")
    assert await sides.receive(sides.server) == b"early"
    sides.close()


@pytest.mark.parametrize("stalled", ["client", "server"])
async def test_side_that_reads_nothing_stops_the_other(sides, stalled) -> None:
    """What is held is bounded: by what kernels take, and half a MiB of ours."""
    await sides.open()
    one, other = sides.client, sides.server
    if stalled == "client":
        one, other = other, one
    kernels = 2 * (4 + 6) * 2**20
    assert 0 < await sides.fill(one) < kernels + 2**20
    assert tunnels_left(sides.front) == 255
    assert await sides.receive(other), "and it goes on from there"
    sides.close()


@pytest.mark.parametrize("first", ["client", "server"])
async def test_half_closed_tunnel_carries_the_other_half(sides, first) -> None:
    await sides.open()
    one, other = sides.client, sides.server
    if first == "server":
        one, other = other, one
    one.sendall(b"last words")
    one.shutdown(socket.SHUT_WR)
    assert await sides.receive(other) == b"last words"
    await sides.ended(other)
    for _ in range(3):
        other.sendall(b"answer")
        assert await sides.receive(one) == b"answer"
    other.close()
    await sides.ended(one)


@pytest.mark.parametrize("first", ["client", "server"])
async def test_side_that_breaks_off_breaks_the_other_off(sides, first) -> None:
    await sides.open()
    one, other = sides.client, sides.server
    if first == "server":
        one, other = other, one
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    await sides.ended(other)


@pytest.mark.parametrize("first", ["client", "server"])
async def test_side_that_breaks_off_while_it_is_written_to(sides, first) -> None:
    await sides.open()
    one, other = sides.client, sides.server
    if first == "server":
        one, other = other, one
    await sides.fill(other)
    one.close()
    with contextlib.suppress(ConnectionError):
        await sides.fill(other)
    await eventually(lambda: tunnels_left(sides.front) == 256)


async def test_silence_ends_a_tunnel() -> None:
    async with between(tunnel_timeout=0.3) as sides:
        await sides.open()
        for _ in range(5):  # longer than that, but never as long in silence
            await asyncio.sleep(0.1)
            sides.client.sendall(b"a")
            assert await sides.receive(sides.server) == b"a"
        await sides.ended(sides.client)
        await sides.ended(sides.server)


async def test_silence_of_a_half_is_borne_for_less_long(sides, monkeypatch) -> None:
    monkeypatch.setattr(tunnels, "LINGER", 0.1)
    await sides.open()
    sides.client.shutdown(socket.SHUT_WR)
    await sides.ended(sides.server)
    await sides.ended(sides.client)


async def test_tunnels_are_bounded() -> None:
    async with between(tunnels=1) as sides:
        await sides.open()
        assert await status(sides.front, OPEN) == b"503"
        sides.close()


async def test_answer_in_place_of_a_tunnel_has_its_place() -> None:
    """A client could have any number of connections opened beside the pool's."""
    async with between(tunnels=1) as sides:
        await sides.open(said=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        assert await status(sides.front, OPEN) == b"503"
        sides.server.sendall(b"b")
        await eventually(lambda: tunnels_left(sides.front) == 1)
        sides.close()


async def test_stop_ends_tunnels() -> None:
    """A server that drains does not wait for ever."""
    async with between() as sides:
        await sides.open()
        sides.front.runner._shutdown_timeout = 0.1
        await sides.front.runner.server.shutdown(0.1)
        await sides.ended(sides.client)
        await sides.ended(sides.server)


@pytest.mark.parametrize(
    "said",
    [
        SWITCH.replace(ACCEPT, ACCEPT.lower()),
        SWITCH.replace(b"Sec-WebSocket-Accept", b"X"),
        SWITCH.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        SWITCH.replace(b"Upgrade: websocket\r\n", b""),
        SWITCH.replace(b"Connection: Upgrade\r\n", b""),
        SWITCH.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n"),
        SWITCH.replace(b"101 ", b"099 "),
        b"HTTP/1.1 101 x\r\n\r\n",
        b"rubbish\r\n\r\n",
    ],
    ids=[
        "accept",
        "none",
        "h2c",
        "no upgrade",
        "no token",
        "length",
        "099",
        "bare",
        "rubbish",
    ],
)
async def test_other_101_is_no_tunnel(sides, said) -> None:
    got = await sides.open(said=said)
    assert got.startswith(b"HTTP/1.1 502 ")
    await sides.ended(sides.server)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GET ", b"POST "),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Upgrade: websocket", b"Upgrade: h2c"),
        (b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
        (b"keep-alive, Upgrade", b"keep-alive"),
        (b"Sec-WebSocket-Key", b"X"),
        (b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"),
        (b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ],
    ids=["POST", "1.0", "h2c", "two", "no token", "no key", "length", "chunks"],
)
async def test_other_request_is_no_handshake(front, upstream, old, new) -> None:
    assert await status(front, OPEN.replace(old, new)) == b"200"
    assert "Upgrade" not in upstream.seen[0].fields


def test_accept_is_that_of_the_rfc() -> None:
    digest = hashlib.sha1(KEY + tunnels._GUID).digest()
    assert base64.b64encode(digest) == ACCEPT


# -- over TLS


async def tunnel_over_tls(first: str) -> None:
    """TLS has no half of a connection to close: what ends one side ends the other."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    opened: asyncio.Queue[Any] = asyncio.Queue()
    server = await asyncio.start_server(
        lambda *streams: opened.put_nowait(streams), "localhost", 0, ssl=context
    )
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    async with fronting(url) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(OPEN)
        theirs, answering = await asyncio.wait_for(opened.get(), 5)
        await theirs.readuntil(b"\r\n\r\n")
        answering.write(SWITCH + b"late")
        assert (await reader.readuntil(b"late")).startswith(b"HTTP/1.1 101 ")
        writer.write(bytes(10**6))
        assert len(await asyncio.wait_for(theirs.readexactly(10**6), 5)) == 10**6
        (writer if first == "client" else answering).close()
        assert await asyncio.wait_for(theirs.read(), 5) == b""
        assert await asyncio.wait_for(reader.read(), 5) == b""
        await eventually(lambda: tunnels_left(front) == 256)
        for one in (writer, answering):
            one.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await one.wait_closed()
    server.close()


@pytest.fixture
def trusted(monkeypatch) -> None:
    """Whoever signed the origin's certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    monkeypatch.setattr(pool, "_client_context", lambda: context)


@pytest.mark.parametrize("first", ["client", "server"])
async def test_tunnel_to_an_origin_with_tls(trusted, first) -> None:
    await tunnel_over_tls(first)


@pytest.mark.parametrize("first", ["client", "server"])
def test_uvloop_tunnels_to_an_origin_with_tls(trusted, first) -> None:
    uvloop.run(tunnel_over_tls(first))


# -- by the workers' loop

SIDED = (
    test_side_that_reads_nothing_stops_the_other,
    test_half_closed_tunnel_carries_the_other_half,
    test_side_that_breaks_off_breaks_the_other_off,
    test_side_that_breaks_off_while_it_is_written_to,
)


@pytest.mark.parametrize("first", ["client", "server"])
@pytest.mark.parametrize("scene", SIDED, ids=lambda scene: scene.__name__[5:])
def test_uvloop_does_the_same(scene, first) -> None:
    async def main() -> None:
        async with between() as sides:
            await scene(sides, first)

    uvloop.run(main())


@pytest.mark.parametrize("scene", [test_silence_ends_a_tunnel, test_stop_ends_tunnels])
def test_uvloop_ends_tunnels(scene) -> None:
    uvloop.run(scene())


def test_uvloop_loses_no_early_bytes() -> None:
    async def main() -> None:
        async with between() as sides:
            await test_bytes_behind_both_heads_pass(sides)

    uvloop.run(main())
