"""Warm restarts: what was cached before a kill or a kept stop is a hit after it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shmcache import MISSING, Cache, CacheConfig
from shmcache.clock import SYSTEM
from tests.helpers import (
    Server,
    alive,
    descendants,
    end,
    python,
    segment_name,
    shm_names,
    until,
)
from tests.processes.conftest import Origin
from tests.redis_server import redis_server


@pytest.fixture
def server(origin: Origin) -> Iterator[Server]:
    server = Server(origin.url)
    yield server
    if server.process.poll() is None:
        end(server.process)
    server.clean([])


def kill_all(server: Server) -> None:
    """SIGKILL, master first: nobody cleans up."""
    family = [server.process.pid, *descendants(server.process.pid)]
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    until(lambda: not any(map(alive, family)), 5, "no process left")


def stop(server: Server) -> None:
    assert end(server.process) == 0


@pytest.mark.parametrize(
    ("leave", "flags"),
    [(kill_all, ()), (stop, ("--l1-keep",))],
    ids=["kill", "kept-stop"],
)
def test_server_finds_its_cache_again(server, origin, tmp_path, leave, flags) -> None:
    server.flags = flags
    server.start(tmp_path / "first.log")
    path = origin.path()
    body = server.warm(path).body
    leave(server)
    assert shm_names(server.name)
    server.start(tmp_path / "second.log")
    answer = server.get(path)
    assert answer.hit and answer.body == body == origin.body(path)
    assert origin.count(path) == 1
    assert "(attached)" in server.log.read_text()


def test_clean_stop_forgets_unless_told_to_keep(server, origin, tmp_path) -> None:
    server.start(tmp_path / "first.log")
    path = origin.path()
    server.warm(path)
    stop(server)
    assert not shm_names(server.name)
    server.start(tmp_path / "second.log")
    assert not server.get(path).hit
    assert origin.count(path) == 2
    assert "(made)" in server.log.read_text()


def test_segment_of_other_settings_is_replaced_and_told(
    server, origin, tmp_path
) -> None:
    server.start(tmp_path / "first.log")
    path = origin.path()
    server.warm(path)
    kill_all(server)
    server.flags = ("--l1-record-bytes", "4000")
    server.start(tmp_path / "second.log")
    assert not server.get(path).hit
    log = server.log.read_text()
    assert "(replaced: it was made with another size or record size)" in log
    assert "for records of 4000 bytes" in log


def test_second_server_of_other_settings_is_refused_and_the_first_goes_on(
    server, origin, tmp_path
) -> None:
    server.start(tmp_path / "first.log")
    path = origin.path()
    server.warm(path)
    other = Server(origin.url, name=server.name, flags=("--l1-size", "32MiB"))
    with pytest.raises(AssertionError, match="exit code 2") as refused:
        other.start(tmp_path / "other.log")
    assert f"l1_name={server.name}: " in str(refused.value)
    assert "in use, and it was made with another size" in str(refused.value)
    assert server.get(path).hit


KEEPER = """
import asyncio, sys
from shmcache import Cache

async def main():
    cache = Cache.open(sys.argv[1], size="8MiB")
    await cache.get_or_set("k", lambda: "computed", ttl=60)
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_value_of_a_killed_program_is_a_hit_of_the_next() -> None:
    name = segment_name()
    program = python("-c", KEEPER, name, stdout=subprocess.PIPE)
    assert program.stdout.readline() == b"ready\n"
    program.kill()
    program.communicate()

    def never() -> str:
        raise AssertionError("asked again")

    async with Cache.open(name, size="8MiB") as cache:
        assert await cache.get_or_set("k", never) == "computed"


async def test_restarted_host_does_not_trust_what_it_missed() -> None:
    """1. a host stops, its segment kept; 2. another host deletes a key; 3. the first
    one starts: until it has followed the stream its hits are stale, then the deleted
    key is gone and the others are fresh again, for it knows where it was."""
    with redis_server() as redis:
        app = segment_name()
        kept, other = (
            CacheConfig(segment_name(), 2 << 20, l2=redis.url, app=app, keep=keep)
            for keep in (True, False)
        )
        async with Cache(kept) as host:
            await host.set("deleted", "old", ttl=60, grace=60)
            await host.set("left", "v", ttl=60, grace=60)
            follower = host._invalidations.follower
            await _eventually(follower.caught_up.is_set)
            assert [host.entry(k).state for k in ("deleted", "left")] == ["fresh"] * 2
        async with Cache(other) as elsewhere:
            await elsewhere.delete("deleted")
        host = Cache(CacheConfig(kept.name, 2 << 20, l2=redis.url, app=app))
        assert [host.entry(k).state for k in ("deleted", "left")] == ["stale"] * 2
        await host.start()
        await _eventually(lambda: host.peek("deleted") is MISSING)
        await _eventually(lambda: host.entry("left").state == "fresh")
        await host.close()


async def _eventually(probe) -> None:
    deadline = SYSTEM.now() + 3 * 10**9  # sooner than the 4 s without Redis
    while not probe():
        assert SYSTEM.now() < deadline
        await asyncio.sleep(0.002)


FILLER = """
import asyncio, re, sys
from shmcache import Cache

def private():  # KiB that are this process' own
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

async def main():
    async with Cache.open(sys.argv[1], size="64MiB") as cache:
        for i in range(2000):
            await cache.set(f"a{i}", bytes(20_000))
        before = private()
        for i in range(4000):
            await cache.set(f"b{i}", bytes(20_000))
            cache.peek(f"b{i // 2}")
        stats = cache.stats()
        print(stats.live_bytes, stats.stores, private() - before)

asyncio.run(main())
"""


def test_private_memory_does_not_grow_with_the_cache() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLER, segment_name()],
        capture_output=True,
        text=True,
        timeout=60,
    )
    live, stores, grown = map(int, done.stdout.split())
    assert stores == 6000 and live > 30 << 20
    assert grown < 4 << 10
