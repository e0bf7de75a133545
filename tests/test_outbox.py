"""Invalidations that Redis has not confirmed: unused values, and their sending."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from shmcache.ask import WON, Invalidation
from shmcache.l1 import ALL_SENT, L1
from shmcache.outbox import LEFT_NS
from shmcache.scripts import Names
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


async def fill(host: Host, key: bytes) -> None:
    assert host.l2 is not None
    token = os.urandom(16)
    won = await host.l2.acquire(key, offer=token)
    assert won.lease == WON
    put = await host.l2.put_fenced(key, token, host.record(), won.clock)
    assert put == "stored" and applied(host.l1) >= 0
