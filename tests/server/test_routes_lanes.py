"""Both lanes answer alike where routes and trusted peers decide about keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from shmcache import Fill
from shmcache_server.config import Config
from shmcache_server.key import Refused
from shmcache_server.routes import Route
from shmcache_server.tables import HeadersConfig, L1Config, OriginConfig
from tests.helpers import segment_name
from tests.server.lanes import HOST, TTL, Lanes, Origin, Runner, _stored

ROUTES = (
    Route(path="/account", cache=False),
    Route(path="/list", query_ignored=("utm_*",), query_sorted=True),
    Route(path="/kept", query_kept=("id",), forward_query_as_received=True),
    Route(path="/lang", fields=("X-Lang",), cookies=("lang",)),
    Route(host="other.example", path="/", query_ignored=("*",)),
)
TARGETS = [
    *("/", "/none?utm_a=1", "/list", "/list?a=1&b=2", "/list?b=2&utm_a=1&a=1"),
    *("/kept?id=1", "/kept?x=2&id=1", "/lang", "/lang?a", "/language"),
    *("/account", "/account/x", "//account", "/list/..%2faccount", "/%61ccount"),
]
BLOCKS: dict[str, tuple[tuple[str, str], ...]] = {
    "bare": (),
    "lang": (("X-Lang", "de"),),
    "other lang": (("X-Lang", "en"),),
    "underscore": (("X_Lang", "de"),),
    "taken off": (("Connection", "keep-alive, X-Lang"), ("X-Lang", "de")),
    "cookie of the key": (("Cookie", "lang=de"),),
    "more cookies": (("Cookie", "lang=de; session=1"),),
    "gzip": (("Accept-Encoding", "gzip"),),
    "other host": (("X-Forwarded-Host", "other.example"),),
    "scheme": (("X-Forwarded-Proto", "https"),),
}


def request(target: str, name: str, method: str = "GET") -> bytes:
    lines = [f"{n}: {v}" for n, v in (("Host", HOST), *BLOCKS[name])]
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode()


@asynccontextmanager
async def routed(*trusted_peers: str) -> AsyncIterator[Lanes]:
    loop = asyncio.get_running_loop()
    origin = await loop.create_server(Origin, "127.0.0.1", 0)
    port = origin.sockets[0].getsockname()[1]
    config = Config(
        origin=OriginConfig(url=f"http://127.0.0.1:{port}"),
        l1=L1Config(size=16 * 1024**2),
        headers=HeadersConfig(trusted_peers=trusted_peers),
        routes=ROUTES,
    )
    runner = Runner(config, config.cache(segment_name(), None))
    await runner.setup()
    try:
        made = Lanes(runner, config)
        await fill(made)
        yield made
    finally:
        await runner.cleanup()
        origin.close()


async def fill(made: Lanes) -> None:
    """A response under every key of the corpus, which tells it."""
    assert made.runner.handler is not None
    keys = made.runner.handler.keys
    for target in TARGETS:
        for pairs in BLOCKS.values():
            fields = CIMultiDictProxy(CIMultiDict([("Host", HOST), *pairs]))
            for trusted in (False, keys.forwarding.believes):
                key = keys.of(fields, target, trusted=trusted)
                document = Fill(_stored(b"200 OK", key.encode()), ttl=TTL)
                await made.cache.get_or_set(key, lambda d=document: d)


@pytest.fixture(params=[(), ("127.0.0.0/8",), ("192.0.2.0/24",)], ids=str)
async def both(request: pytest.FixtureRequest) -> AsyncIterator[Lanes]:
    async with routed(*request.param) as made:
        yield made


@pytest.mark.parametrize("name", BLOCKS)
async def test_lanes_agree_whatever_the_route(both: Lanes, name: str) -> None:
    """Each target met for the first time, known, and behind another one's."""
    for target in TARGETS:
        data = request(target, name)
        chunks = [data, data, request("/", name), data, request(target, name, "HEAD")]
        slow, fast = await both.both(chunks)
        assert slow == fast, target
        assert slow.count(b"HTTP/1.1 200 OK") == 5


async def test_answer_is_that_of_the_routes_key(both: Lanes) -> None:
    assert both.runner.handler is not None
    keys = both.runner.handler.keys
    block = CIMultiDictProxy(CIMultiDict({"Host": HOST}))
    for server in (both.slow, both.fast):
        for target in ("/list?b=2&utm_a=1&a=1", "/kept?x=2&id=1"):
            told = await both.talk(server, [request(target, "bare")] * 2)
            assert told.count(keys.of(block, target).encode()) == 2
    with pytest.raises(Refused):
        keys.prefix(block)


async def test_one_block_has_a_key_for_each_route(both: Lanes) -> None:
    """A verdict on a header block says nothing of the next target."""
    data = [request(t, "lang") for t in ("/lang", "/list?a=1&b=2", "/lang?a", "/none")]
    slow, fast = await both.both([*data, *data, b"".join(data * 3)])
    assert slow == fast
