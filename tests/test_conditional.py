"""Stores on a condition, against everything that comes between."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from shmcache import Cache
from shmcache.ask import Invalidation
from shmcache.clock import FakeClock
from shmcache.errors import CacheError, TierUnavailable
from shmcache.l2 import L2
from tests.caches import asking, held, landed, two_hosts, until
from tests.helpers import segment_name
from tests.redis_server import RedisServer, eventually
from tests.scene import Host


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


WHERE = ["lone", "cut_off", "fleet"]


@pytest.fixture
def host(
    request: pytest.FixtureRequest, lone: Host, cut_off: Host, hosts: list[Host]
) -> Host:
    return {"lone": lone, "cut_off": cut_off, "fleet": hosts[0]}[request.param]


@pytest.mark.parametrize("host", WHERE, indirect=True)
async def test_add_stores_where_nothing_stands(host: Host) -> None:
    assert await host.conditional.add(b"k", host.record(b"first"))
    assert not await host.conditional.add(b"k", host.record(b"second"))
    assert host.l1.peek(b"k") == b"first"


@pytest.mark.parametrize("host", WHERE, indirect=True)
async def test_replace_compares_with_what_stands(host: Host) -> None:
    first, second = host.record(b"first"), host.record(b"second")
    assert not await host.conditional.replace(b"k", second, first.nonce)
    assert await host.invalidations.set(b"k", first) or host.l2 is not None
    assert not await host.conditional.replace(b"k", second, first.nonce + 1)
    assert host.l1.peek(b"k") == b"first"
    assert await host.conditional.replace(b"k", second, first.nonce)
    assert host.l1.peek(b"k") == b"second"


async def test_one_of_many_adders_stores(hosts: list[Host]) -> None:
    added = await asyncio.gather(
        *(
            host.conditional.add(b"k", host.record(b"%d" % i))
            for i in range(5)
            for host in hosts
        )
    )
    assert sum(added) == 1


async def test_one_of_many_replacers_stores(hosts: list[Host]) -> None:
    first = hosts[0].record(b"first")
    assert await hosts[0].invalidations.set(b"k", first)
    done = await asyncio.gather(
        *(
            host.conditional.replace(b"k", host.record(b"%d" % i), first.nonce)
            for i in range(5)
            for host in hosts
        )
    )
    assert sum(done) == 1


async def test_replace_is_told_to_other_hosts(hosts: list[Host]) -> None:
    for host in hosts:
        await host.follows()
    first = hosts[0].record(b"first")
    assert await hosts[0].invalidations.set(b"k", first)
    hosts[1].store(b"k", b"first")
    second = hosts[0].record(b"second")
    assert await hosts[0].conditional.replace(b"k", second, first.nonce)
    await eventually(lambda: hosts[1].state() is None)


async def test_replace_is_refused_where_the_lease_passed_on(
    hosts: list[Host], monkeypatch
) -> None:
    """1. the lease is ours, and the value compared; 2. another host sets the key;
    3. our delete must not remove what it set."""
    ours, other = hosts
    first = ours.record(b"first")
    assert await ours.invalidations.set(b"k", first)
    send = ours.invalidations.send

    async def overtaken(*sent: object) -> object:
        assert await other.invalidations.set(b"k", other.record(b"theirs"))
        return await send(*sent)

    monkeypatch.setattr(ours.invalidations, "send", overtaken)
    assert not await ours.conditional.replace(b"k", ours.record(), first.nonce)
    assert await ours.from_l2() == b"theirs"


async def test_add_waits_for_who_computes(hosts: list[Host]) -> None:
    host = hosts[0]
    assert host.l2 is not None
    token = os.urandom(16)
    won = await host.l2.acquire(b"k", offer=token)
    adding = asyncio.create_task(hosts[1].conditional.add(b"k", hosts[1].record()))
    answer = await host.l2.put_fenced(b"k", token, host.record(b"computed"), won.clock)
    assert answer == "stored"
    assert not await adding
    assert await hosts[1].from_l2() == b"computed"


@pytest.mark.parametrize("verb", ["delete_tags", "clear"])
@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
async def test_what_was_read_does_not_outlive_its_tags(
    hosts: list[Host], monkeypatch, verb: str, told: bool
) -> None:
    """1. the lease is won, and the value read; 2. its tag is deleted, and Redis may
    not know yet; 3. the delete of the set; 4. the fill."""
    host, other = hosts
    old = host.record(b"old", tags=(5,))
    assert await host.invalidations.set(b"k", old)
    send = host.invalidations.send

    async def overtaken(*sent: object) -> object:
        monkeypatch.undo()
        remover = other.invalidations if told else host.invalidations
        names = (5,) if verb == "delete_tags" else ()
        if not told:
            monkeypatch.setattr(host.l2, "invalidate", unreachable)
        await getattr(remover, verb)(*names)
        monkeypatch.undo()
        return await send(*sent)

    monkeypatch.setattr(host.invalidations, "send", overtaken)
    touched = old._replace(nonce=old.nonce + 1)
    assert not await host.conditional.replace(b"k", touched, old.nonce)
    assert host.state() is None and await host.from_l2() is None


async def unreachable(*_: object, **__: object) -> None:
    raise TierUnavailable("away")


async def test_tag_deleted_right_after_the_looks_is_not_outlived(
    hosts: list[Host], monkeypatch
) -> None:
    """1. nothing that was read is found raised; 2. we are stopped, a sibling deletes
    its tag, Redis is not told, and that returns; 3. the fill."""
    host, _ = hosts
    old = host.record(b"old", tags=(5,))
    assert await host.invalidations.set(b"k", old)
    pending, outbox = host.conditional._pending, host.invalidations.outbox
    assert outbox is not None

    def overtaken(*looks: object) -> bool:
        found = pending(*looks)
        items = [Invalidation(b"t", 5)]
        outbox.add(items)
        for floor in (False, True):
            host.invalidations._apply(items, floor)
        return found

    monkeypatch.setattr(host.conditional, "_pending", overtaken)
    touched = old._replace(nonce=old.nonce + 1)
    await host.conditional.replace(b"k", touched, old.nonce)
    assert host.state() is None
    assert not host.l1.usable(b"k", (5,), host.l1.lowest())
    await outbox.drain(0)
    assert await host.from_l2() is None


@pytest.mark.parametrize("how", ["expire", "expire_tags", "clear", "gap"])
@pytest.mark.parametrize("verb", ["touch", "compare_and_set"])
async def test_what_replaces_without_l2_is_as_old_as_the_look(
    pair: tuple[Cache, Cache], clock: FakeClock, monkeypatch, verb: str, how: str
) -> None:
    """1. a store looks what stands: it is fresh; 2. that is expired, or entries of the
    stream were missed; 3. the store: what was raised at 2 stands above it too."""
    one, other = pair
    await one.set("k", "old", ttl=60, grace=60, tags=("t",))
    conditional, table = one._parts.conditional, one._l1.table
    version, replace = one.entry("k").version, conditional._store_if

    async def overtaken(*args: object, **how_: object) -> bool:
        if how == "gap":
            table.raise_gap(table.number(), clock.now())
        else:
            await {
                "expire": lambda: other.expire("k"),
                "expire_tags": lambda: other.expire_tags("t"),
                "clear": lambda: other.clear(soft=True),
            }[how]()
        return await replace(*args, **how_)

    monkeypatch.setattr(conditional, "_store_if", overtaken)
    if verb == "touch":
        assert await one.touch("k", 600)
    else:
        life = {"ttl": 600, "grace": 60, "tags": ("t",)}
        assert await one.compare_and_set("k", "new", version=version, **life)
    assert one.entry("k").version != version
    assert other.entry("k").state == "stale"
    clock.advance(5)
    assert (one.entry("k") is None) == (how == "gap")


async def test_fill_under_way_does_not_replace_what_replaced(
    pair: tuple[Cache, Cache],
) -> None:
    """The key is raised all the same: 1. a refresh begins; 2. compare-and-set; 3. the
    refresh ends, with what it was begun for before 2."""
    one, other = pair
    await one.set("k", "old", ttl=60, grace=60)
    await one.expire("k")
    origin = held("older")
    await one.get_or_set("k", origin, ttl=600)
    await origin.started.wait()
    version = other.entry("k").version
    assert await other.compare_and_set("k", "new", version=version, ttl=600)
    origin.gate.set()
    await landed(one)
    assert one.peek("k") == "new"


@pytest.fixture
async def caches(server: RedisServer) -> AsyncIterator[tuple[Cache, Cache]]:
    async with two_hosts(server.url, lease_life=5) as both:
        yield both


@pytest.mark.parametrize("verb", ["touch", "compare_and_set"])
async def test_what_was_deleted_meanwhile_is_not_brought_back(
    caches: tuple[Cache, Cache], monkeypatch, verb: str
) -> None:
    """1. the lease is won, and the value read; 2. the key is deleted here, Redis is not
    told, and the delete returns; 3. the lease still stands there."""
    one, _ = caches
    await one.set("k", "old", ttl=600)
    parts = one._parts
    lease, asked, go = parts.conditional._lease, asyncio.Event(), asyncio.Event()

    async def slow(*args: object, **how: object) -> object:
        found = await lease(*args, **how)
        asked.set()
        await go.wait()
        return found

    monkeypatch.setattr(parts.conditional, "_lease", slow)
    version = one.entry("k").version
    work = {
        "touch": lambda: one.touch("k", 600),
        "compare_and_set": lambda: one.compare_and_set(
            "k", "new", version=version, ttl=60
        ),
    }[verb]
    under_way = asking(work())
    await asked.wait()
    with monkeypatch.context() as away:
        away.setattr(parts.invalidations.outbox, "tell", unreachable)
        await one.delete("k")
    assert await one.get("k", None) is None
    go.set()
    assert not await under_way
    assert (one.peek("k", None), await one.get("k", None)) == (None, None)


async def test_delete_during_the_send_is_not_outlived(
    caches: tuple[Cache, Cache], monkeypatch
) -> None:
    """The same between the two raises of the store's own delete."""
    one, _ = caches
    await one.set("k", "old", ttl=600)
    outbox = one._parts.invalidations.outbox
    tell = outbox.tell

    async def overtaken(*args: object, **how: object) -> object:
        monkeypatch.setattr(outbox, "tell", unreachable)
        await one.delete("k")
        monkeypatch.undo()
        return await tell(*args, **how)

    monkeypatch.setattr(outbox, "tell", overtaken)
    assert not await one.touch("k", 600)
    assert one.peek("k", None) is None


