"""Purges: what is done, who is let in, and who confirms it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from shmcache import Cache, CacheConfig, Confirmation, Fill
from shmcache_server.admin import application
from shmcache_server.config import Config
from shmcache_server.key import Keys
from shmcache_server.origins import Origin
from shmcache_server.purge import of_json
from shmcache_server.purges import Purges, words
from shmcache_server.routes import Route
from shmcache_server.tables import OriginConfig, PurgeConfig
from shmcache_server.tags import tags_of
from tests.helpers import (
    Server,
    end,
    free_port,
    python,
    segment_name,
    served,
    until,
)
from tests.redis_server import RedisServer, redis_server

TOKEN = "0123456789abcdef-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((2, 2, True), "purged on 2 of 2 hosts"),
        ((1, 3, True), "purged on 1 of 3 hosts; 2 to come"),
        ((1, None, True), "does not say who has applied it"),
        ((1, None, False), "the others are told when Redis is back"),
    ],
)
def test_words_say_how_far_it_has_come(found, said) -> None:
    assert said in words(Confirmation(*found))


# -- what is done


def fields(*lines: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(lines))


def config(**purge: Any) -> Config:
    said = {"token": TOKEN} | purge
    url = "http://127.0.0.1:1"
    return Config(origin=OriginConfig(url=url), purge=PurgeConfig(**said))


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    # of many stripes: keys that share one are made stale together
    async with Cache(CacheConfig(segment_name(), 128 << 20)) as cache:
        yield cache


class Site:
    """A cache, and what is stored there as a fetch stores it."""

    def __init__(self, cache: Cache, config: Config) -> None:
        self.cache = cache
        self.keys = Keys(config)
        self.purges = Purges(cache, self.keys, config)
        self.prefixes = config.purge.prefixes

    def key(self, target: str, host: str = "h", **more: str) -> str:
        return self.keys.of(fields(("Host", host), *more.items()), target)

    async def store(
        self, target: str, *lines: tuple[str, str], host: str = "h", key: str = ""
    ) -> str:
        """The key of a response with these fields."""
        said = fields(*lines)
        names = tags_of(host, target, said, self.prefixes)
        key = key or self.key(target, host)
        await self.cache.set(key, b"v", ttl=60, grace=60, tags=names)
        return key

    def state(self, key: str) -> str | None:
        entry = self.cache.entry(key)
        return None if entry is None else entry.state

    async def run(self, **said: Any) -> dict[str, Any]:
        return await self.purges.run(of_json(json.dumps(said).encode()))


@pytest.fixture
def site(cache) -> Site:
    return Site(cache, config())


@pytest.mark.parametrize(("soft", "state"), [(False, None), (True, "stale")])
async def test_url_is_purged_in_every_encoding(site, soft, state) -> None:
    keys = [
        await site.store("/a?b", key=key)
        for key in site.keys.all(fields(("Host", "h")), "/a?b")
    ]
    kept = await site.store("/a")
    said = await site.run(url="http://h/a?b", soft=soft)
    assert [site.state(key) for key in keys] == [state] * len(keys) and len(keys) > 3
    assert site.state(kept) == "fresh"
    assert said == {
        "purged": {"urls": ["h/a?b"]},
        "soft": soft,
        "confirmed": 1,
        "hosts": 1,
        "told": True,
        "words": "purged on 1 of 1 hosts",
    }


@pytest.mark.parametrize(("soft", "state"), [(False, None), (True, "stale")])
@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([("Vary", "Accept")], {"url": "h/a"}),
        ([("Cache-Tag", "a, b")], {"tag": "b"}),
        ([("Surrogate-Key", "a b")], {"tag": ["b", "x"]}),
        ([("Cache-Groups", '"a", "b"')], {"group": "b", "host": "h"}),
        ([("Cache-Groups", '"a", "b"')], {"tag": "b"}),
        ([], {"prefix": "h/"}),
        ([], {"prefix": "h/a/"}),
        ([], {"all": True}),
    ],
)
async def test_purge_finds_what_bears_its_name(site, lines, named, soft, state) -> None:
    key = await site.store("/a", *lines, key="somewhere")
    kept = await site.store("/ab", *lines, host="other", key="elsewhere")
    said = await site.run(soft=soft, **named)
    assert site.state(key) == state and said["confirmed"] == said["hosts"] == 1
    everywhere = {"tag", "all"} & named.keys()
    assert site.state(kept) == (state if everywhere else "fresh")


async def test_many_names_are_purged_at_once(site) -> None:
    keys = [await site.store(f"/{i}", ("Cache-Tag", f"t{i}")) for i in range(100)]
    await site.run(tags=[f"t{i}" for i in range(100)], soft=True)
    assert {site.state(key) for key in keys} == {"stale"}


async def test_url_of_a_route_is_purged_whatever_is_added(cache) -> None:
    route = Route(path="/", fields=("Accept-Language",), query_ignored=("utm_*",))
    site = Site(cache, replace(config(), routes=(route,)))
    key = site.key("/a", Accept_Language="de".replace("_", "-"))
    said = fields()
    names = tags_of("h", "/a", said, 4, url=True)
    await cache.set(key, b"v", ttl=60, tags=names)
    await site.run(url="http://h/a?utm_source=x")
    assert site.state(key) is None


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"prefix": "h/a/b/c/d/e"}, "at most 4 segments"),
        ({"prefix": "h/a?b"}, "expected a path"),
    ],
)
async def test_wrong_name_purges_nothing(site, named, said) -> None:
    key = await site.store("/a", ("Cache-Tag", "t"))
    with pytest.raises(ValueError, match=said):
        await site.run(tag="t", **named)
    assert site.state(key) == "fresh"


@pytest.mark.parametrize(
    "named", [{"url": "h/a"}, {"tag": "t"}, {"prefix": "h/a"}, {"all": True}]
)
async def test_fetch_under_way_is_not_stored_after_a_purge(site, named) -> None:
    """1. a fetch begins; 2. the purge returns; 3. the old answer comes."""
    said = fields(("Cache-Tag", "t"))
    names = tags_of("h", "/a", said, 4)
    begun, purged = asyncio.Event(), asyncio.Event()

    async def old() -> Fill:
        begun.set()
        await purged.wait()
        return Fill(b"old", ttl=60, tags=names)

    key = site.key("/a")
    fetch = asyncio.create_task(site.cache.get_or_set(key, old))
    await begun.wait()
    await site.run(**named)
    purged.set()
    assert await fetch == b"old"  # who asked before the purge
    assert site.state(key) is None
    assert await site.cache.get_or_set(key, lambda: b"new", ttl=60) == b"new"


async def test_change_purges_variants_and_groups_of_its_host(site) -> None:
    groups = ("Cache-Groups", '"g"')
    variant = await site.store("/a", ("Vary", "Accept"), key="variant")
    member = await site.store("/b", groups)
    kept = await site.store("/c", groups, host="other")
    said = fields(("Cache-Group-Invalidation", '"g"'))
    await site.purges.changed("h", "POST", ("/a",), said)
    assert [site.state(key) for key in (variant, member, kept)] == [None, None, "fresh"]


# -- who is let in


Asked = Callable[..., Any]


@pytest.fixture
async def admin(cache, aiohttp_client) -> Any:
    return await aiohttp_client(
        application(cache, Origin(config()), Site(cache, config()).purges)
    )


async def test_admin_purges_by_json_and_by_parameters(admin, cache) -> None:
    for options in (
        {"json": {"all": True}},
        {"data": b'{"all": true}'},
        {"params": {"all": "1"}},
    ):
        await cache.set("k", 1)
        answer = await admin.post("/purge", headers=BEARER, **options)
        assert answer.status == 200 and (await answer.json())["purged"] == {"all": True}
        assert cache.peek("k", None) is None


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}",
     TOKEN, "Bearer \xff"],
)  # fmt: skip
async def test_wrong_token_is_refused(admin, cache, given) -> None:
    await cache.set("k", 1)
    headers = {} if given is None else {"Authorization": given}
    answer = await admin.post("/purge", json={"all": True}, headers=headers)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "Bearer and the token" in (await answer.json())["error"]
    assert cache.peek("k") == 1


async def test_scheme_of_the_token_is_of_any_case(admin) -> None:
    headers = {"Authorization": f"bearer {TOKEN}"}
    answer = await admin.post("/purge", params={"all": "1"}, headers=headers)
    assert answer.status == 200


async def test_label_of_any_bytes_is_purged_by_a_parameter(admin, cache) -> None:
    names = tags_of("h", "/a", fields(("Cache-Tag", "\udcff")), 0)
    await cache.set("k", 1, tags=names)
    answer = await admin.post(URL("/purge?tag=%FF", encoded=True), headers=BEARER)
    assert answer.status == 200 and cache.peek("k", None) is None


async def test_parameters_beside_a_body_are_refused(admin, cache) -> None:
    await cache.set("k", 1)
    options = {"params": {"soft": "1"}, "json": {"all": True}}
    answer = await admin.post("/purge", headers=BEARER, **options)
    assert answer.status == 400 and cache.peek("k") == 1
    assert (await answer.json())["error"] == "parameters: not beside a body"


async def test_admin_tells_what_is_wrong(admin) -> None:
    answer = await admin.post("/purge", headers=BEARER, data=b"{}")
    assert answer.status == 400
    assert (await answer.json())["error"].startswith("nothing to purge: expected url")


async def test_host_that_is_not_served_is_told(cache, aiohttp_client) -> None:
    wanted = config()
    server = replace(wanted.server, hosts=("example.org",))
    purges = Site(cache, replace(wanted, server=server)).purges
    client = await aiohttp_client(application(cache, Origin(config()), purges))
    for url, status in (("other.org/a", 421), ("example.org/a", 200)):
        answer = await client.post("/purge", headers=BEARER, params={"url": url})
        assert answer.status == status


async def test_without_a_token_nobody_purges(cache, aiohttp_client) -> None:
    purges = Site(cache, config(token="")).purges
    client = await aiohttp_client(application(cache, Origin(config()), purges))
    headers = {"Authorization": "Bearer "}
    answer = await client.post("/purge", params={"all": "1"}, headers=headers)
    assert answer.status == 403 and "no token" in (await answer.json())["error"]


async def test_get_purges_nothing(admin) -> None:
    answer = await admin.get("/purge", params={"all": "1"}, headers=BEARER)
    assert answer.status == 405


@pytest.fixture
async def main(site, aiohttp_raw_server, aiohttp_client) -> Any:
    """A listener that answers PURGE, for the host `h`."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await site.purges.on_main(request, "h")

    return await aiohttp_client(await aiohttp_raw_server(answer))


