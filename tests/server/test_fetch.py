"""Misses that share a fetch: what `test_handler.py` cannot see from outside."""

from __future__ import annotations

import asyncio
import os
import random

import pytest
from aiohttp import web

from shmcache_server.config import CachingConfig, Config
from shmcache_server.origins import OriginError
from shmcache_server.tags import of_path, of_url
from tests.server.conftest import Front, Upstream, eventually, fronting
from tests.server.test_live import Body, live_of

MODIFIED = "Sun, 29 Nov 2026 01:00:00 GMT"


async def idle(front: Front) -> None:
    await eventually(lambda: not front.runner.handler._fetches._tasks)


async def test_nothing_is_kept_of_a_fetch_that_ended(front: Front, upstream) -> None:
    await asyncio.gather(*(front.get(f"/{i}") for i in range(20)))
    upstream.fields = {"Cache-Control": "private"}
    await asyncio.gather(*(front.get("/p") for i in range(20)))
    fetches = front.runner.handler._fetches
    await eventually(lambda: not fetches._tasks)
    assert not fetches._lives and not fetches._joining


@pytest.mark.parametrize(
    ("error", "heard"), [(OriginError("gone"), 0), (KeyError("ours"), 1)], ids=repr
)
async def test_failure_that_is_ours_is_heard(front, caplog, error, heard) -> None:
    async def fail() -> None:
        raise error

    caplog.clear()
    front.runner.handler._fetches._keep(fail())
    await idle(front)
    assert [r.exc_info[1] for r in caplog.records] == [error] * heard


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
            (coming,) = front.runner.handler._fetches._lives.values()
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


async def test_body_above_the_limit_passes_through(upstream: Upstream) -> None:
    async with fronting(upstream.url) as front:
        upstream.body = os.urandom(front.cache.stats().value_max + 1)
        for asked in (1, 2):
            got = await front.get()
            assert got.told == "shmcache; fwd=miss" and got.body == upstream.body
            assert len(upstream.seen) == asked
        assert front.cache.stats().too_large == 0, "known before it was tried"


# -- validation


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


async def test_too_large_a_response_for_all_leaves_no_mark(front, upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "public, max-age=60"})
        await response.prepare(request)
        for _ in range(40):
            await response.write(bytes(65536))
        return response

    upstream.answer = answer
    await front.get(Cookie="a=b")
    await idle(front)
    assert front.cache.stats().passed == 1, "under the key of who bears credentials"


@pytest.mark.parametrize(
    "field", [{"Cookie": "a=b"}, {"Foo": "1"}], ids=["for all", "variant"]
)
@pytest.mark.parametrize("purged", [True, False])
async def test_what_was_softly_purged_is_not_fresh_elsewhere(
    front, upstream, field, purged
) -> None:
    """1. A fetch begins. 2. What it brings is softly purged. 3. The flight that is to
    store it elsewhere begins, and is younger than both."""
    said = "public, max-age=60, stale-while-revalidate=60"
    upstream.fields = {"Cache-Control": said}
    if "Foo" in field:
        upstream.fields["Vary"] = "Foo"
    gate = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return await upstream._plain(request)

    upstream.answer = answer
    asking = asyncio.ensure_future(front.ask("GET", headers=field))
    await eventually(lambda: upstream.seen)
    if purged:
        await front.cache.expire_tags(of_path("127.0.0.1", "/", 4)[0])
    gate.set()
    await asking
    await idle(front)
    again = {name: value for name, value in field.items() if name != "Cookie"}
    assert ("ttl=59" in (await front.ask("GET", headers=again)).told) is not purged


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


@pytest.mark.parametrize(
    "field", [{"Cookie": "a=b"}, {"If-Range": '"1"', "Range": "bytes=0-0"}]
)
async def test_stale_for_all_in_place_of_an_error(front, upstream, field) -> None:
    await headed(front, upstream)

    async def fail(request: web.Request) -> web.Response:
        request.transport.abort()
        return web.Response()

    upstream.answer = fail
    got = await front.ask("GET", headers=field)
    assert got.body == (b"o" if "Range" in field else b"one")
    assert got.told.startswith("shmcache; hit; ttl=-")


