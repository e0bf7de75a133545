"""The stream of the dashboard's changes, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shmcache import CacheConfig
from shmcache_server.market.dashboard import numbers
from shmcache_server.market.stream import Stream


@pytest.fixture
async def streams(server) -> AsyncIterator[list[Stream]]:
    """Two hosts'."""
    server.command("FLUSHALL")
    config = CacheConfig("here", l2=server.url, app="fleet")
    made = [Stream(config, 1000, numbers) for _ in range(2)]
    yield made
    for stream in made:
        await stream.close()


def dashboard(made: float, price: float = 1.5) -> dict[str, object]:
    return {"last_updated": made, "btc_price_usd": price}


def entries(server, key: str) -> list[bytes]:
    return [fields[b"as_of"] for _, fields in server.command("XRANGE", key, "-", "+")]


async def test_latest_is_what_was_appended_last(streams) -> None:
    one, other = streams
    assert one.key == "shmcache:fleet:market_data_stream"
    assert await other.latest() is None
    assert await one.append(dashboard(1.0, 112884.25))
    assert await one.append(dashboard(2.0, -0.7955129838191605))
    assert await other.latest() == dashboard(2.0, -0.7955129838191605)


@pytest.mark.parametrize(
    "late", [dashboard(1.0, 7.5), dashboard(2.0, 7.5), dashboard(3.0, 1.5)]
)
async def test_older_and_unchanged_are_not_appended(streams, server, late) -> None:
    one, other = streams
    await one.append(dashboard(2.0, 1.5))
    assert not await other.append(late)
    assert entries(server, one.key) == [b"2.0"]


def pausing(stream: Stream, monkeypatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Appends of the stream stop behind their read, which the first tells, until the
    other lets them go on."""
    read, go = asyncio.Event(), asyncio.Event()
    append = stream._append

    async def paused(*given):
        read.set()
        await go.wait()
        return await append(*given)

    monkeypatch.setattr(stream, "_append", paused)
    return read, go


async def test_late_append_is_refused(streams, server, monkeypatch) -> None:
    """1. One reads the last entry. 2. Another appends. 3. The first appends."""
    one, other = streams
    await one.append(dashboard(1.0))
    read, go = pausing(one, monkeypatch)
    late = asyncio.ensure_future(one.append(dashboard(2.0, 2.5)))
    await read.wait()
    assert await other.append(dashboard(3.0, 3.5))
    go.set()
    assert not await late
    assert entries(server, one.key) == [b"1.0", b"3.0"]


async def test_newer_append_is_tried_again(streams, server, monkeypatch) -> None:
    one, other = streams
    read, go = pausing(one, monkeypatch)
    late = asyncio.ensure_future(one.append(dashboard(3.0, 3.5)))
    await read.wait()
    await other.append(dashboard(2.0, 2.5))
    go.set()
    assert await late
    assert entries(server, one.key) == [b"2.0", b"3.0"]


async def test_length_is_bounded(server) -> None:
    server.command("FLUSHALL")
    stream = Stream(CacheConfig("here", l2=server.url), 100, numbers)
    for i in range(400):
        await stream.append(dashboard(float(i), float(i)))
    await stream.close()
    assert 100 <= len(entries(server, stream.key)) <= 250


async def test_without_redis_there_is_no_stream() -> None:
    stream = Stream(CacheConfig("here"), 1000, numbers)
    assert not await stream.append(dashboard(1.0)) and await stream.latest() is None
    await stream.close()


async def test_dead_redis_is_no_failure(streams, server) -> None:
    one, _ = streams
    await one.append(dashboard(1.0))
    server.stop()
    try:
        async with asyncio.timeout(2):
            assert await one.latest() is None
            assert not await one.append(dashboard(2.0, 2.5))
    finally:
        server.cont()
    assert await one.append(dashboard(3.0, 3.5))


@pytest.mark.parametrize(
    "fields",
    [
        ("data", "{", "as_of", "9e9"),
        ("data", "[1]", "as_of", "9e9"),
        ("data", '{"last_updated": "now"}', "as_of", "9e9"),
        ("data", '{"last_updated": 9e8}', "as_of", "soon"),
        ("data", '{"last_updated": 9e8}', "as_of", "inf"),
        ("data", '{"last_updated": 9e8}', "as_of", "9e9"),
        ("data", '{"last_updated": 9e9}', "as_of", "9e8"),
        ("data", '{"last_updated": NaN}', "as_of", "9e8"),
        ("data", '{"last_updated": 9e8, "rsi_14": Infinity}', "as_of", "9e8"),
        ("data", "[" * 99999, "as_of", "9e8"),
        ("x", "y"),
    ],
)
async def test_foreign_entry_is_none(streams, server, fields) -> None:
    one, other = streams
    server.command("XADD", one.key, "*", *fields)
    assert await one.latest() is None
    assert await one.append(dashboard(1.0))
    assert await other.latest() == dashboard(1.0)
