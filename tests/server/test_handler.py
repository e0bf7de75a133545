"""The slow lane as a client sees it, before a real origin."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import http_sf
import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from shmcache_server.config import Config
from shmcache_server.key import Keys, credentialed, gzipped
from shmcache_server.tables import CachingConfig, OriginConfig
from shmcache_server.tags import of_path
from tests.server.conftest import (
    Front,
    RawOrigin,
    Upstream,
    eventually,
    fronting,
    idle,
)


def parsed(told: str) -> tuple[str, dict[str, Any]]:
    """Our member of a Cache-Status, as RFC 9651 reads it."""
    (name, parameters) = http_sf.parse(told.encode(), tltype="list")[-1]
    return str(name), dict(parameters)


# -- hits


async def test_second_get_is_a_hit(front: Front, upstream: Upstream) -> None:
    first, second = await front.get("/a?b=c"), await front.get("/a?b=c")
    assert first.body == second.body == b"hello"
    assert first.told == "shmcache; fwd=miss; stored"
    assert parsed(second.told) == ("shmcache", {"hit": True, "ttl": 59})
    assert "Age" not in first.fields and second.fields["Age"] == "0"
    assert second.fields["Content-Length"] == "5"
    assert [s.target for s in upstream.seen] == ["/a?b=c"]


async def test_hit_has_the_fields_of_the_origin(front, upstream) -> None:
    upstream.fields |= {"X-Thing": "a, b", "ETag": '"1"', "Content-Type": "text/x"}
    await front.get()
    hit = await front.get()
    assert {n: hit.fields[n] for n in ("X-Thing", "ETag", "Content-Type")} == {
        "X-Thing": "a, b",
        "ETag": '"1"',
        "Content-Type": "text/x",
    }
    assert hit.fields["Via"] == "1.1 shmcache"


async def test_age_of_the_origin_counts(front, upstream) -> None:
    upstream.fields["Age"] = "50"
    first, second = await front.get(), await front.get()
    assert first.fields["Age"] == "50"
    assert int(second.fields["Age"]) in (50, 51)
    assert parsed(second.told)[1]["ttl"] in (8, 9)


async def test_age_beyond_reason_is_capped() -> None:
    said = (
        b"HTTP/1.1 200 OK\r\nAge: " + b"9" * 5000 + b"\r\nContent-Length: 2\r\n\r\nhi"
    )
    async with RawOrigin(said).open() as origin, fronting(origin.url) as front:
        got = await front.get()
        assert (got.status, got.fields["Age"]) == (200, str(2**31))


@pytest.mark.parametrize("same", ["127.0.0.1", "127.0.0.1:1", "127.0.0.1:"])
async def test_port_of_the_host_is_not_in_the_key(front, upstream, same) -> None:
    await front.get()
    assert "hit" in (await front.get(Host=same)).told
    assert upstream.seen[0].fields["X-Forwarded-Host"] == "127.0.0.1"


async def test_other_host_is_another_key(front, upstream) -> None:
    await front.get(Host="a.example")
    assert "hit" not in (await front.get(Host="b.example")).told
    assert "hit" in (await front.get(Host="A.Example")).told


async def test_long_urls_that_differ_at_the_end_differ(front, upstream) -> None:
    one, other = "/" + "x" * 3000 + "1", "/" + "x" * 3000 + "2"
    await front.get(one)
    assert "hit" not in (await front.get(other)).told
    assert "hit" in (await front.get(one)).told


async def test_encodings_are_stored_apart_and_normalised(front, upstream) -> None:
    upstream.fields["Vary"] = "Accept-Encoding"
    await front.get(Accept_Encoding="gzip, deflate, br")
    assert "hit" in (await front.get(Accept_Encoding="br;q=1, gzip;q=0.5")).told
    assert "hit" not in (await front.get(Accept_Encoding="br")).told
    assert "hit" in (await front.get()).told
    asked = [s.fields["Accept-Encoding"] for s in upstream.seen]
    assert asked == ["gzip", "identity"]


async def test_head_is_answered_from_a_stored_get(front, upstream) -> None:
    await front.get()
    head = await front.ask("HEAD")
    assert "hit" in head.told and head.body == b""
    assert head.fields["Content-Length"] == "5"
    assert len(upstream.seen) == 1


async def test_204_is_stored_without_a_length(front, upstream) -> None:
    upstream.status, upstream.body = 204, b""
    first, hit = await front.get(), await front.get()
    assert hit.status == 204 and "hit" in hit.told
    assert "Content-Length" not in first.fields and "Content-Length" not in hit.fields


async def test_condition_on_a_miss_fetches_the_whole(front, upstream) -> None:
    upstream.fields["ETag"] = '"one"'
    await front.get(If_None_Match='"one"')
    assert "If-None-Match" not in upstream.seen[0].fields
    assert (await front.get()).body == b"hello"


# -- what is not shared


@pytest.mark.parametrize(
    "fields",
    [
        {"Cache-Control": "no-store"},
        {"Cache-Control": "private, max-age=60"},
        {"Cache-Control": "no-cache, max-age=60"},
        {"Cache-Control": "max-age=60; private"},
        {"Cache-Control": 'max-age=60, x="open'},
        {"Cache-Control": "max-age=60", "Set-Cookie": "a=b"},
        {"Cache-Control": "max-age=60", "Vary": "*"},
        {"Cache-Control": "max-age=60", "Age": "61"},
        {},
    ],
    ids=lambda fields: "-".join(fields.values()) or "nothing",
)
async def test_answer_that_may_not_be_shared_is_not(front, upstream, fields) -> None:
    upstream.fields = fields
    for _ in range(2):
        assert (await front.get()).told == "shmcache; fwd=miss"
    assert len(upstream.seen) == 2


async def test_private_answers_reach_their_own_clients(front, upstream) -> None:
    async def whoami(request: web.Request) -> web.Response:
        return web.Response(
            text=request.headers["X-Me"], headers={"Cache-Control": "private"}
        )

    upstream.answer = whoami
    names = [f"user{i}" for i in range(20)]
    got = await asyncio.gather(*(front.get(X_Me=name) for name in names))
    assert [g.body.decode() for g in got] == names


@pytest.mark.parametrize(
    ("field", "said", "shared"),
    [
        ("Authorization", "max-age=60", False),
        ("Authorization", "max-age=60, public", True),
        ("Authorization", "s-maxage=60", True),
        ("Authorization", "max-age=60, must-revalidate", True),
        ("Cookie", "max-age=60", False),
        ("Cookie", "max-age=60, public", True),
        ("Cookie", "max-age=60, must-revalidate", False),
    ],
)
async def test_answer_to_a_known_client(front, upstream, field, said, shared) -> None:
    upstream.fields["Cache-Control"] = said
    await front.get(**{field: "secret=1"})
    assert ("hit" in (await front.get(**{field: "secret=2"})).told) is shared
    assert ("hit" in (await front.get()).told) is shared
    assert "hit" in (await front.get(**{field: "secret=3"})).told, "what is for all"


@pytest.mark.parametrize("said", ["max-age=60", "private"])
@pytest.mark.parametrize("field", ["Cookie", "Authorization"])
async def test_known_client_has_no_others_fetch_for_themselves(
    front, upstream, field, said
) -> None:
    """Its answer is refused to the cache; those of the others behind it are shared."""
    slow = Slow()

    async def answer(request: web.Request) -> web.StreamResponse:
        known = field in request.headers
        slow.fields = {"Cache-Control": said if known else "max-age=60"}
        return await slow(request)

    upstream.answer = answer
    asking = [asyncio.ensure_future(front.get(**{field: "secret=1"}))]
    await eventually(lambda: upstream.seen)
    asking += [asyncio.ensure_future(front.get()) for _ in range(50)]
    await eventually(lambda: len(upstream.seen) == 2)
    slow.head.set()
    slow.tail.set()
    assert {g.body for g in await asyncio.gather(*asking)} == {b"first,second"}
    assert "hit" in (await front.get()).told
    assert len(upstream.seen) == 2


async def test_known_clients_share_what_is_for_all(front, upstream) -> None:
    upstream.answer = slow = Slow(**{"Cache-Control": "max-age=60, public"})
    asking = [asyncio.ensure_future(front.get(Cookie=f"a={i}")) for i in range(50)]
    await eventually(lambda: upstream.seen)
    slow.head.set()
    slow.tail.set()
    await asyncio.gather(*asking)
    assert len(upstream.seen) == 1


async def test_long_url_of_a_known_client_has_its_own_key(front, upstream) -> None:
    upstream.fields["Cache-Control"] = "max-age=60"
    for path in ("/" + "x" * 3000, "/" + "x" * (1024 - len(front.key("/")))):
        assert "hit" not in (await front.get(path, Cookie="a=1")).told
        assert "hit" not in (await front.get(path)).told


async def test_default_ttl_for_answers_that_say_nothing(upstream) -> None:
    upstream.fields = {}
    async with fronting(upstream.url, default_ttl=60.0) as front:
        await front.get()
        assert "hit" in (await front.get()).told


async def test_no_store_request_leaves_nothing(front, upstream) -> None:
    assert (await front.get(Cache_Control="no-store")).told == "shmcache; fwd=bypass"
    assert "hit" not in (await front.get()).told


HEEDING = Config(caching=CachingConfig(request_directives=True))


@pytest.fixture
async def heeding(upstream: Upstream) -> AsyncIterator[Front]:
    """A front that heeds what clients say of caching."""
    async with fronting(upstream.url, settings=HEEDING) as front:
        yield front


@pytest.mark.parametrize(
    ("field", "said", "hit"),
    [
        ("Cache-Control", "no-cache", False),
        ("Cache-Control", "max-age=9", False),
        ("Cache-Control", "max-age=20", True),
        ("Cache-Control", "min-fresh=55", False),
        ("Cache-Control", "min-fresh=20", True),
        ("Cache-Control", "no-store", True),
        ("Cache-Control", "only-if-cached, max-age=20", True),
        ("Cache-Control", "no-transform", True),
        ("Pragma", "no-cache", False),
    ],
)
async def test_directives_of_a_client_are_heeded_on_request(
    heeding, upstream, field, said, hit
) -> None:
    upstream.fields["Age"] = "10"
    for _ in range(3):  # by either lane: the first one teaches the fast lane
        await heeding.get()
    asked = len(upstream.seen)
    for _ in range(2):
        got = await heeding.ask("GET", headers={field: said})
        assert got.body == b"hello"
        assert ("hit" in got.told) is hit
        assert hit or got.told == "shmcache; fwd=request"
    assert len(upstream.seen) == asked + (0 if hit else 2)
    assert hit or upstream.seen[-1].fields[field] == said
    assert "hit" in (await heeding.get()).told, "the others keep what they have"


@pytest.mark.parametrize("said", ["no-cache", "max-age=0", "min-fresh=99"])
async def test_directives_of_a_client_hinder_no_hit_else(front, upstream, said) -> None:
    await front.get()
    for _ in range(3):
        got = await front.ask("GET", headers={"Cache-Control": said, "Pragma": said})
        assert "hit" in got.told
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("said", "code"),
    [("max-stale", 200), ("max-stale=9", 504), ("max-stale=99", 200), ("", 504)],
)
@pytest.mark.parametrize("forbidden", ["", ", must-revalidate"])
async def test_max_stale_gets_what_is_past_its_time(
    heeding, upstream, said, code, forbidden
) -> None:
    upstream.fields |= {"Cache-Control": "max-age=60" + forbidden, "Age": "70"}
    upstream.fields["ETag"] = '"1"'
    await heeding.get()
    await eventually(lambda: heeding.cache.entry(heeding.key("/")))
    got = await heeding.get(Cache_Control=f"only-if-cached, {said}")
    assert got.status == (504 if forbidden else code)
    assert len(upstream.seen) == 1


async def test_max_stale_does_not_get_what_was_made_void(heeding, upstream) -> None:
    await heeding.get()
    await heeding.cache.expire(heeding.key("/"))
    got = await heeding.get(Cache_Control="only-if-cached, max-stale")
    assert got.status == 504


async def test_no_cache_is_fetched_and_stored_where_nothing_is(
    heeding, upstream
) -> None:
    first = await heeding.get(Cache_Control="no-cache")
    assert first.told == "shmcache; fwd=miss; stored"
    assert "hit" in (await heeding.get()).told


@pytest.mark.parametrize("etag", ['"1"', '"2"'])
async def test_head_that_disagrees_makes_what_is_fresh_stale(
    heeding, upstream, etag
) -> None:
    upstream.fields |= {"Cache-Control": "max-age=60, stale-while-revalidate=60"}
    upstream.fields["ETag"] = '"1"'
    await heeding.get()
    upstream.fields["ETag"] = etag
    got = await heeding.ask("HEAD", headers={"Cache-Control": "no-cache"})
    assert got.told == "shmcache; fwd=request"
    await idle(heeding)
    state = heeding.cache.entry(heeding.key("/")).state
    assert state == ("fresh" if etag == '"1"' else "stale")


async def test_what_another_host_has_is_judged_as_wished(upstream, server) -> None:
    upstream.fields["Age"] = "10"
    url, l2 = upstream.url, server.url
    async with (
        fronting(url, settings=HEEDING, l2=l2) as one,
        fronting(url, settings=HEEDING, l2=l2) as other,
    ):
        await one.get()
        await eventually(lambda: not one.cache._flights._flights)
        got = await other.get(Cache_Control="max-age=5")
        assert got.told == "shmcache; fwd=request"
        assert "hit" in (await other.get(Cache_Control="max-age=50")).told
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("vary", ["", "X-Lang"])
async def test_only_if_cached_gets_what_another_host_has(
    upstream, server, vary
) -> None:
    upstream.fields |= {"Vary": vary} if vary else {}
    async with (
        fronting(upstream.url, l2=server.url) as one,
        fronting(upstream.url, l2=server.url) as other,
    ):
        path = f"/{vary}"
        await one.get(path)
        await eventually(lambda: not one.cache._flights._flights)
        await idle(one)
        got = await other.get(path, Cache_Control="only-if-cached", Cookie="a=b")
        assert (got.status, "hit" in got.told) == (200, True)
    assert len(upstream.seen) == 1


async def test_only_if_cached_is_heeded_where_nothing_is_cached(
    front, upstream
) -> None:
    headers = {"Cache-Control": "only-if-cached", "If-Match": '"1"'}
    assert (await front.ask("GET", headers=headers)).status == 504
    assert not upstream.seen


async def test_only_if_cached_asks_no_origin(front, upstream) -> None:
    assert (await front.get(Cache_Control="only-if-cached")).status == 504
    assert upstream.seen == []


# -- collapsing and streaming


class Slow:
    """An answer of two chunks, each sent when it is let go."""

    def __init__(self, **fields: str) -> None:
        self.head, self.tail = asyncio.Event(), asyncio.Event()
        self.fields = {"Cache-Control": "max-age=60"} | fields

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        await self.head.wait()
        response = web.StreamResponse(headers=self.fields)
        await response.prepare(request)
        await response.write(b"first,")
        await self.tail.wait()
        await response.write(b"second")
        return response


async def test_many_clients_one_origin_request(front, upstream) -> None:
    upstream.answer = slow = Slow()
    asking = [asyncio.ensure_future(front.get()) for _ in range(50)]
    await eventually(lambda: upstream.seen)
    slow.head.set()
    slow.tail.set()
    got = await asyncio.gather(*asking)
    assert {g.body for g in got} == {b"first,second"}
    assert len(upstream.seen) == 1
    told = sorted(g.told for g in got)
    assert told == ["shmcache; fwd=miss; collapsed"] * 49 + [
        "shmcache; fwd=miss; stored"
    ]


async def test_body_reaches_all_waiters_while_it_comes(front, upstream) -> None:
    upstream.answer = slow = Slow()
    slow.head.set()
    async with (
        front.session.get(front.url) as one,
        front.session.get(front.url) as other,
    ):
        for answer in (one, other):
            assert await answer.content.readexactly(6) == b"first,"
        assert not slow.tail.is_set() and len(upstream.seen) == 1
        slow.tail.set()
        assert await one.read() == await other.read() == b"second"
    await eventually(lambda: front.cache.entry(front.key("/", "gzip")))
    assert (await front.get(Accept_Encoding="gzip")).body == b"first,second"


async def test_client_that_leaves_does_not_stop_the_fetch(front, upstream) -> None:
    upstream.answer = slow = Slow()
    asking = asyncio.ensure_future(front.get())
    await eventually(lambda: upstream.seen)
    asking.cancel()
    slow.head.set()
    slow.tail.set()
    await eventually(lambda: front.cache.entry(front.key("/")))
    assert "hit" in (await front.get()).told


async def test_get_after_a_purge_is_not_given_the_older_fetch(front, upstream) -> None:
    upstream.answer = slow = Slow()
    slow.head.set()
    async with front.session.get(
        front.url, skip_auto_headers=("Accept-Encoding",)
    ) as a:
        assert await a.content.readexactly(6) == b"first,"
        await front.cache.delete(front.key("/"))
        later = asyncio.ensure_future(front.get())
        await eventually(lambda: len(upstream.seen) == 2)
        slow.tail.set()
        assert (await later).told == "shmcache; fwd=miss; stored"
        assert await a.read() == b"second"


@pytest.mark.parametrize(
    ("path", "by_tag", "told"),
    [("/", False, ""), ("/", True, ""), ("/other", False, "; stored")],
)
async def test_fill_that_will_be_refused_is_not_told_as_stored(
    front, upstream, path, by_tag, told
) -> None:
    upstream.answer = slow = Slow()
    slow.tail.set()
    asking = asyncio.ensure_future(front.get())
    await eventually(lambda: upstream.seen)
    if by_tag:
        await front.cache.delete_tags(of_path("127.0.0.1", path, 4)[0])
    else:
        await front.cache.delete(front.key(path))
    slow.head.set()
    assert (await asking).told == f"shmcache; fwd=miss{told}"


async def test_fields_that_leave_no_room_for_a_body_are_not_told_as_stored(
    upstream,
) -> None:
    upstream.fields |= {f"X-{i}": "x" * 7000 for i in range(3)}
    async with fronting(upstream.url) as front:
        room = front.cache.stats().value_max - sum(map(len, upstream.fields.values()))
        for size, kept in ((room - 1000, False), (room - 60_000, True)):
            upstream.body = bytes(size)
            assert ("stored" in (await front.get(f"/{size}")).told) is kept
            assert ("hit" in (await front.get(f"/{size}")).told) is kept
        assert front.cache.stats().too_large == 0, "known before it was tried"


async def test_body_beyond_the_limit_is_passed_on_whole(front, upstream) -> None:
    upstream.body = bytes(range(256)) * 8192
    for _ in range(2):
        got = await front.get()
        assert got.body == upstream.body and got.told == "shmcache; fwd=miss"
    assert len(upstream.seen) == 2


async def test_chunked_body_beyond_the_limit_is_passed_on_whole(front, upstream):
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=upstream.fields)
        await response.prepare(request)
        for i in range(64):
            await response.write(bytes([i]) * 65536)
        return response

    upstream.answer = answer
    got = await front.get()
    assert got.body == b"".join(bytes([i]) * 65536 for i in range(64))
    assert front.cache.entry(front.key("/")) is None


# -- stale


async def _stale(front: Front, upstream: Upstream) -> None:
    upstream.fields["Cache-Control"] = "max-age=1, stale-while-revalidate=60"
    await front.get()
    key = front.key("/")
    await eventually(lambda: front.cache.entry(key).state == "stale")


async def test_stale_hit_starts_one_refresh(front, upstream) -> None:
    await _stale(front, upstream)
    upstream.answer = slow = Slow()
    got = await asyncio.gather(*(front.get() for _ in range(10)))
    assert {g.body for g in got} == {b"hello"}
    assert {parsed(g.told)[1]["ttl"] for g in got} == {-1}
    await eventually(lambda: len(upstream.seen) == 2)
    slow.head.set()
    slow.tail.set()
    await eventually(lambda: front.cache.entry(front.key("/")).state == "fresh")
    assert (await front.get()).body == b"first,second"
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("field", ["Cookie", "Authorization"])
async def test_refresh_is_asked_in_nobodys_name(front, upstream, field) -> None:
    await _stale(front, upstream)
    upstream.body = b"again"
    upstream.fields["Cache-Control"] = "max-age=60"
    assert (await front.get(**{field: "secret=1"})).body == b"hello"
    await eventually(lambda: front.cache.entry(front.key("/")).state == "fresh")
    assert field not in upstream.seen[1].fields
    assert (await front.get()).body == b"again"


async def test_refresh_that_lacks_credentials_leaves_the_stale_record(
    front, upstream
) -> None:
    fields = upstream.fields
    fields["Cache-Control"] = "public, max-age=1, stale-while-revalidate=60"
    await front.get(Authorization="Basic x")
    keys = [front.key("/"), credentialed(front.key("/"))]
    await eventually(lambda: {front.cache.entry(k).state for k in keys} == {"stale"})
    upstream.status, upstream.body = 401, b"who are you?"
    assert (await front.get(Authorization="Basic x")).status == 200
    await eventually(lambda: len(upstream.seen) == 2)
    await eventually(lambda: not front.cache._flights._flights)
    assert (await front.get(Authorization="Basic x")).body == b"hello"


async def test_refresh_that_fails_leaves_the_stale_record(front, upstream) -> None:
    await _stale(front, upstream)
    upstream.status, upstream.body = 503, b"broken"
    assert (await front.get()).body == b"hello"
    await eventually(lambda: len(upstream.seen) == 2)
    got = await front.get()
    assert got.status == 200 and got.body == b"hello"


async def test_refresh_of_what_another_host_had_leaves_the_stale_record(
    upstream, server
) -> None:
    upstream.fields["Cache-Control"] = "max-age=1, stale-while-revalidate=60"
    async with (
        fronting(upstream.url, l2=server.url) as one,
        fronting(upstream.url, l2=server.url) as other,
    ):
        await one.get("/l2")
        key = one.key("/l2")
        await eventually(lambda: (e := one.cache.entry(key)) and e.state == "stale")
        upstream.status, upstream.body = 500, b"broken"
        for _ in range(2):
            got = await other.get("/l2")
            assert (got.status, got.body) == (200, b"hello")
            await eventually(lambda: not other.cache._flights._flights)
        assert len(upstream.seen) == 2


async def test_dead_record_is_told_as_stale(front, upstream) -> None:
    upstream.fields["Cache-Control"] = "max-age=1"
    await front.get()
    key = front.key("/")
    await eventually(lambda: front.cache.entry(key).state == "dead")
    assert (await front.get()).told == "shmcache; fwd=stale; stored"


# -- fields


async def test_fields_of_one_connection_stay_there(front, upstream) -> None:
    upstream.fields |= {"Connection": "X-Hop", "X-Hop": "1", "Keep-Alive": "timeout=1"}
    got = await front.get(Connection="X-Mine", X_Mine="1", TE="trailers", X_End="1")
    seen = upstream.seen[0].fields
    assert "X-Mine" not in seen and "TE" not in seen and seen["X-End"] == "1"
    for fields in (got.fields, (await front.get()).fields):
        assert "X-Hop" not in fields and "Keep-Alive" not in fields


@pytest.mark.parametrize(
    "field",
    [
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-For",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-Forwarded-Port",
        "Forwarded",
    ],
)
async def test_unkeyed_input_does_not_reach_the_origin(front, upstream, field) -> None:
    await front.get(**{field: "evil"})
    assert "evil" not in upstream.seen[0].fields.get(field, "")
    assert upstream.seen[0].fields["X-Forwarded-For"] == "127.0.0.1"
    assert upstream.seen[0].fields["Via"] == "1.1 shmcache"


# -- refusals


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"GET http://evil.example/ HTTP/1.1", b"400"),
        (b"GET /a#b HTTP/1.1", b"400"),
        (b"GET * HTTP/1.1", b"400"),
        (b"TRACE / HTTP/1.1", b"405"),
        (b"CONNECT a:1 HTTP/1.1", b"501"),
        (b"GET /", b"505"),
        (b"GET / HTTP/2.0", b"505"),
        (b"CONNECT \nX: HTTP/1.1", b"505"),
    ],
    ids=[
        *("absolute", "fragment", "star", "trace", "connect", "0.9", "2.0"),
        "no target",
    ],
)
async def test_request_without_a_key_is_refused(front, upstream, line, code) -> None:
    got = await front.raw(line + b"\r\nHost: a\r\n\r\n")
    assert got.split()[1] == code
    assert upstream.seen == []


async def test_bad_request_is_no_traceback(front, caplog) -> None:
    caplog.set_level("INFO")
    got = await front.raw(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
    assert got.split()[1] == b"400"
    assert not any(r.exc_info for r in caplog.records) and len(caplog.records) <= 1


@pytest.mark.parametrize("target", ["/x?", "/x", "/?", "/a/../b?c=%2f&&"])
async def test_target_reaches_the_origin_as_it_stands(front, upstream, target) -> None:
    await front.raw(
        f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    )
    assert [s.target for s in upstream.seen] == [target]


async def test_bad_host_is_refused(front, upstream) -> None:
    assert (await front.get(Host="a/b")).status == 400


async def test_own_paths_tell_health_and_readiness(front, upstream) -> None:
    assert (await front.get("/healthz")).status == 200
    assert (await front.get("/readyz")).status == 200
    front.runner.handler.ready = False
    assert (await front.get("/healthz")).status == 200
    assert (await front.get("/readyz")).status == 503
    assert upstream.seen == []


# -- an origin by a socket of the host


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
async def test_origin_may_be_a_socket_of_this_host(tmp_path, abstract) -> None:
    seen = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers["Host"])
        return web.Response(text="hello", headers={"Cache-Control": "max-age=60"})

    name = f"@shmcache-{tmp_path.name}-{os.getpid()}"
    address = "\0" + name[1:] if abstract else str(tmp_path / "app.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.SockSite(runner, listener).start()
    try:
        async with fronting(f"unix://{name if abstract else address}") as front:
            for _ in range(2):
                assert (await front.get("/a")).body == b"hello"
        assert seen == ["localhost"]
    finally:
        await runner.cleanup()


async def test_lifetime_may_be_less_than_a_second(front, upstream) -> None:
    upstream.fields = {"Shmcache-Cache-Control": "max-age-ms=300"}
    assert (await front.get("/a")).told == "shmcache; fwd=miss; stored"
    assert (await front.get("/a")).told.startswith("shmcache; hit")
    ttl = front.cache.entry(front.key("/a")).ttl
    assert 0 < ttl <= 0.3
    await asyncio.sleep(ttl)
    assert (await front.get("/a")).told.startswith("shmcache; fwd=stale")
    assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    ("more", "fetched"),
    [
        ({}, 1),
        ({"Vary": "Accept-Encoding"}, 2),
        ({"Content-Encoding": "gzip"}, 2),
        ({"Cache-Control": "max-age=0", "ETag": '"a"'}, 2),
    ],
    ids=["plain", "varies", "coded", "to be validated"],
)
async def test_part_without_coding_is_of_what_was_stored_for_gzip(
    front, upstream, more, fetched
) -> None:
    upstream.fields = {"Cache-Control": "max-age=60"} | more
    await front.get("/a", Accept_Encoding="gzip, deflate")
    got = await front.get("/a", Accept_Encoding="identity", Range="bytes=1-2")
    assert len(upstream.seen) == fetched
    if fetched == 1:
        assert (got.status, got.body) == (206, b"el")


def test_key_for_gzip_is_that_of_the_same_url() -> None:
    keys = Keys(Config(origin=OriginConfig(url="http://origin")))

    def key(accept: str, path: str) -> str:
        fields = CIMultiDict({"Host": "a", "Accept-Encoding": accept})
        return keys.of(CIMultiDictProxy(fields), path)

    assert gzipped(key("identity", "/a?b")) == key("gzip", "/a?b")
    assert gzipped(key("identity", "/" + "a" * 2000)) is None
