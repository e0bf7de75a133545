"""Misses that share a fetch: what `test_handler.py` cannot see from outside."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from shmcache_server.tags import of_url
from tests.server.conftest import Front, Upstream, eventually, fronting, idle
from tests.server.test_fills import Held

MODIFIED = "Sun, 29 Nov 2026 01:00:00 GMT"


async def test_failed_fetch_fails_all_who_wait_once(upstream: Upstream) -> None:
    gate = asyncio.Event()

    async def hang_up(request: web.Request) -> web.Response:
        await gate.wait()
        request.transport.abort()
        return web.Response()

    upstream.answer = hang_up
    async with fronting(upstream.url) as front:
        asking = [asyncio.ensure_future(front.get()) for _ in range(20)]
        await eventually(lambda: upstream.seen)
        gate.set()
        assert {g.status for g in await asyncio.gather(*asking)} == {502}
        assert len(upstream.seen) == 1


async def test_private_answers_are_fetched_in_parallel(front, upstream) -> None:
    """The first one takes the flight; those behind it do not queue for it in turn."""
    asked, all_asked = 0, asyncio.Event()

    async def private(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked > 1:
            if asked == 10:
                all_asked.set()
            await asyncio.wait_for(all_asked.wait(), 5)
        return web.Response(headers={"Cache-Control": "private"}, text="mine")

    upstream.answer = private
    got = await asyncio.gather(*(front.get() for _ in range(10)))
    assert {g.status for g in got} == {200} and asked == 10


@pytest.mark.parametrize(
    "pieces", [(1,), (65536,), (66000,), (40000, 40000), (65536, 1)]
)
async def test_first_client_gets_all_that_came_before_it(upstream, pieces) -> None:
    """However much of it is copied behind the head."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "max-age=60"})
        await response.prepare(request)
        for size in pieces:
            await response.write(b"x" * size)
        return response

    upstream.answer = answer
    async with fronting(upstream.url) as front:
        fetches = front.runner.handler._fetches
        join = fetches.join

        async def late(*about):
            joined = await join(*about)
            await eventually(lambda: joined.live.done)
            return joined

        fetches.join = late
        assert len((await front.get()).body) == sum(pieces)


# -- what a HEAD tells of the stored response


class Headed:
    """An origin whose HEAD may say something else than its GET, and waits for leave."""

    def __init__(self, **fields: str) -> None:
        self.get = {"Cache-Control": "max-age=60", "Age": "60", "ETag": '"1"'}
        self.head = {"Cache-Control": "max-age=60", "ETag": '"1"'}
        self.head |= {n.replace("_", "-"): v for n, v in fields.items()}
        self.status = 200
        self.body = b"one"
        self.leave = asyncio.Event()
        self.leave.set()

    async def __call__(self, request: web.Request) -> web.Response:
        if request.method == "HEAD":
            await self.leave.wait()
            said = {n: v for n, v in self.head.items() if v}
            return web.Response(status=self.status, headers=said)
        return web.Response(body=self.body, headers=self.get)


async def headed(front: Front, upstream: Upstream, **fields: str) -> Headed:
    """With a stored response that is too old to be used."""
    upstream.answer = said = Headed(**fields)
    await front.get()
    await idle(front)
    return said


@pytest.mark.parametrize(
    "told", [{}, {"ETag": "", "Last_Modified": MODIFIED}, {"Content_Length": "3"}]
)
async def test_head_brings_the_stored_response_up_to_date(
    front, upstream, told
) -> None:
    upstream.answer = said = Headed(X_New="1", **told)
    said.get["Last-Modified"] = MODIFIED
    await front.get()
    await idle(front)
    assert (await front.ask("HEAD")).told == "shmcache; fwd=stale"
    await idle(front)
    hit = await front.get()
    assert "hit" in hit.told and hit.body == b"one" and hit.fields["X-New"] == "1"
    assert [s.method for s in upstream.seen] == ["GET", "HEAD"]
    assert upstream.seen[1].fields["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "told",
    [
        {"ETag": ""},
        {"ETag": '"2"'},
        {"Content_Length": "4"},
        {"Last_Modified": MODIFIED},
        {"Cache_Control": "private, max-age=60"},
        {"Cache_Control": "no-store"},
        {"Cache_Control": "max-age=60", "Age": "60"},
        {"Set_Cookie": "a=b"},
        {"Vary": "X-Lang"},
    ],
    ids=str,
)
async def test_head_that_does_not_tell_of_it_brings_nothing(
    front, upstream, told
) -> None:
    await headed(front, upstream, **told)
    assert (await front.ask("HEAD")).status == 200
    await idle(front)
    assert front.cache.entry(front.key("/")).state == "dead"
    assert (await front.get()).told == "shmcache; fwd=stale; stored"


@pytest.mark.parametrize(
    "field", [{"Cookie": "a=b"}, {"Authorization": "x"}, {"If-None-Match": '"1"'}]
)
async def test_head_of_one_client_tells_nothing(front, upstream, field) -> None:
    said = await headed(front, upstream)
    said.head["Cache-Control"] = "public, max-age=60"
    assert (await front.ask("HEAD", headers=field)).status == 200
    await idle(front)
    assert front.cache.entry(front.key("/")).state == "dead"
    name, value = next(iter(field.items()))
    assert upstream.seen[1].fields[name] == value


async def test_410_to_a_head_brings_nothing(front, upstream) -> None:
    said = await headed(front, upstream)
    said.status = 410
    assert (await front.ask("HEAD")).status == 410
    await idle(front)
    assert front.cache.entry(front.key("/")).state == "dead"


