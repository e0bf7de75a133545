"""Purges among clients of every kind: nobody who asks after one gets what it purged.

The origin tells a version, which is raised before each purge of what has it. Who begins
to ask when a purge has returned (with two hosts: when both have confirmed it) must get
that version or a later one, whatever is fetched, refreshed or read along meanwhile, and
though workers are killed and Redis hangs.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.helpers import Server, served
from tests.redis_server import RedisServer, eventually, redis_server

TOKEN = "0123456789abcdef-token"
PATHS = [f"/p/{name}" for name in ("plain", "vary", "range", "public")]
SECONDS = float(os.environ.get("SHMCACHE_PURGE_SECONDS", "3"))
CLIENTS, PURGERS = 12, 2
BYTES = 8
"""Of a body that tell its version, twice."""
LIVES = "max-age=60, stale-while-revalidate=60, stale-if-error=60"

WISHES = [
    *(("X-Kind", "a"), ("X-Kind", "b")),
    *(("Range", "bytes=0-7"), ("Range", "bytes=4-7"), ("Range", "bytes=0-3")),
    *(("Cookie", "id=1"), ("Authorization", "Basic eA=="), ("Accept-Encoding", "gzip")),
]


class Origin:
    """Answers slowly, in all the ways that are stored otherwise."""

    def __init__(self, draw: random.Random) -> None:
        self.versions = dict.fromkeys(PATHS, 0)
        self._draw = draw

    async def answer(self, request: web.Request) -> web.StreamResponse:
        draw, path = self._draw, request.path
        version = self.versions[path]
        await asyncio.sleep(draw.choice([0, 0, 0.002, 0.02, 0.06]))
        fields = self._fields(request, version)
        body = b"%04d%04d" % (version, version) + b"x" * draw.choice([0, 100, 20_000])
        if request.headers.get("If-None-Match") == fields["ETag"]:
            return web.Response(status=304, headers=fields)
        if "Range" in request.headers and draw.random() < 0.7:
            first, last = map(int, request.headers["Range"][6:].split("-"))
            fields["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            part = body[first : last + 1]
            return web.Response(status=206, body=part, headers=fields)
        stream = web.StreamResponse(headers=fields)
        stream.content_length = len(body)
        await stream.prepare(request)
        await stream.write(body[:BYTES])
        await asyncio.sleep(draw.choice([0, 0, 0.01, 0.05]))
        await stream.write(body[BYTES:])
        return stream

    def _fields(self, request: web.Request, version: int) -> dict[str, str]:
        draw, name = self._draw, request.path[3:]
        public = "public, " if name == "public" or draw.random() < 0.2 else ""
        fields = {
            "ETag": f'"{version}"',
            "Cache-Control": public + LIVES,
            "Cache-Tag": name,
            "Cache-Groups": f'"{name}"',
        }
        if name == "vary" or draw.random() < 0.1:
            fields["Vary"] = draw.choice(["X-Kind", "X-Kind, X-Other"])
        if request.method == "POST":
            fields["Content-Location"] = request.path
        return fields


class History:
    """What clients may be told, and what they were."""

    def __init__(self, draw: random.Random, origin: Origin, ports: list[int]) -> None:
        self.least = dict.fromkeys(PATHS, 0)
        """Versions, by path, that who asks now must get at least."""
        self.wrong: list[str] = []
        self.gets = self.hits = self.purges = 0
        self._draw, self._origin, self._ports = draw, origin, ports

    @property
    def enough(self) -> bool:
        """Whether what was tried tells something."""
        return min(self.gets, 10 * self.hits, 40 * self.purges) > 300

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(self._client(session))
            for _ in range(PURGERS):
                tasks.create_task(self._purger(session))

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._draw.choice(self._ports)}{path}"

    async def _client(self, session: aiohttp.ClientSession) -> None:
        draw = self._draw
        while True:
            fields = {"Host": "h"}
            fields |= {n: v for n, v in WISHES if draw.random() < 0.3}
            method = "GET" if draw.random() < 0.97 else "POST"
            await self._get(session, method, draw.choice(PATHS), fields)
            await asyncio.sleep(draw.choice([0, 0.01]))

    async def _get(
        self, session: aiohttp.ClientSession, method: str, path: str, fields: dict
    ) -> None:
        least, url = self.least[path], self._url(path)
        try:
            async with session.request(method, url, headers=fields) as answer:
                body, told = await answer.read(), answer.headers["Cache-Status"]
        except aiohttp.ClientError:  # its worker was killed
            return
        self.gets += 1
        self.hits += "hit" in told
        said = body[:BYTES]
        versions = {int(said[at : at + 4]) for at in range(0, len(said), 4)}
        if (
            answer.status not in (200, 206)
            or len(versions) != 1
            or versions.pop() < least
        ):
            self.wrong.append(
                f"{method} {url} {fields}: {answer.status}, {said!r} where {least} is "
                f"the least; {told}"
            )

    async def _purger(self, session: aiohttp.ClientSession) -> None:
        draw = self._draw
        while True:
            path = draw.choice(PATHS)
            name = path[3:]
            target, line, meant = draw.choice([
                (path, "X-Any: a", [path]),
                (path, f"Cache-Tag: {name}", [path]),
                (path, f'Cache-Groups: "{name}"', [path]),
                (path, "Shmcache-Purge: prefix, wait=0.2", [path]),
                ("/p", "Shmcache-Purge: prefix, wait=0.2", PATHS),
                ("/", "Shmcache-Purge: all, wait=0.2", PATHS),
            ])  # fmt: skip
            for one in meant:
                self._origin.versions[one] += 1
            now = {one: self._origin.versions[one] for one in meant}
            field, _, value = line.partition(": ")
            fields = {"Host": "h", "Authorization": f"Bearer {TOKEN}", field: value}
            try:
                async with session.request(
                    "PURGE", self._url(target), headers=fields
                ) as answer:
                    said = json.loads(await answer.read())
            except aiohttp.ClientError:
                continue
            assert answer.status == 200, said
            self.purges += 1
            if len(self._ports) in (1, said["hosts"] and said["confirmed"]):
                for one, version in now.items():
                    self.least[one] = max(self.least[one], version)
            await asyncio.sleep(draw.random() * 0.08)


async def faults(draw: random.Random, server: Server, redis: RedisServer) -> None:
    """Workers are killed, and Redis hangs."""
    while True:
        await asyncio.sleep(draw.random())
        if draw.random() < 0.5:
            os.kill(draw.choice(server.pids()), signal.SIGKILL)
        redis.stop()
        try:
            await asyncio.sleep(draw.random())
        finally:
            redis.cont()


@asynccontextmanager
async def before(origin: Origin) -> AsyncIterator[str]:
    """The origin's URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", origin.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@asynccontextmanager
