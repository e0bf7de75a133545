"""Streams: the origin and its readers by themselves, then all of it, small."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from loadtest import bodies, front, readers, streams
from loadtest.bodies import PIECE_MAX, RESET, SHORT, Body, Origin
from loadtest.front import Break, Passed, Wave
from loadtest.readers import BROKEN, FAST, OLD, REFUSED, STOPS, WHOLE, WRONG, Way
from loadtest.streams import BREAKS, Found, Plan, counts, times

PLAN = Plan(
    kinds=("private", "public, length not told"),
    large=20_000_000,
    readers=4,
    slow_seconds=0.5,
    clients=100,
    seconds=0.6,
    spread=0.3,
    rounds=1,
    stalled=(0, 3),
    crowd=8,
    broken=12,
)


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    origin = Origin()
    await origin.start()
    yield origin
    await origin.close()


async def read(origin: Origin, body: Body, way: Way = FAST) -> readers.Reader:
    """Read it from the origin itself, to whatever end."""
    origin.bodies["/a"] = body
    port = int(origin.url.rpartition(":")[2])
    reader = await readers.read(port, "/a", body.size, way)
    await asyncio.wait_for(asyncio.shield(reader.headed), 5)
    reader.go_on()
    await asyncio.wait_for(asyncio.shield(reader.ended), 5)
    return reader


def test_part_is_known_by_its_path_and_place() -> None:
    data = bodies.part("/a", 70_000, PIECE_MAX)
    assert len(data) == PIECE_MAX and bodies.is_part("/a", 70_000, data)
    assert bodies.is_part("/a", 70_000, data + bodies.part("/a", 70_000 + PIECE_MAX, 9))
    assert not bodies.is_part("/a", 70_001, data)
    assert not bodies.is_part("/b", 70_000, data)


@pytest.mark.parametrize("step", [1, 3, 100])
def test_chunks_are_taken_off_in_any_pieces(step: int) -> None:
    framing = readers.Framing.of("http/1.1 200 ok\r\ntransfer-encoding: chunked")
    sent, got = b"3\r\nabc\r\nb\r\n0123456789a\r\n0\r\n\r\n", b""
    for i in range(0, len(sent), step):
        got += b"".join(framing.pieces(sent[i : i + step]))
    assert got == b"abc0123456789a" and framing.left == 0


@pytest.mark.parametrize("told", [True, False], ids=["length", "chunks"])
@pytest.mark.parametrize("way", [FAST, OLD, STOPS, Way(rate=1e7)])
async def test_whole_body_is_read(origin: Origin, way: Way, told: bool) -> None:
    reader = await read(origin, Body(1_000_000, seconds=0.05, told=told), way)
    assert (reader.ended.result(), reader.got) == (WHOLE, 1_000_000)
    assert reader.asked <= reader.first <= reader.last
    assert len(origin.sent["/a"]) == 1


@pytest.mark.parametrize("told", [True, False], ids=["length", "chunks"])
@pytest.mark.parametrize("ends", [SHORT, RESET])
async def test_half_a_body_is_broken_off(origin: Origin, ends: str, told: bool) -> None:
    reader = await read(origin, Body(100_000, told=told, ends=ends))
    assert reader.ended.result() == BROKEN and reader.got <= 50_000


@pytest.mark.parametrize(
    ("said", "how"),
    [
        (b"HTTP/1.0 200 OK\r\nX: y\r\n\r\n" + bodies.part("/a", 0, 9), WRONG),
        (b"HTTP/1.0 200 OK\r\nX: y\r\n\r\n" + bodies.part("/b", 0, 10), WRONG),
        (b"HTTP/1.1 502 No\r\nContent-Length: 1\r\n\r\nx", REFUSED),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnone\r\n", BROKEN),
        (b"HTTP/1.1 2", BROKEN),
    ],
    ids=["half as if all", "another's", "an error", "no chunks", "half a head"],
)
async def test_wrong_answers_are_told_apart(said: bytes, how: str) -> None:
    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")  # what is left unread would be a reset
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reader = await readers.read(port, "/a", 10)
        assert await asyncio.wait_for(reader.ended, 5) == how


@pytest.fixture(scope="module")
def found() -> Found:
    return streams.measure(PLAN)


def test_streams_cost_one_body_and_little_memory(
    found: Found, measured: Callable[[str], None]
) -> None:
    for target in times(found):
        what, figure, bound, verdict = target.line()
        measured(f"{what}: {figure}, {bound}: {verdict}")
    assert [target.line() for target in counts(found) if not target.met] == []
    assert [waves[0].ends for waves in found.stored.values()] == [{WHOLE: 100}] * 2
    assert set(found.breaks) == set(BREAKS)


def test_streams_show_every_figure(found: Found, capsys) -> None:
    streams.show(found, PLAN)
    told = capsys.readouterr().out
    for name in (*PLAN.kinds, *BREAKS, "not stored"):
        assert f"| {name} " in told
    aims = [*counts(found), *times(found)]
    assert all(aim.met is not None for aim in aims)
    assert len(streams.as_json(found, aims)["targets"]) == len(aims)


def wave(**changes) -> Wave:
    settled = {"bodies": 1, "ends": Counter({WHOLE: 2}), "stalled": Counter()}
    series = {"first_ms": [1.0], "behind_ms": [1.0], "last_ms": [9.0]}
    return Wave(workers=[2], **settled | series | changes)


@pytest.mark.parametrize(
    ("spoiled", "what"),
    [
        (Found(passed={"x": Passed(2, 5 * front.MB, 1.0, Counter({WHOLE: 2}))}), "MB"),
        (Found(passed={"x": Passed(2, 0, 1.0, Counter({WHOLE: 1}))}), "without"),
        (Found(stored={0: [wave(bodies=2)]}), "bodies of the origin"),
        (Found(stored={0: [wave(ends=Counter({WRONG: 1}))]}), "without all of it"),
        (Found(stored={1: [wave(stalled=Counter({BROKEN: 1}))]}), "of those"),
        (Found(flowing={0: [wave(ends=Counter({BROKEN: 1}))]}), "not stored"),
        (Found(breaks={"x": Break(1, Counter({WRONG: 1}), 1)}), "not broken off"),
        (Found(breaks={"x": Break(1, Counter({BROKEN: 1}), 0)}), "asked for again"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_missed_count_ends_in_code_1(monkeypatch, capsys, spoiled, what) -> None:
    monkeypatch.setattr(streams, "measure", lambda plan: spoiled)
    assert streams.main([]) == 1
    missed = [line for line in capsys.readouterr().out.splitlines() if "MISSED" in line]
    assert len(missed) == 1 and what in missed[0]


def test_others_later_is_told_of_the_rounds_medians() -> None:
    waves = {
        0: [wave(last_ms=[1.0, 9.0])],
        1: [wave(last_ms=[t]) for t in (10, 19, 99)],
    }
    assert streams.later_ms(waves, 1) == 10
