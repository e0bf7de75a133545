"""A body that a real client sends, or fails to."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from shmcache_server.upload import BrokenUpload, Upload

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def upload():
    """What comes of this body, or the refusal; None: the client leaves."""
    runners: list[web.ServerRunner] = []

    async def upload(body: bytes, then: bytes | None = b"") -> bytes | int:
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
        if then is None:
            writer.close()
        else:
            writer.write(then)
        try:
            return await asyncio.wait_for(heard, 5)
        finally:
            writer.close()

    yield upload
    for runner in runners:
        await runner.cleanup()


async def test_body_comes_whole(upload) -> None:
    assert await upload(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n") == b"abcde"


@pytest.mark.parametrize("begun", [b"", b"3\r\nabc\r\n"])
async def test_client_that_sends_nothing_is_told_408(upload, begun) -> None:
    assert await upload(begun) == 408


async def test_broken_framing_is_not_taken_for_the_end(upload) -> None:
    assert await upload(b"3\r\nabc\r\n", b"x\r\n") == 408


async def test_client_that_leaves_is_not_taken_for_the_end(upload) -> None:
    assert await upload(b"3\r\nabc\r\n", None) == 400
