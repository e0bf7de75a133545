"""One partition's stream: entries applied in order, gaps and failovers found."""

from __future__ import annotations

import asyncio
import os

import pytest

from shmcache.ask import Invalidation
from shmcache.clock import SYSTEM
from shmcache.cluster import PARTITIONS
from shmcache.hosts import unpacked
from shmcache.l1 import L1, OK, RAISED
from shmcache.l2 import L2
from shmcache.record import FRESH, Record
from shmcache.scripts import Names
from shmcache.stream import Place, Settled, Stream, raise_and_drop
from shmcache.wire import NotMasterError
from tests.helpers import free_port, segment_name
from tests.redis_server import RedisServer, eventually, redis_server
from tests.scene import SECOND, applied, following, gaps, gone, stale, store, tell

NAMES = Names("app")


def place(l1: L1) -> Place:
    return Place(l1.table.words("stream"), 0)


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
    async with following(l1, l2):
        store(l1, b"k", tags=(5,))
        store(l1, b"other")
        await tell(l2, kind, name)
        await eventually(lambda: state(l1, b"k"))
        assert applied(l1) == 1
        if name:
            other = l1.look(b"other")
            assert other is not None and other.state == FRESH
        store(l1, b"k", tags=(5,))  # begun after it: unharmed
        again = l1.look(b"k")
        assert again is not None and again.state == FRESH


async def test_fill_begun_before_an_entry_is_refused(l1: L1, l2: L2) -> None:
    async with following(l1, l2):
        begun = l1.table.clock()
        await tell(l2, b"d", b"k")
        await eventually(lambda: applied(l1))
        assert l1.table.highest(b"k") > begun


async def test_entry_of_a_set_spares_its_own_record(l1: L1, l2: L2) -> None:
    async with following(l1, l2):
        store(l1, b"k", nonce=77)
        store(l1, b"other", nonce=78)
        sets = [
            Invalidation(b"d", b"k", 77, os.urandom(16)),
            Invalidation(b"d", b"other", 79, os.urandom(16)),
        ]
        await l2.invalidate(sets)
        await eventually(lambda: applied(l1) == 2)
        assert not gone(l1, b"k") and gone(l1, b"other")


@pytest.mark.parametrize(
    ("also", "spared"), [((), True), ((78,), True), ((77 + 256,), False)]
)
async def test_entry_of_a_settled_set_is_passed_over(
    l1: L1, l2: L2, also: tuple[int, ...], spared: bool
) -> None:
    """Unless another set took its word: then it is applied as any."""
    settled = Settled(l1.table.words("stream"))
    for nonce in (77, *also):
        settled.add(nonce)
    async with following(l1, l2):
        begun = l1.table.clock()
        store(l1, b"k", nonce=5)
        await l2.invalidate([Invalidation(b"d", b"k", 77, os.urandom(16))])
        await eventually(lambda: applied(l1))
        assert gone(l1, b"k") != spared
        assert (l1.table.highest(b"k") > begun) != spared
        assert place(l1).position == 1


async def test_delete_is_no_settled_set(l1: L1, l2: L2) -> None:
    """Its entry bears no nonce, as a word that nothing was written to."""
    assert 0 not in Settled(l1.table.words("stream"))
    async with following(l1, l2):
        store(l1, b"k")
        await tell(l2, b"d", b"k")
        await eventually(lambda: gone(l1, b"k"))


async def test_many_entries_are_applied_in_order(l1: L1, l2: L2) -> None:
    async with following(l1, l2):
        last = 0
        for i in range(10):
            keys = [b"%d" % (100 * i + j) for j in range(100)]
            last = await tell(l2, b"d", *keys)
        await eventually(lambda: place(l1).position == last)
        assert (applied(l1), gaps(l1)) == (1000, 1)


# -- gaps


async def gap_is_found(l1: L1, count: int) -> None:
    """What stood before it is stale, what is stored after it is fresh."""
    await eventually(lambda: gaps(l1) == count)
    assert stale(l1, b"k")
    store(l1, b"after")
    assert not stale(l1, b"after")


