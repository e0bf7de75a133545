"""Opened, bound to a loop, closed, forked: what a cache is made of lives and ends."""

import asyncio
import subprocess
import sys

import pytest

from shmcache import MISSING, Cache, CacheConfig, CacheError, ConfigError
from shmcache.breaker import THRESHOLD
from shmcache.segment import SHM
from tests.caches import SIZE, asking
from tests.helpers import Origin, segment_name
from tests.redis_server import eventually, redis_server


async def test_closed_cache_says_so_and_leaves_nothing():
    name = segment_name()
    cache = Cache.open(name, size=SIZE)
    origin = Origin("v", hold=True)
    asked = asking(cache.get_or_set("k", origin))
    await origin.started.wait()
    await cache.close()
    with pytest.raises(CacheError, match="closed"):
        await asked
    with pytest.raises(CacheError, match="closed"):
        await cache.set("k", 1)
    assert not list(SHM.glob(f"*{name}*"))


def test_cache_belongs_to_one_loop():
    cache = Cache.open(segment_name(), size=SIZE)

    async def elsewhere():
        with pytest.raises(CacheError, match="one event loop"):
            await cache.set("k", 2)

    with asyncio.Runner() as loop:
        loop.run(cache.set("k", 1))
        asyncio.run(elsewhere())
        assert cache.peek("k") == 1
        loop.run(cache.close())


def test_master_prepares_what_workers_attach():
    config = CacheConfig(segment_name(), SIZE)
    prepared = Cache.prepare(config)
    assert prepared.note == "made"
    worker = Cache(config)
    assert not prepared.close(remove=True)
    worker._l1.close(keep=True)
    again = Cache.prepare(config)
    assert again.note == "attached"
    assert again.close(remove=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 1000}, "size=1000: expected 512 KiB or more, such as 64MiB"),
        ({"size": "huge"}, "size='huge': expected a number and B, KiB"),
        ({"l2": "ftp://localhost"}, "l2: expected a URL of scheme redis, "),
        ({"l2": "redis://"}, "l2: nothing behind redis://, expected redis://host:6379"),
        ({"l2": "redis://:1"}, "l2: expected a host, redis://host:6379"),
        ({"app": "a/b"}, "app='a/b': expected 1 to 64 letters, digits"),
    ],
)
def test_wrong_setting_is_named_and_leaves_nothing(settings, words):
    name = segment_name()
    with pytest.raises(ConfigError) as told:
        Cache.open(name, **settings)
    assert str(told.value).startswith(words)
    assert not list(SHM.glob(f"*{name}*"))


def test_least_size_that_is_named_is_one():
    cache = Cache.open(segment_name(), size="512KiB")
    asyncio.run(cache.set("k", b"v" * 100))
    assert cache.peek("k") == b"v" * 100
    asyncio.run(cache.close())


async def test_close_that_is_cancelled_goes_on():
    name = segment_name()
    cache = Cache.open(name, size=SIZE)
    gate, started = asyncio.Event(), asyncio.Event()

    async def compute():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await gate.wait()

    asked = asking(cache.get_or_set("k", compute))
    await started.wait()
    closing = asking(cache.close())
    await asyncio.sleep(0)
    closing.cancel()
    gate.set()
    await cache.close()
    assert not list(SHM.glob(f"*{name}*"))
    with pytest.raises(CacheError):
        await asked


async def test_nothing_flies_on_a_closed_cache():
    cache = Cache.open(segment_name(), size=SIZE)
    await cache.start()
    await cache.close()
    with pytest.raises(CacheError, match="closed"):
        cache.refresh("k", Origin("v"))
    with pytest.raises(CacheError, match="closed"):
        await cache.get_or_set("k", Origin("v"))


def test_cache_whose_loop_is_gone_still_closes():
    name = segment_name()
    cache = Cache.open(name, size=SIZE)
    asyncio.run(cache.set("k", 1))
    asyncio.run(cache.close())
    assert not list(SHM.glob(f"*{name}*"))


