"""What is passed through both ways."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from tests.server.conftest import fronting


async def test_range_of_what_is_not_here_is_the_origins_to_answer(
    front, upstream
) -> None:
    upstream.status, upstream.body = 206, b"el"
    upstream.fields["Content-Range"] = "bytes 1-2/5"
    got = await front.get(Range="bytes=1-2")
    told = "shmcache; fwd=miss; stored"
    assert (got.status, got.body, got.told) == (206, b"el", told)
    assert upstream.seen[0].fields["Range"] == "bytes=1-2"
    got = await front.get(Range="bytes=1-2", If_Range='"a"')
    assert got.told == "shmcache; fwd=miss"
    assert upstream.seen[1].fields["If-Range"] == '"a"'


async def test_chunked_request_body_passes(front, upstream) -> None:
    async def body():
        yield b"a" * 10
        yield b"b" * 10

    await front.ask("POST", data=body())
    assert upstream.seen[0].body == b"a" * 10 + b"b" * 10


async def test_expect_100_is_answered_before_the_body(front, upstream) -> None:
    got = await front.ask("POST", data=b"x" * 10, expect100=True)
    assert got.status == 200 and upstream.seen[0].body == b"x" * 10
    assert "Expect" not in upstream.seen[0].fields


async def test_expect_of_an_old_client_is_ignored(front, upstream) -> None:
    got = await front.raw(
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"
    )
    assert got.split()[1] == b"200" and upstream.seen[0].body == b"abc"


async def test_upload_that_stalls_is_refused_and_frees_its_connection(upstream) -> None:
    async with fronting(upstream.url, timeout=0.2, connections=1) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.split()[1] == b"408" and b"Connection: close" in head
        assert (await front.get()).status == 200
        writer.close()


async def test_upload_that_breaks_off_is_refused(front, upstream, caplog) -> None:
    got = await front.raw(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx"
    )
    assert got.split()[1] == b"400"
    assert "Traceback" not in caplog.text


async def test_compressed_request_body_passes_as_it_is(front, upstream) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=request.headers["Content-Encoding"])

    upstream.answer = answer
    got = await front.ask("POST", data=b"abc" * 100, compress="deflate")
    assert got.body == b"deflate"


async def test_head_miss_keeps_the_length(front, upstream) -> None:
    got = await front.ask("HEAD")
    assert got.fields["Content-Length"] == "5" and got.body == b""
    assert upstream.seen[0].method == "HEAD"


async def test_redirect_is_not_followed(front, upstream) -> None:
    upstream.status, upstream.fields["Location"] = 301, "/elsewhere"
    got = await front.ask("GET", allow_redirects=False)
    assert got.status == 301 and len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("version", "coding", "code"),
    [(b"1.0", b"chunked", b"400"), (b"1.1", b"gzip, chunked", b"501")],
)
async def test_body_that_cannot_be_passed_on_is_refused(
    front, upstream, version, coding, code
) -> None:
    got = await front.raw(
        b"POST / HTTP/%b\r\nHost: a\r\nTransfer-Encoding: %b\r\n\r\n0\r\n\r\n"
        % (version, coding)
    )
    assert got.split()[1] == code
    assert upstream.seen == []


async def test_websocket_passes(front, upstream) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    upstream.answer = echo
    async with front.session.ws_connect(front.url + "/chat?a=b") as socket:
        await socket.send_str("hello")
        assert (await socket.receive_str()) == "hello"
    assert upstream.seen[0].target == "/chat?a=b"
    assert upstream.seen[0].fields["X-Forwarded-Host"] == "127.0.0.1"


async def test_websocket_that_is_refused_is_an_answer(front, upstream) -> None:
    upstream.status, upstream.body = 403, b"no"
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        await front.session.ws_connect(front.url)
