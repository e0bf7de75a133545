"""Routes and trusted peers as clients and the origin see them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from shmcache_server.config import Config
from shmcache_server.routes import Route
from shmcache_server.tables import HeadersConfig
from tests.server.conftest import Front, Upstream, eventually, fronting
from tests.server.test_routes_lanes import request, routed

HERE = ("127.0.0.0/8",)


def front_of(
    upstream: Upstream,
    *routes: Route,
    trusted_peers: tuple[str, ...] = (),
    removed: tuple[str, ...] = (),
) -> AbstractAsyncContextManager[Front]:
    headers = HeadersConfig(removed, trusted_peers)
    return fronting(upstream.url, settings=Config(headers=headers, routes=routes))


@pytest.mark.parametrize("path", ["/me", "/me/x.css", "/x/..%2fme", "/ME;a.css"])
async def test_route_without_cache_passes_every_request(upstream, path) -> None:
    async with front_of(upstream, Route(path="/me", cache=False)) as front:
        for _ in range(3):
            assert "fwd=bypass" in (await front.get(path)).told
        assert "fwd=bypass" in (await front.ask("HEAD", path)).told
        await front.get("/other")
        assert "hit" in (await front.get("/other")).told
    assert len(upstream.seen) == 5


@pytest.mark.parametrize("as_received", [True, False])
async def test_origin_is_sent_what_is_in_the_key(upstream, as_received) -> None:
    route = Route(query_ignored=("utm_*",), forward_query_as_received=as_received)
    async with front_of(upstream, route) as front:
        await front.get("/a?utm_x=1&b")
        assert "hit" in (await front.get("/a?b&utm_x=2")).told
        await front.ask("POST", "/a?b&utm_x=3")
        assert "hit" not in (await front.get("/a?b")).told
    asked = [seen.target for seen in upstream.seen]
    assert asked[0] == ("/a?utm_x=1&b" if as_received else "/a?b")
    assert asked[1] == "/a?b&utm_x=3"


@pytest.mark.parametrize(
    ("said", "status", "route", "ttl"),
    [
        ("max-age=60", 200, Route(ttl=600.0), 599),
        ("max-age=0", 200, Route(ttl=600.0), 599),
        ("", 200, Route(ttl=600.0), 599),
        ("", 200, Route(default_ttl=30.0), 29),
        ("max-age=60", 200, Route(default_ttl=30.0), 59),
        ("max-age=60", 404, Route(ttl=600.0), 599),
        ("no-store", 200, Route(ttl=600.0), None),
        ("private", 200, Route(ttl=600.0, default_ttl=1.0), None),
        ("", 500, Route(ttl=600.0), None),
        ("", 403, Route(ttl=600.0), None),
    ],
)
async def test_ttl_is_the_routes(upstream, said, status, route, ttl) -> None:
    upstream.fields, upstream.status = {"Cache-Control": said}, status
    async with front_of(upstream, route) as front:
        await front.get()
        told = (await front.get()).told
        assert f"ttl={ttl}" in told if ttl is not None else "hit" not in told


async def test_ttl_does_not_share_what_is_private(upstream) -> None:
    async with front_of(upstream, Route(ttl=600.0)) as front:
        await front.get(Cookie="session=1")
        assert "hit" not in (await front.get(Cookie="session=1")).told
        upstream.fields["Set-Cookie"] = "session=2"
        await front.get("/b")
        assert "hit" not in (await front.get("/b")).told


async def test_cookies_of_the_key_are_no_credentials(upstream) -> None:
    async with front_of(upstream, Route(cookies=("lang",))) as front:
        await front.get(Cookie="lang=de")
        assert "hit" in (await front.get(Cookie="lang=de")).told
        assert "hit" in (await front.get(Cookie="session=1; lang=de")).told
        assert "hit" not in (await front.get(Cookie="lang=en")).told
        assert "hit" not in (await front.get()).told
        await front.get("/b", Cookie="session=1; lang=de")
        assert "hit" not in (await front.get("/b", Cookie="lang=de")).told
    cookies = [seen.fields.get("Cookie") for seen in upstream.seen]
    assert cookies == ["lang=de", "lang=en", None, "session=1; lang=de", "lang=de"]


async def test_refresh_bears_the_cookies_of_its_key(upstream) -> None:
    upstream.fields = {"Cache-Control": "public, max-age=1, stale-while-revalidate=60"}
    upstream.fields["Age"] = "1"
    async with front_of(upstream, Route(cookies=("lang",))) as front:
        for _ in range(2):
            await front.get(Cookie="session=1; lang=de")
        for _ in range(3):
            await front.get(Cookie="session=1; lang=de")
            await eventually(lambda: len(upstream.seen) > 1)
    assert upstream.seen[0].fields["Cookie"] == "session=1; lang=de"
    later = {seen.fields.get("Cookie") for seen in upstream.seen[1:]}
    assert later <= {"lang=de", "session=1; lang=de"}


@pytest.mark.parametrize("peers", [(), HERE], ids=["stranger", "trusted"])
async def test_origin_is_told_what_is_believed(upstream, peers) -> None:
    claims = {
        "X_Forwarded_For": "1.2.3.4",
        "X_Forwarded_Host": "a.example:1",
        "X_Forwarded_Proto": "https",
        "X_Original_Url": "/evil",
        "Forwarded": "host=evil",
        "X_Tenant": "evil",
    }
    removed = ("X-Tenant",)
    async with front_of(upstream, trusted_peers=peers, removed=removed) as front:
        await front.get(**claims)
        await front.ask(
            "POST", headers={n.replace("_", "-"): claims[n] for n in claims}
        )
        assert ("hit" in (await front.get()).told) is False
    for seen in upstream.seen[:2]:
        told = [seen.fields[f"X-Forwarded-{n}"] for n in ("For", "Host", "Proto")]
        if peers:
            assert told == ["1.2.3.4, 127.0.0.1", "a.example", "https"]
        else:
            assert told == ["127.0.0.1", "127.0.0.1", "http"]
        assert not {"X-Original-Url", "Forwarded", "X-Tenant"} & set(seen.fields)


async def test_believed_host_and_scheme_are_answered_apart(upstream) -> None:
    async with front_of(upstream, trusted_peers=HERE) as front:
        for claim in (
            {},
            {"X_Forwarded_Host": "a.example"},
            {"X_Forwarded_Proto": "https"},
            {"X_Forwarded_Proto": "http"},
        ):
            assert "hit" not in (await front.get(**claim)).told
            assert "hit" in (await front.get(**claim)).told
            assert "hit" in (await front.get(**claim)).told


async def test_strangers_claim_reaches_nobody(upstream) -> None:
    async with front_of(upstream) as front:
        await front.get(X_Forwarded_Host="evil.example", X_Forwarded_Proto="https")
        assert "hit" in (await front.get()).told


# -- the fast lane


@pytest.mark.parametrize("peers", [(), HERE], ids=["strangers", "trusted"])
@pytest.mark.parametrize(
    ("target", "name"),
    [
        *(("/none?utm_a=1", "bare"), ("/list?b=2&utm_a=1&a=1", "bare")),
        *(("/lang", "lang"), ("/lang", "more cookies"), ("/kept?x=2&id=1", "scheme")),
    ],
)
async def test_routed_request_takes_the_fast_lane(peers, target, name) -> None:
    async with routed(*peers) as both:
        data = request(target, name)
        await both.talk(both.fast, [data])
        before = both.fast_hits
        await both.talk(both.fast, [data, data])
        assert both.fast_hits == before + 2


async def test_route_without_cache_takes_the_slow_lane() -> None:
    async with routed() as both:
        data = request("/account", "bare")
        told = await both.talk(both.fast, [request("/", "bare"), data, data])
        assert told.count(b"fwd=bypass") == 2 and both.fast_hits == 0