async def test_purge_of_the_main_listener_is_of_its_target(main, site) -> None:
    key, kept = await site.store("/a?b"), await site.store("/a")
    answer = await main.request("PURGE", "/a?b", headers=BEARER)
    assert answer.status == 200 and answer.headers["Cache-Control"] == "no-store"
    assert (await answer.json())["purged"] == {"urls": ["h/a?b"]}
    assert (site.state(key), site.state(kept)) == (None, "fresh")


@pytest.mark.parametrize(
    ("more", "purged"),
    [
        ({"Shmcache-Purge": "soft"}, {"urls": ["h/a"]}),
        ({"Shmcache-Purge": "soft, prefix"}, {"prefixes": ["h/a"]}),
        ({"Shmcache-Purge": "soft", "Surrogate-Key": "t"}, {"tags": ["t"]}),
        ({"Shmcache-Purge": "soft, all"}, {"all": True}),
    ],
)
async def test_fields_say_what_else_is_purged(main, site, more, purged) -> None:
    key = await site.store("/a", ("Cache-Tag", "t"))
    answer = await main.request("PURGE", "/a", headers=BEARER | more)
    assert (await answer.json())["purged"] == purged and site.state(key) == "stale"


async def test_main_listener_wants_the_token(main, site) -> None:
    key = await site.store("/a")
    for headers in ({}, {"Authorization": "Bearer x"}):
        answer = await main.request("PURGE", "/a", headers=headers)
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    answer = await main.request("PURGE", "/a", headers=BEARER | {"Shmcache-Purge": "x"})
    assert answer.status == 400 and site.state(key) == "fresh"