async def test_first_position_is_a_gap(l1: L1, l2: L2) -> None:
    await tell(l2, b"d", b"k")
    store(l1, b"k")
    async with following(l1, l2):
        await gap_is_found(l1, 1)
        assert applied(l1) == 0


async def test_position_outlives_the_follower(l1: L1, l2: L2) -> None:
    async with following(l1, l2):
        store(l1, b"k")
        store(l1, b"kept")
    await tell(l2, b"d", b"k")
    async with following(l1, l2):
        await eventually(lambda: gone(l1, b"k"))
        assert gaps(l1) == 1 and not stale(l1, b"kept")


async def test_trimmed_entries_are_a_gap(l1: L1, l2: L2, server: RedisServer) -> None:
    async with following(l1, l2):
        store(l1, b"k")
    for _ in range(3):
        await tell(l2, b"d", b"other")
    server.command("XTRIM", NAMES.stream, "MAXLEN", 1)
    async with following(l1, l2):
        await gap_is_found(l1, 2)


async def test_lost_stream_is_a_gap(l1: L1, l2: L2, server: RedisServer) -> None:
    """The clock is beyond the position, with nothing to read."""
    async with following(l1, l2):
        store(l1, b"k")
        server.command("HINCRBY", NAMES.generations, "c", 1)
        await gap_is_found(l1, 2)


async def test_flushed_redis_is_a_gap_and_followed_again(
    l1: L1, l2: L2, server: RedisServer
) -> None:
    async with following(l1, l2):
        store(l1, b"k")
        await tell(l2, b"d", b"other")
        await eventually(lambda: applied(l1))
        server.command("FLUSHALL")
        await gap_is_found(l1, 2)
        await tell(l2, b"d", b"after")
        await eventually(lambda: gone(l1, b"after"))


async def test_identity_is_noted_last(l1: L1, l2: L2) -> None:
    """Killed between position and identity, the next one finds the gap again."""
    async with following(l1, l2):
        store(l1, b"k")
    noted = place(l1).identity
    l1.table.words("stream").cas(10, noted, 0)
    async with following(l1, l2):
        await gap_is_found(l1, 2)
        assert place(l1).identity == noted


@pytest.mark.parametrize("step", ["raise_gap", "renew", "note"])
async def test_killed_in_a_gap_it_is_found_again(
    l1: L1, l2: L2, server: RedisServer, monkeypatch, step: str
) -> None:
    """1. a gap; 2. the follower dies before a step of it; 3. the next one: whatever
    stood before the gap is stale, and never before that fresh under a new position."""
    async with following(l1, l2):
        store(l1, b"k")
    server.command("FLUSHALL")

    def die(*_: object) -> None:
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        if step == "raise_gap":
            patch.setattr(Stream, "_raise_gap", die)
        else:
            patch.setattr(Place, step, die)
        async with following(l1, l2, at_once=False) as follower:
            await eventually(lambda: follower.failures)
            assert stale(l1, b"k") == (step != "raise_gap")
            assert place(l1).identity and not follower.caught_up.is_set()
    async with following(l1, l2):
        assert stale(l1, b"k")
        store(l1, b"after")
        assert not stale(l1, b"after")


def test_places_of_partitions_share_no_word(l1: L1) -> None:
    words = l1.table.words("stream")
    settled = Settled(words)
    for nonce in range(512, 512 + 256):
        settled.add(nonce)
    before = [words.load(i) for i in range(8)]
    places = [Place(words, p) for p in range(PARTITIONS)]
    for p, at in enumerate(places, 1):
        assert at.renew(at.mark, p, 100 * p)
        at.note((0, p), (0, 50 + p))
    found = [(at.position, at.incarnation, at.identity) for at in places]
    assert found == [(100 * p, p, 50 + p) for p in range(1, PARTITIONS + 1)]
    assert [words.load(i) for i in range(8)] == before  # the role's
    assert all(nonce in settled for nonce in range(512, 512 + 256))


