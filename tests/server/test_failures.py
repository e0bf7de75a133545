"""What clients get where the origin fails."""

from __future__ import annotations

import time

import pytest
from aiohttp import web

from shmcache import ComputeFailed
from shmcache_server.origins import OriginDown
from tests.helpers import free_port
from tests.server.conftest import fronting, idle
from tests.server.test_fetch import headed
from tests.server.test_handler import Slow


async def test_origin_away_is_502(upstream) -> None:
    async with fronting("http://127.0.0.1:1") as front:
        got = await front.get()
        assert (got.status, got.told) == (502, "shmcache; fwd=miss")
        assert (await front.ask("POST", data=b"")).status == 502


async def test_silent_origin_is_504(upstream) -> None:
    upstream.answer = slow = Slow()
    async with fronting(upstream.url, timeout=0.1) as front:
        assert (await front.get()).status == 504
    slow.head.set()
    slow.tail.set()


async def test_too_many_waiters_are_told_to_come_again(front, upstream) -> None:
    front.cache._flights._waiters = front.cache.config.waiters_max
    got = await front.get()
    assert got.status == 503 and got.fields["Retry-After"] == "1"
    assert not upstream.seen
    front.cache._flights._waiters = 0
    assert (await front.get()).status == 200


@pytest.mark.parametrize(
    "error", [OriginDown("origin: down"), ComputeFailed("OriginDown", "origin: down")]
)
async def test_down_origin_is_no_line_a_request(front, error, caplog) -> None:
    caplog.clear()
    assert (
        front.runner.handler._failures.answer(error, "shmcache; fwd=miss").status == 503
    )
    assert not caplog.records


async def test_down_origin_tells_when_to_come_again() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    async with fronting(nobody, breaker_failures=1, retries=0) as front:
        assert (await front.get()).status == 502
        origin = front.runner.handler._origin.upstreams.all[0]
        for pause, told in ((0.9, "1"), (7.9, "8")):
            origin.probe_at = time.monotonic() + pause
            for method in ("GET", "POST"):
                got = await front.ask(method)
                assert (got.status, got.fields["Retry-After"]) == (503, told)


async def test_socket_that_is_not_there_is_an_origin_down(tmp_path) -> None:
    async with fronting(f"unix://{tmp_path}/none.sock") as front:
        got = await front.get("/a")
    assert got.status == 502


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
