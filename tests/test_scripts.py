"""The scripts inside a real Redis: what they leave, touch and survive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.resources import files

import pytest

from shmcache.ask import WAIT, WON, FleetClock, Invalidation
from shmcache.breaker import THRESHOLD
from shmcache.clock import SYSTEM
from shmcache.envelope import FORMAT, VALUE_MAX, Envelope, pack_envelope
from shmcache.errors import TierUnavailable
from shmcache.l2 import L2
from shmcache.record import FOREVER, STALE
from shmcache.scripts import Names
from tests.fills import SECOND, fill, record, token, won
from tests.redis_server import RedisServer, eventually

NAMES = Names("app")
SCRIPTS = ("acquire", "renew", "put_fenced", "abandon", "invalidate")


@pytest.fixture
async def l2(server: RedisServer) -> AsyncIterator[L2]:
    server.command("CONFIG", "SET", "maxmemory", "0")
    server.command("FLUSHALL")
    l2 = L2(server.url, "app", deadline=2.0)
    yield l2
    await l2.close()


def out_of_memory(server: RedisServer) -> None:
    server.command("CONFIG", "SET", "maxmemory", "1")


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_tells_keys_arguments_and_returns(name: str) -> None:
    text = files("shmcache.lua").joinpath(f"{name}.lua").read_text()
    assert text.startswith(f"-- {name}: ")  # and so no shebang
    for part in ("-- KEYS", "-- ARGV", "-- returns", "-- One step, because"):
        assert part in text
    assert all(len(line) <= 88 for line in text.splitlines())


async def test_forgotten_scripts_are_sent_again(l2: L2, server: RedisServer) -> None:
    await fill(l2, b"k", record())
    server.command("SCRIPT", "FLUSH")
    await fill(l2, b"k", record(b"new"))
    found = (await l2.acquire(b"k")).record
    assert found is not None and found.value == b"new"


@pytest.mark.parametrize(
    "foreign",
    [b"", b"x", b"short", b"x" * 300, b"SHMC\x02", b"SHMC\x02" + b"\0" * 20],
    ids=len,
)
async def test_foreign_value_is_a_miss_and_deleted(
    l2: L2, server: RedisServer, foreign: bytes
) -> None:
    await fill(l2, b"other", record())
    server.command("SET", NAMES.value(b"k"), foreign)
    answer = await l2.acquire(b"k", offer=token())
    assert (answer.record, answer.lease) == (None, WON)
    # an empty string is what GETRANGE answers for no key at all
    assert server.command("GET", NAMES.value(b"k")) in (None, b"")


async def test_value_of_another_type_is_a_miss_and_deleted(
    l2: L2, server: RedisServer
) -> None:
    await fill(l2, b"other", record())
    server.command("SADD", NAMES.value(b"k"), "member")
    answer = await l2.acquire(b"k", offer=token())
    assert (answer.record, answer.lease) == (None, WON)
    assert server.command("EXISTS", NAMES.value(b"k")) == 0


async def test_newer_format_is_a_miss_and_left_alone(
    l2: L2, server: RedisServer
) -> None:
    await fill(l2, b"k", record())
    server.command("SETRANGE", NAMES.value(b"k"), 4, b"\x63")
    answer = await l2.acquire(b"k", offer=token())
    assert (answer.record, answer.lease) == (None, WON)
    assert server.command("EXISTS", NAMES.value(b"k")) == 1


@pytest.mark.parametrize("at", [8, 60, 70], ids=["digest", "crc", "value"])
async def test_damaged_value_is_a_miss_deleted_and_computed(
    l2: L2, server: RedisServer, at: int
) -> None:
    await fill(l2, b"k", record(b"v" * 20))
    server.command("SETRANGE", NAMES.value(b"k"), at, b"\x99")
    answer = await l2.acquire(b"k", offer=token())
    assert (answer.record, answer.lease) == (None, WON)
    assert server.command("EXISTS", NAMES.value(b"k")) == 0


HUGE = {
    "ttl": (2**62, 0),
    "negative": (-2, 0),
    "grace": (0, 2**62),
    "negative-grace": (1, -1),
    "endless": (-1, 2**62),
}


@pytest.mark.parametrize("secret", [b"", b"0123456789abcdef"], ids=["plain", "sealed"])
@pytest.mark.parametrize("lives", HUGE.values(), ids=HUGE)
async def test_head_with_huge_numbers_costs_its_own_key_only(
    server: RedisServer, secret: bytes, lives: tuple[int, int]
) -> None:
    """The answer's columns are of one width: one too wide would shift all others."""
    server.command("FLUSHALL")
    l2 = L2(server.url, "app", deadline=2.0, secret=secret)
    try:
        await fill(l2, b"good", record(b"good"))
        incarnation = server.command("HGET", NAMES.generations, "i")
        bad = Envelope(b"", 0, *lives, 2**63 - 1, incarnation, 0, 7, 0, ())
        packed = pack_envelope(NAMES.value(b"bad"), bad, secret)
        for life in ((), ("PX", 2**60)):
            server.command("SET", NAMES.value(b"bad"), packed, *life)
            keys = (b"good", b"bad", b"new", b"good")
            good, poisoned, new, again = await asyncio.gather(
                *(l2.acquire(key, offer=token()) for key in keys)
            )
            assert good.record and again.record and good.record.value == b"good"
            assert (poisoned.record, poisoned.lease, new.lease) == (None, WON, WON)
            assert not server.command("EXISTS", NAMES.value(b"bad"))
            server.command("DEL", NAMES.lease(b"bad"), NAMES.lease(b"new"))
            server.command("SET", NAMES.value(b"bad"), packed, *life)
            assert list(await l2.get_many([b"bad", b"good"])) == [b"good"]
    finally:
        await l2.close()


