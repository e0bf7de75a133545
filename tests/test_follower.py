"""One process per host has the role, and hands it over when it does not beat."""

from __future__ import annotations

import signal

import pytest

from shmcache.follower import FOLLOWER
from shmcache.l1 import L1, UNFOLLOWED
from shmcache.l2 import L2
from shmcache.stream import Stream
from tests.helpers import end, python, segment_name
from tests.redis_server import RedisServer, eventually, redis_server
from tests.scene import applied, following, gaps, gone, store, tell

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