async def test_purge_with_a_body_ends_the_connection(main) -> None:
    answer = await main.request("PURGE", "/a", headers=BEARER, data=b"body")
    assert (answer.status, answer.headers["Connection"]) == (200, "close")


async def test_purge_is_no_method_without_a_token(
    cache, aiohttp_raw_server, aiohttp_client
) -> None:
    purges = Site(cache, config(token="")).purges

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await purges.on_main(request, "h")

    client = await aiohttp_client(await aiohttp_raw_server(answer))
    answer_ = await client.request("PURGE", "/a", headers={"Authorization": "Bearer "})
    assert answer_.status == 405 and "PURGE" not in answer_.headers["Allow"]


# -- a fleet of servers


class Purged:
    """Two servers, each a host of its own, on one Redis and before one origin."""

    def __init__(
        self, redis: RedisServer, servers: list[Server], at: list[int]
    ) -> None:
        self.redis = redis
        self.servers = servers
        self.admins = at

    def purge(self, which: int = 0, **said: Any) -> dict[str, Any]:
        connection = HTTPConnection("127.0.0.1", self.admins[which], timeout=20)
        connection.request("POST", "/purge", json.dumps(said), BEARER)
        answer = connection.getresponse()
        document: dict[str, Any] = json.loads(answer.read())
        connection.close()
        assert answer.status == 200, document
        return document

    def warm(self, path: str) -> None:
        for server in self.servers:
            server.warm(path)

    def following(self) -> bool:
        return all(
            self.purge(which, tag="nothing", wait=1)["confirmed"] == 2
            for which in range(2)
        )


