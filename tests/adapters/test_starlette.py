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
from shmcache.adapters.starlette import ResponseCache, cache_of, opened
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
            elif kind == "long":
                return "x" * 600_000
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
        *("cookie", "missing", "long", "vary-User-Agent", "vary-*"),
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
