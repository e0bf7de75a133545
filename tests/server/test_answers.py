"""Answers as clients get them: from the store, as they come, broken off."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from email.utils import formatdate

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from tests.server.conftest import Front, RawOrigin, eventually, fronting
from tests.server.test_handler import Slow


@pytest.mark.parametrize(
    "condition",
    [
        {"If_None_Match": '"other", W/"one"'},
        {"If_None_Match": "*"},
        {"If_Modified_Since": formatdate(1_000_000, usegmt=True)},
    ],
    ids=["etag", "star", "date"],
)
async def test_condition_that_matches_gets_304(front, upstream, condition) -> None:
    modified = formatdate(1_000_000, usegmt=True)
    upstream.fields |= {"ETag": '"one"', "Last-Modified": modified, "X-Long": "no"}
    await front.get()
    got = await front.get(**condition)
    assert got.status == 304 and got.body == b"" and "hit" in got.told
    assert got.fields["ETag"] == '"one"' and "X-Long" not in got.fields
    assert (await front.get(If_None_Match='"two"')).status == 200


async def test_date_stands_for_last_modified(front, upstream) -> None:
    """RFC 9111 §4.3.2, RFC 9110 §13.1.3."""
    upstream.fields["Date"] = date = formatdate(usegmt=True)
    await front.get()
    assert (await front.get(If_Modified_Since=date)).status == 304
    earlier = formatdate(time.time() - 60, usegmt=True)
    assert (await front.get(If_Modified_Since=earlier)).status == 200
    twice = CIMultiDict([("If-Modified-Since", date)] * 2)
    assert (await front.ask("GET", headers=twice)).status == 200


async def test_reader_that_takes_nothing_frees_the_origins_connection(upstream) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.Response()
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(bytes(1 << 20))
        return response

    upstream.answer = endless
    async with fronting(upstream.url, timeout=0.3, connections=1) as front:
        _, writer = await asyncio.open_connection("127.0.0.1", front.port, limit=1)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        await eventually(lambda: upstream.seen)
        assert (await asyncio.wait_for(front.get(), 5)).status == 200
        writer.close()


async def test_client_that_leaves_is_nothing_to_log(front, upstream, caplog) -> None:
    upstream.answer = slow = Slow(**{"Cache-Control": "private"})
    slow.head.set()
    for method in (b"GET", b"POST"):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(method + b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        await reader.readuntil(b"first,")
        writer.transport.abort()
    server = front.runner.server
    await eventually(lambda: all(c.transport is None for c in server.connections))
    slow.tail.set()
    await eventually(lambda: not server.connections)
    assert not caplog.records


@pytest.fixture
async def broken() -> AsyncIterator[tuple[RawOrigin, Front]]:
    async with RawOrigin().open() as origin, fronting(origin.url) as front:
        yield origin, front


FRESH = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"


HALVES = pytest.mark.parametrize(
    "half",
    [
        FRESH + b"Content-Length: 10\r\n\r\nhalf",
        FRESH + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
    ids=["length", "chunked"],
)


@HALVES
async def test_body_that_breaks_off_breaks_off_for_the_client(broken, half) -> None:
    origin, front = broken
    origin.said = half
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await reader.readuntil(b"half")
    origin.close.set()
    rest = b""
    with contextlib.suppress(ConnectionResetError):
        rest = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert rest in (b"", b"\r\n"), "an end would make it look whole"
    assert front.cache.entry(front.key("/")) is None


@HALVES
async def test_body_broken_before_anything_was_sent_is_502(broken, half) -> None:
    origin, front = broken
    origin.said = half
    origin.close.set()
    for asked in (1, 2):
        with contextlib.suppress(aiohttp.ClientPayloadError):  # it had begun by then
            assert (await front.get()).status == 502
        assert origin.count == asked, "nothing was stored"


async def test_body_that_ends_with_its_connection_is_not_stored(broken) -> None:
    origin, front = broken
    origin.said = FRESH + b"\r\nwhole, or is it?"
    origin.close.set()
    for asked in (1, 2):
        assert (await front.get()).body == b"whole, or is it?"
        assert origin.count == asked


async def test_old_client_gets_no_chunks(front, upstream) -> None:
    upstream.answer = slow = Slow()
    slow.head.set()
    slow.tail.set()
    got = await front.raw(b"GET / HTTP/1.0\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head and body == b"first,second"


async def test_old_client_keeps_its_connection_on_a_hit(front, upstream) -> None:
    hello = b"GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n"
    await front.get()
    got = await front.raw(hello + b"Connection: keep-alive\r\n\r\n" + hello + b"\r\n")
    assert got.count(b"shmcache; hit") == 2
    assert got.count(b"Connection: keep-alive") == 1


HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: y\r\n\r\n"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_interim_answer_reaches_its_client(method, version) -> None:
    said = HINTS + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    async with RawOrigin(said).open() as origin, fronting(origin.url) as front:
        origin.close.set()
        request = f"{method} / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n"
        got = await front.raw(f"{request}Content-Length: 0\r\n\r\n".encode())
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert got.startswith(hints) is (version == "1.1")
    final = got.removeprefix(hints)
    assert final.startswith(b"HTTP/1.1 200 OK\r\n") and b"Link" not in final


async def test_interim_answer_is_no_part_of_what_is_stored() -> None:
    said = HINTS + b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"
    said += b"Content-Length: 2\r\n\r\nhi"
    async with RawOrigin(said).open() as origin, fronting(origin.url) as front:
        origin.close.set()
        assert (await front.get()).body == b"hi"
        hit = await front.get()
        assert "hit" in hit.told and "Link" not in hit.fields