async def test_endless_value_with_a_huge_end_is_stale(
    l2: L2, server: RedisServer
) -> None:
    endless = record()._replace(fresh_until=FOREVER, dead_at=FOREVER)
    await fill(l2, b"k", endless)
    server.command("PEXPIRE", NAMES.value(b"k"), 2**61)
    k, new = await asyncio.gather(l2.acquire(b"k"), l2.acquire(b"n", offer=token()))
    assert k.record and k.record.state == STALE and new.lease == WON


@pytest.mark.parametrize("version", [FORMAT, FORMAT + 1])
async def test_value_larger_than_any_of_ours_is_deleted_unread(
    l2: L2, server: RedisServer, version: int
) -> None:
    await fill(l2, b"k", record(bytes(VALUE_MAX), tags=tuple(range(33))))
    await fill(l2, b"too", record())
    server.command("SETRANGE", NAMES.value(b"too"), VALUE_MAX + 4096, "x")
    server.command("SETRANGE", NAMES.value(b"too"), 4, b"%c" % version)
    answer = await l2.acquire(b"too", offer=token())
    assert (answer.record, answer.lease, l2.foreign) == (None, WON, 0)
    assert not server.command("EXISTS", NAMES.value(b"too"))
    found = (await l2.acquire(b"k", offer=token())).record
    assert found is not None and len(found.value) == VALUE_MAX


async def test_value_of_another_key_is_a_miss(l2: L2, server: RedisServer) -> None:
    await fill(l2, b"mine", record(b"mine"))
    server.command(
        "SET", NAMES.value(b"k"), server.command("GET", NAMES.value(b"mine"))
    )
    assert (await l2.acquire(b"k")).record is None


@pytest.mark.parametrize("command", [("PERSIST",), ("PEXPIRE", 61_000)], ids=str)
async def test_value_whose_life_was_lengthened_is_stale(
    l2: L2, server: RedisServer, command: tuple[str | int, ...]
) -> None:
    await fill(l2, b"k", record())
    server.command(command[0], NAMES.value(b"k"), *command[1:])
    answer = await l2.acquire(b"k", offer=token())
    assert answer.record is not None and answer.record.state == STALE
    assert answer.lease == WON


async def test_flushed_redis_has_another_incarnation(
    l2: L2, server: RedisServer
) -> None:
    mine = token()
    before = await l2.acquire(b"k", offer=mine)
    await fill(l2, b"saved", record())
    saved = server.command("GET", NAMES.value(b"saved"))
    server.command("FLUSHALL")
    after = await l2.acquire(b"k", offer=token())
    assert after.lease == WON
    assert after.clock.incarnation != before.clock.incarnation
    assert await l2.put_fenced(b"k", mine, record(), before.clock) == "lost"
    server.command("SET", NAMES.value(b"saved"), saved, "PX", 50_000)
    assert (await l2.acquire(b"saved")).record is None


async def test_fill_of_a_lost_incarnation_is_raised(
    l2: L2, server: RedisServer
) -> None:
    mine = token()
    begun = (await l2.acquire(b"k", offer=mine)).clock
    server.command("DEL", NAMES.generations)
    await l2.invalidate([Invalidation(b"t", 1)])
    assert await l2.put_fenced(b"k", mine, record(), begun) == "raised"


async def test_new_generations_delete_the_old_stream(
    l2: L2, server: RedisServer
) -> None:
    for _ in range(3):
        await l2.invalidate([Invalidation(b"d", b"k")])
    server.command("DEL", NAMES.generations)
    assert (await l2.invalidate([Invalidation(b"d", b"k")])).clock.clock == 1
    assert server.command("XLEN", NAMES.stream) == 1
    server.command("DEL", NAMES.generations)
    await won(l2, b"k")
    assert server.command("EXISTS", NAMES.generations, NAMES.stream) == 1