def test_stopped_follower_moves_no_position_of_another_incarnation(l1: L1) -> None:
    """1. it reads behind 0, and is stopped; 2. `:g` is lost, a sibling takes position 0
    of the next; 3. it goes on: what it applied is no entry of that one."""
    at = place(l1)
    assert at.renew(at.mark, 7, 0)
    mark = at.mark
    assert at.renew(mark, 8, 0) and at.position == 0
    assert not at.move(mark, 1)
    assert at.move(at.mark, 2**44 - 1) and at.position == 2**44 - 1


async def test_entries_of_the_old_master_move_no_position_of_the_new(l1: L1) -> None:
    """1. a follower is in its heartbeat's read, and is stopped; 2. failover, a sibling
    takes a position; 3. the first reads on, from the old master, whose clock is far
    ahead: what the new one appends next would never be read."""
    with redis_server() as a, redis_server() as b:
        old_l2, new_l2 = L2(a.url, "app"), L2(b.url, "app")
        wires = [await l2.topology.link(0).connect() for l2 in (old_l2, new_l2)]
        old, new = (
            Stream(l1, l2, 0, place(l1), wire, 1)
            for l2, wire in zip((old_l2, new_l2), wires, strict=True)
        )
        assert not await old.heartbeat() and await old.heartbeat()
        for i in range(10):
            await tell(old_l2, b"d", b"%d" % i)
        ask, stopped, go = old._ask, asyncio.Event(), asyncio.Event()

        async def slow(*commands: tuple[object, ...]) -> list[object]:
            replies = await ask(*commands)
            if commands[0][0] == "XREAD" and not stopped.is_set():
                stopped.set()
                await go.wait()
            return replies

        old._ask = slow  # type: ignore[method-assign]
        beating = asyncio.ensure_future(old.heartbeat())
        await stopped.wait()
        await tell(new_l2, b"d", b"first")
        assert not await new.heartbeat() and await new.heartbeat()
        go.set()
        with pytest.raises(ConnectionError):
            await beating
        assert place(l1).position == 1
        store(l1, b"k")
        await tell(new_l2, b"d", b"k")
        assert await new.heartbeat() and gone(l1, b"k")
        for wire, l2 in zip(wires, (old_l2, new_l2), strict=True):
            await wire.hang_up()
            await l2.close()


async def test_clock_that_went_back_is_a_gap(
    l1: L1, l2: L2, server: RedisServer
) -> None:
    async with following(l1, l2):
        await tell(l2, b"d", b"a", b"b")
        await eventually(lambda: place(l1).position == 2)
        store(l1, b"k")
        server.command("HSET", NAMES.generations, "c", 1)
        await gap_is_found(l1, 2)


async def test_entry_that_cannot_be_read_is_a_gap(
    l1: L1, l2: L2, server: RedisServer
) -> None:
    async with following(l1, l2) as follower:
        store(l1, b"k")
        server.command("HINCRBY", NAMES.generations, "c", 1)
        server.command("XADD", NAMES.stream, "1-0", "what", "ever")
        await gap_is_found(l1, 2)
        await tell(l2, b"d", b"after")
        await eventually(lambda: gone(l1, b"after"))
        assert follower.failures == 0


async def test_position_that_cannot_be_told_stops_nobody(
    l1: L1, l2: L2, server: RedisServer
) -> None:
    server.command("SET", NAMES.hosts, "in the way")
    async with following(l1, l2) as follower:
        store(l1, b"k")
        await tell(l2, b"d", b"k")
        await eventually(lambda: gone(l1, b"k"))
        assert follower.failures == 0


# -- failover