@contextmanager
def fleet(tmp_path: Path) -> Iterator[Purged]:
    port = free_port()
    origin = python("loadtest/origin.py", "--bind", f"127.0.0.1:{port}")
    with ExitStack() as stack:
        stack.callback(end, origin)
        redis = stack.enter_context(redis_server())
        servers, admins = [], [free_port(), free_port()]
        for at in admins:
            server = served(
                tmp_path / f"log-{at}",
                f"http://127.0.0.1:{port}",
                workers=1,
                l2=redis.url,
                flags=("--admin", f"127.0.0.1:{at}"),
            )
            servers.append(stack.enter_context(server))
        found = Purged(redis, servers, admins)
        until(found.following, 10, "two hosts")
        yield found


PATH = "/prices.json?delay=0&max_age=60"


def test_purge_reaches_the_other_host(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SHMCACHE_PURGE_TOKEN", TOKEN)
    with fleet(tmp_path) as fleet_:
        for named in (
            {"url": f"127.0.0.1{PATH}"},
            {"prefix": "127.0.0.1/prices.json"},
            {"all": True},
        ):
            for server in fleet_.servers:
                fleet_.warm(PATH)
                said = fleet_.purge(**named)
                assert (said["confirmed"], said["hosts"], said["told"]) == (2, 2, True)
                assert "fwd=miss" in server.get(PATH).cache_status
        stopped_host_does_not_confirm(fleet_)
        purge_holds_while_redis_is_gone(fleet_)


def stopped_host_does_not_confirm(fleet_: Purged) -> None:
    fleet_.warm(PATH)
    (worker,) = fleet_.servers[1].pids()
    os.kill(worker, signal.SIGSTOP)
    try:
        said = fleet_.purge(url=f"127.0.0.1{PATH}", wait=0.3)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert (said["confirmed"], said["hosts"], said["told"]) == (1, 2, True)
    assert said["words"] == "purged on 1 of 2 hosts; 1 to come"
    until(fleet_.following, 5, "both again")
    assert not fleet_.servers[1].get(PATH).hit


def purge_holds_while_redis_is_gone(fleet_: Purged) -> None:
    fleet_.warm(PATH)
    fleet_.redis.stop()
    said = fleet_.purge(url=f"127.0.0.1{PATH}", wait=0)
    assert (said["confirmed"], said["hosts"], said["told"]) == (1, None, False)
    assert "when Redis is back" in said["words"]
    assert not fleet_.servers[0].get(PATH).hit
    assert fleet_.servers[1].get(PATH).hit  # it cannot know yet
    fleet_.redis.cont()
    until(lambda: not fleet_.servers[1].get(PATH).hit, 10, "the other is told")