# -- stale in place of an error


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("max-age=1", 502),
        ("max-age=1, must-revalidate", 502),
        ("max-age=1, stale-if-error=60", 503),
    ],
)
async def test_stale_in_place_of_an_error(front, upstream, said, status) -> None:
    upstream.fields = {"Cache-Control": said, "Age": "1", "ETag": '"1"'}
    await front.get()

    async def fail(request: web.Request) -> web.Response:
        if status == 503:
            return web.Response(status=503, text="sorry")
        request.transport.abort()
        return web.Response()

    upstream.answer = fail
    got = await front.get()
    if "must-revalidate" in said:
        assert got.status == 502
    else:
        assert (got.status, got.body) == (200, b"hello")
        assert got.told.startswith("shmcache; hit; ttl=-")


async def test_answer_with_5xx_is_passed_on_after_its_window(front, upstream) -> None:
    """The longer window is for an origin that does not answer."""
    said = {"Cache-Control": "max-age=60, stale-if-error=10", "ETag": '"1"'}
    for age, status in (("60", 200), ("71", 500)):
        upstream.status, upstream.fields = 200, said | {"Age": age}
        await front.get(f"/{age}")
        await idle(front)
        upstream.status = 500
        assert (await front.get(f"/{age}")).status == status


async def test_error_without_leave_is_passed_on(front, upstream) -> None:
    upstream.fields = {"Cache-Control": "max-age=1", "Age": "1", "ETag": '"1"'}
    await front.get()
    upstream.status, upstream.fields = 503, {}
    assert (await front.get()).status == 503


# -- variants


async def test_variants_are_stored_side_by_side(front, upstream) -> None:
    async def answer(request: web.Request) -> web.Response:
        said = request.headers.get("Foo", "")
        return web.Response(
            text=said, headers={"Vary": "Foo", "Cache-Control": "max-age=60"}
        )

    upstream.answer = answer
    for _ in range(2):
        for said in ("1", "2", "3"):
            assert (await front.get(Foo=said)).body.decode() == said
    assert (await front.get()).body == b""
    assert len(upstream.seen) == 4
    assert "hit" in (await front.get(Foo="2")).told


async def test_variants_asked_for_at_once_are_not_mixed_up(front, upstream) -> None:
    """They wait for one flight, whose answer is another's."""
    gate = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await gate.wait()
        return web.Response(
            text=request.headers["Foo"],
            headers={"Vary": "Foo", "Cache-Control": "max-age=60"},
        )

    upstream.answer = answer
    asking = [asyncio.ensure_future(front.get(Foo=str(i % 5))) for i in range(50)]
    await eventually(lambda: upstream.seen)
    gate.set()
    got = await asyncio.gather(*asking)
    assert [g.body.decode() for g in got] == [str(i % 5) for i in range(50)]
    assert len(upstream.seen) <= 6


class Speaking:
    """An origin that answers in the language its client names first."""

    def __init__(self) -> None:
        self.fields = {"Vary": "Accept-Language", "Cache-Control": "max-age=60"}

    async def answer(self, request: web.Request) -> web.Response:
        language = request.headers["Accept-Language"].partition(",")[0]
        fields = self.fields | {"Content-Language": language}
        return web.Response(text=language, headers=fields)


@pytest.fixture
def speaking(upstream: Upstream) -> Speaking:
    upstream.answer = (speaking := Speaking()).answer
    return speaking


async def spoken(front: Front, accepted: str, **fields: str) -> tuple[str, bool]:
    """What a client that accepts these languages gets, and if it was stored."""
    got = await front.get(Accept_Language=accepted, **fields)
    await idle(front)
    return got.body.decode(), "hit" in got.told


async def test_variant_in_the_preferred_language_answers(front, speaking) -> None:
    """Beyond RFC 9111 §4.1: the language is all that the answer varies by."""
    for said in ("de, en", "en, fr;q=0.5"):
        await spoken(front, said)
    assert await spoken(front, "de, fr;q=0.5") == ("de", True)
    assert await spoken(front, "de;q=0.8, es;q=0.1") == ("de", True)
    assert await spoken(front, "es, de;q=0.9") == ("es", False)
    assert await spoken(front, "de-AT, de;q=0.9") == ("de-AT", False)
    assert await spoken(front, "de, fr") == ("de", False)  # neither is preferred
    assert await spoken(front, "de-AT, fr;q=0.1") == ("de-AT", True)


