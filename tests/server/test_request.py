from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from shmcache_server.handler import Handler
from shmcache_server.key import Lead
from shmcache_server.request import Request

BLOCK = b" HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def leads(monkeypatch) -> list[tuple[str, Lead | None]]:
    """Targets and leads of the requests that the handler gets."""
    seen: list[tuple[str, Lead | None]] = []
    answer = Handler.__call__

    async def spy(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, Request)
        seen.append((request.raw_path, request.lead))
        return await answer(self, request)

    monkeypatch.setattr(Handler, "__call__", spy)
    return seen


async def talk(front, *chunks: bytes, answers: int = 1) -> None:
    """On one connection; as many answers of "hello" to each chunk."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    try:
        for chunk in chunks:
            writer.write(chunk)
            for _ in range(answers):
                await asyncio.wait_for(reader.readuntil(b"hello"), 5)
    finally:
        writer.close()


async def test_request_of_a_judged_block_has_its_lead(front, upstream, leads) -> None:
    await talk(front, b"GET /a" + BLOCK, b"GET /b" + BLOCK)
    await talk(front, b"GET /c" + BLOCK)
    assert [target for target, _ in leads] == ["/a", "/b", "/c"]
    (lead,) = {lead for _, lead in leads}
    assert lead is not None and lead.keyed("/x").key == front.key("/x").replace(
        "9:127.0.0.1", "1:a"
    )


@pytest.mark.parametrize(
    "chunks",
    [
        (b"GET /a" + BLOCK + b"GET /b" + BLOCK,),
        (b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1\r\n\r\n",),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",),
    ],
    ids=["two at once", "post", "range", "body"],
)
async def test_what_is_not_judged_has_none(front, upstream, leads, chunks) -> None:
    await talk(front, b"GET /first" + BLOCK)
    leads.clear()
    await talk(front, *chunks, answers=max(1, chunks[0].count(b"GET /b") * 2))
    assert leads and [lead for _, lead in leads] == [None] * len(leads)


async def test_lead_is_not_that_of_the_request_before(front, upstream, leads) -> None:
    """A judged request is under way when another comes: each has its own."""
    at_work, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(request: web.Request) -> web.Response:
        at_work.set()
        await go_on.wait()
        return web.Response(text="hello", headers={"Cache-Control": "max-age=60"})

    await talk(front, b"GET /first" + BLOCK)
    leads.clear()
    upstream.answer = slowly
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    try:
        writer.write(b"GET /a" + BLOCK)
        await asyncio.wait_for(at_work.wait(), 5)
        writer.write(b"PUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        go_on.set()
        for _ in range(2):
            await asyncio.wait_for(reader.readuntil(b"hello"), 5)
    finally:
        writer.close()
    assert [target for target, _ in leads] == ["/a", "/b"]
    assert leads[0][1] is not None and leads[1][1] is None
