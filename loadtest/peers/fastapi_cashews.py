"""FastAPI before an origin, its answers kept by cashews in the process' own memory.

uvicorn runs it; the environment's BENCH_ORIGIN is the origin's URL.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientSession
from cashews import cache
from fastapi import FastAPI, Response

ORIGIN = os.environ["BENCH_ORIGIN"]
cache.setup("mem://?size=200000")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with ClientSession() as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan, openapi_url=None)


@cache(ttl="1h", key="document:{path}")
async def document(path: str) -> bytes:
    async with app.state.session.get(f"{ORIGIN}/{path}") as fetched:
        body: bytes = await fetched.read()
        return body


@app.get("/{path:path}")
async def answer(path: str) -> Response:
    return Response(await document(path), media_type="application/json")
