"""Values read without a lease: judged as `acquire.lua` does, whatever comes between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from shmcache.ask import Invalidation, Replies
from shmcache.clock import SYSTEM
from shmcache.envelope import Envelope, pack_envelope
from shmcache.errors import TierUnavailable
from shmcache.l2 import L2
from shmcache.link import Command
from shmcache.record import FOREVER, FRESH, STALE, Record
from shmcache.scripts import Names, Scripts
from tests.fills import SECOND, fill, read, record, token, won
from tests.redis_server import RedisServer, redis_server

NAMES = Names("app")
KEY, VALUE, G = b"k", NAMES.value(b"k"), NAMES.generations
EXPIRE = Invalidation(b"x", KEY)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
async def l2(server: RedisServer) -> AsyncIterator[L2]:
    server.command("FLUSHALL")
    l2 = L2(server.url, "app", deadline=2.0)
    yield l2
    await l2.close()


@pytest.fixture
async def other(server: RedisServer) -> AsyncIterator[L2]:
    l2 = L2(server.url, "app", deadline=2.0)
    yield l2
    await l2.close()


Between = Callable[[str, Callable[[], Awaitable[object]]], None]


@pytest.fixture
def between(l2: L2, monkeypatch: pytest.MonkeyPatch) -> Between:
    """Have something happen before the next command of that name is executed."""
    link = l2.topology.link(0)
    exchange = link.exchange
    due: dict[str, Callable[[], Awaitable[object]]] = {}

    async def one_by_one(*commands: Command) -> list[Any]:
        replies = []
        for command in commands:
            if work := due.pop(str(command[0]), None):
                await work()
            replies += await exchange(command)
        return replies

    monkeypatch.setattr(link, "exchange", one_by_one)
    monkeypatch.setattr(link, "begin", lambda *_: None)
    return lambda name, work: due.update({name: work})


async def look(l2: L2) -> Record | None:
    """By both ways, which are one."""
    return (await l2.acquire(KEY)).record


# -- what comes between


async def test_value_takes_no_life_of_the_one_behind_it(
    l2: L2, other: L2, between: Between
) -> None:
    """The first was expired by request. With the life of the second it were fresh."""
    await fill(other, KEY, record(b"first"))
    await other.invalidate([EXPIRE])

    async def replaced() -> None:
        await fill(other, KEY, record(b"second"))

    between("MGET", replaced)
    found = await look(l2)
    assert found is not None
    assert (found.value, found.state) in [(b"second", STALE), (b"second", FRESH)]
    between("PTTL", replaced)
    assert (await read(l2)).value == b"second"


async def test_value_that_comes_behind_its_life_is_not_there_yet(
    l2: L2, other: L2, between: Between
) -> None:
    between("MGET", lambda: fill(other, KEY, record(b"v", ttl=5)))
    assert await look(l2) is None
    assert (await read(l2)).state == FRESH


@pytest.mark.parametrize("first", [2.0, 60.0, None])
@pytest.mark.parametrize("second", [3.0, 30.0, None])
async def test_value_that_takes_the_place_of_another_lives_no_longer(
    l2: L2,
    other: L2,
    between: Between,
    first: float | None,
    second: float | None,
) -> None:
    def made(value: bytes, ttl: float | None) -> Record:
        one = record(value, ttl=ttl or 0, grace=1)
        return one if ttl else one._replace(fresh_until=FOREVER, dead_at=FOREVER)

    await fill(other, KEY, made(b"first", first))
    began = SYSTEM.now()
    between("MGET", lambda: fill(other, KEY, made(b"second", second)))
    found = await look(l2)
    if found is not None:
        assert found.value == b"second"
        if second is not None:
            assert found.dead_at <= SYSTEM.now() + (second + 1) * SECOND
            assert found.fresh_until <= SYSTEM.now() + second * SECOND
            assert found.birth >= began - (second + 1) * SECOND


@pytest.mark.parametrize(
    "raised",
    [
        [Invalidation(b"c", b"")],
        [Invalidation(b"g", b"")],
        [Invalidation(b"t", 7)],
    ],
)
@pytest.mark.parametrize("warm", [False, True])
async def test_raise_behind_the_value_makes_it_void(
    l2: L2, other: L2, between: Between, raised: list[Invalidation], warm: bool
) -> None:
    await fill(other, KEY, record(tags=(7,)))
    if warm:
        assert await look(l2)
    between("HMGET", lambda: other.invalidate(raised))  # type: ignore[arg-type]
    assert await look(l2) is None
    assert await l2.get_many([KEY]) == {}


async def test_value_of_a_lost_redis_is_none(
    l2: L2, other: L2, server: RedisServer, between: Between
) -> None:
    await fill(other, KEY, record())

    async def lost() -> None:
        server.command("DEL", G)
        await won(other, b"makes it anew")

    between("HMGET", lost)
    assert await look(l2) is None


async def test_tags_are_of_the_generations_that_the_value_names(
    l2: L2, other: L2, server: RedisServer, between: Between
) -> None:
    """1. Value and `:g` are read. 2. Redis loses all it has. 3. Its tags are looked
    up where nothing of them is known any more."""
    await fill(other, KEY, record(tags=(7,)))
    due = []

    async def lost() -> None:
        server.command("DEL", G)
        await won(other, b"makes it anew")

    async def armed() -> None:
        due.append(between("HMGET", lost))

    between("TIME", armed)
    assert await look(l2) is None and due


async def test_demoted_master_is_not_believed(
    l2: L2, server: RedisServer, between: Between
) -> None:
    await fill(l2, KEY, record())

    async def demoted() -> None:
        server.command("REPLICAOF", "127.0.0.1", "1")

    between("PTTL", demoted)
    try:
        with pytest.raises(TierUnavailable, match="READONLY"):
            await look(l2)
    finally:
        server.command("REPLICAOF", "NO", "ONE")


# -- tags


@pytest.mark.parametrize(
    ("kind", "state"), [(b"t", None), (b"u", STALE), (b"c", None), (b"y", STALE)]
)
@pytest.mark.parametrize("noted", [False, True])
async def test_raises_are_looked_at(
    l2: L2, kind: bytes, state: int | None, noted: bool
) -> None:
    await fill(l2, KEY, record(tags=(7, 9)))
    await fill(l2, b"without", record(tags=(8,)))
    if noted:
        assert (await read(l2)).state == FRESH
    else:
        assert (await read(l2, b"without")).tags == (8,)
    await l2.invalidate([Invalidation(kind, 9 if kind in b"tu" else b"")])
    found = await look(l2)
    assert (found and found.state) == state
    many = await l2.get_many([KEY, b"without"])
    assert (many[KEY].state if KEY in many else None) == state
    assert (b"without" in many) == (kind != b"c")


async def test_tags_cost_a_round_trip_once(l2: L2, server: RedisServer) -> None:
    await fill(l2, KEY, record(tags=tuple(range(1, 34))))
    await fill(l2, b"without", record())
    looks = []
    for _ in range(3):
        await read(l2, b"without")
        server.command("CONFIG", "RESETSTAT")
        await read(l2)
        stats = server.command("INFO", "commandstats")
        looks.append(stats["cmdstat_hmget"]["calls"])
    assert looks == [2, 1, 1]


async def test_tags_of_every_value_are_known_at_last(l2: L2) -> None:
    many = {b"%d" % n: tuple(range(n, n + n % 33)) for n in range(1, 65)}
    for key, tags in many.items():
        await fill(l2, key, record(tags=tags))
    found = await l2.get_many(many)
    assert {key: one.tags for key, one in found.items()} == many
    answers = await asyncio.gather(*map(l2.acquire, many))
    assert [a.record and a.record.tags for a in answers] == [*many.values()]


# -- as the script


async def test_redis_without_memory_is_read(l2: L2, server: RedisServer) -> None:
    await fill(l2, KEY, record(b"v", tags=(7,)))
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        assert (await read(l2)).value == b"v"
        assert KEY in await l2.get_many([KEY])
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")


@pytest.mark.parametrize("seed", range(300))
async def test_judgement_is_that_of_the_script(
    l2: L2, server: RedisServer, seed: int
) -> None:
    """Any envelope, any life, any `:g`: the value is worth the same, both ways."""
    draw = random.Random(seed)
    g: dict[bytes, bytes] = {b"i": draw.choice((*5 * [b"i" * 8], b"j" * 8, b"i"))}
    for field in (b"c", b"C", b"S", b"t7", b"u7", b"t9", b"u9"):
        if draw.random() < 0.4:
            g[field] = draw.choice((b"0", b"3", b"5", b"9", b"x", b"9" * 16))
    now = SYSTEM.now() // 10**6
    seconds, micros = server.command("TIME")
    redis_ms = int(seconds) * 1000 + int(micros) // 1000
    ttl, grace = (draw.choice((0, 40_000, 90_000)) for _ in range(2))
    ttl = draw.choice((ttl, ttl, -1))
    ends = redis_ms + draw.choice((-1000, 30_000, 70_000, 200_000))
    tags = draw.choice(((), (7,), (7, 9)))
    envelope = Envelope(b"v", 0, ttl, grace, ends, b"i" * 8, 4, 5, 6, tags)
    life = draw.choice((None, 20_000, 60_000, 100_000, 300_000))
    server.command("HSET", G, *(part for pair in g.items() for part in pair))
    server.command("SET", VALUE, pack_envelope(VALUE, envelope))
    if life is not None:
        server.command("PEXPIRE", VALUE, life)
    found = await look(l2)
    (many,) = (await l2.get_many([KEY])).values() or [None]
    acquire = Scripts().acquire
    keys = (G, NAMES.stream, VALUE, *(n(KEY) for n in _OTHERS))
    answer = server.command(
        *("EVAL", acquire.text, len(keys), *keys, b"i" * 8, b"", 500),
        b"0" + token() + bytes(32),
    )
    (reply,) = Replies(answer, now).each(1)
    worth = {b"0": None, b"1": STALE, b"2": FRESH}[reply.worth]
    for one in (found, many):
        assert (one and one.state) == worth
        if one is not None and reply.left_ms >= 0:
            left_ms = (one.dead_at - SYSTEM.now()) / 10**6
            assert abs(left_ms - reply.left_ms) < 5_000
        if one is not None and reply.left_ms < 0:
            assert one.dead_at == FOREVER


_OTHERS = NAMES.lease, NAMES.waiters, NAMES.error