async def test_start_that_failed_is_tried_again(monkeypatch):
    cache = Cache.open(segment_name(), size=SIZE)
    start = cache._claims.start

    def fail():
        raise OSError("no descriptors")

    monkeypatch.setattr(cache._claims, "start", fail)
    with pytest.raises(OSError, match="no descriptors"):
        await cache.set("k", 1)
    monkeypatch.setattr(cache._claims, "start", start)
    await cache.set("k", 1)
    assert cache._parts.claims._beating is not None
    await cache.close()


FORKED = """
import asyncio, os, sys
from shmcache import Cache, CacheError
cache = Cache.open(sys.argv[1], size="2MiB")
if sys.argv[2] == "started":
    asyncio.run(cache.set("x", 1))

def say(line):  # one write, or the lines of two children mix in the pipe
    os.write(1, f"{line}\\n".encode())

async def compute():
    say("computed")
    await asyncio.sleep(0.2)
    return os.getpid()

async def child():
    try:
        await cache.get_or_set("k", compute)
        say(f"slot {cache._l1.table.slot}")
    except CacheError as e:
        say(f"refused: {e}")
        say(f"hit {cache.peek('x')}")
        for verb in (cache.set, cache.add):
            try:
                await verb("x", 2)
            except CacheError as also:
                assert str(also) == str(e)
        try:
            cache.refresh("x", compute)
        except CacheError as also:
            assert str(also) == str(e)
        own = Cache.open(sys.argv[1], size="2MiB")  # as it says
        say(f"its own: {await own.get_or_set('x', compute)}")
        await own.close()
    await cache.close()

pids = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        asyncio.run(child())
        os._exit(0)
    pids.append(pid)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
say("there" if cache._l1.segment.path.exists() else "gone")
cache._l1.close(keep=False)
"""


