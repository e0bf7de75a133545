"""The application's cache, and whole responses in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Depends, FastAPI, Request, Response
from fastapi.testclient import TestClient

from shmcache import Cache
from shmcache.adapters.starlette import ResponseCache, _Run, cache_of, opened
from tests.helpers import segment_name, shm_names

NAME = segment_name()


class Shop:
    """An application that counts what it answers."""

    def __init__(self, **settings: Any) -> None:
        self.ran: list[str] = []
        self.app = FastAPI(lifespan=opened(segment_name(), size="2MiB"))
        self.app.add_middleware(
            ResponseCache,
            **{"ttl": 60, "paths": ["/kept"], "vary": ["accept-language"], **settings},
        )

        @self.app.get("/value")
        async def value(cache: Annotated[Cache, Depends(cache_of)]) -> Any:
            return await cache.get_or_set("v", lambda: self.ran.append("v") or 7, ttl=9)

        @self.app.api_route("/kept/{kind}", methods=["GET", "HEAD", "POST"])
        async def kept(kind: str, request: Request, response: Response) -> Any:
            self.ran.append(str(request.url.path))
            if kind == "cookie":
                response.set_cookie("a", "b")
            elif kind == "missing":
                response.status_code = 404
            elif kind == "slow":
                await asyncio.sleep(0.05)
            elif kind.startswith("vary-"):
                response.headers["Vary"] = kind.removeprefix("vary-")
            elif "=" in kind or kind in ("private", "no-store"):
                response.headers["Cache-Control"] = kind
            return {"kind": kind, "asked": dict(request.query_params)}

        @self.app.get("/other")
        async def other() -> str:
            self.ran.append("other")
            return "other"


@pytest.fixture
def shop() -> Iterator[tuple[Shop, TestClient]]:
    made = Shop()
    with TestClient(made.app) as client:
        yield made, client


def test_dependency_is_the_applications_cache(shop: Any) -> None:
    made, client = shop
    assert [client.get("/value").json() for _ in range(2)] == [7, 7]
    assert made.ran == ["v"]


def test_application_without_a_cache_says_what_to_do() -> None:
    app = FastAPI()

    @app.get("/")
    async def root(cache: Annotated[Cache, Depends(cache_of)]) -> None: ...

    with TestClient(app) as client, pytest.raises(RuntimeError, match="lifespan"):
        client.get("/")


def test_response_is_kept_by_path_query_and_what_it_varies_by(shop: Any) -> None:
    made, client = shop
    first = client.get("/kept/a?x=1")
    again = client.get("/kept/a?x=1")
    assert first.json() == again.json() == {"kind": "a", "asked": {"x": "1"}}
    assert first.headers == again.headers
    client.get("/kept/a?x=2")
    client.get("/kept/a?x=1", headers={"Accept-Language": "de"})
    client.get("/kept/vary-Accept-Language")
    client.get("/kept/vary-Accept-Language")
    assert len(made.ran) == 4


def test_head_is_answered_from_the_get(shop: Any) -> None:
    made, client = shop
    whole = client.get("/kept/a")
    head = client.head("/kept/a")
    assert head.content == b"" and head.headers == whole.headers
    assert len(made.ran) == 1


@pytest.mark.parametrize(
    "kind",
    [
        *("cookie", "missing", "vary-User-Agent", "vary-*"),
        *("private", "no-store", "private, max-age=9", "no-cache=x"),
    ],
)
def test_response_that_is_not_for_all_is_answered_and_not_kept(
    shop: Any, kind: str
) -> None:
    made, client = shop
    first, second = (client.get(f"/kept/{kind}") for _ in range(2))
    assert first.status_code == second.status_code
    assert first.content == second.content
    assert len(made.ran) == 2


@pytest.mark.parametrize("field", ["Authorization", "Cookie"])
def test_personal_request_passes_by(shop: Any, field: str) -> None:
    made, client = shop
    client.get("/kept/a")
    client.get("/kept/a", headers={field: "x"})
    assert len(made.ran) == 2


def test_other_methods_and_paths_pass_by(shop: Any) -> None:
    made, client = shop
    for _ in range(2):
        assert client.post("/kept/a").status_code == 200
        assert client.get("/other").json() == "other"
    assert len(made.ran) == 4


async def test_many_clients_at_once_are_answered_by_one_run() -> None:
    made = Shop()
    async with made.app.router.lifespan_context(made.app) as state:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await made.app({**scope, "state": dict(state)}, receive, send)

        transport = httpx2.ASGITransport(with_state)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://a"
        ) as client:
            answers = await asyncio.gather(
                *(client.get("/kept/slow") for _ in range(20))
            )
    assert {a.status_code for a in answers} == {200} and len(made.ran) == 1


def test_nothing_is_left() -> None:
    made = Shop()
    with TestClient(made.app) as client:
        client.get("/kept/a")
    assert not shm_names(NAME)


# -- what others might get


async def _of(*messages: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        RUNS.append(scope["path"])
        for message in messages:
            await send(message)
            await asyncio.sleep(0)

    return app


RUNS: list[str] = []


def start(*fields: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": list(fields)}


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def asked(app: Any, path: str, times: int = 2, **more: Any) -> list[Any]:
    """The bodies, and how often the application ran."""
    RUNS.clear()
    async with opened(segment_name(), size="2MiB")(None) as state:

        async def whole(scope: Any, receive: Any, send: Any) -> None:
            await kept({**scope, "state": dict(state)}, receive, send)

        kept = ResponseCache(app, ttl=60, **more)
        transport = httpx2.ASGITransport(whole)
        async with httpx2.AsyncClient(transport=transport, base_url="http://a") as c:
            found = [(await c.get(path)).content for _ in range(times)]
    return [*found, len(RUNS)]


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Set-Cookie", b"a=b")],
        [(b"Cache-Control", b"public"), (b"cache-control", b"private")],
        [(b"VARY", b"Cookie")],
        [(b"vary", b"accept-encoding"), (b"vary", b"x-user")],
    ],
    ids=["cookie", "control", "vary", "varies"],
)
async def test_fields_count_in_whatever_case_and_number(fields: Any) -> None:
    app = await _of(start(*fields), body(b"v"))
    assert await asked(app, "/", vary=["accept-encoding"]) == [b"v", b"v", 2]


async def test_response_that_is_cut_short_is_an_error_and_not_kept() -> None:
    app = await _of(start(), body(b"half", more=True))
    with pytest.raises(RuntimeError, match="before its response"):
        await asked(app, "/")


async def test_file_comes_by_the_cache_and_not_past_it() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        RUNS.append("")
        assert "http.response.pathsend" not in scope["extensions"]
        await send(start())
        await send(body(b"file"))

    assert await asked(app, "/") == [b"file", b"file", 1]


async def test_client_that_leaves_cuts_nobody_short() -> None:
    """1. It begins a run; 2. it leaves; 3. the application asks whether it is there."""
    left = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        listening = asyncio.ensure_future(receive())
        await send(start())
        await send(body(b"one ", more=True))
        await asyncio.sleep(0.02)
        left.append(listening.done())
        listening.cancel()
        await send(body(b"two"))

    assert await asked(app, "/", times=1) == [b"one two", 0] and left == [False]


@pytest.mark.parametrize("kind", [b"text/event-stream", b"text/plain"])
async def test_what_is_long_or_endless_is_streamed_to_each(kind: bytes) -> None:
    pieces = [body(b"x" * 600, more=True) for _ in range(3)]
    app = await _of(start((b"content-type", kind)), *pieces, body(b""))
    found = await asked(app, "/", body_max=1000)
    assert found[:2] == [b"x" * 1800] * 2


async def test_paths_and_queries_are_not_taken_for_each_other() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        RUNS.append("")
        await send(start())
        await send(body(scope["raw_path"] + b"?" + scope["query_string"]))

    for one in ("/a|q=b?c", "/a?q=b|c", "/" + "x" * 2000):
        assert (await asked(app, one, times=1))[1] == 1
    RUNS.clear()


def test_field_by_which_users_are_known_is_personal() -> None:
    made = Shop(personal=["X-API-Key"])
    with TestClient(made.app) as client:
        for name in ("alice", "bob"):
            client.get("/kept/a", headers={"X-API-Key": name})
    assert len(made.ran) == 2


async def test_response_is_there_before_what_is_done_behind_it() -> None:
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"v"))
        await gate.wait()

    assert (await asked(app, "/", times=1))[0] == b"v"
    gate.set()


async def test_application_that_never_waits_holds_up_nobody() -> None:
    app_pieces = [body(b"x" * 100, more=True) for _ in range(10_000)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for piece in app_pieces:
            await send(piece)
        await send(body(b""))

    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(others())
    await _Run(app, {"type": "http"}, 1000).response()
    beside.cancel()
    assert turns >= 10


async def test_application_that_waits_for_the_end_is_told_of_it() -> None:
    ended = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(start())
        await send(body(b"v"))
        ended.append((await receive())["type"])

    found = await _Run(app, {"type": "http"}, 1000).response()
    assert found is not None and found[2] == b"v"
    await asyncio.sleep(0.01)
    assert ended == ["http.disconnect"]