async def test_variant_in_a_language_is_of_the_other_fields(front, speaking) -> None:
    speaking.fields["Vary"] += ", Foo"
    await spoken(front, "de, en", Foo="1")
    assert await spoken(front, "de, fr;q=0.5", Foo="2") == ("de", False)
    assert await spoken(front, "de, it;q=0.5", Foo="1") == ("de", True)


async def test_variant_in_a_language_is_not_used_stale(front, speaking) -> None:
    """Its refresh would be of another request than its key is."""
    speaking.fields["Cache-Control"] = "max-age=0, stale-while-revalidate=60"
    await spoken(front, "de, en")
    assert await spoken(front, "de, fr;q=0.5") == ("de", False)


async def test_languages_are_matched_where_the_operator_lets(upstream) -> None:
    upstream.answer = Speaking().answer
    caching = CachingConfig(match_languages=False)
    async with fronting(upstream.url, settings=Config(caching=caching)) as front:
        await spoken(front, "de, en")
        assert await spoken(front, "de, fr;q=0.5") == ("de", False)


async def test_url_that_varies_by_more_than_before(front, upstream) -> None:
    names = "Foo"

    async def answer(request: web.Request) -> web.Response:
        told = request.headers.get("Foo", "") + request.headers.get("Bar", "")
        return web.Response(
            text=told, headers={"Vary": names, "Cache-Control": "max-age=60"}
        )

    upstream.answer = answer
    assert (await front.get(Foo="1", Bar="a")).body == b"1a"
    names = "Foo, Bar"
    assert (await front.get(Foo="2", Bar="a")).body == b"2a"
    assert (await front.get(Foo="2", Bar="b")).body == b"2b"
    await eventually(lambda: not front.runner.handler._fetches._tasks)
    assert "hit" in (await front.get(Foo="2", Bar="b")).told
    assert "hit" in (await front.get(Foo="1", Bar="z")).told


async def test_list_of_a_purged_url_is_not_stored_again(front, upstream) -> None:
    """The fetch that had begun before the purge has seen more names to vary by."""
    gate = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        names = "Foo"
        if request.headers.get("Foo") == "slow":
            await gate.wait()
            names = "Foo, Bar"
        fields = {"Vary": names, "Cache-Control": "max-age=60"}
        return web.Response(text=request.headers["Foo"], headers=fields)

    upstream.answer = answer
    await front.get(Foo="1")
    await idle(front)
    asking = asyncio.ensure_future(front.get(Foo="slow"))
    await eventually(lambda: len(upstream.seen) == 2)
    await front.cache.delete(front.key("/"))
    await front.get(Foo="2")
    await idle(front)
    gate.set()
    assert (await asking).body == b"slow"
    await idle(front)
    assert "hit" in (await front.get(Foo="2")).told
    assert "hit" not in (await front.get(Foo="1")).told


async def test_unsafe_method_makes_all_variants_void(front, upstream) -> None:
    upstream.fields = {"Vary": "Foo", "Cache-Control": "max-age=60"}
    for said in ("1", "2"):
        await front.get(Foo=said)
    await front.ask("POST")
    upstream.body = b"new"
    for said in ("1", "2"):
        assert (await front.get(Foo=said)).body == b"new"


async def test_unsafe_method_makes_void_what_it_names(front, upstream) -> None:
    for path in ("/a", "/b", "/c"):
        await front.get(path)
    upstream.fields = {"Location": "/a", "Content-Location": upstream.url + "/b"}
    await front.ask("POST", "/")
    told = {p: (await front.get(p)).told for p in ("/a", "/b", "/c")}
    assert [p for p, t in told.items() if "hit" in t] == ["/c"]


# -- parts


async def test_part_of_what_is_stored(front, upstream) -> None:
    await front.get()
    got = await front.get(Range="bytes=1-3")
    assert (got.status, got.body) == (206, b"ell")
    assert got.fields["Content-Range"] == "bytes 1-3/5"
    assert (await front.get(Range="bytes=9-")).status == 416
    assert len(upstream.seen) == 1