async def test_add_does_not_replace_a_value_while_another_entry_is_unsent(
    caches: tuple[Cache, Cache], monkeypatch
) -> None:
    """1. another key is deleted here, Redis not told; 2. another host sets this key;
    3. its stripe stands above the lowest unsent clock, as an old value's would."""
    one, other = caches
    await one.start()
    with monkeypatch.context() as away:
        away.setattr(one._parts.invalidations.outbox, "tell", unreachable)
        await one.delete("quite another")
    await other.set("k", "theirs", ttl=600)
    await until(lambda: one.stats().entries_applied >= 1)
    assert not await one.add("k", "mine", ttl=600)
    assert await one.get("k") == "theirs"


async def test_add_where_a_stale_value_stands_answers_at_once(
    caches: tuple[Cache, Cache],
) -> None:
    """It does not wait for who refreshes it."""
    one, other = caches
    await one.set("k", "old", ttl=600, grace=600)
    await one.expire("k")
    origin = held("new")
    await one.get_or_set("k", origin, ttl=600)
    await origin.started.wait()
    async with asyncio.timeout(2):
        assert not await other.add("k", "mine", ttl=60)
    origin.gate.set()
    await landed(one)


async def test_replace_without_an_answer_gives_its_leases_back(
    caches: tuple[Cache, Cache], monkeypatch
) -> None:
    one, other = caches
    await one.set("k", "old", ttl=60)
    version = one.entry("k").version
    with monkeypatch.context() as away:
        away.setattr(one._parts.invalidations.outbox, "tell", unreachable)
        with pytest.raises(TierUnavailable):
            await one.compare_and_set("k", "new", version=version, ttl=60)
    async with asyncio.timeout(1):  # of a lease life of 5
        await other.touch("k", 60)


async def test_waiting_store_ends_with_the_cache(server: RedisServer) -> None:
    app = segment_name()
    cache = Cache.open(segment_name(), size=2 << 20, l2=server.url, app=app)
    rival = L2(server.url, app)
    await cache.start()
    await rival.acquire(b"k", offer=os.urandom(16))
    adding = asking(cache.add("k", "v", ttl=60))
    await until(lambda: cache._parts.leases._waits)
    await cache.close()
    async with asyncio.timeout(1):
        with pytest.raises((CacheError, TierUnavailable)):
            await adding
    await rival.close()