async def fronts(
    folder: Path, url: str, hosts: int
) -> AsyncIterator[tuple[list[Server], RedisServer]]:
    """So many hosts of two workers. They are stopped while the origin answers on."""
    stack = ExitStack()
    try:
        redis = stack.enter_context(redis_server())
        made = [served(folder / f"log-{n}", url, l2=redis.url) for n in range(hosts)]
        yield [await asyncio.to_thread(stack.enter_context, one) for one in made], redis
    finally:
        await asyncio.to_thread(stack.close)


@pytest.mark.parametrize(
    ("hosts", "faulty"), [(1, False), (1, True), (2, False), (2, True)]
)
async def test_nobody_gets_what_was_purged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts: int, faulty: bool
) -> None:
    monkeypatch.setenv("SHMCACHE_PURGE_TOKEN", TOKEN)
    draw = random.Random(f"{hosts} {faulty}")
    origin = Origin(draw)
    async with (
        before(origin) as url,
        fronts(tmp_path, url, hosts) as (servers, redis),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        history = History(draw, origin, [one.port for one in servers])
        work = [history.run(session)]
        if faulty:
            work.append(faults(draw, servers[0], redis))
        running = asyncio.gather(*work)
        try:
            await asyncio.sleep(SECONDS)
            await eventually(lambda: history.enough, 10 * SECONDS)  # a slow machine
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
    assert history.wrong == []
