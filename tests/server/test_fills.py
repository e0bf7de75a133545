"""What is stored of a response, and what becomes of it by a validation."""

from __future__ import annotations

import asyncio
import os

import pytest
from aiohttp import web

from tests.server.conftest import Upstream, eventually, fronting, idle


def private(**fields: str) -> dict[str, str]:
    said = 'public, max-age=60, private="x-user"'
    return {"Cache-Control": said, "ETag": '"1"'} | fields


async def test_slow_body_flows_on_after_the_time_to_store_it(upstream) -> None:
    """The flight ends by its time-out; a client that reads is not cut off by that."""
    gate = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=upstream.fields)
        await response.prepare(request)
        await response.write(b"first,")
        await gate.wait()
        await response.write(b"second")
        return response

    upstream.answer = slow
    async with fronting(upstream.url, timeout=5.0) as front:
        async with front.session.get(front.url) as answer:
            assert await answer.content.readexactly(6) == b"first,"
            (coming,) = front.runner.handler._fetches._lives._lives.values()
            assert coming.stored
            flight = next(iter(front.cache._flights._flights.values()))
            flight.task.cancel()
            await eventually(lambda: not front.cache._flights._flights)
            assert not coming.stored, "no longer held for storing"
            gate.set()
            assert await answer.read() == b"second"
        assert front.cache.entry(front.key("/", "gzip")) is None


@pytest.mark.parametrize(
    ("l1_size", "length"),
    [(64 << 20, 0), (64 << 20, 700_000), (256 << 20, 2 << 20)],
)
async def test_body_of_any_length_is_a_hit_the_second_time(upstream, l1_size, length):
    upstream.body = os.urandom(length)
    async with fronting(upstream.url, l1_size) as front:
        first = await front.get()
        assert first.told == "shmcache; fwd=miss; stored"
        await eventually(lambda: front.cache.entry(front.key("/")))
        second = await front.get()
    assert "hit" in second.told
    assert first.body == second.body == upstream.body
    assert len(upstream.seen) == 1


async def test_body_above_the_limit_passes_through(upstream: Upstream) -> None:
    async with fronting(upstream.url) as front:
        upstream.body = os.urandom(front.cache.stats().value_max + 1)
        for asked in (1, 2):
            got = await front.get()
            assert got.told == "shmcache; fwd=miss" and got.body == upstream.body
            assert len(upstream.seen) == asked
        assert front.cache.stats().too_large == 0, "known before it was tried"


class Held:
    """An origin that answers 304 to who has what it has."""

    def __init__(self, **fields: str) -> None:
        self.etag, self.body = '"1"', b"one"
        self.fields = fields
        self.conditions: list[str | None] = []

    async def __call__(self, request: web.Request) -> web.Response:
        said = request.headers.get("If-None-Match")
        self.conditions.append(said)
        fields = {n.replace("_", "-"): v for n, v in self.fields.items()}
        fields["ETag"] = self.etag
        if said == self.etag:
            return web.Response(status=304, headers=fields)
        return web.Response(body=self.body, headers=fields)


async def test_no_cache_is_validated_before_each_use(front, upstream) -> None:
    upstream.answer = held = Held(Cache_Control="no-cache", X_N="1")
    assert (await front.get()).body == b"one"
    held.fields["X_N"] = "2"
    second = await front.get()
    assert (second.status, second.body, second.fields["X-N"]) == (200, b"one", "2")
    assert second.told == "shmcache; fwd=stale"
    held.etag, held.body = '"2"', b"two"
    assert (await front.get()).body == b"two"
    assert held.conditions == [None, '"1"', '"1"']


async def test_304_brings_the_stored_response_up_to_date(front, upstream) -> None:
    upstream.answer = held = Held(Cache_Control="max-age=1", Age="1")
    await front.get()
    held.fields = {"Cache_Control": "max-age=60", "X_New": "1"}
    assert (await front.get()).fields["X-New"] == "1"
    hit = await front.get()
    assert "hit" in hit.told and hit.fields["X-New"] == "1" and hit.body == b"one"
    assert hit.fields["Content-Length"] == "3"
    assert held.conditions == [None, '"1"']