async def test_entry_ids_are_the_clock(l2: L2, server: RedisServer) -> None:
    server.command("HSET", NAMES.generations, "i", b"incarnat", "c", 10**15)
    clock = (
        await l2.invalidate([Invalidation(b"t", n) for n in (7, 8, 9)])
    ).clock.clock
    assert clock == 10**15 + 3
    ids = [entry for entry, _ in server.command("XRANGE", NAMES.stream, "-", "+")]
    assert ids == [b"%d-0" % (clock - i) for i in (2, 1, 0)]


async def test_store_without_memory_is_full_and_frees_the_lease(
    l2: L2, server: RedisServer
) -> None:
    mine = token()
    begun = (await l2.acquire(b"k", offer=mine)).clock
    out_of_memory(server)
    assert await l2.put_fenced(b"k", mine, record(), begun) == "full"
    assert server.command("EXISTS", NAMES.lease(b"k"), NAMES.value(b"k")) == 0


async def test_lease_without_memory_is_no_failure_of_redis(
    l2: L2, server: RedisServer
) -> None:
    await fill(l2, b"other", record())
    out_of_memory(server)
    for _ in range(10):
        with pytest.raises(TierUnavailable, match="memory"):
            await l2.acquire(b"k", offer=token())
    assert l2.available


@pytest.mark.parametrize("kind", [b"d", b"x", b"t", b"u", b"c", b"y"])
async def test_invalidation_without_memory_is_not_lost(
    l2: L2, server: RedisServer, kind: bytes
) -> None:
    names: list[bytes | int] = (
        [b"k"] if kind in b"dx" else [5] if kind in b"tu" else [b""]
    )
    await fill(l2, b"k", record(tags=(5,)))
    out_of_memory(server)
    await l2.invalidate([Invalidation(kind, name) for name in names])
    assert server.command("XLEN", NAMES.stream) == 1
    found = (await l2.acquire(b"k")).record
    assert found is None if kind in b"dtc" else found is not None
    assert found is None or found.state == STALE


async def test_right_to_publish_missing_loses_no_store(
    l2: L2, server: RedisServer
) -> None:
    server.command(
        *("ACL", "SETUSER", "mute", "on", ">x", "~shmcache:*", "resetchannels"),
        *("+@all", "-@dangerous", "+info"),
    )
    mute = L2(server.url + "?username=mute&password=x", "app", deadline=2.0)
    try:
        mine = token()
        begun = (await mute.acquire(b"k", offer=mine)).clock
        waiting = await l2.acquire(b"k", offer=token(), channel=b"c")
        assert waiting.lease == WAIT
        assert await mute.put_fenced(b"k", mine, record(), begun) == "stored"
        assert server.command("EXISTS", NAMES.lease(b"k"), NAMES.waiters(b"k")) == 0
        await won(l2, b"k")
        await l2.acquire(b"k", offer=token(), channel=b"c", early=True)
        await mute.invalidate([Invalidation(b"d", b"k")])
        mine, _ = await won(mute, b"k")
        await l2.acquire(b"k", offer=token(), channel=b"c")
        assert await mute.abandon(b"k", mine)
        assert server.command("EXISTS", NAMES.waiters(b"k")) == 0
    finally:
        await mute.close()


# -- what is not as we left it


