"""A live response and its readers; the origin's body comes from a queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from shmcache_server.answering import Answering, OriginError
from shmcache_server.live import COPIED_MAX, HELD_MAX, LiveResponse, Reader
from tests.server.conftest import eventually


class Body:
    """What `Answering` gives: chunks, an error, or None for the end."""

    length: int | None = None

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = False

    def at_hand(self) -> bytes | None:
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        while (chunk := await self.queue.get()) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def close(self) -> None:
        self.closed = True

    def send(self, *chunks: Any) -> None:
        for chunk in chunks:
            self.queue.put_nowait(chunk)


def live_of(body: Body, limit: int = 1000, stored: bool = True) -> LiveResponse:
    answering = cast(Answering, body)
    return LiveResponse(answering, limit, mark=0, age=lambda: 0.0, stored=stored)


async def read(live: LiveResponse, into: list[bytes]) -> None:
    reader = Reader(live, lambda: None)
    try:
        async for chunk in reader.chunks():
            into.append(chunk)
    finally:
        reader.close()


async def test_each_reader_gets_all_of_it_however_late() -> None:
    body, early, late = Body(), [], []
    live = live_of(body)
    pump = asyncio.ensure_future(live.pump(1))
    first = asyncio.ensure_future(read(live, early))
    body.send(b"a", b"b")
    await eventually(lambda: early == [b"a", b"b"])
    second = asyncio.ensure_future(read(live, late))
    body.send(b"c", None)
    await asyncio.gather(pump, first, second)
    assert early == late == [b"a", b"b", b"c"]
    assert live.body() == b"abc" and live.stored and body.closed


@pytest.mark.parametrize("data", [b"abc", b""])
async def test_body_that_came_with_its_head_needs_no_pump(data: bytes) -> None:
    body, got = Body(), []
    live = live_of(body)
    assert not live.take_at_hand() and not live.done
    body.at_hand = lambda: data  # type: ignore[method-assign]
    assert live.take_at_hand() and live.done and body.closed
    await read(live, got)
    assert b"".join(got) == data == live.body()


async def test_body_at_hand_that_is_too_large_is_not_stored() -> None:
    body, got = Body(), []
    live = live_of(body, limit=2)
    body.at_hand = lambda: b"abc"  # type: ignore[method-assign]
    assert live.take_at_hand() and not live.stored
    await read(live, got)
    assert got == [b"abc"]


async def test_reader_takes_what_has_come_and_then_the_rest() -> None:
    body, got = Body(), []
    live = live_of(body)
    pump = asyncio.ensure_future(live.pump(1))
    body.send(b"a", b"b")
    reader = Reader(live, lambda: None)
    await eventually(lambda: len(live._chunks) == 2)
    assert reader.at_hand() == b"ab" and reader.at_hand() == b"ab"[2:]
    body.send(b"c", None)
    async for chunk in reader.chunks():
        got.append(chunk)
    assert got == [b"c"]
    reader.close()
    await pump


@pytest.mark.parametrize("late", [1, 2, 100])
async def test_much_that_has_come_is_not_copied(late: int) -> None:
    """Who joins late would hold all of it once more, and the head's copy of it."""
    body = Body()
    live = live_of(body, 1 << 30)
    chunks = [bytes([i]) * (COPIED_MAX // 2) for i in range(1 + late)]
    body.send(*chunks, None)
    await live.pump(1)
    reader = Reader(live, lambda: None)
    begun = reader.at_hand()
    assert begun == b"".join(chunks[:2])
    assert [c async for c in reader.chunks()] == chunks[2:]


async def test_error_reaches_readers_behind_what_came() -> None:
    body, got = Body(), []
    live = live_of(body)
    body.send(b"a", OriginError("broke"))
    await live.pump(1)
    with pytest.raises(OriginError, match="broke"):
        await read(live, got)
    assert got == [b"a"] and not live.joinable


async def test_announced_length_beyond_the_limit_is_not_stored() -> None:
    body = Body()
    body.length = 1001
    assert not live_of(body, 1000).stored
    body.length = 1000
    assert live_of(body, 1000).stored


async def test_body_that_outgrows_the_limit_is_forgotten_behind_its_readers() -> None:
    body, got = Body(), []
    live = live_of(body, 1000)
    pump = asyncio.ensure_future(live.pump(1))
    reading = asyncio.ensure_future(read(live, got))
    body.send(*[b"x" * 400] * 3)
    await eventually(lambda: len(got) == 3)
    assert not live.stored
    body.send(b"y")
    await eventually(lambda: not live.joinable)
    body.send(None)
    await asyncio.gather(pump, reading)
    assert b"".join(got) == b"x" * 1200 + b"y"


async def test_slow_reader_holds_up_the_origin_and_little_is_held() -> None:
    body = Body()
    live = live_of(body, stored=False)
    reader = Reader(live, lambda: None)
    chunks = reader.chunks()
    chunk = b"x" * (HELD_MAX // 4)
    body.send(*[chunk] * 20, None)
    pump = asyncio.ensure_future(live.pump(5))
    await anext(chunks)
    await eventually(lambda: live._held > HELD_MAX)
    left = body.queue.qsize()
    assert left > 10
    for _ in range(5):
        await asyncio.sleep(0)
    assert body.queue.qsize() == left, "the pump waits"
    assert [c async for c in chunks] == [chunk] * 19
    await pump


async def test_reader_that_takes_nothing_is_cut_off() -> None:
    body, cut, got = Body(), [], []
    live = live_of(body, stored=False)
    stuck = Reader(live, lambda: cut.append(True))
    reading = asyncio.ensure_future(read(live, got))
    body.send(*[b"x" * HELD_MAX] * 3, None)
    await live.pump(0.05)
    await reading
    assert cut == [True] and stuck.position == 0
    assert len(got) == 3


async def dribble(live: LiveResponse, every: float, cut: list[bool]) -> int:
    """Take a chunk now and then, as a slow client does; how many."""
    reader = Reader(live, lambda: cut.append(True))
    taken = 0
    async for _ in reader.chunks():
        await asyncio.sleep(every)
        taken += 1
        if cut:
            break
    return taken


async def test_reader_that_dribbles_does_not_hold_up_the_others(monkeypatch) -> None:
    monkeypatch.setattr("shmcache_server.live.PATIENCE", 0.1)
    body, cut, got = Body(), [], []
    live = live_of(body, stored=False)
    slow = asyncio.ensure_future(dribble(live, 0.02, cut))
    reading = asyncio.ensure_future(read(live, got))
    await asyncio.sleep(0)
    body.send(*[b"x" * (HELD_MAX // 64)] * 1000, None)
    await asyncio.wait_for(live.pump(30), 5)
    await reading
    assert len(got) == 1000 and cut == [True]
    assert await slow < 100


@pytest.mark.parametrize("size", [HELD_MAX // 4, 2 * HELD_MAX], ids=["few", "all"])
async def test_reader_alone_may_dribble(monkeypatch, size) -> None:
    """Also one that takes all that is held at one go, and is at the end then."""
    monkeypatch.setattr("shmcache_server.live.PATIENCE", 0.01)
    body, cut = Body(), []
    live = live_of(body, stored=False)
    slow = asyncio.ensure_future(dribble(live, 0.02, cut))
    await asyncio.sleep(0)
    body.send(*[b"x" * size] * 12, None)
    await live.pump(30)
    assert await slow == 12 and not cut


async def test_body_that_nobody_reads_is_given_up() -> None:
    body = Body()
    live = live_of(body, stored=False)
    body.send(*[b"x" * HELD_MAX] * 3)
    await live.pump(30)
    assert live.error is not None and body.closed


async def test_reader_on_its_way_is_waited_for() -> None:
    body, got = Body(), []
    live = live_of(body, stored=False)
    live.expect()
    body.send(*[b"x" * HELD_MAX] * 3, None)
    pump = asyncio.ensure_future(live.pump(5))
    await eventually(lambda: live._held > HELD_MAX)
    await read(live, got)
    await pump
    assert len(got) == 3 and live.error is None


async def test_each_reader_on_its_way_finds_the_start() -> None:
    """1. Two are told of it. 2. One reads what has come. 3. More comes. 4. The other
    reads."""
    body, early, late = Body(), [], []
    live = live_of(body, stored=False)
    live.expect()
    live.expect()
    pump = asyncio.ensure_future(live.pump(5))
    first = asyncio.ensure_future(read(live, early))
    chunks = [bytes([i]) * HELD_MAX for i in range(3)]
    body.send(*chunks)
    await eventually(lambda: len(early) == 2)
    second = asyncio.ensure_future(read(live, late))
    body.send(None)
    await asyncio.gather(pump, first, second)
    assert early == late == chunks


async def test_reader_that_does_not_come_holds_up_nobody() -> None:
    body, got = Body(), []
    live = live_of(body, stored=False)
    live.expect()
    live.expect()
    pump = asyncio.ensure_future(live.pump(30))
    reading = asyncio.ensure_future(read(live, got))
    body.send(*[b"x" * HELD_MAX] * 3, None)
    await eventually(lambda: len(got) == 2)
    live.forgo()
    await asyncio.wait_for(asyncio.gather(pump, reading), 5)
    assert len(got) == 3


async def test_reader_that_came_too_late_gets_nothing() -> None:
    body, got, late = Body(), [], []
    live = live_of(body, stored=False)
    pump = asyncio.ensure_future(live.pump(5))
    reading = asyncio.ensure_future(read(live, got))
    await asyncio.sleep(0)
    body.send(*[b"x" * HELD_MAX] * 3)
    await eventually(lambda: not live.joinable)
    with pytest.raises(ConnectionAbortedError):
        await read(live, late)
    assert not late and Reader(live, lambda: None).at_hand() == b""
    body.send(None)
    await asyncio.gather(pump, reading)


async def test_reader_that_was_cut_off_gets_no_more() -> None:
    """1. It has a chunk in hand. 2. It is cut off, and what it did not read is let go.
    3. It goes on."""
    body = Body()
    live = live_of(body, stored=False)
    reader = Reader(live, lambda: None)
    chunks = reader.chunks()
    body.send(*[bytes([i]) * HELD_MAX for i in range(3)], None)
    pump = asyncio.ensure_future(live.pump(5))
    await anext(chunks)
    reader.cut()
    with pytest.raises(ConnectionAbortedError):
        await anext(chunks)
    await pump


async def test_cancelled_pump_ends_its_readers() -> None:
    body, got = Body(), []
    live = live_of(body)
    pump = asyncio.ensure_future(live.pump(1))
    reading = asyncio.ensure_future(read(live, got))
    body.send(b"a")
    await eventually(lambda: got)
    pump.cancel()
    with pytest.raises(OriginError):
        await reading
    assert body.closed
