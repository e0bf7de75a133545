"""Starlette and FastAPI: a cache of the application's, and whole responses in it.

    app = FastAPI(lifespan=opened("shop", size="64MiB"))
    app.add_middleware(ResponseCache, ttl=10, paths=["/items"])

    @app.get("/price")
    async def price(cache: Annotated[Cache, Depends(cache_of)]):
        return await cache.get_or_set("price", load, ttl=30)

What `ResponseCache` keeps
    Responses of 200 to GET (and HEAD, from the same) below one of its paths, by scheme,
    host, path and query. Not those to requests that are somebody's own: with one of the
    `personal` fields, or of a user whom a middleware before it has authenticated. Nor
    those that set a cookie, say `private`, `no-store` or `no-cache`, vary by what is
    not in the key, or are longer than `body_max`: their clients are answered, each by a
    run of its own. It is no HTTP cache: the server of this project is.

Whole, or not at all
    The application is told of no client that leaves, for others may wait; what ends
    before its last piece is stored nowhere. What is too long, or a stream of events, is
    begun anew for its client alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import blake2b
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shmcache import Cache, Fill
from shmcache.policy import Ttl

BODY_MAX = 512 * 1024
PERSONAL = ("authorization", "cookie")
_UNSHARED = ("private", "no-store", "no-cache")

log = logging.getLogger("shmcache.starlette")


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
        personal: Iterable[str] = PERSONAL,
        body_max: int = BODY_MAX,
    ) -> None:
        """`vary`: request fields that are in the key. `personal`: those by which your
        application knows its users, such as `X-API-Key`; whoever sends one is answered
        by the application itself."""
        self.app = app
        self._lives: Any = {"ttl": ttl, "grace": grace}
        self._paths = tuple(path.rstrip("/") for path in paths)
        self._vary = tuple(sorted(name.lower() for name in vary))
        self._personal = tuple(name.lower() for name in personal)
        self._body_max = body_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._may_be_kept(scope):
            await self.app(scope, receive, send)
            return
        cache = cache_of(HTTPConnection(scope))

        async def compute() -> Any:
            found = await _Run(self.app, scope, self._body_max).response()
            return found if self._is_for_all(found) else Fill(found, shareable=False)

        found = await cache.get_or_set(self._key(scope), compute, **self._lives)
        if found is None:  # too long
            await self.app(scope, receive, send)
            return
        status, fields, body = found
        start = {"type": "http.response.start", "status": status}
        await send({**start, "headers": [tuple(field) for field in fields]})
        body = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": body})

    def _may_be_kept(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            return False
        path = scope["path"]
        if not any(path == p or path.startswith(f"{p}/") for p in self._paths):
            return False
        if getattr(scope.get("user"), "is_authenticated", False):
            return False
        headers = Headers(scope=scope)
        return not any(name in headers for name in self._personal)

    def _key(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        path = scope.get("raw_path") or scope["path"].encode()
        varied = [headers.getlist(name) for name in self._vary]
        host, query = headers.get("host"), scope["query_string"]
        told = (scope["scheme"], host, scope.get("root_path"), path, query, varied)
        return f"response:{blake2b(repr(told).encode(), digest_size=16).hexdigest()}"

    def _is_for_all(self, found: list[Any] | None) -> bool:
        if found is None:
            return False
        status, fields, _ = found
        headers = Headers(raw=[tuple(field) for field in fields])
        control = ",".join(headers.getlist("cache-control")).lower()
        varies = ",".join(headers.getlist("vary")).lower().split(",")
        return (
            status == 200
            and "set-cookie" not in headers
            and not any(word in control for word in _UNSHARED)
            and {name.strip() for name in varies} - {""} <= set(self._vary)
        )


class _Run:
    """One run of the application, for its whole response."""

    def __init__(self, app: ASGIApp, scope: Scope, body_max: int) -> None:
        self._app = app
        # a file is to come by us, and not past us
        self._scope: MutableMapping[str, Any] = {
            **scope,
            "method": "GET",
            "extensions": {},
        }
        self._body_max = body_max
        self._asked = False
        self._status = 0
        self._fields: list[list[bytes]] = []
        self._body = bytearray()
        self._ended = asyncio.get_running_loop().create_future()

    async def response(self) -> list[Any] | None:
        """Status, fields, body, as soon as the last piece has come; None: it is too
        long, or has no end."""
        task = asyncio.ensure_future(self._app(self._scope, self._receive, self._take))
        try:
            await asyncio.wait((task, self._ended), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.add_done_callback(_told)
            task.cancel()
            raise
        if not self._ended.done():
            task.result()  # its exception
            raise RuntimeError("the application ended before its response did")
        if not self._ended.result():
            task.cancel()
            await asyncio.wait((task,))
            return None
        _BEHIND.add(task)  # what it does after its response is its own affair
        task.add_done_callback(_told)
        return [self._status, self._fields, bytes(self._body)]

    async def _receive(self) -> Message:
        """No body, and a client that does not leave before the response has ended."""
        if self._asked:
            await asyncio.wait((self._ended,))
            return {"type": "http.disconnect"}
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _take(self, message: Message) -> None:
        if self._ended.done():
            if not self._ended.result():  # it is about to be cancelled
                await asyncio.get_running_loop().create_future()
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._fields = [
                [bytes(name).lower(), bytes(value)]
                for name, value in message.get("headers", ())
            ]
            if any(
                name == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in self._fields
            ):
                self._ended.set_result(False)
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if len(self._body) > self._body_max:
                self._ended.set_result(False)
            elif not message.get("more_body", False):
                self._ended.set_result(True)
        await asyncio.sleep(0)  # who never waits shall not hold up all others


_BEHIND: set[asyncio.Future[None]] = set()


def _told(task: asyncio.Future[None]) -> None:
    _BEHIND.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("after its response the application failed", exc_info=error)