async def test_brought_back_value_ends_with_its_life(
    l2: L2, server: RedisServer
) -> None:
    """Whoever restores an old value gives it a ttl of his own."""
    now = SYSTEM.now()
    short = record()._replace(fresh_until=now, dead_at=now + SECOND // 20)
    await fill(l2, b"k", short)
    saved = server.command("GET", NAMES.value(b"k"))
    assert saved
    await eventually(lambda: not server.command("EXISTS", NAMES.value(b"k")))
    server.command("SET", NAMES.value(b"k"), saved, "PX", 50)
    assert (await l2.acquire(b"k")).record is None
    server.command("PERSIST", NAMES.value(b"k"))
    assert (await l2.acquire(b"k")).record is None


async def test_lease_without_an_end_is_given_one(l2: L2, server: RedisServer) -> None:
    server.command("SET", NAMES.lease(b"k"), token())
    answer = await l2.acquire(b"k", offer=token())
    assert (answer.lease, answer.wait_ms) == (WAIT, l2.lease_ms)
    assert 0 < server.command("PTTL", NAMES.lease(b"k")) <= l2.lease_ms


@pytest.mark.parametrize("part", ["lease", "waiters", "error"])
async def test_key_of_another_type_does_not_stand_in_the_way(
    l2: L2, server: RedisServer, part: str
) -> None:
    key = getattr(NAMES, part)(b"k")
    server.command("RPUSH", key, "foreign")
    answer = await l2.acquire(b"k", offer=token(), waited=token(), channel=b"c")
    assert answer.lease == WON
    server.command("DEL", key)
    server.command("RPUSH", key, "foreign")
    done = await l2.invalidate([Invalidation(b"d", b"k", 7, mine := token())])
    assert server.command("XLEN", NAMES.stream) == 1
    assert await l2.put_fenced(b"k", mine, record(), done.clock) == "stored"
    assert l2.available


async def test_fill_of_which_the_clock_was_set_back_is_no_longer_than_its_life(
    l2: L2, server: RedisServer
) -> None:
    mine, begun = await won(l2, b"k")
    ahead = begun._replace(ahead_ms=begun.ahead_ms + 3_600_000)
    assert await l2.put_fenced(b"k", mine, record(), ahead) == "stored"
    assert server.command("PTTL", NAMES.value(b"k")) <= 60_000


# -- what Redis refuses


@pytest.fixture
def demoted(server: RedisServer) -> Iterator[None]:
    yield
    server.command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("offer", [False, True], ids=["read", "lease"])
async def test_demoted_master_is_not_believed(
    l2: L2, server: RedisServer, demoted: None, offer: bool
) -> None:
    await fill(l2, b"k", record())
    server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(TierUnavailable, match="READONLY"):
        await l2.acquire(b"k", offer=token() if offer else b"")
    with pytest.raises(TierUnavailable):
        await l2.get_many([b"k"])


async def test_demoted_master_takes_no_store(
    l2: L2, server: RedisServer, demoted: None
) -> None:
    operations: list[Callable[[L2, bytes, FleetClock], Awaitable[object]]] = [
        lambda l2, mine, begun: l2.put_fenced(b"k", mine, record(), begun),
        lambda l2, mine, begun: l2.renew(b"k", mine, 3000),
        lambda l2, mine, begun: l2.abandon(b"k", mine),
        lambda l2, mine, begun: l2.invalidate([Invalidation(b"d", b"k")]),
    ]
    for operation in operations:
        server.command("FLUSHALL")
        mine, begun = await won(l2, b"k")
        server.command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(TierUnavailable, match="READONLY"):
            await operation(l2, mine, begun)
        server.command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("denied", ["-get", "-getrange"])
async def test_missing_right_deletes_nothing(
    l2: L2, server: RedisServer, denied: str
) -> None:
    """It says nothing of what stands there."""
    await fill(l2, b"k", record())
    mine, _ = await won(l2, b"k")
    user = ("reset", "on", ">x", "~*", "&*", "+@all", denied)
    server.command("ACL", "SETUSER", "poor", *user)
    poor = L2(server.url + "?username=poor&password=x", "app", deadline=2.0)
    try:
        with pytest.raises(TierUnavailable):
            await poor.acquire(b"k", offer=token(), early=True)
    finally:
        await poor.close()
    assert server.command("GET", NAMES.lease(b"k")) == mine
    assert server.command("EXISTS", NAMES.value(b"k"))


@pytest.mark.parametrize(
    "denied", ["+@all -evalsha", "+@all -mget", "+@all -persist", "+@all -hmget"]
)
async def test_missing_right_is_a_tier_unavailable(
    l2: L2, server: RedisServer, denied: str
) -> None:
    server.command("ACL", "SETUSER", "poor", "reset", "on", ">x", "~*", *denied.split())
    poor = L2(server.url + "?username=poor&password=x", "app", deadline=2.0)
    try:
        why = r"NOPERM|script can.t run|ACL failure"
        with pytest.raises(TierUnavailable, match=why):
            await poor.acquire(b"k", offer=token())
        if "evalsha" not in denied:
            with pytest.raises(TierUnavailable):
                await poor.get_many([b"k"])
    finally:
        await poor.close()


async def test_generations_of_another_type_are_a_tier_unavailable(
    l2: L2, server: RedisServer
) -> None:
    server.command("SET", NAMES.generations, "foreign")
    for _ in range(THRESHOLD):
        with pytest.raises(TierUnavailable, match="WRONGTYPE"):
            await l2.acquire(b"k")
    assert not l2.available  # counted


async def test_keys_are_in_one_slot_and_declared_form() -> None:
    key = b"a:{b}\xff"
    assert NAMES.value(key) == b"shmcache:{app:0}:v:a:{b}\xff"
    assert NAMES.generations == b"shmcache:{app:0}:g"
    assert NAMES.stream == b"shmcache:{app:0}:s"
    assert NAMES.channels == b"shmcache:{app}:c:"
    assert NAMES.hosts == b"shmcache:{app:0}:h"
    other = Names("app", 15)
    assert other.value(key) == b"shmcache:{app:15}:v:" + key
    assert other.channels == NAMES.channels
    assert NAMES.key(NAMES.lease(key)) == NAMES.key(other.lease(key)) == key
