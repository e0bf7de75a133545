"""The order of a sender: no get after an invalidation sees an older fetch."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence

import pytest

from shmcache.ask import WON
from shmcache.errors import TierUnavailable, ValueTooLarge
from shmcache.l1 import OK, RAISED
from shmcache.record import STALE
from shmcache.scripts import Names
from shmcache.stream import Place, Settled, Stream
from tests.redis_server import RedisServer, eventually
from tests.scene import Host, applied, gone, tell

NAMES = Names("app")


@pytest.fixture
async def hosts(server: RedisServer) -> AsyncIterator[list[Host]]:
    server.command("FLUSHALL")
    hosts = [Host(server.url), Host(server.url)]
    yield hosts
    for host in hosts:
        await host.close()


@pytest.fixture
async def lone() -> AsyncIterator[Host]:
    host = Host(None)
    yield host
    await host.close()


@pytest.fixture
async def cut_off() -> AsyncIterator[Host]:
    host = Host("unix:///nowhere/redis.sock")
    yield host
    await host.close()


VERBS = {
    "delete": (lambda i: i.delete(b"k"), None),
    "delete_tags": (lambda i: i.delete_tags(5), None),
    "clear": (lambda i: i.clear(), None),
    "expire": (lambda i: i.expire(b"k"), STALE),
    "expire_tags": (lambda i: i.expire_tags(5), STALE),
    "clear_soft": (lambda i: i.clear(soft=True), STALE),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_own_host_is_done_when_it_returns(hosts: list[Host], verb: str) -> None:
    call, state = VERBS[verb]
    hosts[0].store(b"k", tags=(5,))
    assert await call(hosts[0].invalidations)
    assert hosts[0].state() == state


@pytest.mark.parametrize("verb", VERBS)
async def test_other_hosts_follow(hosts: list[Host], verb: str) -> None:
    call, state = VERBS[verb]
    await hosts[1].follows()
    hosts[1].store(b"k", tags=(5,))
    assert await call(hosts[0].invalidations)
    await eventually(lambda: hosts[1].state() == state)


@pytest.mark.parametrize("verb", VERBS)
async def test_lone_host_needs_no_redis(lone: Host, verb: str) -> None:
    call, state = VERBS[verb]
    lone.store(b"k", tags=(5,))
    assert await call(lone.invalidations)
    assert lone.state() == state


@pytest.mark.parametrize("verb", VERBS)
async def test_host_without_redis_is_done_and_says_so(cut_off: Host, verb: str) -> None:
    call, state = VERBS[verb]
    cut_off.store(b"k", tags=(5,))
    assert not await call(cut_off.invalidations)
    assert cut_off.state() == state
    assert cut_off.invalidations.unsent == 1


async def test_many_keys_are_one_script(hosts: list[Host], server: RedisServer) -> None:
    await hosts[0].invalidations.delete(b"warm")
    server.command("CONFIG", "RESETSTAT")
    await hosts[0].invalidations.delete(*(b"%d" % i for i in range(50)))
    stats = server.command("INFO", "commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 1
    assert server.command("XLEN", NAMES.stream) == 51


async def test_nothing_to_invalidate_asks_nothing(cut_off: Host) -> None:
    assert await cut_off.invalidations.delete()
    assert await cut_off.invalidations.delete_tags()
    assert cut_off.invalidations.unsent == 0


async def test_fill_begun_before_is_refused_while_the_script_runs(
    hosts: list[Host], server: RedisServer
) -> None:
    """1. A fill begins. 2. Raise. 3. The script is under way. 4. The fill stores."""
    host = hosts[0]
    begun = host.record()
    server.stop()
    try:
        delete = asyncio.create_task(host.invalidations.delete(b"k"))
        await asyncio.sleep(0)
        assert host.l1.put(b"k", begun) == RAISED
    finally:
        server.cont()
    await delete


async def test_promotion_while_the_script_runs_does_not_stand(
    hosts: list[Host], server: RedisServer
) -> None:
    """1. Raise. 2. A value is promoted under a later stamp. 3. The script. 4. Raise."""
    host = hosts[0]
    server.stop()
    try:
        delete = asyncio.create_task(host.invalidations.delete(b"k"))
        await asyncio.sleep(0)
        promoted = host.record()
        assert host.l1.put(b"k", promoted) == OK
    finally:
        server.cont()
    await delete
    assert host.state() is None
    assert host.l1.put(b"k", promoted) == RAISED


async def test_cancelled_delete_still_raises_twice(
    hosts: list[Host], server: RedisServer
) -> None:
    host = hosts[0]
    server.stop()
    try:
        delete = asyncio.create_task(host.invalidations.delete(b"k"))
        await asyncio.sleep(0)
        host.store(b"k")
        delete.cancel()
        await asyncio.gather(delete, return_exceptions=True)
        assert host.state() is None
    finally:
        server.cont()


# -- set


async def test_set_stands_in_both_tiers(hosts: list[Host]) -> None:
    host = hosts[0]
    assert await host.invalidations.set(b"k", host.record(b"set"))
    assert host.l1.peek(b"k") == b"set" == await host.from_l2()


async def test_set_outlives_its_own_entry(hosts: list[Host]) -> None:
    """Followed on both hosts: the value may be lost from L1, not from the fleet."""
    for host in hosts:
        await host.follows()
    hosts[1].store(b"k", b"old")
    for i in range(20):
        value = b"%d" % i
        assert await hosts[0].invalidations.set(b"k", hosts[0].record(value))
        assert hosts[0].l1.peek(b"k") in (value, None)
        assert await hosts[1].from_l2() == value
    await eventually(lambda: hosts[1].state() is None)


async def test_set_refuses_the_fill_under_way(hosts: list[Host]) -> None:
    host, token = hosts[0], os.urandom(16)
    assert host.l2 is not None
    fill = await host.l2.acquire(b"k", offer=token)
    assert fill.lease == WON
    late = host.record(b"late")
    assert await host.invalidations.set(b"k", host.record(b"set"))
    assert await host.l2.put_fenced(b"k", token, late, fill.clock) == "lost"
    assert host.l1.put(b"k", late) == RAISED
    assert await host.from_l2() == b"set"


async def test_delete_after_a_set_wins(hosts: list[Host]) -> None:
    host = hosts[0]
    sets = [host.invalidations.set(b"k", host.record(b"%d" % i)) for i in range(5)]
    await asyncio.gather(*sets)
    await host.invalidations.delete(b"k")
    assert host.state() is None and await host.from_l2() is None


async def test_overlapping_sets_never_leave_the_tiers_apart(
    hosts: list[Host],
) -> None:
    for host in hosts:
        await host.follows()
    for i in range(10):
        await asyncio.gather(
            *(
                host.invalidations.set(b"k", host.record(b"%d %d" % (i, n)))
                for n, host in enumerate(hosts * 2)
            )
        )
        await delivered(hosts)
        in_l2 = await hosts[0].from_l2()
        for host in hosts:
            assert host.l1.peek(b"k") in (in_l2, None)


async def delivered(hosts: list[Host]) -> None:
    """Until both hosts have applied every entry."""
    assert hosts[0].l2 is not None
    last = await tell(hosts[0].l2, b"d", b"marker")
    places = [Place(host.l1.table.words("stream"), 0) for host in hosts]
    await eventually(lambda: all(place.position == last for place in places))


@pytest.mark.parametrize("where", ["lone", "cut_off"])
async def test_set_without_redis_stands_on_its_host(
    where: str, lone: Host, cut_off: Host
) -> None:
    host = lone if where == "lone" else cut_off
    host.store(b"k", b"old")
    begun = host.record(b"late")
    assert await host.invalidations.set(b"k", host.record(b"set")) == (where == "lone")
    assert host.l1.peek(b"k") == b"set"
    assert host.l1.put(b"k", begun) == RAISED


async def test_set_whose_entry_a_sibling_sent_is_told_again(
    hosts: list[Host], monkeypatch
) -> None:
    """1. The entry is written, and its sender stopped; 2. a sibling sends it, and sets
    the key; 3. the sender has no answer, and stores on its host alone."""
    ours = hosts[0]
    await ours.follows()
    outbox = ours.invalidations.outbox
    assert outbox is not None
    tell = outbox.tell

    async def stopped(*items: object) -> object:
        monkeypatch.setattr(outbox, "tell", tell)
        await outbox.drain(0)
        await ours.invalidations.set(b"k", ours.record(b"sibling's"))
        raise TierUnavailable("too late")

    monkeypatch.setattr(outbox, "tell", stopped)
    assert not await ours.invalidations.set(b"k", ours.record(b"ours"))
    assert ours.l1.peek(b"k") == b"ours"
    await outbox.drain(0)
    await delivered([ours])
    assert ours.state() is None and await ours.from_l2(b"k") is None


async def test_many_sets_are_two_round_trips(
    hosts: list[Host], server: RedisServer
) -> None:
    host = hosts[0]
    await host.invalidations.delete(b"warm")
    server.command("CONFIG", "RESETSTAT")
    records = {b"%d" % i: host.record(b"v%d" % i) for i in range(100)}
    assert await host.invalidations.set_many(records)
    assert host.l1.peek(b"99") == b"v99" == await host.from_l2(b"99")
    calls = server.command("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    assert calls == 1 + 100  # all puts in one pipeline


async def test_value_too_large_for_its_host_is_refused(lone: Host) -> None:
    lone.store(b"k", b"old")
    with pytest.raises(ValueTooLarge):
        await lone.invalidations.set(b"k", lone.record(bytes(2 << 20)))
    assert lone.state() is None


async def test_set_without_an_answer_is_stored_nowhere(
    hosts: list[Host], monkeypatch
) -> None:
    """1. the first half; 2. another host deletes the key, and that is applied here;
    3. the second half, under a later stamp, is not answered."""
    ours, other = hosts
    await ours.follows()
    assert ours.l2 is not None
    begin = ours.invalidations.send

    async def overtaken(*sent: object) -> object:
        begun = await begin(*sent)
        await other.invalidations.delete(b"k")
        await delivered([ours])
        monkeypatch.setattr(ours.l2, "put_many", unreachable)
        return begun

    monkeypatch.setattr(ours.invalidations, "send", overtaken)
    assert not await ours.invalidations.set(b"k", ours.record(b"set"))
    assert ours.state() is None


async def until_applied(host: Host, count: int) -> None:
    await eventually(lambda: applied(host.l1) >= count)


@pytest.mark.parametrize("verb", ["set_many", "replace"])
async def test_own_entry_before_the_store_refuses_nothing(
    hosts: list[Host], monkeypatch, verb: str
) -> None:
    """1. a set's stamp is noted; 2. the follower comes to its entry; 3. the store in
    L1: nothing was invalidated in between."""
    host, ask, go = hosts[0], Stream._ask, asyncio.Event()
    assert host.l2 is not None
    put_many = host.l2.put_many

    async def held(stream: Stream, *commands: tuple[object, ...]) -> list[object]:
        replies = await ask(stream, *commands)
        await go.wait()
        return replies

    async def followed(puts: Sequence[tuple[object, ...]]) -> object:
        go.set()
        await until_applied(host, before + len(puts))
        return await put_many(puts)

    monkeypatch.setattr(Stream, "_ask", held)
    go.set()
    await host.follows()
    records = {key: host.record(b"set") for key in (b"k", b"l", b"m")}
    if verb == "replace":
        assert await host.invalidations.set_many(records)
        await until_applied(host, 3)
    go.clear()
    before = applied(host.l1)
    monkeypatch.setattr(host.l2, "put_many", followed)
    if verb == "replace":
        new = host.record(b"set")
        assert await host.conditional.replace(b"k", new, records[b"k"].nonce)
    else:
        assert await host.invalidations.set_many(records)
    assert [host.l1.peek(key) for key in records] == [b"set"] * 3


async def test_delete_elsewhere_before_the_store_still_refuses(
    hosts: list[Host], monkeypatch
) -> None:
    """As above, but for 2: another host deletes the key right behind the set."""
    host, other = hosts
    await host.follows()
    assert host.l2 is not None
    put_many = host.l2.put_many

    async def followed(puts: Sequence[tuple[object, ...]]) -> object:
        stored = await put_many(puts)
        await other.invalidations.delete(b"k")
        await until_applied(host, 2)
        return stored

    monkeypatch.setattr(host.l2, "put_many", followed)
    assert await host.invalidations.set(b"k", host.record(b"set"))
    assert host.state() is None and await host.from_l2() is None


async def test_set_is_settled_after_its_last_raise(
    hosts: list[Host], monkeypatch
) -> None:
    """1. the script answers; 2. a record that was asked for before it is stored here;
    3. the entry is passed over; 4. the raise that drops 2 must not be yet to come."""
    host = hosts[0]
    outbox, table = host.invalidations.outbox, host.l1.table
    assert outbox is not None
    tell, add, seen = outbox.tell, Settled.add, []

    async def told(*items: object, **how: object) -> object:
        done = await tell(*items, **how)
        host.store(b"k", b"old")
        seen.append(table.clock())
        return done

    def settles(self: Settled, nonce: int) -> None:
        seen.append(table.highest(b"k"))
        assert gone(host.l1, b"k")
        add(self, nonce)

    monkeypatch.setattr(outbox, "tell", told)
    monkeypatch.setattr(Settled, "add", settles)
    assert await host.invalidations.set(b"k", host.record(b"set"))
    answered, raised = seen
    assert raised > answered


async def test_set_without_an_answer_is_not_settled(
    hosts: list[Host], monkeypatch
) -> None:
    """Its script may yet come: then its entry is applied."""
    host = hosts[0]
    assert host.invalidations.outbox is not None
    monkeypatch.setattr(host.invalidations.outbox, "tell", unreachable)
    unsure, sure = host.record(b"unsure"), host.record(b"sure")
    settled = Settled(host.l1.table.words("stream"))
    assert not await host.invalidations.set(b"k", unsure)
    assert unsure.nonce not in settled
    monkeypatch.undo()
    assert await host.invalidations.set(b"k", sure)
    assert sure.nonce in settled


async def unreachable(*_: object, **__: object) -> None:
    raise TierUnavailable("away")
