"""Invalidations that Redis has not confirmed: unused values, and their sending."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from zlib import crc32

import pytest

from shmcache.ask import WON, Done, FleetClock, Invalidation
from shmcache.cluster import PARTITIONS
from shmcache.errors import TierUnavailable
from shmcache.l1 import ALL_SENT, L1
from shmcache.outbox import BATCH, LEFT_NS, LOST, PIECE, Outbox
from shmcache.scripts import Names
from tests.fleets import divided, key_in
from tests.helpers import end, python
from tests.redis_server import RedisServer, eventually, redis_server
from tests.scene import Host, applied, forget, gone, stale

NAMES = Names("app")
DELETE_AND_WAIT = """
import asyncio, sys
from shmcache.invalidation import Invalidations
from shmcache.l1 import L1
from shmcache.l2 import L2

async def main(name, url):
    l1 = L1.open(name, 2 << 20)
    l1.join()
    print(await Invalidations(l1, L2(url, "app")).delete(b"k"), flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
async def hosts(server: RedisServer) -> AsyncIterator[list[Host]]:
    hosts = [Host(server.url), Host(server.url)]
    for host in hosts:
        await host.follows()
    yield hosts
    for host in hosts:
        await host.close()


def entries(host: Host) -> list[tuple[bytes, bytes]]:
    found = host.l1.table.outbox_unsent(2**63 - 1, 1000)
    return [(bytes((kind,)), name) for _, _, kind, name in found]


async def test_what_is_told_is_sent(hosts: list[Host]) -> None:
    host = hosts[0]
    assert await host.invalidations.delete(b"k", b"l")
    assert await host.invalidations.expire_tags(5)
    assert entries(host) == [] and host.l1.lowest() == ALL_SENT


async def test_value_in_l2_is_not_used_before_redis_is_told(
    hosts: list[Host], server: RedisServer
) -> None:
    """1. deleted here, Redis not told; 2. a get begins, and reads the lowest; 3. its
    ask finds the old value."""
    host = hosts[0]
    server.stop()
    assert not await host.invalidations.delete(b"k")
    assert not await host.invalidations.expire_tags(5)
    server.cont()
    lowest = host.l1.lowest()
    assert lowest != ALL_SENT
    assert not host.l1.usable(b"k", (), lowest)
    assert not host.l1.usable(b"other", (5,), lowest)
    assert host.l1.usable(b"other", (6,), lowest)


async def test_left_entries_are_sent_by_the_follower(
    hosts: list[Host], server: RedisServer
) -> None:
    for host in hosts:
        host.store(b"k")
    server.stop()
    assert not await hosts[0].invalidations.delete(b"k")
    server.cont()
    await eventually(lambda: gone(hosts[1].l1, b"k"))
    await eventually(lambda: not entries(hosts[0]))


async def test_entry_of_a_killed_sender_is_sent_by_a_sibling(
    hosts: list[Host], server: RedisServer
) -> None:
    name = hosts[0].l1.segment.path.name.rpartition(".")[2]
    hosts[1].store(b"k")
    server.stop()
    sender = python("-c", DELETE_AND_WAIT, name, server.url, stdout=-1)
    try:
        assert sender.stdout is not None
        assert sender.stdout.readline() == b"False\n"
        sender.send_signal(signal.SIGKILL)
        sender.wait()
        assert entries(hosts[0]) == [(b"d", b"k")]
        assert not gone(hosts[1].l1, b"k")
    finally:
        server.cont()
        end(sender)
        assert sender.stdout is not None
        sender.stdout.close()
    await eventually(lambda: gone(hosts[1].l1, b"k"))


async def test_set_without_redis_reaches_the_fleet_as_a_delete(
    hosts: list[Host], server: RedisServer
) -> None:
    hosts[1].store(b"k", b"old")
    server.stop()
    assert not await hosts[0].invalidations.set(b"k", hosts[0].record(b"new"))
    assert hosts[0].l1.peek(b"k") == b"new"
    server.cont()
    await eventually(lambda: gone(hosts[1].l1, b"k"))
    assert await hosts[1].from_l2() is None


async def test_entries_are_sent_in_their_order(
    hosts: list[Host], server: RedisServer
) -> None:
    server.stop()
    deletes = [hosts[0].invalidations.delete(b"%d" % i) for i in range(4)]
    await asyncio.gather(*deletes)
    await hosts[0].invalidations.clear()
    server.cont()
    assert hosts[0].invalidations.outbox is not None
    before = len(server.command("XRANGE", NAMES.stream, "-", "+"))
    await hosts[0].invalidations.outbox.drain(0)
    found = server.command("XRANGE", NAMES.stream, "-", "+")[before:]
    sent = [(fields[b"k"], fields[b"n"]) for _, fields in found]
    assert sent[-5:] == [(b"d", b"%d" % i) for i in range(4)] + [(b"c", b"")]
    assert entries(hosts[0]) == []


async def test_young_entries_are_left_to_their_sender(l1: L1) -> None:
    assert l1.table.outbox_add(ord("d"), b"k")
    assert l1.table.outbox_unsent(l1.clock.now() - LEFT_NS, 10) == []
    forget(l1)


async def test_what_found_no_room_clears_the_app(
    hosts: list[Host], server: RedisServer
) -> None:
    """In Redis hard; segments serve stale a while."""
    ours, other = hosts
    await fill(ours, b"k")
    other.store(b"k")
    server.stop()
    key = bytes(1000)
    while ours.l1.table.outbox_add(ord("d"), key):
        pass
    assert ours.l1.lowest() != ALL_SENT
    server.cont()
    assert ours.invalidations.outbox is not None
    await ours.invalidations.outbox.drain(0)
    assert await ours.from_l2() is None
    await eventually(lambda: stale(other.l1, b"k"))
    assert ours.l1.lowest() == ALL_SENT


async def test_overflow_during_the_clear_is_not_lost(
    hosts: list[Host], monkeypatch
) -> None:
    """1. the mark is read; 2. the clear is told; 3. another entry is lost; 4. the mark
    is taken back: it must stand for 3."""
    outbox = hosts[0].invalidations.outbox
    assert outbox is not None
    table = hosts[0].l1.table
    while table.outbox_add(ord("d"), bytes(1000)):
        pass
    tell, clears = outbox.tell, []

    async def told(items: list[Invalidation], **how: bool) -> object:
        done = await tell(items, **how)
        if items[0].kind == b"g":
            clears.append(items)
            if len(clears) == 1:
                while table.outbox_add(ord("d"), bytes(1000)):
                    pass
        return done

    monkeypatch.setattr(outbox, "tell", told)
    await outbox.drain(0)
    assert len(clears) == 2 and table.outbox_overflow() == 0


# -- several partitions


class Fleet:
    """What an outbox needs of L2, and what each partition was told."""

    partitions = PARTITIONS

    def __init__(self) -> None:
        self.told: list[list[Invalidation]] = [[] for _ in range(PARTITIONS)]
        self.away: set[int] = set()
        self.on_told: Callable[[], None] = lambda: None

    def partition(self, key: bytes) -> int:
        return crc32(key) % PARTITIONS

    def up(self, partition: int) -> bool:
        return partition not in self.away

    @property
    def available(self) -> bool:
        return not self.away

    async def invalidate(
        self, items: Sequence[Invalidation], *, partition: int, **_: object
    ) -> Done:
        await asyncio.sleep(0)
        if partition in self.away:
            raise TierUnavailable("away")
        self.told[partition] += items
        self.on_told()
        return Done(FleetClock(b"incarnat", 1, 0), frozenset())

    def names(self, partition: int) -> list[bytes | int]:
        return [item.name for item in self.told[partition]]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def outbox(l1: L1, fleet: Fleet) -> Iterator[Outbox]:
    yield Outbox(l1, fleet, b"origin")  # type: ignore[arg-type]
    forget(l1)


def unsent(l1: L1) -> list[tuple[int, bytes]]:
    found = l1.table.outbox_unsent(2**63 - 1, 2**31 - 1)
    return [(kind, name) for _, _, kind, name in found]


def overflow(l1: L1) -> None:
    while l1.table.outbox_add(ord("d"), bytes(1000)):
        pass
    for number, *_ in l1.table.outbox_unsent(2**63 - 1, 2**31 - 1):
        l1.table.outbox_sent(number)


def deletes(*keys: bytes) -> list[Invalidation]:
    return [Invalidation(b"d", key) for key in keys]


TAG = Invalidation(b"t", 5)
EVERYWHERE = [
    TAG,
    Invalidation(b"u", 5),
    Invalidation(b"c", b""),
    Invalidation(b"y", b""),
]
of_all = pytest.mark.parametrize(
    "item", EVERYWHERE, ids=["tag", "expire-tag", "clear", "expire-all"]
)


async def test_each_partition_is_told_what_concerns_it(
    outbox: Outbox, fleet: Fleet
) -> None:
    a, b, c = key_in(2), key_in(5), key_in(2, 1)
    answers = await outbox.tell([*deletes(a), TAG, *deletes(b, c)])
    assert set(answers) == set(range(PARTITIONS))
    assert fleet.names(2) == [a, 5, c] and fleet.names(5) == [5, b]
    assert all(fleet.names(p) == [5] for p in range(PARTITIONS) if p not in (2, 5))


async def test_partitions_are_told_though_one_is_away(
    outbox: Outbox, fleet: Fleet, monkeypatch
) -> None:
    """And it does not end before all have: what is raised then is above them all."""
    fleet.away, slow = {0}, asyncio.Event()
    invalidate = fleet.invalidate

    async def held(
        items: Sequence[Invalidation], *, partition: int, **_: object
    ) -> Done:
        if partition == 9:
            await slow.wait()
        return await invalidate(items, partition=partition)

    monkeypatch.setattr(fleet, "invalidate", held)
    telling = asyncio.ensure_future(outbox.tell([TAG]))
    await eventually(lambda: fleet.told[15])
    assert not telling.done() and not fleet.told[9]
    slow.set()
    with pytest.raises(TierUnavailable):
        await telling
    assert all(fleet.names(p) == [5] for p in range(1, PARTITIONS))


@of_all
async def test_entry_of_all_partitions_is_not_sent_by_one(
    l1: L1, outbox: Outbox, fleet: Fleet, item: Invalidation
) -> None:
    """1. a tag is deleted, Redis is not told; 2. one partition is back, and has it;
    3. marked sent, values of the others would be believed."""
    outbox.add([item])
    for partition in range(PARTITIONS):
        await outbox.drain(partition)
        assert fleet.told[partition] == [item]
        assert len(unsent(l1)) == 1 and l1.lowest() != ALL_SENT


@of_all
async def test_entry_of_all_partitions_is_sent_when_all_have_it(
    l1: L1, outbox: Outbox, fleet: Fleet, monkeypatch, item: Invalidation
) -> None:
    monkeypatch.setattr("shmcache.outbox.LEFT_NS", -(10**12))
    outbox.add([item])
    fleet.away = {7}
    await outbox.send_left()
    assert len(unsent(l1)) == 1 and not any(fleet.told)
    fleet.away = set()
    await outbox.send_left()
    assert fleet.told == [[item]] * PARTITIONS
    assert unsent(l1) == [] and l1.lowest() == ALL_SENT


async def test_partition_that_fails_meanwhile_leaves_the_entry_unsent(
    l1: L1, outbox: Outbox, fleet: Fleet, monkeypatch
) -> None:
    """Its breaker was closed as it was asked."""
    monkeypatch.setattr("shmcache.outbox.LEFT_NS", -(10**12))
    monkeypatch.setattr(fleet, "up", lambda partition: True)
    outbox.add([TAG])
    fleet.away = {7}
    with pytest.raises(TierUnavailable):
        await outbox.send_left()
    assert len(unsent(l1)) == 1 and fleet.told[8] == [TAG]


async def test_drain_sends_what_concerns_its_partition_in_order(
    l1: L1, outbox: Outbox, fleet: Fleet
) -> None:
    a, b, c, d = key_in(2), key_in(5), key_in(2, 1), key_in(2, 2)
    outbox.add([*deletes(a, b), TAG, *deletes(c)])

    def added() -> None:
        fleet.on_told = lambda: None
        outbox.add(deletes(d))

    fleet.on_told = added
    await outbox.drain(2)
    assert fleet.names(2) == [a, 5, c, d] and not fleet.told[5]
    assert unsent(l1) == [(ord("d"), b), (ord("t"), (5).to_bytes(4, "little"))]


async def test_many_entries_of_a_partition_away_hide_no_others(
    l1: L1, outbox: Outbox, fleet: Fleet
) -> None:
    theirs = [key_in(5, n) for n in range(0, 8)]
    outbox.add(deletes(*theirs * (PIECE // 8 + 1), *[key_in(2)] * (BATCH + 1)))
    fleet.away = {5}
    await outbox.drain(2)
    assert fleet.names(2) == [key_in(2)] * (BATCH + 1)
    assert {name for _, name in unsent(l1)} == set(theirs)


async def test_left_entries_wait_for_their_own_partitions_alone(
    l1: L1, outbox: Outbox, fleet: Fleet, monkeypatch
) -> None:
    monkeypatch.setattr("shmcache.outbox.LEFT_NS", -(10**12))
    outbox.add([*deletes(key_in(5)), TAG, *deletes(key_in(2))])
    fleet.away = {5}
    await outbox.send_left()
    assert fleet.names(2) == [key_in(2)] and len(unsent(l1)) == 2
    fleet.away = set()
    await outbox.send_left()
    assert fleet.names(5) == [key_in(5), 5] and unsent(l1) == []


async def test_overflow_is_made_up_for_in_every_partition(
    l1: L1, outbox: Outbox, fleet: Fleet
) -> None:
    """Before a partition is used it is cleared; what was lost may concern others."""
    overflow(l1)
    fleet.away = {7}
    await outbox.drain(2)
    await outbox.send_left()
    assert fleet.told[2] == [LOST] and not fleet.told[3]
    assert l1.table.outbox_overflow() and l1.lowest() != ALL_SENT
    fleet.away = set()
    await outbox.send_left()
    assert all(LOST in told for told in fleet.told)
    assert not l1.table.outbox_overflow() and l1.lowest() == ALL_SENT


@pytest.mark.parametrize("away", [{7}, set()], ids=["untold", "told"])
async def test_overflow_stands_until_the_clear_was_told(
    l1: L1, outbox: Outbox, fleet: Fleet, monkeypatch, away: set[int]
) -> None:
    """1. the mark is taken back; 2. a get reads that all is sent; 3. Redis has what was
    deleted still, and the clear may yet fail."""
    monkeypatch.setattr(Fleet, "available", True)
    overflow(l1)
    seen = []
    fleet.away, fleet.on_told = away, lambda: seen.append(l1.lowest())
    try:
        await outbox.send_left()
    except TierUnavailable:
        assert away
    assert len(seen) == PARTITIONS - len(away) and ALL_SENT not in seen
    assert bool(l1.table.outbox_overflow()) == bool(away)


def test_entry_voids_records_of_its_key_or_of_its_tags(outbox: Outbox) -> None:
    outbox.add([*deletes(key_in(2)), TAG])
    assert outbox.holds(key_in(2), ()) and outbox.holds(key_in(3), (4, 5))
    assert not outbox.holds(key_in(3), (4,))
    outbox.add([Invalidation(b"c", b"")])
    assert outbox.holds(key_in(3), ())


async def test_tag_is_kept_while_one_of_two_servers_hangs(server: RedisServer) -> None:
    """The partitions that were told are followed; the others have it when they are
    back."""
    with redis_server() as second, divided(server, second):
        ours, other = Host(server.url), Host(server.url)
        for host in (ours, other):
            await host.follows()
        other.store(b"k", tags=(5,))
        second.stop()
        assert not await ours.invalidations.delete_tags(5)
        second.cont()
        assert entries(ours) == [(b"t", (5).to_bytes(4, "little"))]
        assert not ours.l1.usable(b"k", (5,), ours.l1.lowest())
        await eventually(lambda: gone(other.l1, b"k"))
        await eventually(lambda: ours.l1.lowest() == ALL_SENT)
        for partition in range(PARTITIONS):
            on = (server, second)[partition % 2]
            found = on.command("XRANGE", Names("app", partition).stream, "-", "+")
            assert (b"t", b"5") in [(fields[b"k"], fields[b"n"]) for _, fields in found]
        for host in (ours, other):
            await host.close()


async def fill(host: Host, key: bytes) -> None:
    assert host.l2 is not None
    token = os.urandom(16)
    won = await host.l2.acquire(key, offer=token)
    assert won.lease == WON
    put = await host.l2.put_fenced(key, token, host.record(), won.clock)
    assert put == "stored" and applied(host.l1) >= 0
