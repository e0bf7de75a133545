"""The blocking cache: threads, forks, computes that run where they were asked for."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shmcache import (
    MISSING,
    Cache,
    CacheError,
    ComputeFailed,
    Context,
    Fill,
    LockTimeout,
    ReentrantCompute,
    SyncCache,
    ValueTooLarge,
)
from shmcache.testing import MemoryCache, SyncMemoryCache
from tests.caches import landed, until
from tests.helpers import segment_name, shm_names
from tests.helpers import until as helpers_until
from tests.redis_server import RedisServer


@pytest.fixture
def cache() -> Iterator[SyncMemoryCache]:
    with SyncMemoryCache() as made:
        yield made


def test_every_verb_of_cache_is_there() -> None:
    """But those of the loop, and of who shares what is not stored yet."""
    asyncio_only = {
        *("start", "prepare", "check_l2", "look", "resolve", "slot", "note", "raised"),
        *("caught_up", "at_once"),
    }
    public = {name for name in dir(Cache) if not name.startswith("_")}
    mine = {name for name in dir(SyncCache) if not name.startswith("_")}
    assert public - asyncio_only == mine


def test_verbs_do_what_theirs_do(cache: SyncMemoryCache) -> None:
    cache.set("a", 1, ttl=60)
    cache.set_many({"b": 2, "c": 3}, ttl="1m", tags=["t"])
    assert (cache.peek("a"), cache.get("a"), cache.get("z", 0)) == (1, 1, 0)
    assert cache.get_many(["a", "b", "z"]) == {"a": 1, "b": 2}
    assert (cache.add("a", 9), cache.add("d", 4)) == (False, True)
    entry = cache.get_or_set_entry("a", lambda: 0)
    assert (entry.value, entry.source) == (1, "l1")
    assert cache.compare_and_set("a", 5, version=entry.version)
    assert not cache.compare_and_set("a", 6, version=entry.version)
    assert (cache.pop("a"), cache.pop("a", None)) == (5, None)
    assert (cache.incr("n"), cache.incr("n", 5), cache.decr("n", 2)) == (1, 6, 4)
    cache.delete("d")
    cache.delete_tags("t")
    assert cache.get_many(["b", "c", "d", "n"]) == {"n": 4}
    assert cache.touch("n", 60) and not cache.touch("b", 60)
    cache.delete_many(["n"])
    cache.set("e", 1, ttl=60, grace=60)
    cache.expire("e")
    assert cache.entry("e").state == "stale"  # type: ignore[union-attr]
    cache.clear()
    assert cache.peek("e") is MISSING
    assert cache.stats().invalidations > 0
    assert cache.confirmed(0).hosts == 1
    assert len(cache.hot_keys()) == 2
    many = cache.get_or_set_many(["x", "y"], lambda keys: dict.fromkeys(keys, 7))
    assert many == {"x": 7, "y": 7}


def test_namespace_shares_the_process(cache: SyncMemoryCache) -> None:
    view = cache.namespace("n")
    view.set("a", 1)
    assert (view.get("a"), cache.get("a")) == (1, MISSING)
    with pytest.raises(CacheError, match="nest"):
        view.namespace("m")
    view.close()
    with pytest.raises(CacheError, match="closed"):
        cache.get("a")


# -- who computes


def test_compute_runs_in_the_thread_that_asked(cache: SyncMemoryCache) -> None:
    mine = threading.local()
    mine.connection = "db"
    assert cache.get_or_set("k", lambda: mine.connection, ttl=9) == "db"


def test_compute_sees_the_context_of_its_thread(cache: SyncMemoryCache) -> None:
    request = contextvars.ContextVar("request", default="none")
    request.set("mine")
    assert cache.get_or_set("k", request.get, ttl=9) == "mine"


def test_threads_share_one_compute(cache: SyncMemoryCache) -> None:
    ran: list[str] = []

    def slow() -> str:
        ran.append(threading.current_thread().name)
        time.sleep(0.05)
        return "v"

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: cache.get_or_set("k", slow), range(16)))
    assert answers == ["v"] * 16 and len(ran) == 1


def test_compute_is_given_its_context(cache: SyncMemoryCache) -> None:
    def compute(ctx: Context) -> Any:
        return ctx.skip(ctx.key)

    assert cache.get_or_set("k", compute) == b"k"
    assert cache.peek("k") is MISSING
    assert cache.get_or_set("k", lambda: Fill("v", ttl=0)) == "v"


def test_failure_of_a_compute_is_its_own(cache: SyncMemoryCache) -> None:
    def fails() -> None:
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        cache.get_or_set("k", fails)
    with pytest.raises(ComputeFailed, match="StopIteration"):
        cache.get_or_set("k", lambda: next(iter(())))


def test_end_of_the_computing_thread_is_told_to_those_who_wait(
    cache: SyncMemoryCache,
) -> None:
    """1. A thread computes, another waits for it; 2. a signal ends the first."""
    begun, gate = threading.Event(), threading.Event()

    def ends() -> None:
        begun.set()
        gate.wait(5)
        raise SystemExit(3)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get_or_set, "k", ends)
        assert begun.wait(5)
        other = pool.submit(cache.get_or_set, "k", lambda: "mine")
        while cache._view._flights._waiters < 2:  # type: ignore[union-attr]
            time.sleep(0.001)
        gate.set()
        with pytest.raises(SystemExit):
            first.result()
        with pytest.raises(ComputeFailed, match="SystemExit"):
            other.result()
    assert cache.get_or_set("k", lambda: "next") == "next"


def test_compute_may_ask_for_other_keys_but_not_for_its_own(
    cache: SyncMemoryCache,
) -> None:
    def outer() -> str:
        return "outer " + cache.get_or_set("inner", lambda: "inner")

    assert cache.get_or_set("outer", outer) == "outer inner"
    with pytest.raises(ReentrantCompute):
        cache.get_or_set("self", lambda: cache.get_or_set("self", lambda: 1))


async def _coroutine() -> int:
    return 1


def test_compute_that_must_be_awaited_is_refused(cache: SyncMemoryCache) -> None:
    with pytest.raises(ValueError, match="plain functions"):
        cache.get_or_set("k", _coroutine)


def test_stale_value_is_answered_and_refreshed_by_another_thread(
    cache: SyncMemoryCache,
) -> None:
    request = contextvars.ContextVar("request", default="none")
    request.set("mine")
    cache.set("k", "old", ttl=1, grace=60)
    cache.advance(2)
    ran: list[Any] = []

    def compute() -> str:
        ran.append((threading.current_thread(), request.get()))
        return "new"

    assert cache.get_or_set("k", compute, ttl=60) == "old"
    cache.settled()
    assert cache.peek("k") == "new"
    ((thread, seen),) = ran
    assert thread is not threading.current_thread() and seen == "mine"


def test_stale_value_of_l2_is_answered_and_refreshed_by_another_thread(
    server: RedisServer,
) -> None:
    """1. This host has nothing, L2 has a stale value; 2. the flight answers with it and
    goes on to compute."""
    app, gate = segment_name(), threading.Event()
    with (
        SyncCache.open(segment_name(), size="2MiB", l2=server.url, app=app) as one,
        SyncCache.open(segment_name(), size="2MiB", l2=server.url, app=app) as other,
    ):
        one.set("k", "old", ttl=0.001, grace=60)
        time.sleep(0.01)
        assert other.get_or_set("k", lambda: gate.wait(5) and "new", ttl=60) == "old"
        gate.set()
        other._run(_landed(other))
        assert other.peek("k") == "new"


async def _landed(cache: SyncCache) -> None:
    await landed(cache._view)  # type: ignore[arg-type]


def test_who_waits_for_a_fresh_value_waits_for_the_soft_timeout() -> None:
    gate = threading.Event()
    with SyncMemoryCache(soft_timeout=0.05) as cache:
        cache.set("k", "old", ttl=1, grace=60)
        cache.advance(2)
        assert cache.get_or_set("k", lambda: gate.wait(5) and "new", ttl=60) == "old"
        gate.set()
        cache.settled()
        cache.advance(61)
        assert cache.get_or_set("k", lambda: "newer", ttl=60) in ("new", "newer")


def test_refresh_waits_for_nothing(cache: SyncMemoryCache) -> None:
    gate = threading.Event()
    cache.refresh("k", lambda: gate.wait(5), ttl=9)
    assert cache.peek("k") is MISSING
    gate.set()
    cache.settled()
    assert cache.peek("k") is True


def test_thread_that_is_interrupted_leaves_its_compute_to_others(
    cache: SyncMemoryCache,
) -> None:
    """1. The main thread waits for a value that another one computes; 2. a signal's
    handler raises in it."""
    gate, begun = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        gate.wait(5)
        return "v"

    def interrupt(*_: Any) -> None:
        raise InterruptedError("enough")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(cache.get_or_set, "k", slow, ttl=9)
            assert begun.wait(5)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(InterruptedError):
                cache.get_or_set("k", lambda: "mine")
            gate.set()
            assert other.result() == "v"
    finally:
        signal.signal(signal.SIGALRM, before)
    assert cache.get_or_set("k", lambda: "mine") == "v"


# -- errors before any I/O


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.get_or_set("", lambda: 1),
        lambda c: c.get_or_set("k", 7),
        lambda c: c.get_or_set("k", lambda: 1, ttl=-1),
        lambda c: c.get_or_set_many([], dict),
        lambda c: c.set("k", object()),
        lambda c: c.incr("k", "1"),
        lambda c: c.add("k", 1, ttl=0),
        lambda c: c.get_or_set_entry("k", 7),
        lambda c: c.refresh("k", 7),
    ],
)
def test_bad_input_is_told(cache: SyncMemoryCache, call: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError):
        call(cache)


def test_value_that_does_not_fit_is_told(cache: SyncMemoryCache) -> None:
    with pytest.raises(ValueTooLarge):
        cache.set("k", bytes(4 << 20))


# -- locks


def test_lock_lets_one_thread_in(cache: SyncMemoryCache) -> None:
    inside: list[int] = []

    def work(n: int) -> None:
        with cache.lock("l") as lock:
            assert len(lock.token) == 16
            inside.append(n)
            assert len(inside) == 1
            time.sleep(0.001)
            inside.clear()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    with cache.lock("l"), pytest.raises(LockTimeout), cache.lock("l", wait=0.01):
        pass


# -- life


def test_closed_cache_says_so_and_leaves_nothing() -> None:
    cache = SyncMemoryCache()
    name = cache.config.name
    assert cache.get_or_set("k", lambda: 1) == 1
    cache.close()
    cache.close()
    assert not shm_names(name)
    for verb in (cache.get, cache.peek, cache.delete):
        with pytest.raises(CacheError, match="closed"):
            verb("k")
    assert not [t for t in threading.enumerate() if t.name == "shmcache"]


def test_cache_that_only_hits_starts_no_thread() -> None:
    before = threading.active_count()
    with SyncMemoryCache() as cache:
        assert cache.peek("k") is MISSING
        assert threading.active_count() == before


async def test_asyncio_and_blocking_processes_share_flights() -> None:
    """Two caches on one segment, as two processes have."""
    async with MemoryCache() as one:
        with SyncCache(one.config, clock=one._clock) as other:
            gate, ran = asyncio.Event(), 0

            async def slow() -> str:
                nonlocal ran
                ran += 1
                await gate.wait()
                return "v"

            first = asyncio.ensure_future(one.get_or_set("k", slow, ttl=9))
            await asyncio.sleep(0.01)
            second = asyncio.ensure_future(
                asyncio.to_thread(other.get_or_set, "k", lambda: "mine", ttl=9)
            )
            await until(lambda: one.stats().claim_waits)
            gate.set()
            assert await first == await second == "v" and ran == 1


def test_l2_is_asked_where_l1_has_nothing(server: RedisServer) -> None:
    app = segment_name()
    with (
        SyncCache.open(segment_name(), size="2MiB", l2=server.url, app=app) as one,
        SyncCache.open(segment_name(), size="2MiB", l2=server.url, app=app) as other,
    ):
        one.set("k", "v", ttl=60)
        assert other.peek("k") is MISSING
        assert other.get("k") == "v" == other.peek("k")


def test_close_ends_every_verb_that_waits() -> None:
    """Threads that hold a lock, wait for it, or for a compute."""
    cache = SyncMemoryCache()
    held, told, gate = threading.Event(), [], threading.Event()

    def holds() -> None:
        with cache.lock("l") as lock:
            held.set()
            gate.wait(10)
            told.append(lock.lost.is_set())
            raise OSError("mine")

    def waits() -> None:
        with cache.lock("l"):
            pass

    with ThreadPoolExecutor(3) as pool:
        holding = pool.submit(holds)
        assert held.wait(5)
        waiting = pool.submit(waits)
        computing = pool.submit(cache.get_or_set, "k", lambda: gate.wait(10))
        while len(cache._process._pending) < 2:
            time.sleep(0.001)
        cache.close()
        assert isinstance(waiting.exception(5), CacheError)
        gate.set()
        assert isinstance(holding.exception(5), OSError) and told == [True]
        assert isinstance(computing.exception(5), CacheError)


def test_close_beside_refreshes_does_not_wait_for_itself() -> None:
    for _ in range(10):
        cache = SyncMemoryCache()
        for n in range(8):
            cache.set(f"{n}", n, ttl=1, grace=60)
        cache.advance(2)
        for n in range(8):
            assert cache.get_or_set(f"{n}", lambda: 0) == n
        began = time.monotonic()
        cache.close()
        assert time.monotonic() - began < 5


async def test_cache_is_closed_where_a_loop_runs() -> None:
    cache = SyncMemoryCache()
    assert cache.peek("k") is MISSING
    cache.close()
    with pytest.raises(CacheError, match="closed"):
        cache.peek("k")


def test_process_that_only_hits_follows_the_fleet(server: RedisServer) -> None:
    """1. A process follows, another has only hits; 2. the first ends; 3. another host
    sets the key."""
    app, name = segment_name(), segment_name()
    settings: Any = {"size": "2MiB", "l2": server.url, "app": app}
    first = SyncCache.open(name, **settings)
    first.set("k", "old")
    with (
        SyncCache.open(name, **settings) as hits,
        SyncCache.open(segment_name(), **settings) as other,
    ):
        assert hits.get("k") == "old"
        first.close()
        other.set("k", "new")
        until_now = time.monotonic() + 8
        while hits.get("k") != "new" and time.monotonic() < until_now:
            time.sleep(0.01)
        assert hits.get("k") == "new"


EXITS = """
import sys
from shmcache import ComputeFailed, SyncCache

