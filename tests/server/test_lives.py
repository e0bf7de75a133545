"""Those who wait in one worker for a response on its way, and read it along."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from tests.server.conftest import eventually, fronting, idle
from tests.server.test_fills import private
from tests.server.test_live import Body, live_of


async def test_nothing_is_kept_of_a_fetch_that_ended(front, upstream) -> None:
    await asyncio.gather(*(front.get(f"/{i}") for i in range(20)))
    upstream.fields = {"Cache-Control": "private"}
    await asyncio.gather(*(front.get("/p") for i in range(20)))
    await idle(front)
    lives = front.runner.handler._fetches._lives
    assert not lives._lives and not lives._joining


async def test_slow_reader_of_too_large_a_body_holds_up_nobody(front, upstream) -> None:
    """Who comes when its start is gone does not wait for its end."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "max-age=60"})
        await response.prepare(request)
        for _ in range(400):
            await response.write(bytes(1 << 16))
        return response

    upstream.answer = answer
    async with front.session.get(
        front.url, skip_auto_headers=("Accept-Encoding",)
    ) as slow:
        await slow.content.readexactly(30 << 16)
        async with asyncio.timeout(2):
            assert len((await front.get()).body) == 400 << 16
        assert len(upstream.seen) == 2


async def test_waiter_that_leaves_as_the_head_comes_is_not_waited_for(front) -> None:
    """1. Two wait. 2. The head comes: both are told. 3. One leaves before it reads."""
    lives = front.runner.handler._fetches._lives
    live = live_of(Body(), stored=False)
    stays, leaves = lives.wait("key", 0), lives.wait("key", 0)
    lives._share("key", live)
    lives.leave("key", leaves, reads=False)
    lives.leave("key", stays, reads=True)
    assert live._expected == 1 and not lives._joining
    lives._forget("key", live)


async def test_private_field_is_not_read_along(front, upstream) -> None:
    gate = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await gate.wait()
        return web.Response(headers=private(**{"X-User": request.headers["Cookie"]}))

    upstream.answer = answer
    first = asyncio.ensure_future(front.get(Cookie="alice"))
    await eventually(lambda: upstream.seen)
    second = asyncio.ensure_future(front.get(Cookie="bob"))
    joining = front.runner.handler._fetches._lives._joining
    await eventually(lambda: list(map(len, joining.values())) == [2])
    gate.set()
    assert (await first).fields["X-User"] == "alice"
    assert "X-User" not in (await second).fields
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("said", ["no-cache, must-revalidate", "public, max-age=0"])
@pytest.mark.parametrize("name", ["Authorization", "Cookie"])
async def test_what_is_validated_for_each_is_not_read_along(
    front, upstream, said, name
) -> None:
    """With others' credentials the origin may say something else."""
    gate = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await gate.wait()
        who = request.headers[name]
        fields = {"Cache-Control": said, "ETag": f'"{who}"'}
        return web.Response(text=who, headers=fields)

    upstream.answer = answer
    who = [{name: "alice"}, {name: "bob"}]
    asking = [asyncio.ensure_future(front.get(**fields)) for fields in who]
    joining = front.runner.handler._fetches._lives._joining
    await eventually(lambda: list(map(len, joining.values())) == [2])
    gate.set()
    assert [g.body for g in await asyncio.gather(*asking)] == [b"alice", b"bob"]


async def test_asking_another_worker_may_end_before_it_began(front) -> None:
    lives = front.runner.handler._fetches._lives
    lives.ask("k", front.cache.slot + 1)
    lives._asking["k"].cancel()
    await eventually(lambda: not lives._asking)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("other", ["en", None])
async def test_large_variant_is_not_read_along(upstream, other, late) -> None:
    """Neither by who waits under the URL's key nor by who comes."""
    gate, rest = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        said = request.headers.get("Accept-Language", "")
        fields = {"Cache-Control": "max-age=60", "Vary": "Accept-Language"}
        response = web.StreamResponse(headers=fields)
        response.content_length = 2 << 20
        await response.prepare(request)
        body = said.encode().ljust(2 << 20)
        await response.write(body[:1000])
        await rest.wait()
        await response.write(body[1000:])
        return response

    upstream.answer = answer
    async with fronting(upstream.url) as front:
        fetches = front.runner.handler._fetches
        fetches._lives._store_max = 1 << 20
        asking = [asyncio.ensure_future(front.get(Accept_Language="de"))]
        await eventually(lambda: upstream.seen)
        if late:
            gate.set()
            await eventually(lambda: fetches._tasks)
        fields = {"Accept_Language": other} if other else {}
        asking.append(asyncio.ensure_future(front.get(**fields)))
        if not late:
            joining = fetches._lives._joining
            await eventually(lambda: list(map(len, joining.values())) == [2])
            gate.set()
        await eventually(lambda: fetches._tasks)
        rest.set()
        got = [answer.body.strip() for answer in await asyncio.gather(*asking)]
        assert got == [b"de", (other or "").encode()]
