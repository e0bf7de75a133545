"""Connections that do what they are told, once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from shmcache.errors import ConfigError
from shmcache.link import CONNECTIONS, Link, cut, forever, pauses
from tests.helpers import free_port
from tests.redis_server import RedisServer, eventually, redis_server

TIMEOUT = 0.5


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(port=free_port()) as running:
        yield running


@pytest.fixture
async def link(server: RedisServer) -> AsyncIterator[Link]:
    link = Link(server.tcp_url, timeout=TIMEOUT)
    yield link
    await link.close()


async def readable(link: Link) -> None:
    """Until the one idle connection has bytes, or its end, to read."""
    (connection,) = link._idle
    await eventually(connection.can_read)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://user:hunter2@host",
        "redis://",
        "redis://:hunter2@",
        "redis://:hunter2@host:99999",
        "redis://:hunter2@host:port",
        "redis://:hunter2@[::1",
        "redis://:hunter2@host/first",
        "redis://:hunter2@host?socket_timeout=100",
        "redis://:hunter2@host?db=one",
        "rediss://:hunter2@host?ssl_min_version=new",
        "unix://",
        "unix:///",
    ],
)
def test_malformed_url_names_the_setting_and_no_password(url: str) -> None:
    with pytest.raises(ConfigError, match="l2: ") as refused:
        Link(url, timeout=TIMEOUT)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://user:pass@[::1]:6379/3",
        "rediss://host/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=2",
        "unix:///run/redis.sock?username=u&password=p",
    ],
)
def test_usual_urls_are_taken(url: str) -> None:
    Link(url, timeout=TIMEOUT)


async def test_error_reply_stands_in_its_place(link: Link) -> None:
    first, error, last = await link.exchange(("PING",), ("NONSENSE",), ("PING",))
    assert (first, last) == (b"PONG", b"PONG")
    assert isinstance(error, Exception)


async def test_connecting_sends_nothing_but_what_it_must(
    link: Link, server: RedisServer
) -> None:
    server.command("CONFIG", "RESETSTAT")
    await link.exchange(("PING",))
    (stats,) = await link.exchange(("INFO", "commandstats"))
    commands = {line.split(b":")[0] for line in stats.split() if b"cmdstat_" in line}
    assert commands <= {b"cmdstat_ping", b"cmdstat_config", b"cmdstat_auth"}


async def test_failed_exchange_is_not_repeated(link: Link, server: RedisServer) -> None:
    await link.exchange(("PING",))
    server.command("CONFIG", "RESETSTAT")
    with pytest.raises(Exception, match=r"closed|reset"):
        await link.exchange(
            ("INCR", "ran"), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"),
            ("PING",), ("PING",),
        )  # fmt: skip
    assert await link.exchange(("GET", "ran")) == [b"1"]


async def test_connection_the_server_closed_is_replaced_unnoticed(
    link: Link, server: RedisServer
) -> None:
    await link.exchange(("PING",))
    server.command("CLIENT", "KILL", "TYPE", "normal")
    await readable(link)
    assert await link.exchange(("PING",)) == [b"PONG"]


async def test_connection_with_unread_bytes_is_replaced(link: Link) -> None:
    """Else the next command would be answered by somebody else's reply."""
    await link.exchange(("PING",))
    await link._idle[0].send_command("ECHO", "foreign")
    await readable(link)
    assert await link.exchange(("ECHO", "own")) == [b"own"]
    assert link.connects == 2


async def test_cancelled_exchange_costs_its_connection_only(link: Link) -> None:
    for turns in range(40):
        task = asyncio.create_task(link.exchange(("ECHO", f"{turns}"), ("GET", "k")))
        for _ in range(turns % 8):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await link.exchange(("ECHO", "own")) == [b"own"]
    assert len(link._idle) <= CONNECTIONS
    assert link._free._value == CONNECTIONS


async def test_hung_server_ends_an_exchange_by_its_timeout(
    link: Link, server: RedisServer
) -> None:
    await link.exchange(("PING",))
    server.stop()
    try:
        began = time.monotonic()
        with pytest.raises(Exception, match="Timeout"):
            await link.exchange(("PING",))
        assert TIMEOUT * 0.9 < time.monotonic() - began < 2 * TIMEOUT
    finally:
        server.cont()
    assert await link.exchange(("PING",)) == [b"PONG"]


async def test_wrong_password_is_a_setting() -> None:
    with redis_server("--requirepass", "sesame") as guarded:
        for url in (guarded.url, guarded.url + "?password=hunter2"):
            link = Link(url, timeout=TIMEOUT)
            with pytest.raises(ConfigError, match=r"l2: .*password") as refused:
                await link.check()
            assert "hunter2" not in str(refused.value)
            await link.close()
        link = Link(guarded.url + "?password=sesame", timeout=TIMEOUT)
        await link.check()
        await link.close()


async def test_database_that_is_not_there_is_a_setting(server: RedisServer) -> None:
    link = Link(server.url + "?db=99", timeout=TIMEOUT)
    with pytest.raises(ConfigError, match=r"l2: .*DB index"):
        await link.check()
    await link.close()


async def test_other_protocol_is_a_setting() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(http, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        link = Link(f"redis://127.0.0.1:{port}", timeout=TIMEOUT)
        with pytest.raises(ConfigError, match="not Redis"):
            await link.check()
        await link.close()


async def test_task_that_forgets_a_cancellation_is_cut() -> None:
    async def deaf() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await cut([task])
    assert task.cancelled()


def test_pauses_double_to_their_limit_and_are_spread() -> None:
    runs = [[next(pause) for _ in range(10)] for pause in (pauses(), pauses())]
    assert runs[0] != runs[1]
    assert all(0.05 <= run[0] <= 0.1 and 2.5 <= run[-1] <= 5 for run in runs)


async def test_work_is_done_again_at_once_only_after_progress(monkeypatch) -> None:
    """A failure that comes again and again is waited for ever longer; one after some
    progress is as good as the first."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    slept: list[float] = []
    told: list[str] = []
    reached = 0

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def work() -> None:
        nonlocal reached
        if len(slept) == 5:
            reached += 1
        if len(slept) == 8:
            raise KeyboardInterrupt
        raise OSError(len(slept))

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        await forever(work, lambda: reached, lambda e: told.append(str(e)), high=1.0)
    assert slept == [0.1, 0.2, 0.4, 0.8, 1.0, 0.1, 0.2, 0.4]
    assert told == [str(n) for n in range(8)]
