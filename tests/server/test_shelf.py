"""The shelf: places of requests, with variants and without."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from shmcache import Cache, CacheConfig, Fill
from shmcache_server import stored
from shmcache_server.shelf import Place, Shelf
from shmcache_server.variants import Variants
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
