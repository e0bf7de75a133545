"""Purges through a worker's whole lane, from the request to what is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from shmcache_server.config import Config
from shmcache_server.tables import PurgeConfig
from tests.server.conftest import Front, Got, Upstream, eventually, fronting, idle

BEARER = {"Authorization": "Bearer 0123456789abcdef-token"}
PATH = "/a/b?c"


SETTINGS = Config(
    purge=PurgeConfig(token=BEARER["Authorization"].removeprefix("Bearer "))
)


@pytest.fixture
async def front(upstream: Upstream) -> AsyncIterator[Front]:
    async with fronting(upstream.url, settings=SETTINGS) as front:
        yield front


async def purge(front: Front, path: str = PATH, **more: str) -> None:
    fields = {name.replace("_", "-"): value for name, value in more.items()}
    if "prefix" in more.get("Shmcache_Purge", ""):
        path = path.partition("?")[0]
    said = await front.ask("PURGE", path, headers=BEARER | fields)
    assert said.status == 200, said.body


async def warm(front: Front, path: str = PATH, **fields: str) -> None:
    """Until it is stored: its client has it before."""
    for _ in range(250):
        if "; hit" in (await front.get(path, **fields)).told:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("never a hit")


BY = [
    ({}, {}),
    ({"Vary": "X-Kind"}, {}),
    ({"Cache-Tag": "x, y"}, {"Cache_Tag": "y"}),
    ({"Surrogate-Key": "x y"}, {"Surrogate_Key": "y"}),
    ({"Cache-Groups": '"x", "y"'}, {"Cache_Groups": '"y"'}),
    ({}, {"Shmcache_Purge": "all"}),
]
IDS = ["url", "variants", "Cache-Tag", "Surrogate-Key", "Cache-Groups", "all"]


@pytest.mark.parametrize(("lines", "named"), BY, ids=IDS)
async def test_purged_response_is_fetched_anew(front, upstream, lines, named) -> None:
    upstream.fields |= lines
    await warm(front, X_Kind="k")
    upstream.body = b"new"
    await purge(front, **named)
    assert (await front.get(PATH, X_Kind="k")).body == b"new"


@pytest.mark.parametrize(("lines", "named"), BY, ids=IDS)
async def test_softly_purged_response_is_refreshed(
    front, upstream, lines, named
) -> None:
    upstream.fields = lines | {"Cache-Control": "max-age=60, stale-while-revalidate=60"}
    await warm(front, X_Kind="k")
    asked = len(upstream.seen)
    said = ", ".join(filter(None, (named.get("Shmcache_Purge"), "soft")))
    await purge(front, **named | {"Shmcache_Purge": said})
    assert "; hit" in (await front.get(PATH, X_Kind="k")).told
    await eventually(lambda: len(upstream.seen) > asked)


@pytest.mark.parametrize(("lines", "named"), BY, ids=IDS)
async def test_softly_purged_response_tells_that_it_is_stale(
    front, upstream, lines, named
) -> None:
    """In either lane: RFC 9211 §2.4, below zero."""
    upstream.fields = lines | {"Cache-Control": "max-age=60, stale-while-revalidate=60"}
    await warm(front, X_Kind="k")
    upstream.answer = held = Held({})
    said = ", ".join(filter(None, (named.get("Shmcache_Purge"), "soft")))
    await purge(front, **named | {"Shmcache_Purge": said})
    for method in ("GET", "GET", "HEAD", "HEAD"):
        got = await front.ask(method, PATH, headers={"X-Kind": "k"})
        assert got.told == "shmcache; hit; ttl=-1"
    held.gate.set()


@pytest.mark.parametrize(
    ("said", "status"),
    [("max-age=60", 200), ("max-age=60, must-revalidate", 502)],
)
async def test_softly_purged_response_stands_for_an_error_if_it_may(
    front, upstream, said, status
) -> None:
    upstream.fields = {"Cache-Control": said}
    await warm(front)
    await purge(front, Shmcache_Purge="soft")

    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.close()
        return web.Response()

    upstream.answer = cut
    assert (await front.get(PATH)).status == status


async def test_own_path_takes_a_purge_for_no_question(front, upstream) -> None:
    upstream.fields |= {"Cache-Tag": "t"}
    await warm(front)
    upstream.body = b"new"
    await purge(front, "/healthz", Cache_Tag="t")
    assert (await front.get(PATH)).body == b"new"


@pytest.mark.parametrize("vary", [{}, {"Vary": "X-Kind"}])
async def test_prefix_is_purged(front, upstream, vary) -> None:
    upstream.fields |= vary
    await warm(front, X_Kind="k")
    await warm(front, "/ab", X_Kind="k")
    upstream.body = b"new"
    await purge(front, "/a", Shmcache_Purge="prefix")
    assert (await front.get(PATH, X_Kind="k")).body == b"new"
    assert (await front.get("/ab", X_Kind="k")).body == b"hello"


async def test_group_is_invalidated_by_a_change(front, upstream) -> None:
    upstream.fields |= {"Cache-Groups": '"g"'}
    await warm(front)
    upstream.fields = {"Cache-Group-Invalidation": '"g"'}
    upstream.body = b"new"
    await front.ask("POST", "/elsewhere")
    assert (await front.get(PATH)).body == b"new"


class Held:
    """An old answer that is under way until it is let come."""

    def __init__(self, fields: dict[str, str]) -> None:
        self.fields = fields
        self.begun, self.gate = asyncio.Event(), asyncio.Event()

    async def __call__(self, request: web.Request) -> web.Response:
        self.begun.set()
        await self.gate.wait()
        return web.Response(body=b"old", headers=self.fields)


Ask = Callable[[], Awaitable[Got]]


async def purged_meanwhile(
    front: Front, upstream: Upstream, fields: dict[str, str], ask: Ask, **named: Any
) -> None:
    """1. a fetch begins; 2. the purge returns; 3. the old answer comes."""
    upstream.answer = held = Held({"Cache-Control": "max-age=60"} | fields)
    old = asyncio.ensure_future(ask())
    await held.begun.wait()
    await purge(front, **named)
    held.gate.set()
    assert (await old).body == b"old"
    await idle(front)
    upstream.answer, upstream.body = upstream._plain, b"new"


@pytest.mark.parametrize(
    ("lines", "named"), [*BY, ({}, {"Shmcache_Purge": "prefix"})], ids=[*IDS, "prefix"]
)
async def test_old_answer_under_way_is_not_stored(front, upstream, lines, named):
    await purged_meanwhile(
        front, upstream, lines, lambda: front.get(PATH, X_Kind="k"), **named
    )
    assert (await front.get(PATH, X_Kind="k")).body == b"new"


@pytest.mark.parametrize("named", [{}, {"Cache_Tag": "t"}])
async def test_old_variant_of_a_list_is_not_fresh_after_a_soft_purge(
    front, upstream, named
) -> None:
    """As the next one, but that all there was stays, and is stale."""
    control = {"Cache-Control": "max-age=60, stale-while-revalidate=60"}
    upstream.fields = control | {"Vary": "X-Kind", "Cache-Tag": "t"}
    await warm(front, X_Kind="a")
    late = control | {"Vary": "X-Kind, X-Other", "Cache-Tag": "t"}
    named = named | {"Shmcache_Purge": "soft"}
    await purged_meanwhile(
        front, upstream, late, lambda: front.get(PATH, X_Kind="b"), **named
    )
    assert "ttl=59" not in (await front.get(PATH, X_Kind="b")).told


@pytest.mark.parametrize(
    "named", [{}, {"Cache_Tag": "t"}, {"Shmcache_Purge": "prefix"}]
)
async def test_old_variant_under_way_brings_none_back(front, upstream, named) -> None:
    """A variant of another set comes late, to a list that stands."""
    upstream.fields |= {"Vary": "X-Kind", "Cache-Tag": "t"}
    await warm(front, X_Kind="a")
    late = {"Vary": "X-Kind, X-Other", "Cache-Tag": "t"}
    await purged_meanwhile(
        front, upstream, late, lambda: front.get(PATH, X_Kind="b"), **named
    )
    for kind in "ab":
        assert (await front.get(PATH, X_Kind=kind)).body == b"new"


@pytest.mark.parametrize("named", [{}, {"Cache_Tag": "t"}])
async def test_old_answer_to_credentials_is_not_for_all(front, upstream, named):
    late = {"Cache-Control": "public, max-age=60", "Cache-Tag": "t"}
    await purged_meanwhile(
        front, upstream, late, lambda: front.get(PATH, Cookie="a=b"), **named
    )
    assert (await front.get(PATH)).body == b"new"


@pytest.mark.parametrize(("lines", "named"), BY, ids=IDS)
async def test_nobody_reads_along_after_a_purge(front, upstream, lines, named) -> None:
    """1. an old answer's head is here; 2. the purge returns; 3. a client asks."""
    gate = asyncio.Event()

    async def slowly(request: web.Request) -> web.StreamResponse:
        fields = {"Cache-Control": "max-age=60"} | lines
        answer = web.StreamResponse(headers=fields)
        await answer.prepare(request)
        await answer.write(b"old")
        await gate.wait()
        return answer

    upstream.answer = slowly
    lives = front.runner.handler._fetches._lives._lives
    old = asyncio.ensure_future(front.get(PATH, X_Kind="k"))
    await eventually(lambda: lives)
    await purge(front, **named)
    upstream.answer, upstream.body = upstream._plain, b"new"
    later = asyncio.ensure_future(front.get(PATH, X_Kind="k"))
    # of a label's purge it learns when the old answer's end is here
    await asyncio.wait({later}, timeout=0.2)
    gate.set()
    assert (await old).body == b"old"
    assert (await later).body == b"new"