TOLD = (
    "refused: cache 'NAME' was used before this process was forked, so its slot, tasks "
    "and connections are the parent's: open another one after the fork, "
    "Cache.open('NAME', ...) in the child, or fork before its first use",
    *("hit 1", "its own: 1"),
)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("opened", ["computed", "slot 1", "slot 2", "there"]),
        ("started", [*TOLD, *TOLD, "there"]),
    ],
)
def test_cache_opened_before_a_fork(state, said):
    """Only opened: each child takes a slot of its own, and they share one fetch.
    Started: its tasks and sockets are the parent's, so a child is refused."""
    name = segment_name()
    run = subprocess.run(
        [sys.executable, "-c", FORKED, name, state],
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    assert run.returncode == 0
    lines = run.stdout.replace(name, "NAME").splitlines()
    assert sorted(lines) == sorted(said)


async def test_expected_record_reaches_the_segment():
    async with Cache.open(segment_name(), size=SIZE, record_bytes=4000) as cache:
        assert cache.stats().geometry["record_bytes"] == 4000


def test_replaced_segment_is_told_in_the_log(caplog):
    name = segment_name()
    asyncio.run(_opened(name, size=SIZE, keep=True))
    asyncio.run(_opened(name, size=2 * SIZE))
    (told,) = caplog.messages
    assert "replaced: it was made with another size or record size" in told


async def _opened(name, **settings):
    async with Cache.open(name, **settings) as cache:
        await cache.set("k", 1)


async def test_cache_whose_file_was_replaced_tells_nothing_old():
    """Its own process goes on computing: right answers, from no shared memory."""
    name = segment_name()
    async with Cache.open(name, size=SIZE) as old:
        await old.set("k", "old", ttl=60)
        old._l1.segment.path.unlink()
        async with Cache.open(name, size=SIZE) as new:
            await new.set("k", "new", ttl=60)
            old._l1.beat()
            assert old.peek("k") is MISSING
            assert await old.get_or_set("k", Origin("origin's"), ttl=60) == "origin's"
            await old.set("k", "again")
            assert old.peek("k") is MISSING and new.peek("k") == "new"
            assert old.stats().l1 == "off"


async def test_close_during_the_start_is_told_as_closed():
    """Whoever waits for it was not cancelled."""
    url = "unix:///nowhere/redis.sock"
    cache = Cache.open(segment_name(), size=SIZE, l2=url)
    asked = asking(cache.get_or_set("k", Origin("v"), ttl=60))
    await asyncio.sleep(0)
    assert not cache._parts.ready
    await cache.close()
    with pytest.raises(CacheError, match="closed"):
        await asked


async def test_host_says_whether_it_follows():
    """None: there is nobody to follow. Only opened, nobody does; nor while Redis is
    known to be away."""
    async with Cache.open(segment_name(), size=SIZE) as alone:
        assert (alone.stats().l2, alone.stats().following) == ("none", None)
    with redis_server() as server:
        cache = Cache.open(segment_name(), size=SIZE, l2=server.url)
        assert (cache.stats().l2, cache.stats().following) == ("up", False)
        async with cache:
            await eventually(lambda: cache.stats().following)
            server.kill()
            for i in range(THRESHOLD):
                await cache.get(f"absent {i}")
            assert (cache.stats().l2, cache.stats().following) == ("down", False)
            server.start()
            await eventually(lambda: cache.stats().following, 10)
            assert cache.stats().l2 == "up"


async def test_host_whose_follower_hears_nothing_does_not_follow(server):
    """It cannot read what stands in the stream, while every other operation is well."""
    settings = {"size": SIZE, "l2": server.url, "app": segment_name()}
    async with (
        Cache.open(segment_name(), **settings) as cache,
        Cache.open(segment_name(), **settings) as other,
    ):
        await eventually(lambda: cache.stats().following)
        server.command("ACL", "SETUSER", "default", "-xread")
        try:
            follower = cache._parts.invalidations.follower
            await eventually(lambda: follower.failures)  # no read is under way
            await other.delete("k")
            await eventually(lambda: not cache.stats().following, 10)
            assert cache.stats().l2 == "up"
        finally:
            server.command("ACL", "SETUSER", "default", "+xread")
        await eventually(lambda: cache.stats().following, 15)


async def test_host_that_was_away_follows_from_the_end_of_the_stream_on(server):
    """Its stale hits have a reason that can be seen, while L2 is not known to be
    away."""
    settings = {"size": SIZE, "l2": server.url, "app": segment_name()}
    name = segment_name()
    async with Cache.open(name, keep=True, **settings) as cache:
        await cache.set("k", "v", ttl=600)
        await eventually(lambda: cache.stats().following)
    server.stop()
    async with Cache.open(name, **settings) as cache:
        entry, stats = cache.entry("k"), cache.stats()
        assert (entry.state, stats.l2, stats.following) == ("stale", "up", False)
        server.cont()
        await eventually(lambda: cache.stats().following)
        assert cache.entry("k").state == "fresh"


async def test_unsent_delete_outlives_a_clean_stop(server, caplog):
    """1. Redis hangs, a delete waits in the outbox; 2. the last process closes; 3. the
    next one sends it, and nobody finds the old value."""
    name, app = segment_name(), segment_name()
    settings = {"size": SIZE, "l2": server.url, "app": app}
    async with Cache.open(name, **settings) as cache:
        await cache.set("k", "old", ttl=600)
        server.stop()
        await cache.delete("k")
        assert cache.stats().unsent == 1
    assert "it stays, with 1 invalidations" in caplog.text
    server.cont()
    async with Cache.open(name, **settings) as cache:
        assert await cache.get("k", None) is None
        await eventually(lambda: cache.stats().unsent == 0)
        assert await cache.get("k", None) is None
    assert not list(SHM.glob(f"*{name}*"))
