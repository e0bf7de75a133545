"""Starlette and FastAPI: a cache of the application's, and whole responses in it.

    app = FastAPI(lifespan=opened("shop", size="64MiB"))
    app.add_middleware(ResponseCache, ttl=10, paths=["/items"])

    @app.get("/price")
    async def price(cache: Annotated[Cache, Depends(cache_of)]):
        return await cache.get_or_set("price", load, ttl=30)

What `ResponseCache` keeps
    Responses of 200 to GET (and HEAD, from the same) below one of its paths, by host,
    path and query. Not those to requests with `Authorization` or `Cookie`, nor those
    that set a cookie, say `private` or `no-store`, vary by what is not in the key, or
    are longer than `body_max`: their clients are answered, each by a run of its own.
    It is no HTTP cache: the server of this project is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shmcache import Cache, Fill
from shmcache.policy import Ttl

BODY_MAX = 512 * 1024
_PERSONAL = ("authorization", "cookie")


def opened(
    name: str, **settings: Any
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Cache]]]:
    """For `lifespan=`: the cache stands in the state of each request."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Cache]]:
        async with Cache.open(name, **settings) as cache:
            yield {"cache": cache}

    return lifespan


def cache_of(connection: HTTPConnection) -> Cache:
    """The cache of the application that has the request; a FastAPI dependency, too."""
    cache = getattr(connection.state, "cache", None)
    if not isinstance(cache, Cache):
        raise RuntimeError("no cache: give the application lifespan=opened(name)")
    return cache


class ResponseCache:
    """An ASGI middleware; behind it, `Cache-Control` and `Vary` are the routes' own."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        ttl: Ttl,
        grace: Ttl = 0.0,
        paths: Iterable[str] = ("/",),
        vary: Iterable[str] = (),
        body_max: int = BODY_MAX,
    ) -> None:
        """`vary`: request fields that are in the key."""
        self.app = app
        self._lives: Any = {"ttl": ttl, "grace": grace}
        self._paths = tuple(path.rstrip("/") for path in paths)
        self._vary = tuple(sorted(name.lower() for name in vary))
        self._body_max = body_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._may_be_kept(scope):
            await self.app(scope, receive, send)
            return
        cache = cache_of(HTTPConnection(scope))
        asked: MutableMapping[str, Any] = {**scope, "method": "GET"}

        async def compute() -> Any:
            return self._kept(await _response(self.app, asked, receive))

        status, fields, body = await cache.get_or_set(
            self._key(scope), compute, **self._lives
        )
        headers = [tuple(field) for field in fields]
        await send(
            {"type": "http.response.start", "status": status, "headers": headers}
        )
        body = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": body})

    def _may_be_kept(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            return False
        path = scope["path"]
        if not any(path == p or path.startswith(f"{p}/") for p in self._paths):
            return False
        headers = Headers(scope=scope)
        return not any(name in headers for name in _PERSONAL)

    def _key(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        path = scope.get("raw_path") or scope["path"].encode()
        varied = [f"{name}={headers.get(name, '')}" for name in self._vary]
        query = scope["query_string"].decode("latin-1")
        told = (headers.get("host", ""), path.decode("latin-1"), query, *varied)
        return "response:" + "|".join(told)

    def _kept(self, response: list[Any]) -> Any:
        """What is answered; to be stored where others may have it."""
        status, fields, body = response
        headers = Headers(raw=[tuple(field) for field in fields])
        control = headers.get("cache-control", "").lower()
        varies = {name.strip().lower() for name in headers.get("vary", "").split(",")}
        if (
            status != 200
            or len(body) > self._body_max
            or "set-cookie" in headers
            or any(word in control for word in ("private", "no-store", "no-cache"))
            or not varies - {""} <= set(self._vary)
        ):
            return Fill(response, shareable=False)
        return response


async def _response(app: ASGIApp, scope: Scope, receive: Receive) -> list[Any]:
    """The application's answer, whole: status, fields, body."""
    status, fields, body = 500, [], bytearray()

    async def take(message: Message) -> None:
        nonlocal status, fields
        if message["type"] == "http.response.start":
            status = message["status"]
            fields = [list(field) for field in message.get("headers", ())]
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))

    await app(scope, receive, take)
    return [status, fields, bytes(body)]