async def test_304_of_another_representation_updates_nothing(front, upstream) -> None:
    """RFC 9111 §4.3.4: it is asked for again, without a condition."""
    conditions = []

    async def answer(request: web.Request) -> web.Response:
        conditions.append(request.headers.get("If-None-Match"))
        if len(conditions) == 1:
            fields = {"Cache-Control": "no-cache", "ETag": '"1"'}
            return web.Response(body=b"one", headers=fields)
        fields = {"Cache-Control": "max-age=60", "ETag": '"2"'}
        if conditions[-1] is not None:
            return web.Response(status=304, headers=fields)
        return web.Response(body=b"two", headers=fields)

    upstream.answer = answer
    assert (await front.get()).body == b"one"
    for _ in range(2):
        got = await front.get()
        assert (got.body, got.fields["ETag"]) == (b"two", '"2"')
    assert conditions == [None, '"1"', None]


async def test_validated_response_that_became_private_is_not_shared(
    front, upstream
) -> None:
    upstream.answer = held = Held(Cache_Control="max-age=1", Age="1")
    await front.get()
    held.fields = {"Cache_Control": "private, max-age=60"}
    assert (await front.get()).body == b"one"
    assert "hit" not in (await front.get()).told


async def test_clients_own_condition_is_answered_from_what_was_validated(
    front, upstream
) -> None:
    upstream.answer = Held(Cache_Control="no-cache")
    await front.get()
    got = await front.get(If_None_Match='"1"')
    assert (got.status, got.body) == (304, b"")


async def test_many_who_ask_at_once_are_validated_by_two_requests(
    front, upstream
) -> None:
    """Who comes when one is on its way is answered by the next: no-cache wants the
    origin asked after the client did."""
    held, gate = Held(Cache_Control="no-cache"), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await gate.wait()
        return await held(request)

    upstream.answer = slow
    gate.set()
    await front.get()
    gate.clear()
    asking = [asyncio.ensure_future(front.get()) for _ in range(20)]
    await eventually(lambda: front.cache._flights._waiters == 20)
    gate.set()
    assert {g.body for g in await asyncio.gather(*asking)} == {b"one"}
    assert len(upstream.seen) == 3


async def test_private_field_of_a_304_is_not_stored(front, upstream) -> None:
    async def answer(request: web.Request) -> web.Response:
        fields = private(**{"X-User": request.headers["X-Me"]})
        if "If-None-Match" in request.headers:
            return web.Response(status=304, headers=fields)
        return web.Response(headers=fields | {"Age": "60"})

    upstream.answer = answer
    await front.get(X_Me="alice")
    await idle(front)
    await front.get(X_Me="bob")
    got = await front.get(X_Me="carol")
    assert "hit" in got.told and "X-User" not in got.fields
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("life", [0, 1])
async def test_too_old_when_it_came_is_served_while_it_is_fetched_again(
    upstream: Upstream, life: int
) -> None:
    """RFC 5861 §3. A life of less than a second is over by the Date of the second
    before, and one of the last millisecond is none at all: else all would wait for the
    next answer."""
    upstream.fields |= {
        "Cache-Control": f"public, max-age={life}, stale-while-revalidate=60",
        "Age": "5",
        "ETag": '"1"',
    }
    gate = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await gate.wait()
        return web.Response(body=b"again", headers={"Cache-Control": "max-age=60"})

    async with fronting(upstream.url) as front:
        await front.get()
        await eventually(lambda: front.cache.entry(front.key("/")))
        upstream.answer = slow
        got = await asyncio.gather(*(front.get() for _ in range(5)))
        assert {one.body for one in got} == {b"hello"}
        assert {one.told for one in got} <= {
            f"shmcache; hit; ttl=-{n}" for n in (5, 6, 7)
        }
        await eventually(lambda: len(upstream.seen) == 2)
        gate.set()
        await eventually(lambda: front.cache.entry(front.key("/")).state == "fresh")
        assert (await front.get()).body == b"again"


@pytest.mark.parametrize(
    "control",
    [
        "max-age=1, stale-while-revalidate=3",
        "no-cache, stale-while-revalidate=60",
        "max-age=1, stale-while-revalidate=60, must-revalidate",
        "max-age=1",
    ],
)
async def test_too_old_for_its_grace_is_fetched_by_each(
    upstream: Upstream, control: str
) -> None:
    upstream.fields |= {"Cache-Control": control, "Age": "5", "ETag": '"1"'}
    async with fronting(upstream.url) as front:
        for asked in (1, 2):
            assert "fwd" in (await front.get()).told
            await idle(front)
            assert len(upstream.seen) == asked
