"""Values read without a lease: judged as `acquire.lua` does, whatever comes between."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from itertools import combinations_with_replacement, product
from typing import Any

import pytest

from shmcache.ask import WON, Invalidation, Replies
from shmcache.breaker import THRESHOLD
from shmcache.clock import SYSTEM
from shmcache.envelope import VALUE_MAX, Envelope, pack_envelope
from shmcache.errors import TierUnavailable
from shmcache.l2 import L2
from shmcache.link import Command
from shmcache.record import FOREVER, FRESH, STALE, Record
from shmcache.scripts import Names, Scripts
from tests.fills import SECOND, fill, read, record, token, won
from tests.redis_server import RedisServer

NAMES = Names("app")
KEY, VALUE, G = b"k", NAMES.value(b"k"), NAMES.generations
EXPIRE = Invalidation(b"x", KEY)


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


async def test_no_schedule_brings_back_what_was_void(
    l2: L2, other: L2, between: Between
) -> None:
    """Whatever one other does between two commands, or two do: what is read stood there
    at some time meanwhile, was fresh then if it says so, and lives no longer."""
    draw, runs = random.Random(0), 0
    pairs = [(one,) for one in DEEDS] + draw.sample([*product(DEEDS, DEEDS)], 8)
    for first, deeds, noted in product(STANDING, pairs, ((), (7,))):
        for gaps in combinations_with_replacement(GAPS, len(deeds)):
            await Schedule(l2, other, between, noted).run(first, deeds, gaps)
            runs += 1
    assert runs > 1000


class Schedule:
    """One read, and what comes between."""

    def __init__(
        self, l2: L2, other: L2, between: Between, noted: tuple[int, ...]
    ) -> None:
        self.l2, self.other, self.between = l2, other, between
        self.seen: list[Record | None] = []
        l2._parts[0]._reads._tags = noted

    async def run(
        self, first: Sequence[str], deeds: Sequence[str], gaps: Sequence[str]
    ) -> None:
        await self.other.invalidate([Invalidation(b"d", KEY)])
        for deed in first:
            await self.do(deed)
        await self.see()
        for gap in set(gaps):
            due = [deed for deed, at in zip(deeds, gaps, strict=True) if at == gap]
            self.between(gap, partial(self.do_all, due))
        found = await look(self.l2)
        if found is None:
            return
        same = [one for one in self.seen if one and one.value == found.value]
        why = (first, deeds, gaps, found, self.seen)
        assert same, why
        assert max(one.dead_at for one in same) >= found.dead_at - SLACK, why
        if found.state == FRESH:
            fresh = [one for one in same if one.state == FRESH]
            assert fresh, why
            latest = max(one.fresh_until for one in fresh)
            assert latest >= found.fresh_until - SLACK, why

    async def see(self) -> None:
        """By the script, in one step."""
        answer = await self.other.acquire(KEY, offer=token())
        self.seen.append(answer.record)

    async def do_all(self, deeds: Sequence[str]) -> None:
        for deed in deeds:
            await self.do(deed)
            await self.see()

    async def do(self, deed: str) -> None:
        if deed in PUTS:
            ttl, grace = PUTS[deed]
            one = record(os.urandom(8), ttl=ttl or 0, grace=grace, tags=(7,))
            if ttl is None:
                one = one._replace(fresh_until=FOREVER, dead_at=FOREVER)
            await self.other.invalidate([Invalidation(b"d", KEY)])
            await fill(self.other, KEY, one)
        elif deed == "made anew":
            await self.other.link.exchange(("DEL", G))
            await won(self.other, os.urandom(8))
        else:
            await self.other.invalidate([RAISES[deed]])


PUTS = {"long": (600, 600), "short": (20, 100), "bare": (90, 0), "endless": (None, 0)}
RAISES = {
    "expire": EXPIRE,
    "delete": Invalidation(b"d", KEY),
    "tag": Invalidation(b"t", 7),
    "soft tag": Invalidation(b"u", 7),
    "clear": Invalidation(b"c", b""),
}
DEEDS = [*PUTS, *RAISES, "made anew"]
STANDING = [
    (),
    *((put,) for put in PUTS),
    *((put, "expire") for put in PUTS),
    *(("short", raised) for raised in ("soft tag", "tag", "clear")),
]
GAPS = ("PTTL", "MGET", "HMGET", "TIME")
SLACK = 5_000_000
"""Nanoseconds: two looks are not made at once, and Redis counts in milliseconds."""


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
            odd = draw.choice((b"x", b"", b"9" * 16, b"9" * 5000))
            g[field] = draw.choice((b"0", b"3", b"5", b"9", odd))
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


# -- what cannot be read


async def test_foreign_value_is_a_miss_and_stays(
    l2: L2, other: L2, server: RedisServer, between: Between
) -> None:
    """1. It is read. 2. A good value takes its place. 3. It must not be deleted."""
    await fill(l2, KEY, record())
    server.command("APPEND", VALUE, "x")
    between("HMGET", lambda: fill(other, KEY, record(b"good")))
    assert await look(l2) is None
    assert l2.foreign == 1
    assert (await read(l2)).value == b"good"


@pytest.mark.parametrize("value", [b"junk", b"", b"SHMC\x09", None])
async def test_what_is_none_of_ours_is_a_miss(
    l2: L2, server: RedisServer, value: bytes | None
) -> None:
    if value is None:
        server.command("HSET", VALUE, "a", "b")
    else:
        server.command("SET", VALUE, value)
    assert await look(l2) is None and await l2.get_many([KEY]) == {}
    assert server.command("EXISTS", VALUE) and l2.available
    assert (await l2.acquire(KEY, offer=token())).lease == WON


async def test_more_than_is_gathered_costs_only_itself(
    l2: L2, server: RedisServer
) -> None:
    await fill(l2, b"good", record())
    server.command("SETRANGE", VALUE, 140 << 20, "x")
    for _ in range(THRESHOLD + 1):
        with pytest.raises(TierUnavailable, match="no end"):
            await l2.acquire(KEY)
    assert [*await l2.get_many([KEY, b"good"])] == [b"good"]
    assert l2.available
    assert (await l2.acquire(KEY, offer=token())).lease == WON
    assert not server.command("EXISTS", VALUE)


async def test_batch_of_the_largest_values_is_read(l2: L2) -> None:
    keys = [b"%d" % n for n in range(9)]
    for key in keys:
        await fill(l2, key, record(bytes(VALUE_MAX)))
    assert [*await l2.get_many(keys)] == keys


async def test_reads_do_not_prove_that_scripts_run(l2: L2, server: RedisServer) -> None:
    await fill(l2, KEY, record())
    server.command("ACL", "SETUSER", "default", "-evalsha", "-eval")
    try:
        for _ in range(THRESHOLD):
            with pytest.raises(TierUnavailable):
                await l2.acquire(b"other", offer=token())
            if l2.available:
                assert await look(l2) and await l2.get_many([KEY])
        assert not l2.available
    finally:
        server.command("ACL", "SETUSER", "default", "+evalsha", "+eval")


_OTHERS = NAMES.lease, NAMES.waiters, NAMES.error
