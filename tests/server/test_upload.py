"""A body that a real client sends, or fails to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from shmcache_server import upload as uploads
from shmcache_server.upload import BrokenUpload, Upload

Then = Callable[[asyncio.StreamWriter], Awaitable[None]]
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def upload():
    """What comes of this body, or the refusal; None: the client leaves. `then` may go
    on with it."""
    runners: list[web.ServerRunner] = []

    async def upload(body: bytes, then: bytes | Then | None = b"") -> bytes | int:
        heard: asyncio.Future[bytes | int] = asyncio.get_running_loop().create_future()
        begun = asyncio.Event()

        async def answer(request: web.BaseRequest) -> web.Response:
            begun.set()
            upload = Upload(request, 0.2)
            try:
                heard.set_result(b"".join([c async for c in upload.chunks()]))
            except BrokenUpload:
                heard.set_result(upload.refusal)
            return web.Response()

        runner = web.ServerRunner(web.Server(answer))
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(CHUNKED + body)
        await asyncio.wait_for(begun.wait(), 5)
        going_on = None
        if then is None:
            writer.close()
        elif isinstance(then, bytes):
            writer.write(then)
        else:
            going_on = asyncio.ensure_future(then(writer))
        try:
            return await asyncio.wait_for(heard, 5)
        finally:
            if going_on is not None:
                going_on.cancel()
            writer.close()

    yield upload
    for runner in runners:
        await runner.cleanup()


async def test_body_comes_whole(upload) -> None:
    assert await upload(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n") == b"abcde"


@pytest.mark.parametrize("begun", [b"", b"3\r\nabc\r\n"])
async def test_client_that_sends_nothing_is_told_408(upload, begun) -> None:
    assert await upload(begun) == 408


async def test_client_that_drips_is_told_408(upload, monkeypatch) -> None:
    """It is never silent for long, and yet would hold the origin for ever."""
    monkeypatch.setattr(uploads, "RATE", 50)

    async def drip(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"1\r\na\r\n")
            await asyncio.sleep(0.04)

    assert await upload(b"", drip) == 408


async def test_client_that_keeps_the_pace_may_take_its_time(
    upload, monkeypatch
) -> None:
    monkeypatch.setattr(uploads, "RATE", 50)

    async def send(writer: asyncio.StreamWriter) -> None:
        for _ in range(20):
            writer.write(b"a\r\n" + b"a" * 10 + b"\r\n")
            await asyncio.sleep(0.04)
        writer.write(b"0\r\n\r\n")

    assert await upload(b"", send) == b"a" * 200


async def test_broken_framing_is_not_taken_for_the_end(upload) -> None:
    assert await upload(b"3\r\nabc\r\n", b"x\r\n") == 408


async def test_client_that_leaves_is_not_taken_for_the_end(upload) -> None:
    assert await upload(b"3\r\nabc\r\n", None) == 400
