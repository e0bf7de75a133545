"""Variants, parts, and what a POST or a known client got: stored where others look."""

from __future__ import annotations

import asyncio
import os
import random

import pytest
from aiohttp import web

from shmcache_server.config import Config
from shmcache_server.tables import CachingConfig
from shmcache_server.tags import of_path
from tests.server.conftest import Front, Upstream, eventually, fronting, idle


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
    await idle(front)
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
    await idle(front)
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


async def posted(front: Front, upstream: Upstream, **fields: str) -> str:
    """What a GET is told after a POST that was answered with these fields."""
    upstream.fields = {n.replace("_", "-"): v for n, v in fields.items()}
    assert (await front.ask("POST", "/", data=b"x")).body == b"hello"
    await idle(front)
    return (await front.get()).told


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
    await idle(front)
    assert "hit" not in (await front.get()).told
