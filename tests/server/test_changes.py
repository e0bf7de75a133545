"""Requests that change the origin, and what they make void."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_unsafe_method_passes_and_invalidates(front, upstream, method) -> None:
    await front.get()
    await front.get(Accept_Encoding="gzip")
    upstream.fields = {}
    got = await front.ask(method, data=b"x" * 200_000)
    assert got.told == "shmcache; fwd=method"
    assert upstream.seen[-1].method == method
    assert upstream.seen[-1].body == b"x" * 200_000
    for encoding in ({}, {"Accept_Encoding": "gzip"}):
        assert "hit" not in (await front.get(**encoding)).told


async def test_unsafe_method_invalidates_for_known_clients(front, upstream) -> None:
    upstream.fields["Cache-Control"] = "max-age=60, public"
    await front.get(Cookie="a=1")
    await front.ask("POST", data=b"x")
    assert "hit" not in (await front.get(Cookie="a=1")).told


async def test_unsafe_method_that_fails_invalidates_nothing(front, upstream) -> None:
    await front.get()
    upstream.status = 500
    await front.ask("POST", data=b"x")
    assert "hit" in (await front.get()).told


async def test_unsafe_method_makes_void_what_it_names(front, upstream) -> None:
    for path in ("/a", "/b", "/c"):
        await front.get(path)
    upstream.fields = {"Location": "/a", "Content-Location": upstream.url + "/b"}
    await front.ask("POST", "/")
    told = {p: (await front.get(p)).told for p in ("/a", "/b", "/c")}
    assert [p for p, t in told.items() if "hit" in t] == ["/c"]


async def test_unsafe_method_makes_all_variants_void(front, upstream) -> None:
    upstream.fields = {"Vary": "Foo", "Cache-Control": "max-age=60"}
    for said in ("1", "2"):
        await front.get(Foo=said)
    await front.ask("POST")
    upstream.body = b"new"
    for said in ("1", "2"):
        assert (await front.get(Foo=said)).body == b"new"
