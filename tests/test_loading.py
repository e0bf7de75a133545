"""A Redis that answers LOADING, as one does that restarts with much data: the host goes
on alone, counts it, and uses Redis again by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import hiredis
import pytest

from shmcache import Cache
from shmcache.scripts import Names
from tests.caches import SIZE, asking
from tests.helpers import Origin, segment_name
from tests.redis_server import RedisServer, eventually, redis_server

WORDS = b"-LOADING Redis is loading the dataset in memory\r\n"
INFO = b"INFO"


class Loading:
    """Before a Redis: says LOADING to every command but `allowed`, or relays."""

    def __init__(self, server: RedisServer, allowed: tuple[bytes, ...]) -> None:
        self.loading = False
        self.refused = 0
        self.url = ""
        self._server = server
        self._allowed = allowed
        self._relays: set[asyncio.Task[None]] = set()

    async def accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            there, back = await asyncio.open_unix_connection(str(self._server.socket))
        except BaseException:  # refused, or ended meanwhile
            writer.transport.abort()
            raise
        answers = asyncio.create_task(self._copy(there, writer))
        commands = hiredis.Reader()
        try:
            while data := await reader.read(1 << 16):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    if self.loading and command[0].upper() not in self._allowed:
                        self.refused += 1
                        writer.write(WORDS)
                    else:
                        back.write(hiredis.pack_command(tuple(command)))
        except OSError:
            pass
        finally:
            answers.cancel()
            for end in (writer, back):
                end.transport.abort()
            self._relays.discard(task)

    @staticmethod
    async def _copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                to.write(data)

    async def close(self) -> None:
        for task in tuple(self._relays):
            task.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)


@asynccontextmanager
async def loading_before(
    server: RedisServer, *allowed: bytes
) -> AsyncIterator[Loading]:
    front = Loading(server, allowed)
    async with await asyncio.start_server(front.accept, "127.0.0.1", 0) as listening:
        front.url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        try:
            yield front
        finally:
            await front.close()


@pytest.fixture
def app() -> str:
    return segment_name()


async def in_redis(server: RedisServer, app: str, key: bytes) -> bool:
    name = Names(app).value(key)
    return bool(await asyncio.to_thread(server.command, "EXISTS", name))


@pytest.mark.parametrize("allowed", [(), (INFO,)], ids=["all", "all-but-INFO"])
async def test_loading_redis_costs_no_caller_and_is_used_again(
    server: RedisServer, app: str, allowed: tuple[bytes, ...]
) -> None:
    """1. L2 is used; a compute is under way; 2. Redis says LOADING to everything;
    3. it has loaded, and nobody calls."""
    async with (
        loading_before(server, *allowed) as redis,
        Cache.open(segment_name(), size=SIZE, l2=redis.url, app=app) as cache,
    ):
        await cache.get_or_set("before", Origin("v"), ttl=60)
        await cache.set("unwanted", "v")
        assert await in_redis(server, app, b"before")
        late = Origin("late", hold=True)
        under_way = asking(cache.get_or_set("late", late, ttl=60))
        await late.started.wait()

        redis.loading = True
        late.gate.set()
        assert await under_way == "late"
        asked = [cache.get_or_set(f"k{i}", Origin(i), ttl=60) for i in range(50)]
        assert await asyncio.gather(*asked) == list(range(50))
        await cache.delete("unwanted")
        assert await cache.get("absent", None) is None
        await cache.set("set", 1)
        assert [cache.peek(k) for k in ("before", "late", "k49")] == ["v", "late", 49]
        stats = cache.stats()
        assert (stats.l2, stats.following) == ("down", False)
        assert stats.l2_errors and redis.refused and stats.unsent

        redis.loading = False
        await eventually(lambda: cache.stats().following, 10)
        assert (cache.stats().l2, cache.stats().unsent) == ("up", 0)
        assert not await in_redis(server, app, b"unwanted")
        errors = cache.stats().l2_errors
        assert await cache.get_or_set("after", Origin("v"), ttl=60) == "v"
        assert await in_redis(server, app, b"after")
        assert cache.stats().l2_errors == errors


async def test_redis_that_is_loading_at_the_start_is_used_once_it_has_loaded(
    server: RedisServer, app: str
) -> None:
    async with loading_before(server) as redis:
        redis.loading = True
        cache = Cache.open(segment_name(), size=SIZE, l2=redis.url, app=app)
        assert "not ready" in str(await cache.check_l2())  # no wrong setting
        async with cache:
            assert await cache.get_or_set("k", Origin("v"), ttl=60) == "v"
            assert cache.stats().l2_errors and not cache.stats().following
            redis.loading = False
            await eventually(lambda: cache.stats().following, 10)
            assert await cache.get_or_set("after", Origin("v"), ttl=60) == "v"
            assert await in_redis(server, app, b"after")


@pytest.fixture
def saved() -> Iterator[RedisServer]:
    """With so much on its disk that it loads for about two seconds when it restarts."""
    keys, value = 60, bytes(500_000)  # it answers after each two millions
    flags = ("--key-load-delay", "30000", "--rdbcompression", "no")  # microseconds
    with redis_server(*flags) as running:
        for i in range(keys):
            running.command("SET", f"ballast{i}", value)
        yield running


async def test_redis_restarted_with_its_data_is_used_again(
    saved: RedisServer, app: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A real one hangs and says LOADING in turn; and is another one by its identity."""
    async with Cache.open(segment_name(), size=SIZE, l2=saved.url, app=app) as cache:
        await cache.get_or_set("before", Origin("v"), ttl=60)
        await asyncio.to_thread(saved.command, "SAVE")
        await asyncio.to_thread(saved.restart)  # until it says anything
        for i in range(50):
            assert await cache.get_or_set(f"k{i}", Origin(i), ttl=60) == i
        assert cache.stats().l2_errors
        await eventually(lambda: cache.stats().following, 15)
        assert "LOADING" in caplog.text
        assert await cache.get_or_set("after", Origin("v"), ttl=60) == "v"
        assert await in_redis(saved, app, b"after")