@pytest.mark.parametrize("how", ["delete", "expire", "replace"])
async def test_head_of_what_was_made_void_meanwhile_brings_nothing(
    front, upstream, how
) -> None:
    said = await headed(front, upstream)
    said.leave.clear()
    asking = asyncio.ensure_future(front.ask("HEAD"))
    await eventually(lambda: len(upstream.seen) == 2)
    if how == "replace":
        said.body, said.get["ETag"] = b"two", '"2"'
        await front.get()
        await idle(front)
    else:
        await getattr(front.cache, how)(front.key("/"))
    said.leave.set()
    assert (await asking).status == 200
    await idle(front)
    assert (await front.get()).body == said.body
    assert upstream.seen[-1].method == "GET"


@pytest.mark.parametrize("status", [502, 503])
@pytest.mark.parametrize("field", [{}, {"Cookie": "a=b"}])
async def test_head_gets_what_is_stale_in_place_of_an_error(
    front, upstream, status, field
) -> None:
    said = await headed(front, upstream)
    said.get["Cache-Control"] = "max-age=60, stale-if-error=60"
    await front.get()
    await idle(front)
    asked = len(upstream.seen)

    async def fail(request: web.Request) -> web.Response:
        if status == 502:
            request.transport.abort()
        return web.Response(status=503)

    upstream.answer = fail
    got = await front.ask("HEAD", headers=field)
    if status == 503 and field:
        assert got.status == 503, "it is the origin's answer to this client"
    else:
        assert (got.status, got.fields["Content-Length"]) == (200, "3")
        assert got.told.startswith("shmcache; hit; ttl=-")
    assert len(upstream.seen) > asked


# -- parts


async def test_part_of_what_is_stored(front, upstream) -> None:
    await front.get()
    got = await front.get(Range="bytes=1-3")
    assert (got.status, got.body) == (206, b"ell")
    assert got.fields["Content-Range"] == "bytes 1-3/5"
    assert (await front.get(Range="bytes=9-")).status == 416
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("stored", [False, True])
async def test_several_range_lines_are_ignored(front, upstream, stored) -> None:
    """RFC 9110 §14.2: no list, so that they are no valid Range together."""
    if stored:
        await front.get()
    asked = b"".join(b"Range: bytes=%d-3\r\n" % n for n in (0, 1))
    request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n%bConnection: close\r\n\r\n"
    answer = await front.raw(request % asked)
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\nhello")
    assert len(upstream.seen) == 1 and "Range" not in upstream.seen[0].fields


async def test_head_is_not_answered_by_a_part(front, upstream) -> None:
    """RFC 9110 §14.2."""

    async def answer(request: web.Request) -> web.Response:
        fields = {"Cache-Control": "max-age=60"}
        if request.method == "HEAD" or "Range" not in request.headers:
            return web.Response(body=b"hello", headers=fields)
        fields["Content-Range"] = "bytes 0-0/5"
        return web.Response(status=206, body=b"h", headers=fields)

    upstream.answer = answer
    await front.get(Range="bytes=0-0")
    await idle(front)
    fields = {"Range": "bytes=0-0"}
    assert (await front.ask("HEAD", headers=fields)).status == 200
    assert "hit" in (await front.get(Range="bytes=0-0")).told


# -- refreshes in the background


@pytest.mark.parametrize("name", ["Cookie", "Authorization", "X-Kind"])
async def test_refresh_is_of_the_same_variant(front, upstream, name) -> None:
    """Credentials that the response varies by tell which one it is."""

    async def answer(request: web.Request) -> web.Response:
        said = "public, max-age=60, stale-while-revalidate=60"
        return web.Response(
            text=f"{request.headers.get(name)} {len(upstream.seen)}",
            headers={"Cache-Control": said, "Vary": name},
        )

    upstream.answer = answer
    fields = {name: "a"}
    assert (await front.get(**fields)).body == b"a 1"
    await idle(front)
    await front.cache.expire_tags(of_url("127.0.0.1", "/"))
    await front.get(**fields)
    await eventually(lambda: len(upstream.seen) == 2)
    await eventually(lambda: not front.cache._flights)
    assert (await front.get(**fields)).body == b"a 2"


async def test_refresh_by_the_fast_lane_is_conditional(front, upstream) -> None:
    said = "max-age=60, stale-while-revalidate=60"
    upstream.answer = held = Held(Cache_Control=said)
    for _ in range(3):
        await front.get()
        await idle(front)
    await front.cache.expire(front.key("/"))
    await front.get()
    await eventually(lambda: held.conditions == [None, '"1"'])


async def test_refresh_is_of_the_whole_whoever_asks_for_a_part(front, upstream) -> None:
    async def answer(request: web.Request) -> web.Response:
        fields = {"Cache-Control": "max-age=60, stale-while-revalidate=60"}
        if "Range" in request.headers:
            fields["Content-Range"] = "bytes 0-0/5"
            return web.Response(status=206, body=b"h", headers=fields)
        return web.Response(body=b"hello", headers=fields)

    upstream.answer = answer
    await front.get()
    await front.cache.expire(front.key("/"))
    assert (await front.get(Range="bytes=0-0")).body == b"h"
    await eventually(lambda: len(upstream.seen) == 2)
    await eventually(lambda: not front.cache._flights)
    got = await front.get()
    assert "hit" in got.told and got.body == b"hello"