async def test_part_is_stored_for_who_asks_for_the_same(front, upstream) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("Range") != "bytes=1-3":
            return web.Response(text="hello", headers=upstream.fields)
        fields = upstream.fields | {"Content-Range": "bytes 1-3/5"}
        return web.Response(status=206, text="ell", headers=fields)

    upstream.answer = answer
    for _ in range(2):
        got = await front.get(Range="bytes=1-3")
        assert (got.status, got.body) == (206, b"ell")
    assert len(upstream.seen) == 1
    whole = await front.get()
    assert (whole.status, whole.body) == (200, b"hello")
    await eventually(lambda: not front.runner.handler._fetches._tasks)
    assert (await front.get(Range="bytes=0-0")).body == b"h"
    assert len(upstream.seen) == 2


@pytest.fixture
def media(upstream: Upstream) -> Media:
    upstream.answer = (media := Media()).answer
    return media


class Media:
    """A large body, of which the origin gives the one range that it is asked for."""

    def __init__(self) -> None:
        self.body = os.urandom(100_000)
        self.fields = {"Cache-Control": "max-age=60", "ETag": '"a"'}

    async def answer(self, request: web.Request) -> web.Response:
        asked = request.http_range
        if asked.start is None:
            return web.Response(body=self.body, headers=self.fields)
        start, stop, _ = asked.indices(len(self.body))
        told = f"bytes {start}-{stop - 1}/{len(self.body)}"
        fields = self.fields | {"Content-Range": told}
        return web.Response(status=206, body=self.body[start:stop], headers=fields)