async def test_clients_get_no_label_but_a_304_keeps_it(front, upstream) -> None:
    async def answer(request: web.Request) -> web.Response:
        fields = {"Cache-Control": "max-age=60", "ETag": '"1"', "Cache-Groups": '"g"'}
        if "If-None-Match" in request.headers:
            return web.Response(status=304, headers=fields)
        fields |= {"Cache-Tag": "t", "Surrogate-Key": "s"}
        return web.Response(body=upstream.body, headers=fields)

    upstream.answer = answer
    await warm(front)
    await purge(front, Shmcache_Purge="soft")
    asked = len(upstream.seen)
    await front.get(PATH)
    await eventually(lambda: len(upstream.seen) > asked)
    await idle(front)
    got = await front.get(PATH)
    assert "; hit" in got.told and got.fields["Cache-Groups"] == '"g"'
    assert not {"Cache-Tag", "Surrogate-Key"} & got.fields.keys()
    upstream.body = b"new"
    await purge(front, Cache_Tag="t")
    assert (await front.get(PATH)).body == b"new"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_label_of_what_is_not_stored_is_no_clients(front, upstream, method):
    upstream.fields = {"Cache-Control": "no-store", "Surrogate-Key": "s", "X-Kept": "1"}
    got = await front.ask(method, PATH)
    assert "Surrogate-Key" not in got.fields and got.fields["X-Kept"] == "1"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        *((("Range", "bytes=0-1"), 206), (("Range", "bytes=0-0,2-3"), 206)),
        *((("Range", "bytes=900-"), 416), (("If-None-Match", '"a"'), 304)),
    ],
)
async def test_label_of_what_is_stored_is_no_clients(front, upstream, line, status):
    upstream.fields |= {"Cache-Tag": "t", "Surrogate-Key": "s", "ETag": '"a"'}
    await warm(front)
    for method in ("GET", "HEAD"):
        got = await front.ask(method, PATH, headers=dict([line]))
        assert got.status in (200, status) and "hit" in got.told
        assert not {"Cache-Tag", "Surrogate-Key"} & got.fields.keys()
    assert (await front.ask("GET", PATH, headers=dict([line]))).status == status


