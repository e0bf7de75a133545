"""Answers as bytes on a socket, for each version and kind of connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from shmcache_server.answer import Answer, Stream, abort

HEAD = b"HTTP/1.1 200 OK\r\nX: y\r\n"
Make = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Exchange = Callable[[Make, bytes], Awaitable[bytes]]


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    """What a server that answers so sends for these bytes, until it closes."""
    runners: list[web.ServerRunner] = []

    async def exchange(make: Make, sent: bytes) -> bytes:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return await make(request)

        runner = web.ServerRunner(web.Server(answer))
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(sent)
        try:
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()

    yield exchange
    for runner in runners:
        await runner.cleanup()


def request(version: str, *fields: str) -> bytes:
    lines = [f"GET / HTTP/{version}", "Host: a", *fields, "", ""]
    return "\r\n".join(lines).encode()


async def hello(_: web.BaseRequest) -> Answer:
    return Answer(200, HEAD, b"hello")


async def chunks() -> AsyncIterator[bytes]:
    yield b"ab"
    yield b"cde"


async def test_answer_leaves_as_it_is(exchange) -> None:
    got = await exchange(hello, request("1.1", "Connection: close"))
    assert got == HEAD + b"Connection: close\r\n\r\nhello"


async def test_answer_keeps_an_old_connection_that_asks(exchange) -> None:
    got = await exchange(
        hello, request("1.0", "Connection: keep-alive") + request("1.0")
    )
    assert got == HEAD + b"Connection: keep-alive\r\n\r\nhello" + HEAD + b"\r\nhello"


async def test_answer_of_a_large_body_is_whole(exchange) -> None:
    body = bytes(range(256)) * 4096

    async def large(_: web.BaseRequest) -> Answer:
        return Answer(200, HEAD, body, close=True)

    got = await exchange(large, request("1.1"))
    assert got == HEAD + b"Connection: close\r\n\r\n" + body


async def test_stream_of_known_length(exchange) -> None:
    async def make(r: web.BaseRequest) -> Stream:
        stream = Stream(200, HEAD, 5, chunks(), 5)
        await stream.send(r)
        return stream

    got = await exchange(make, request("1.1") + request("1.1", "Connection: close"))
    first = HEAD + b"Content-Length: 5\r\n\r\nabcde"
    assert got == first + HEAD + b"Content-Length: 5\r\nConnection: close\r\n\r\nabcde"


@pytest.mark.parametrize(
    ("version", "rest"),
    [
        (
            "1.1",
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
        ),
        ("1.0", b"\r\nabcde"),
    ],
)
async def test_stream_of_unknown_length(exchange, version, rest) -> None:
    async def make(r: web.BaseRequest) -> Stream:
        stream = Stream(200, HEAD, None, chunks(), 5)
        await stream.send(r)
        return stream

    assert await exchange(make, request(version, "Connection: close")) == HEAD + rest


@pytest.mark.parametrize("length", [8, None])
async def test_what_has_come_of_a_body_leaves_with_the_head(exchange, length) -> None:
    writes: list[bytes] = []

    async def make(r: web.BaseRequest) -> Stream:
        assert r.transport is not None
        write = r.transport.write
        r.transport.write = lambda data: (writes.append(bytes(data)), write(data))[1]
        stream = Stream(200, HEAD, length, chunks(), 5, begun=b"xyz")
        await stream.send(r)
        return stream

    got = await exchange(make, request("1.1", "Connection: close"))
    begun = b"xyz" if length else b"3\r\nxyz\r\n"
    assert writes[0].startswith(HEAD) and writes[0].endswith(b"\r\n\r\n" + begun)
    assert got.endswith(b"xyzabcde" if length else b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n")


async def test_stream_that_fails_breaks_the_connection(exchange) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"ab"
        raise OSError("gone")

    async def make(r: web.BaseRequest) -> Stream:
        stream = Stream(200, HEAD, None, broken(), 5)
        with pytest.raises(OSError, match="gone"):
            await stream.send(r)
        return stream

    try:
        got = await exchange(make, request("1.1"))
    except ConnectionResetError:
        return
    assert not got.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("length", [8, None])
async def test_stream_that_fails_resets_an_old_connection(exchange, length) -> None:
    """HTTP/1.0 takes a connection's end for the body's."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"ab"
        raise OSError("gone")

    async def make(r: web.BaseRequest) -> Stream:
        stream = Stream(200, HEAD, length, broken(), 5)
        with pytest.raises(OSError, match="gone"):
            await stream.send(r)
        return stream

    with pytest.raises(ConnectionResetError):
        await exchange(make, request("1.0"))


async def test_client_that_takes_nothing_is_cut_off(exchange) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    cut = asyncio.get_running_loop().create_future()

    async def make(r: web.BaseRequest) -> Stream:
        stream = Stream(200, HEAD, None, endless(), 0.1)
        with pytest.raises(ConnectionError):
            await stream.send(r)
        cut.set_result(r.transport is None or r.transport.is_closing())
        return stream

    runner = web.ServerRunner(web.Server(make))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1)
    writer.write(request("1.1"))
    assert await asyncio.wait_for(cut, 5)
    writer.close()
    await runner.cleanup()


async def test_abort_sends_nothing_more(exchange) -> None:
    async def make(r: web.BaseRequest) -> Answer:
        abort(r)
        return Answer(200, HEAD, b"hello")

    try:
        assert await exchange(make, request("1.1")) == b""
    except ConnectionResetError:
        return