def leave(value):
    raise SystemExit

with SyncCache.open(sys.argv[1]) as cache:
    try:
        cache.get_or_set("k", lambda: 1, ttl=leave)
    except ComputeFailed as error:
        print(error.kind)
    print(cache.get_or_set("k", lambda: 2))
"""


def test_exit_on_the_loop_is_not_its_end() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", EXITS, segment_name()],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.stdout == "SystemExit\n2\n" and "SyncCache" in ran.stderr


FORKS = """
import os, sys, threading, time
from shmcache import MISSING, SyncCache

cache = SyncCache.open(sys.argv[1], size="4MiB")
view = cache.namespace("n")
if sys.argv[2] == "used":
    cache.set("a", 1)
    view.set("a", 2)
slow = lambda: time.sleep(0.2) or os.getpid()
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        if sys.argv[2] == "used":
            assert (cache.get("a"), view.get("a")) == (1, 2)
        value = cache.get_or_set("k", slow, ttl=60)
        view.set(f"by {os.getpid()}", value)
        cache.close()
        os._exit(0)
    children.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
values = view.get_many([f"by {pid}" for pid in children])
assert len(values) == 3 and len(set(values.values())) == 1, values
assert cache.get("k") in children
print("good")
"""


@pytest.mark.parametrize("used", ["used", "unused"])
def test_forked_children_attach_anew_and_share_a_flight(used: str) -> None:
    name = segment_name()
    ran = subprocess.run(
        [sys.executable, "-c", FORKS, name, used],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("good\n", "")
    assert not shm_names(name)  # the parent closes it at its end


LATER = """
import os, sys, time
from shmcache import SyncCache

