"""The shelf: places of requests, with variants and without."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from shmcache import Cache, CacheConfig, Fill
from shmcache_server import stored
from shmcache_server.pieces import Held, Pieces
from shmcache_server.shelf import Place, Shelf
from shmcache_server.variants import Spoken, Variants
from shmcache_server.wanted import NOBODY, Wanted
from tests.helpers import segment_name

LIST = Variants("0123456789abcdef", ((), ("foo",)))


def wanted(**fields: str) -> Wanted:
    held = CIMultiDictProxy(CIMultiDict(fields))
    return Wanted("k", "k", "/", held, "i", (), NOBODY)


def document(body: bytes) -> bytes:
    return stored.pack(b"HTTP/1.1 200 OK\r\n", 200, body)


@pytest.fixture
async def cache():
    config = CacheConfig(name=segment_name(), size_bytes=1 << 21, codec="document")
    cache = Cache(config)
    await cache.start()
    yield cache
    await cache.close()


async def put(cache: Cache, key: str, value: bytes, ttl: float = 60) -> None:
    await cache.get_or_set(key, lambda: Fill(value), ttl=ttl)


def key_of(names: tuple[str, ...], request: Wanted) -> str:
    sent = request.sent()
    return LIST.key("k", names, lambda name: sent.getall(name, ()))


async def test_nothing_is_there(cache) -> None:
    place = Shelf(cache).find("k", wanted())
    assert place == Place("k")
    assert not place.usable and place.state == ""


async def test_response_is_there(cache) -> None:
    await put(cache, "k", document(b"a"))
    place = Shelf(cache).find("k", wanted())
    assert place.usable and place.response.body == b"a"


async def test_response_that_is_dead_can_be_validated(cache) -> None:
    await put(cache, "k", document(b"a"), ttl=2e-9)
    place = Shelf(cache).find("k", wanted())
    assert place.state == "dead" and place.response.body == b"a"
    assert not place.usable


async def test_variant_is_found_by_what_the_request_says(cache) -> None:
    request, other = wanted(Foo="1"), wanted(Foo="2")
    await put(cache, "k", LIST.pack())
    await put(cache, key_of(("foo",), request), document(b"one"))
    shelf = Shelf(cache)
    place = shelf.find("k", request)
    assert place.usable and place.response.body == b"one" and place.names == ("foo",)
    place = shelf.find("k", other)
    assert place == Place(key_of((), other), None, None, (), LIST)


async def test_variant_for_everybody_answers_all(cache) -> None:
    await put(cache, "k", LIST.pack())
    await put(cache, key_of((), wanted()), document(b"all"))
    assert Shelf(cache).find("k", wanted(Foo="3")).response.body == b"all"


async def test_list_that_was_deleted_takes_its_variants_along(cache) -> None:
    request = wanted(Foo="1")
    await put(cache, "k", LIST.pack())
    await put(cache, key_of(("foo",), request), document(b"old"))
    await cache.delete("k")
    await put(cache, "k", Variants.begun(("foo",)).pack())
    assert not Shelf(cache).find("k", request).usable


async def test_looking_again_counts_nothing(cache) -> None:
    await put(cache, "k", document(b"a"))
    shelf = Shelf(cache)
    before = cache.stats()
    assert shelf.again(Place("k")).response.body == b"a"
    assert cache.stats().hits == before.hits


async def test_variant_that_is_in_another_language_by_now(cache) -> None:
    names = ("accept-language",)
    known = (Spoken(names, "de,en", "de"),)
    await put(cache, "k", Variants(LIST.mark, (names,), known).pack())
    for language, usable in ((b"de", True), (b"en", False)):
        head = b"HTTP/1.1 200 OK\r\nContent-Language: %b\r\n" % language
        key = key_of(names, wanted(**{"Accept-Language": "en, de"}))
        await cache.set(key, stored.pack(head, 200, b"a"))
        request = wanted(**{"Accept-Language": "de, fr;q=0.1"})
        assert Shelf(cache).find("k", request).usable is usable


# -- parts

BODY = b"0123456789"
NAMES = ("foo", "range")


def part(start: int, stop: int, etag: bytes = b'"a"') -> bytes:
    told = b"HTTP/1.1 206 Part\r\nETag: %b\r\nContent-Range: bytes %d-%d/10\r\n"
    head = told % (etag, start, stop - 1)
    return stored.pack(head, 206, BODY[start:stop])


async def put_part(cache: Cache, start: int, stop: int, document: bytes) -> None:
    """Store a part and list it."""
    text = f"bytes={start}-{stop - 1}"
    request = wanted(Foo="1")._replace(ranges=text)
    await put(cache, key_of(NAMES, request), document)
    new = Pieces('"a"', 10, (Held(start, stop, text),))
    await Shelf(cache).listed(request, LIST, NAMES, new)


async def found(cache: Cache, ranges: str | None) -> bytes | None:
    request = wanted(Foo="1")._replace(ranges=ranges)
    place = await Shelf(cache).found("k", request)
    return place.response.body if place.response and place.usable else None


async def put_list(cache: Cache) -> None:
    await put(cache, "k", Variants(LIST.mark, (("foo",), NAMES)).pack())


async def test_parts_that_another_host_has_are_joined(server) -> None:
    async with AsyncExitStack() as stack:
        hosts = []
        for _ in range(2):
            config = CacheConfig(
                name=segment_name(),
                size_bytes=1 << 21,
                codec="document",
                app="parts",
                l2=server.url,
            )
            hosts.append(await stack.enter_async_context(Cache(config)))
        one, other = hosts
        await put_list(one)
        assert await other.get("k") == await one.get("k")
        await put_part(one, 0, 4, part(0, 4))
        await put_part(one, 4, 8, part(4, 8))
        assert await found(other, "bytes=2-6") == b"23456"
        await put_part(other, 8, 10, part(8, 10))
        assert await found(other, "bytes=0-") == BODY


async def test_part_that_is_another_by_now_is_not_joined(cache) -> None:
    """Its list was not told."""
    await put_list(cache)
    await put_part(cache, 0, 4, part(0, 4))
    await put_part(cache, 4, 8, part(4, 8))
    assert await found(cache, "bytes=2-6") == b"23456"
    for other in (part(4, 8, b'"b"'), part(5, 8), document(b"4567")):
        request = wanted(Foo="1")._replace(ranges="bytes=4-7")
        await cache.set(key_of(NAMES, request), other)
        assert await found(cache, "bytes=2-6") is None
        assert await found(cache, "bytes=2-3") == b"23"


async def test_parts_listed_at_once_are_all_listed(cache) -> None:
    await put_list(cache)
    await asyncio.gather(*(put_part(cache, n, n + 1, part(n, n + 1)) for n in range(3)))
    assert await found(cache, "bytes=0-2") == b"012"


async def test_more_than_may_be_held_is_not_joined(cache, monkeypatch) -> None:
    await put_list(cache)
    await put_part(cache, 0, 4, part(0, 4))
    await put_part(cache, 4, 8, part(4, 8))
    monkeypatch.setattr("shmcache_server.shelf.JOINED_MAX", 4)
    assert await found(cache, "bytes=2-5") == b"2345"
    assert await found(cache, "bytes=2-6") is None
