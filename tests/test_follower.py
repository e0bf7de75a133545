"""One process per host has the role, and hands it over when it does not beat."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest

from shmcache.ask import Invalidation
from shmcache.clock import FakeClock
from shmcache.cluster import PARTITIONS
from shmcache.follower import FOLLOWER, Follower
from shmcache.l1 import L1, UNFOLLOWED
from shmcache.l2 import L2
from shmcache.stream import Stream
from tests.fleets import divided, key_in
from tests.helpers import end, python, segment_name
from tests.redis_server import RedisServer, eventually, redis_server
from tests.scene import applied, following, gaps, gone, stale, store, tell

FOLLOW_FOR_EVER = """
import asyncio, sys
from shmcache.follower import Follower
from shmcache.l1 import L1
from shmcache.l2 import L2

async def main(name, url):
    l1 = L1.open(name, 2 << 20)
    l1.join()
    follower = Follower(l1, L2(url, "app"))
    await follower.start()
    await follower.caught_up.wait()
    print("follows", flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_one_of_two_processes_follows(l1: L1, l2: L2) -> None:
    async with (
        following(l1, l2) as first,
        following(l1, l2, at_once=False) as second,
    ):
        assert (first.leads, second.leads) == (True, False)
        await first.close()
        await eventually(second.caught_up.is_set)
        assert second.leads


FORK = """
import asyncio, os, sys
from shmcache import Cache

name, url = sys.argv[1:]
cache = Cache.open(name, size=2 << 20, l2=url)

async def child():
    await cache.start()
    await asyncio.sleep(0.6)
    leads = cache._parts.invalidations.follower.leads
    line = f"{int(leads)} {cache._parts.leases.channel.decode()}\\n"
    os.write(1, line.encode())
    await asyncio.sleep(0.4)
    await cache.close()

for i in range(3):
    if not os.fork():
        asyncio.run(child())
        os._exit(0)
for i in range(3):
    os.wait()
cache._l1.close(keep=False)
"""


def test_one_of_forked_children_follows(server: RedisServer) -> None:
    """Of a cache that the parent opened: each stands for itself, with its own ear."""
    forked = python("-c", FORK, segment_name(), server.url, stdout=-1)
    out, _ = forked.communicate(timeout=20)
    lines = [line.split() for line in out.splitlines()]
    assert sorted(leads for leads, _ in lines) == [b"0", b"0", b"1"]
    assert len({channel for _, channel in lines}) == 3


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_follower_that_does_not_beat_is_replaced(
    l1: L1, l2: L2, server: RedisServer, how: signal.Signals
) -> None:
    name = l1.segment.path.name.rpartition(".")[2]
    sibling = python("-c", FOLLOW_FOR_EVER, name, server.url, stdout=-1)
    try:
        assert sibling.stdout is not None
        assert sibling.stdout.readline() == b"follows\n"
        other = l1.table.words("stream").load(FOLLOWER)
        async with following(l1, l2, at_once=False) as follower:
            assert other != 0 and not follower.leads
            sibling.send_signal(how)
            await eventually(lambda: follower.leads)
            store(l1, b"k")
            await tell(l2, b"d", b"k")
            await eventually(lambda: gone(l1, b"k"))
            if how == signal.SIGSTOP:  # the old one comes back, and steps down
                sibling.send_signal(signal.SIGCONT)
                before = applied(l1)
                await tell(l2, b"d", b"k")
                await eventually(lambda: applied(l1) == before + 1)
                assert follower.leads
    finally:
        sibling.send_signal(signal.SIGCONT)
        end(sibling)
        assert sibling.stdout is not None
        sibling.stdout.close()


async def test_follower_finds_redis_again_after_a_restart(l1: L1) -> None:
    with redis_server() as own:
        l2 = L2(own.url, "app")
        async with following(l1, l2):
            own.restart()
            await eventually(lambda: gaps(l1) == 2)
        await l2.close()


async def test_start_without_redis_is_no_error(l1: L1) -> None:
    l2 = L2("unix:///nowhere/redis.sock", "app")
    async with following(l1, l2, at_once=False) as follower:
        await eventually(lambda: follower.leads)
        assert not follower.caught_up.is_set()
    await l2.close()


async def test_host_is_followed_only_once_it_came_to_the_end(
    l1: L1, l2: L2, monkeypatch
) -> None:
    """More entries wait than one read brings: only behind the last of them may what
    stands be trusted."""
    monkeypatch.setattr("shmcache.stream.COUNT", 2)
    words = l1.table.words("stream")
    async with following(l1, l2):
        pass
    for i in range(7):
        await tell(l2, b"d", b"%d" % i)
    words.store(UNFOLLOWED, 1)
    seen = []
    apply = Stream._apply

    def watch(stream: Stream, entry: dict[bytes, bytes]) -> None:
        apply(stream, entry)
        seen.append(words.load(UNFOLLOWED))

    monkeypatch.setattr(Stream, "_apply", watch)
    async with following(l1, l2):
        await eventually(lambda: not words.load(UNFOLLOWED))
    assert seen == [1] * 7


async def test_mark_made_meanwhile_is_left(l1: L1, l2: L2, monkeypatch) -> None:
    """1. the follower begins to read; 2. who comes to an empty host marks it anew;
    3. the follower is at the end: of what it read before 2."""
    words = l1.table.words("stream")
    words.store(UNFOLLOWED, 1)
    heartbeat = Stream.heartbeat

    async def marked(stream: Stream) -> bool:
        words.add(UNFOLLOWED, 1)
        return await heartbeat(stream)

    monkeypatch.setattr(Stream, "heartbeat", marked)
    async with following(l1, l2):
        assert words.load(UNFOLLOWED)


async def test_role_is_given_up_at_the_close(l2: L2) -> None:
    """Nobody waits until a closed follower's beat is old: no time passes here."""
    l1 = L1.open(segment_name(), 2 << 20, clock=FakeClock())
    l1.join()
    async with (
        following(l1, l2) as first,
        following(l1, l2, at_once=False) as second,
    ):
        assert first.leads and not second.leads
        await first.close()
        await eventually(lambda: second.leads)
    assert l1.table.words("stream").load(FOLLOWER) == 0
    async with following(l1, l2) as third:
        assert third.leads
    l1.close(keep=False)


async def test_close_leaves_the_role_to_who_has_it_by_now(l1: L1, l2: L2) -> None:
    words = l1.table.words("stream")
    async with following(l1, l2) as first:
        words.store(FOLLOWER, 7)
        await first.close()
        assert words.load(FOLLOWER) == 7


async def test_hung_redis_is_noticed_by_an_idle_host(
    l1: L1, l2: L2, server: RedisServer
) -> None:
    """Nobody asks anything, so no operation fails; and it is used again at once."""
    async with following(l1, l2):
        server.stop()
        try:
            await eventually(lambda: not l2.up(0), within=3.0)
        finally:
            server.cont()
        await eventually(lambda: l2.up(0), within=3.0)


# -- several partitions


@pytest.fixture
def second() -> Iterator[RedisServer]:
    """The odd partitions are on it, the even ones on `server`."""
    with redis_server() as running:
        yield running


@pytest.fixture
async def parts(server: RedisServer, second: RedisServer) -> AsyncIterator[L2]:
    server.command("FLUSHALL")
    with divided(server, second):
        l2 = L2(server.url, "app", deadline=0.5)
    yield l2
    await l2.close()


async def tell_each(l2: L2, partitions: Iterable[int]) -> None:
    """Delete a key of each of these partitions, as another host would."""
    for p in partitions:
        await l2.invalidate([Invalidation(b"d", key_in(p))], partition=p)


def store_each(l1: L1) -> None:
    for p in range(PARTITIONS):
        store(l1, key_in(p))


def left(l1: L1) -> list[int]:
    """The partitions whose key stands."""
    return [p for p in range(PARTITIONS) if not gone(l1, key_in(p))]


def positions(follower: Follower) -> list[int]:
    return [place.position for place in follower.places]


async def test_each_partition_has_a_position_of_its_own(l1: L1, parts: L2) -> None:
    async with following(l1, parts) as follower:
        assert gaps(l1) == PARTITIONS
        store_each(l1)
        await tell_each(parts, [0, 3, 3, 15])
        await eventually(lambda: applied(l1) == 4)
        assert left(l1) == [p for p in range(PARTITIONS) if p not in (0, 3, 15)]
        assert positions(follower) == [1, 0, 0, 2, *[0] * 11, 1]
    await tell_each(parts, range(PARTITIONS))  # while nobody follows
    async with following(l1, parts) as follower:
        assert left(l1) == [] and gaps(l1) == PARTITIONS
        assert positions(follower) == [2, 1, 1, 3, *[1] * 11, 2]


async def test_gap_of_one_partition_moves_that_position_alone(
    l1: L1, parts: L2, second: RedisServer
) -> None:
    async with following(l1, parts) as follower:
        await tell_each(parts, [2, 3])
        await eventually(lambda: applied(l1) == 2)
        store(l1, key_in(2))
        second.command("HINCRBY", parts.names_of(3).generations, "c", 5)
        await eventually(lambda: gaps(l1) == PARTITIONS + 1)
        assert positions(follower) == [0, 0, 1, 6, *[0] * 12]
        assert stale(l1, key_in(2))  # whose it is does not matter: one word for all


async def test_partitions_go_on_while_others_are_away(
    l1: L1, parts: L2, second: RedisServer
) -> None:
    words = l1.table.words("stream")
    words.store(UNFOLLOWED, 1)
    second.kill()
    async with following(l1, parts, at_once=False) as follower:
        even, odd = follower.places[::2], follower.places[1::2]
        placed = asyncio.ensure_future(follower.placed())
        await eventually(lambda: all(place.identity for place in even))
        await eventually(lambda: sum(p % 2 == 0 for p in follower._followed) == 8)
        store_each(l1)
        await tell_each(parts, range(0, PARTITIONS, 2))
        await eventually(lambda: left(l1) == list(range(1, PARTITIONS, 2)))
        assert not any(place.identity for place in odd) and not placed.done()
        assert words.load(UNFOLLOWED) and not follower.caught_up.is_set()
        second.start()
        await placed
        await eventually(follower.caught_up.is_set)
        assert not words.load(UNFOLLOWED)


async def test_hung_server_costs_its_own_partitions(
    l1: L1, parts: L2, second: RedisServer
) -> None:
    async with following(l1, parts):
        second.stop()
        odd = range(1, PARTITIONS, 2)
        await eventually(lambda: not any(map(parts.up, odd)), within=8.0)
        assert all(map(parts.up, range(0, PARTITIONS, 2))) and not parts.available
        second.cont()
        await eventually(lambda: parts.available, within=8.0)


@pytest.mark.parametrize("last", [0, 7, 15])
async def test_no_partition_alone_ends_the_doubt(
    l1: L1, parts: L2, monkeypatch, last: int
) -> None:
    """1. who comes to an empty host marks it; 2. all streams but one are read to their
    end; 3. what was deleted in that one stands here still."""
    async with following(l1, parts):
        store_each(l1)
    await tell_each(parts, range(PARTITIONS))
    words, go = l1.table.words("stream"), asyncio.Event()
    words.store(UNFOLLOWED, 1)
    heartbeat = Stream.heartbeat

    async def held(stream: Stream) -> bool:
        if stream._partition == last:
            await go.wait()
        return await heartbeat(stream)

    monkeypatch.setattr(Stream, "heartbeat", held)
    async with following(l1, parts, at_once=False) as follower:
        await eventually(lambda: len(follower._followed) == PARTITIONS - 1)
        assert left(l1) == [last]
        assert words.load(UNFOLLOWED) and not follower.caught_up.is_set()
        go.set()
        await eventually(follower.caught_up.is_set)
        assert left(l1) == [] and not words.load(UNFOLLOWED)


async def test_all_partitions_come_to_their_end_under_one_mark(
    l1: L1, parts: L2
) -> None:
    """1. all but the last are at their end; 2. the host is marked anew; 3. so is the
    last one: the others were before 2."""
    words, follower = l1.table.words("stream"), Follower(l1, parts)
    words.store(UNFOLLOWED, 1)
    for p in range(PARTITIONS - 1):
        follower._at_the_end(p, 1)
    words.store(UNFOLLOWED, 2)
    follower._at_the_end(PARTITIONS - 1, 2)
    for p in range(PARTITIONS - 1):
        assert words.load(UNFOLLOWED) == 2 and not follower.caught_up.is_set()
        follower._at_the_end(p, 2)
    assert not words.load(UNFOLLOWED) and follower.caught_up.is_set()