async def told(front: Front, media: Media, asked: str, **fields: str) -> str:
    """What a client is told that gets these bytes, and gets them right."""
    got = await front.get(Range=f"bytes={asked}", **fields)
    start, stop, _ = slice_of(asked).indices(len(media.body))
    assert (got.status, got.body) == (206, media.body[start:stop])
    size = len(media.body)
    assert got.fields["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
    await idle(front)
    return got.told


def slice_of(asked: str) -> slice:
    first, _, last = asked.partition("-")
    if not first:
        return slice(-int(last), None)
    return slice(int(first), int(last) + 1 if last else None)


async def test_overlapping_parts_are_joined(front, upstream, media) -> None:
    """A player that seeks: RFC 9111 §3.4."""
    for asked in ("0-9999", "20000-39999", "8000-24999", "-10000"):
        assert "fwd=miss" in await told(front, media, asked)
    for asked in (
        "0-9999",
        "5-5",
        "100-39999",
        "30000-39999",
        "95000-",
        "-7",
        "-10000",
    ):
        assert "hit" in await told(front, media, asked)
    assert len(upstream.seen) == 4
    for asked in ("39999-40000", "40000-50000", "0-"):
        assert "fwd=miss" in await told(front, media, asked)


async def test_whole_is_joined_of_parts(front, upstream, media) -> None:
    for asked in ("0-59999", "50000-"):
        await told(front, media, asked)
    got = await front.get()
    assert (got.status, got.body) == (200, media.body) and "hit" in got.told
    assert "Content-Range" not in got.fields
    got = await front.ask("HEAD")
    assert got.status == 200 and got.fields["Content-Length"] == "100000"
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("etag", [None, 'W/"a"'])
async def test_parts_without_strong_validator_are_not_joined(
    front, media, etag
) -> None:
    media.fields.pop("ETag")
    media.fields.update({"ETag": etag} if etag else {})
    for asked in ("0-9999", "5000-19999"):
        await told(front, media, asked)
    assert "hit" in await told(front, media, "6000-19998")
    assert "fwd=miss" in await told(front, media, "0-19999")


async def test_parts_of_two_representations_are_not_joined(front, media) -> None:
    await told(front, media, "0-9999")
    media.body, media.fields["ETag"] = os.urandom(100_000), '"b"'
    await told(front, media, "5000-19999")
    assert "fwd=miss" in await told(front, media, "4000-6000")
    assert "hit" in await told(front, media, "4000-19999")


async def test_parts_of_two_variants_are_not_joined(front, media) -> None:
    media.fields["Vary"] = "Foo"
    await told(front, media, "0-9999", Foo="1")
    await told(front, media, "10000-19999", Foo="2")
    assert "fwd=miss" in await told(front, media, "9000-11000", Foo="1")
    assert "hit" in await told(front, media, "9500-10500", Foo="1")
    assert "fwd=miss" in await told(front, media, "9500-10500", Foo="2")


async def test_part_that_was_purged_is_not_joined(front, media) -> None:
    await told(front, media, "0-9999")
    await told(front, media, "10000-19999")
    await front.ask("DELETE")
    media.body = os.urandom(100_000)  # its tag stays what it was
    assert "fwd=miss" in await told(front, media, "10000-19999")
    assert "fwd=miss" in await told(front, media, "5000-15000")


async def test_part_that_is_gone_is_not_joined(front, media) -> None:
    """Its list does not know."""
    await told(front, media, "0-9999")
    media.fields["Cache-Tag"] = "b"
    await told(front, media, "10000-19999")
    await front.cache.delete_tags("t:b")
    assert "hit" in await told(front, media, "1-9999")
    assert "fwd=miss" in await told(front, media, "5000-15000")


@pytest.mark.parametrize("asked", ["0-9999", "5-500"])
async def test_if_range_is_answered_by_parts(front, upstream, media, asked) -> None:
    """RFC 9110 §13.1.5."""
    await told(front, media, "0-9999")
    assert "hit" in await told(front, media, asked, If_Range='"a"')
    await front.get(Range=f"bytes={asked}", If_Range='"b"')
    assert upstream.seen[-1].fields["If-Range"] == '"b"'


@pytest.mark.parametrize(("tag", "status"), [('"a"', 206), ('"b"', 502)])
async def test_stale_part_of_another_representation_is_no_answer(
    front, upstream, media, tag, status
) -> None:
    media.fields["Cache-Control"] = "max-age=0, stale-if-error=60"
    await told(front, media, "0-9")

    async def answer(request: web.Request) -> web.Response:
        request.transport.abort()
        return web.Response()

    upstream.answer = answer
    assert (await front.get(Range="bytes=0-9", If_Range=tag)).status == status


async def test_parts_for_clients_with_cookies_are_joined(front, media) -> None:
    media.fields["Cache-Control"] = "public, max-age=60"
    for asked in ("0-9999", "5000-19999"):
        await told(front, media, asked, Cookie="a=b")
    assert "hit" in await told(front, media, "100-19000", Cookie="c=d")


@pytest.mark.parametrize("seed", range(4))
async def test_every_part_is_of_the_representation_it_names(front, media, seed) -> None:
    """Seekers, while the media changes, is purged, and is asked for whole."""
    draw = random.Random(seed)
    media.body = os.urandom(3000)
    bodies = {media.fields["ETag"]: media.body}
    hits = 0

    async def seek(asked: str, whole: bool) -> None:
        nonlocal hits
        got = await front.get(**({} if whole else {"Range": f"bytes={asked}"}))
        body = bodies[got.fields["ETag"]]
        hits += "hit" in got.told
        if whole or got.status == 200:  # by a fetch of the whole that was under way
            assert (got.status, got.body) == (200, body)
            return
        start, stop, _ = slice_of(asked).indices(len(body))
        assert (got.status, got.body) == (206, body[start:stop])
        told = f"bytes {start}-{stop - 1}/{len(body)}"
        assert got.fields["Content-Range"] == told

    def drawn() -> str:
        start, size = draw.randrange(3000), draw.randrange(1, 900)
        kind = draw.random()
        if kind < 0.1:
            return f"-{size}"
        return f"{start}-" if kind < 0.2 else f"{start}-{min(2999, start + size)}"

    for step in range(60):
        if step % 6 == 5:
            tag = f'"{step}"'
            bodies[tag] = os.urandom(3000)
            media.body, media.fields["ETag"] = bodies[tag], tag
        if step % 10 == 9:
            await front.ask("DELETE")
        asking = [(drawn(), draw.random() < 0.02) for _ in range(draw.randrange(1, 6))]
        await asyncio.gather(*(seek(*asked) for asked in asking))
        if draw.random() < 0.5:
            await idle(front)
    assert hits > 10


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


# -- the answer to a POST


async def posted(front: Front, upstream: Upstream, **fields: str) -> str:
    """What a GET is told after a POST that was answered with these fields."""
    upstream.fields = {n.replace("_", "-"): v for n, v in fields.items()}
    assert (await front.ask("POST", "/", data=b"x")).body == b"hello"
    await eventually(lambda: not front.runner.handler._fetches._tasks)
    return (await front.get()).told


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


async def test_answer_to_a_post_that_is_the_urls_is_stored(front, upstream) -> None:
    said = {"Cache_Control": "max-age=60", "Content_Location": "/"}
    assert "hit" in await posted(front, upstream, **said)


@pytest.mark.parametrize(
    "said",
    [
        {"Cache_Control": "max-age=60"},
        {"Cache_Control": "max-age=60", "Content_Location": "/other"},
        {"Cache_Control": "private, max-age=60", "Content_Location": "/"},
        {"Content_Location": "/"},
        {
            "Cache_Control": "max-age=60",
            "Content_Location": "/",
            "Content_Encoding": "br",
        },
    ],
)
async def test_answer_to_a_post_that_is_not_is_not(front, upstream, said) -> None:
    assert "hit" not in await posted(front, upstream, **said)


async def test_answer_to_a_post_is_not_stored_over_a_purge(front, upstream) -> None:
    """1. A POST is at the origin. 2. The URL is purged. 3. The origin answers."""
    gate = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await gate.wait()
        fields = {"Cache-Control": "max-age=60", "Content-Location": "/"}
        return web.Response(text="old", headers=fields)

    upstream.answer = slow
    asked = asyncio.ensure_future(front.ask("POST", "/"))
    await eventually(lambda: upstream.seen)
    await front.cache.delete(front.key("/"))
    gate.set()
    assert (await asked).body == b"old"
    await eventually(lambda: not front.runner.handler._fetches._tasks)
    assert "hit" not in (await front.get()).told


async def test_waiter_that_leaves_as_the_head_comes_is_not_waited_for(front) -> None:
    """1. Two wait. 2. The head comes: both are told. 3. One leaves before it reads."""
    fetches = front.runner.handler._fetches
    live = live_of(Body(), stored=False)
    loop, joining = asyncio.get_running_loop(), fetches._joining.setdefault("key", {})
    for _ in range(2):
        joining[loop.create_future()] = 0
    fetches._share("key", live)
    stays, leaves = joining
    fetches._leave("key", joining, leaves, reads=False)
    fetches._leave("key", joining, stays, reads=True)
    assert live._expected == 1 and not fetches._joining
    fetches._forget("key", live)


# -- what is one client's alone


def private(**fields: str) -> dict[str, str]:
    said = 'public, max-age=60, private="x-user"'
    return {"Cache-Control": said, "ETag": '"1"'} | fields


async def test_private_field_is_not_read_along(front, upstream) -> None:
    gate = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await gate.wait()
        return web.Response(headers=private(**{"X-User": request.headers["Cookie"]}))

    upstream.answer = answer
    first = asyncio.ensure_future(front.get(Cookie="alice"))
    await eventually(lambda: upstream.seen)
    second = asyncio.ensure_future(front.get(Cookie="bob"))
    joining = front.runner.handler._fetches._joining
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
    joining = front.runner.handler._fetches._joining
    await eventually(lambda: list(map(len, joining.values())) == [2])
    gate.set()
    assert [g.body for g in await asyncio.gather(*asking)] == [b"alice", b"bob"]


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


async def test_asking_another_worker_may_end_before_it_began(front) -> None:
    fetches = front.runner.handler._fetches
    fetches._ask("k", front.cache.slot + 1)
    fetches._asking["k"].cancel()
    await eventually(lambda: not fetches._asking)


# -- what varies, and is too large to be stored


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
        fetches._store_max = 1 << 20
        asking = [asyncio.ensure_future(front.get(Accept_Language="de"))]
        await eventually(lambda: upstream.seen)
        if late:
            gate.set()
            await eventually(lambda: fetches._tasks)
        fields = {"Accept_Language": other} if other else {}
        asking.append(asyncio.ensure_future(front.get(**fields)))
        if not late:
            joining = fetches._joining
            await eventually(lambda: list(map(len, joining.values())) == [2])
            gate.set()
        await eventually(lambda: fetches._tasks)
        rest.set()
        got = [answer.body.strip() for answer in await asyncio.gather(*asking)]
        assert got == [b"de", (other or "").encode()]
