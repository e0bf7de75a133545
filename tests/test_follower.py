"""One process per host applies the fleet's invalidations; gaps are found."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from shmcache.clock import SYSTEM
from shmcache.follower import (
    FOLLOWER,
    INCARNATION,
    POSITION,
    Follower,
    raise_and_drop,
)
from shmcache.l1 import L1, OK, RAISED, UNFOLLOWED
from shmcache.l2 import L2
from shmcache.record import FRESH, STALE, Record
from shmcache.scripts import Names
from tests.helpers import end, python, segment_name
from tests.redis_server import RedisServer, eventually, redis_server

NAMES = Names("app")
SECOND = 10**9
FOLLOW_FOR_EVER = """
import asyncio, sys
from shmcache.follower import Follower
from shmcache.l1 import L1
from shmcache.l2 import L2

async def main(name, url):
    l1 = L1.open(name, 2 << 20)
    l1.join()
    follower = Follower(l1.table, L2(url, "app"), l1.table.words("stream"))
    await follower.start()
    await follower.caught_up.wait()
    print("follows", flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
async def l2(server: RedisServer) -> AsyncIterator[L2]:
    server.command("FLUSHALL")
    l2 = L2(server.url, "app")
    yield l2
    await l2.close()


@pytest.fixture
def l1() -> Iterator[L1]:
    opened = L1.open(segment_name(), 2 << 20)
    opened.join()
    yield opened
    opened.close(keep=False)


@asynccontextmanager
async def following(l1: L1, l2: L2, *, at_once: bool = True) -> AsyncIterator[Follower]:
    follower = Follower(l1.table, l2, l1.table.words("stream"))
    await follower.start()
    try:
        if at_once:
            await eventually(follower.caught_up.is_set)
        yield follower
    finally:
        await follower.close()


def store(l1: L1, key: bytes, *, nonce: int = 1, tags: tuple[int, ...] = ()) -> None:
    now, stamp = l1.clock.now(), l1.table.clock()
    until = now + 60 * SECOND
    record = Record(
        b"v", FRESH, 0, now, until, until + 60 * SECOND, stamp, nonce, 1, tags
    )
    assert l1.put(key, record) == OK


def gone(l1: L1, key: bytes) -> bool:
    return l1.look(key) is None


def stale(l1: L1, key: bytes) -> bool:
    record = l1.look(key)
    return record is not None and record.state == STALE


@pytest.mark.parametrize(
    ("kind", "name", "state"),
    [
        (b"d", b"k", gone),
        (b"t", 5, gone),
        (b"c", b"", gone),
        (b"x", b"k", stale),
        (b"u", 5, stale),
        (b"y", b"", stale),
    ],
    ids=["delete", "tag", "clear", "expire", "expire-tag", "expire-all"],
)
async def test_entry_of_another_host_is_applied(
    l1: L1, l2: L2, kind: bytes, name: bytes | int, state
) -> None:
    async with following(l1, l2) as follower:
        store(l1, b"k", tags=(5,))
        store(l1, b"other")
        await l2.invalidate(kind, [name])
        await eventually(lambda: state(l1, b"k"))
        assert follower.applied == 1
        if name:
            other = l1.look(b"other")
            assert other is not None and other.state == FRESH
        store(l1, b"k", tags=(5,))  # begun after it: unharmed
        again = l1.look(b"k")
        assert again is not None and again.state == FRESH


async def test_fill_begun_before_an_entry_is_refused(l1: L1, l2: L2) -> None:
    async with following(l1, l2) as follower:
        begun = l1.table.clock()
        await l2.invalidate(b"d", [b"k"])
        await eventually(lambda: follower.applied)
        assert l1.table.highest(b"k") > begun


async def test_entry_of_a_set_spares_its_own_record(l1: L1, l2: L2) -> None:
    async with following(l1, l2) as follower:
        store(l1, b"k", nonce=77)
        store(l1, b"other", nonce=78)
        sets = [(os.urandom(16), 77), (os.urandom(16), 79)]
        await l2.invalidate(b"d", [b"k", b"other"], sets=sets)
        await eventually(lambda: follower.applied == 2)
        assert not gone(l1, b"k") and gone(l1, b"other")


async def test_many_entries_are_applied_in_order(l1: L1, l2: L2) -> None:
    async with following(l1, l2) as follower:
        words = l1.table.words("stream")
        last = 0
        for i in range(10):
            keys = [b"%d" % (100 * i + j) for j in range(100)]
            last = (await l2.invalidate(b"d", keys)).clock
        await eventually(lambda: words.load(POSITION) == last)
        assert (follower.applied, follower.gaps) == (1000, 1)


# -- gaps


async def gap_is_found(l1: L1, follower: Follower, gaps: int) -> None:
    """What stood before it is stale, what is stored after it is fresh."""
    await eventually(lambda: follower.gaps == gaps)
    assert stale(l1, b"k")
    store(l1, b"after")
    assert not stale(l1, b"after")


async def test_first_position_is_a_gap(l1: L1, l2: L2) -> None:
    await l2.invalidate(b"d", [b"k"])
    store(l1, b"k")
    async with following(l1, l2) as follower:
        await gap_is_found(l1, follower, 1)
        assert follower.applied == 0


async def test_position_outlives_the_follower(l1: L1, l2: L2) -> None:
    async with following(l1, l2):
        store(l1, b"k")
        store(l1, b"kept")
    await l2.invalidate(b"d", [b"k"])
    async with following(l1, l2) as follower:
        await eventually(lambda: gone(l1, b"k"))
        assert follower.gaps == 0 and not stale(l1, b"kept")


async def test_trimmed_entries_are_a_gap(l1: L1, l2: L2, server: RedisServer) -> None:
    async with following(l1, l2):
        store(l1, b"k")
    for _ in range(3):
        await l2.invalidate(b"d", [b"other"])
    server.command("XTRIM", NAMES.stream, "MAXLEN", 1)
    async with following(l1, l2) as follower:
        await gap_is_found(l1, follower, 1)


async def test_lost_stream_is_a_gap(l1: L1, l2: L2, server: RedisServer) -> None:
    """The clock is beyond the position, with nothing to read."""
    async with following(l1, l2) as follower:
        store(l1, b"k")
        server.command("HINCRBY", NAMES.generations, "c", 1)
        await gap_is_found(l1, follower, 2)


async def test_flushed_redis_is_a_gap_and_followed_again(
    l1: L1, l2: L2, server: RedisServer
) -> None:
    async with following(l1, l2) as follower:
        store(l1, b"k")
        await l2.invalidate(b"d", [b"other"])
        await eventually(lambda: follower.applied)
        server.command("FLUSHALL")
        await gap_is_found(l1, follower, 2)
        await l2.invalidate(b"d", [b"after"])
        await eventually(lambda: gone(l1, b"after"))


async def test_incarnation_is_noted_last(l1: L1, l2: L2) -> None:
    """Killed between position and incarnation, the next one finds the gap again."""
    words = l1.table.words("stream")
    async with following(l1, l2):
        store(l1, b"k")
    words.store(INCARNATION, 0)
    async with following(l1, l2) as follower:
        await gap_is_found(l1, follower, 1)


# -- the role


async def test_one_of_two_processes_follows(l1: L1, l2: L2) -> None:
    async with (
        following(l1, l2) as first,
        following(l1, l2, at_once=False) as second,
    ):
        assert (first.leads, second.leads) == (True, False)
        await first.close()
        await eventually(second.caught_up.is_set)
        assert second.leads


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
            await l2.invalidate(b"d", [b"k"])
            await eventually(lambda: gone(l1, b"k"))
            if how == signal.SIGSTOP:  # the old one comes back, and steps down
                sibling.send_signal(signal.SIGCONT)
                await l2.invalidate(b"d", [b"k"])
                await eventually(lambda: follower.applied == 2)
                assert follower.leads
    finally:
        sibling.send_signal(signal.SIGCONT)
        end(sibling)
        assert sibling.stdout is not None
        sibling.stdout.close()


async def test_follower_finds_redis_again_after_a_restart(l1: L1) -> None:
    with redis_server() as own:
        l2 = L2(own.url, "app")
        async with following(l1, l2) as follower:
            store(l1, b"k")
            own.restart()
            await gap_is_found(l1, follower, 2)
        await l2.close()


async def test_start_without_redis_is_no_error(l1: L1) -> None:
    l2 = L2("unix:///nowhere/redis.sock", "app")
    async with following(l1, l2, at_once=False) as follower:
        await eventually(lambda: follower.leads)
        assert not follower.caught_up.is_set()
    await l2.close()


def test_older_fetch_does_not_replace_a_promoted_set(l1: L1) -> None:
    """1. a fetch without a lease notes its stamp; 2. another host's set is promoted;
    3. the set's entry is applied, its record stays; 4. the fetch ends: refused."""
    now, begun, nonce = SYSTEM.now(), l1.table.clock(), 7
    end = now + 60 * SECOND
    new = Record(b"new", FRESH, 0, now, end, end, begun, nonce, 1, ())
    assert l1.put(b"k", new) == OK
    raise_and_drop(l1.table, b"d", b"k", floor=True, nonce=nonce)
    assert l1.put(b"k", new._replace(value=b"old", nonce=8)) == RAISED
    assert l1.peek(b"k") == b"new"


async def test_host_is_followed_only_once_it_came_to_the_end(
    l1: L1, l2: L2, monkeypatch
) -> None:
    """More entries wait than one read brings: only behind the last of them may what
    stands be trusted."""
    monkeypatch.setattr("shmcache.follower.COUNT", 2)
    words = l1.table.words("stream")
    async with following(l1, l2):
        pass
    for i in range(7):
        await l2.invalidate(b"d", [b"%d" % i])
    words.store(UNFOLLOWED, 1)
    follower = Follower(l1.table, l2, words)
    applied = []
    apply = follower._apply

    def watch(entry: dict[bytes, bytes]) -> None:
        apply(entry)
        applied.append(words.load(UNFOLLOWED))

    monkeypatch.setattr(follower, "_apply", watch)
    await follower.start()
    await eventually(lambda: not words.load(UNFOLLOWED))
    await follower.close()
    assert applied == [1] * 7


async def test_mark_made_meanwhile_is_left(l1: L1, l2: L2, monkeypatch) -> None:
    """1. the follower begins to read; 2. who comes to an empty host marks it anew;
    3. the follower is at the end: of what it read before 2."""
    words = l1.table.words("stream")
    words.store(UNFOLLOWED, 1)
    follower = Follower(l1.table, l2, words)
    ask = follower._ask

    async def asked(connection: object, *command: object) -> object:
        if command[0] == "HMGET":
            words.add(UNFOLLOWED, 1)
        return await ask(connection, *command)

    monkeypatch.setattr(follower, "_ask", asked)
    await follower.start()
    await eventually(follower.caught_up.is_set)
    assert words.load(UNFOLLOWED)
    await follower.close()