cache = SyncCache.open(sys.argv[1], size="4MiB")
cache.set("a", 1)
with cache.lock("l"):
    if not os.fork():
        sys.exit()  # by the lock's block
    os.wait()
    assert cache.lock("l", wait=0)
    try:
        with SyncCache.open(sys.argv[1], size="4MiB") as other:
            with other.lock("l", wait=0):
                print("two holders")
    except TimeoutError:
        print("one holder")
here, there = os.pipe()
if not os.fork():
    assert cache.get("a") == 1
    os.write(there, b".")
    time.sleep(0.5)  # it outlives its parent, and is the last one to close
    cache.close()
    os._exit(0)
os.read(here, 1)
cache.close()
"""


def test_child_leaves_its_parents_lock_and_closes_what_it_attached() -> None:
    name = segment_name()
    ran = subprocess.run(
        [sys.executable, "-c", LATER, name],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("one holder\n", "")
    helpers_until(lambda: not shm_names(name))


def test_process_that_ends_closes_its_cache() -> None:
    name = segment_name()
    script = (
        "import sys; from shmcache import SyncCache; "
        "c = SyncCache.open(sys.argv[1]); c.get_or_set('k', lambda: 1)"
    )
    subprocess.run([sys.executable, "-c", script, name], timeout=30, check=True)
    assert not shm_names(name)


def test_fork_in_the_midst_of_verbs_leaves_the_child_whole() -> None:
    """1. Threads are inside of verbs, and may have any lock; 2. the process forks."""
    script = """
import os, sys, threading
from shmcache import SyncCache

cache = SyncCache.open(sys.argv[1], size="4MiB")
stop = threading.Event()

def work():
    n = 0
    while not stop.is_set():
        n += 1
        cache.set(f"{n % 50}", n)

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    pid = os.fork()
    if not pid:
        cache.set("mine", 1)
        ok = cache.get("mine") == 1
        cache.close()
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
cache.close()
print("good")
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, segment_name()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("good\n", "")


def test_verb_on_its_own_loop_is_refused(cache: SyncMemoryCache) -> None:
    cache.set("k", 1)
    loop = cache._process.loop
    told: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            cache.get("z" * 3)
            cache.delete("k")
        except CacheError as e:
            told.append(e)
        done.set()

    loop.call_soon_threadsafe(ask)
    assert done.wait(5) and "wait for itself" in str(told[0])