async def test_another_redis_makes_every_value_dead(l1: L1) -> None:
    """What a restarted Redis loaded from its file may have been invalidated since."""
    with redis_server() as own:
        l2 = L2(own.url, "app")
        async with following(l1, l2):
            await fill(l2, b"k")
            assert (await l2.acquire(b"k")).record is not None
            own.command("SAVE")
            own.restart()
            store(l1, b"k")
            await eventually(lambda: gaps(l1) == 2)
            assert own.command("EXISTS", NAMES.value(b"k"))
            assert (await l2.acquire(b"k")).record is None
            assert stale(l1, b"k")
            await tell(l2, b"d", b"other")
            await eventually(lambda: applied(l1) == 1)
        await l2.close()


async def test_demoted_master_is_not_read_on(l1: L1) -> None:
    """A connection outlives the demotion, and `:g` there names the old identity still:
    1. a master is demoted, and hears nothing of the new one; 2. another host deletes,
    there; 3. the old one's clock says that nothing is left to be read."""
    with redis_server() as own:
        l2 = L2(own.url, "app")
        wire = await l2.topology.link(0).connect()
        stream = Stream(l1, l2, 0, place(l1), wire, 1)
        assert not await stream.heartbeat() and await stream.heartbeat()
        own.command("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(NotMasterError):
            await stream.heartbeat()
        await wire.hang_up()
        await l2.close()


async def test_master_of_another_history_is_not_read_on(l1: L1) -> None:
    """1. a master is demoted; 2. it is promoted again, with what it missed missing: its
    connections are those of before."""
    with redis_server() as own:
        l2 = L2(own.url, "app")
        wire = await l2.topology.link(0).connect()
        stream = Stream(l1, l2, 0, place(l1), wire, 1)
        assert not await stream.heartbeat() and await stream.heartbeat()
        own.command("REPLICAOF", "127.0.0.1", free_port())
        own.command("REPLICAOF", "NO", "ONE")
        noted = place(l1).identity
        with pytest.raises(ConnectionError, match="not the Redis that it was"):
            await stream.heartbeat()
        assert place(l1).identity == noted != wire.identity
        await wire.hang_up()
        await l2.close()


async def test_two_hosts_make_one_incarnation(l1: L1) -> None:
    other = L1.open(segment_name(), 2 << 20)
    other.join()
    with redis_server() as own:
        l2 = L2(own.url, "app")
        async with following(l1, l2), following(other, l2):
            own.command("SAVE")
            own.restart()
            await eventually(lambda: gaps(l1) == 2 and gaps(other) == 2)
            assert place(l1).incarnation == place(other).incarnation
            assert place(l1).identity == place(other).identity
        await l2.close()
    other.close(keep=False)


async def test_app_of_other_partitions_is_refused(
    l1: L1, l2: L2, server: RedisServer, caplog
) -> None:
    server.command("HSET", NAMES.generations, "p", 16)
    async with following(l1, l2, at_once=False) as follower:
        await eventually(lambda: follower.failures)
        assert "in 16 partitions" in caplog.text and not place(l1).identity


async def test_position_is_told_to_the_fleet(
    l1: L1, l2: L2, server: RedisServer
) -> None:
    async with following(l1, l2):
        last = await tell(l2, b"d", b"a", b"b")
        await eventually(
            lambda: (
                [
                    told.position
                    for value in server.command("HGETALL", NAMES.hosts).values()
                    if (told := unpacked(value))
                ]
                == [last]
            )
        )
        assert 0 < server.command("PTTL", NAMES.hosts) <= 10_000


async def fill(l2: L2, key: bytes) -> None:
    token = os.urandom(16)
    won = await l2.acquire(key, offer=token)
    now = SYSTEM.now()
    value = Record(
        b"v", FRESH, 0, now, now + 60 * SECOND, now + 90 * SECOND, 0, 1, 1, ()
    )
    assert await l2.put_fenced(key, token, value, won.clock) == "stored"


# -- what is applied


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


async def test_cleared_outbox_is_a_gap_for_segments(l1: L1, l2: L2) -> None:
    async with following(l1, l2):
        store(l1, b"k")
        await tell(l2, b"g", b"")
        await eventually(lambda: applied(l1))
        assert stale(l1, b"k")