def parted(upstream: Upstream, gate: asyncio.Event) -> None:
    """An origin with parts; the whole of it takes its time."""

    async def answer(request: web.Request) -> web.Response:
        text, fields = str(len(upstream.seen)), {"Cache-Control": "max-age=60"}
        if "Range" in request.headers:
            fields["Content-Range"] = "bytes 0-0/2"
            return web.Response(status=206, text=text, headers=fields)
        await gate.wait()
        return web.Response(text=text, headers=fields)

    upstream.answer = answer


async def test_purge_is_of_parts_too_though_their_list_comes_back(front, upstream):
    """1. A part is stored. 2. The whole is asked for. 3. The URL is purged. 4. The
    whole comes, and is listed among the variants that were known at 2."""
    gate = asyncio.Event()
    parted(upstream, gate)
    await warm(front, Range="bytes=0-0")
    whole = asyncio.ensure_future(front.get(PATH))
    await eventually(lambda: len(upstream.seen) == 2)
    await purge(front)
    gate.set()
    await whole
    await idle(front)
    assert (await front.get(PATH, Range="bytes=0-0")).body == b"3"
    assert (await front.get(PATH)).body == b"4"


async def test_part_is_purged_softly_with_its_url(front, upstream) -> None:
    parted(upstream, asyncio.Event())
    await warm(front, Range="bytes=0-0")
    await purge(front, Shmcache_Purge="soft")
    assert (await front.get(PATH, Range="bytes=0-0")).body == b"2"


@pytest.mark.parametrize("how", ["soft=?0", "soft"])
async def test_answer_to_a_post_is_not_stored_over_a_purge_of_its_tag(
    front, upstream, how
) -> None:
    """1. It is asked for. 2. The origin has begun it. 3. Its label is purged."""
    gate = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await gate.wait()
        fields = {"Content-Location": PATH, "Cache-Tag": "x"}
        return web.Response(headers=fields | {"Cache-Control": "max-age=60"})

    upstream.answer = answer
    posted = asyncio.ensure_future(front.ask("POST", PATH))
    await eventually(lambda: upstream.seen)
    await purge(front, Cache_Tag="x", Shmcache_Purge=how)
    gate.set()
    await posted
    await idle(front)
    assert "miss" in (await front.get(PATH)).told
