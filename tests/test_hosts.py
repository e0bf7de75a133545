"""How many hosts have applied what was invalidated, told by the hosts themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shmcache import Cache, Confirmation
from shmcache.hosts import LIVE_MS, Heard, Told, confirmation, heard, unpacked
from shmcache.scripts import Names
from shmcache.stream import Stream
from tests.caches import two_hosts
from tests.fleets import divided
from tests.redis_server import RedisServer, eventually, redis_server

INCARNATION = (5).to_bytes(8, "little")
NOW = 10**12


def told(position: int, piece: int = 5, at: int = NOW) -> bytes:
    return Told(position, piece, at).packed()


# -- what hosts tell


@pytest.mark.parametrize(
    "value", [b"", b"7", b"7 1", b"a b c", b"1 2 3 4", b"\xff 1 2"]
)
def test_what_no_host_told_is_none(value) -> None:
    assert unpacked(value) is None


def test_told_position_is_read_again() -> None:
    assert unpacked(Told(7, 5, NOW).packed()) == Told(7, 5, NOW)


def test_silent_host_is_forgotten() -> None:
    pairs = [b"a", told(3), b"b", told(3, at=NOW - LIVE_MS - 1), b"c", b"what"]
    found, silent = heard(INCARNATION, b"3", NOW, pairs)
    assert (list(found.hosts), silent) == ([b"a"], [b"b", b"c"])


@pytest.mark.parametrize(
    ("ends", "now", "position", "done"),
    [
        ((7, 5), (7, 5), Told(7, 5, 0), True),
        ((7, 5), (9, 5), Told(8, 5, 0), True),
        ((7, 5), (7, 5), Told(6, 5, 0), False),
        ((7, 5), (1, 6), Told(9, 5, 0), False),
        ((7, 5), (1, 6), Told(0, 6, 0), True),
        ((7, 5), (7, 5), Told(9, 4, 0), False),
    ],
    ids=["there", "beyond", "behind", "left behind", "after a gap", "of before"],
)
def test_host_confirms_once_it_is_at_the_end(ends, now, position, done) -> None:
    heard_of = Heard(*now, {b"me": Told(0, 0, 0), b"other": position})
    found = confirmation([Heard(*ends, {})], [heard_of], b"me")
    assert found == Confirmation(1 + done, 2, told=True)


def test_host_confirms_by_every_partition() -> None:
    here = {b"me": Told(0, 5, 0)}
    first = Heard(1, 5, here | {b"a": Told(1, 5, 0)})
    ends = [first, Heard(2, 5, {})]
    for second, done in ((Told(1, 5, 0), 1), (Told(2, 5, 0), 2)):
        now = [first, Heard(2, 5, here | {b"a": second})]
        assert confirmation(ends, now, b"me") == (done, 2, True)
    assert confirmation(ends, [first, Heard(2, 5, here)], b"me") == (1, 2, True)


def test_nothing_is_known_where_we_are_not_heard_of() -> None:
    ends = [Heard(1, 5, {b"a": Told(1, 5, 0)})]
    assert confirmation(ends, ends, b"me") == (1, None, True)


# -- a fleet


@pytest.fixture
async def fleet(server: RedisServer) -> AsyncIterator[tuple[Cache, Cache]]:
    async with two_hosts(server.url) as hosts:
        for cache in hosts:
            await eventually(lambda cache=cache: cache.stats().following)
        yield hosts


async def test_host_alone_confirms_to_itself(pair) -> None:
    await pair[0].delete("k")
    assert await pair[0].confirmed() == (1, 1, True)


async def test_every_host_confirms(fleet) -> None:
    one, other = fleet
    await other.set("k", 1, tags=("t",))
    for _ in range(5):  # a position is told a few times a second: none waits for it
        await one.delete_tags("t")
        assert await one.confirmed(0.5) == (2, 2, True)
        assert other.peek("k", None) is None


async def test_host_that_is_held_up_does_not_confirm(fleet, monkeypatch) -> None:
    one, other = fleet
    apply, held = Stream._apply, asyncio.Event()
    host = other._parts.invalidations._me()

    def unless_held(self: Stream, entry: dict[bytes, bytes]) -> None:
        if self._host == host and not held.is_set():
            raise ConnectionError("held up")
        apply(self, entry)

    monkeypatch.setattr(Stream, "_apply", unless_held)
    await one.delete("k")
    assert await one.confirmed(0.1) == (1, 2, True)
    assert await one.confirmed(0) == (1, 2, True)
    held.set()
    assert await one.confirmed(5) == (2, 2, True)


async def test_host_that_left_is_not_counted(fleet, server, monkeypatch) -> None:
    one, other = fleet
    monkeypatch.setattr("shmcache.hosts.LIVE_MS", 1500)
    hosts = Names(one.config.app).hosts
    await other.close()
    await one.delete("k")
    assert await one.confirmed(5) == (1, 1, True)
    assert len(server.command("HGETALL", hosts)) == 1


async def test_foreign_hosts_do_no_harm(fleet, server) -> None:
    one, _ = fleet
    server.command("SET", Names(one.config.app).hosts, "in the way")
    await one.delete("k")
    assert await one.confirmed(0) == (1, None, True)
    assert one.stats().l2 == "up"


async def test_partitions_all_have_to_be_followed() -> None:
    with redis_server() as server, divided(server, partitions=3):
        async with two_hosts(server.url) as (one, other):
            await eventually(lambda: one.stats().following and other.stats().following)
            await one.delete_many([f"k{i}" for i in range(9)])
            await one.delete_tags("t")
            assert await one.confirmed(5) == (2, 2, True)


async def test_without_redis_it_is_told_later() -> None:
    with redis_server() as server:
        async with two_hosts(server.url) as (one, other):
            await eventually(lambda: other.stats().following)
            await one.delete("k")
            assert await one.confirmed(5) == (2, 2, True)
            server.stop()
            await one.delete("k")
            assert await one.confirmed(0) == (1, None, False)
            server.cont()
            assert await one.confirmed(10) == (2, 2, True)


@pytest.mark.parametrize("wait", [-1, "1", True, float("nan")])
async def test_wrong_wait_is_refused(pair, wait) -> None:
    with pytest.raises(ValueError, match="wait="):
        await pair[0].confirmed(wait)
