"""A function's results, kept by its arguments."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shmcache import MISSING, Cache, Fill, KeyRejected, ReentrantCompute
from shmcache.clock import FakeClock
from shmcache.testing import SyncMemoryCache

RAN: list[Any] = []


async def _get(user_id: Any, limit: int = 10) -> Any:
    """Its own words."""
    RAN.append(user_id)
    return {"id": user_id, "limit": limit}


class Counted:
    """A function that counts."""

    def __init__(self, cache: Cache, **more: Any) -> None:
        RAN.clear()
        self.ran = RAN
        self.get = cache.cached(60, **more)(_get)


async def test_result_is_kept_by_arguments(cache: Cache) -> None:
    counted = Counted(cache)
    for _ in range(2):
        assert await counted.get(7) == {"id": 7, "limit": 10}
        assert await counted.get(user_id=7, limit=10) == {"id": 7, "limit": 10}
        assert await counted.get("7") == {"id": "7", "limit": 10}
    assert counted.ran == [7, "7"]
    assert counted.get.cache_info() == (4, 2)


async def test_one_run_for_all_who_ask_at_once(pair: tuple[Cache, Cache]) -> None:
    ran = 0

    async def slow(n: int) -> int:
        nonlocal ran
        ran += 1
        await asyncio.sleep(0.02)
        return n

    one, two = (cache.cached(60, key="{n}")(slow) for cache in pair)
    assert await asyncio.gather(*(f(1) for f in (one, two) * 5)) == [1] * 10
    assert ran == 1


async def test_function_is_what_it_was(cache: Cache) -> None:
    get = Counted(cache).get
    assert inspect.iscoroutinefunction(get)
    assert (get.__name__, get.__doc__) == ("_get", "Its own words.")
    assert list(inspect.signature(get).parameters) == ["user_id", "limit"]
    assert await get.__wrapped__(1) == {"id": 1, "limit": 10}


async def test_key_and_tags_by_template(cache: Cache) -> None:
    counted = Counted(cache, key="user:{user_id}:{limit}", tags=("u{user_id}", "users"))
    await counted.get(7)
    assert counted.get.key(7) == "user:7:10"
    assert cache.peek("user:7:10") == {"id": 7, "limit": 10}
    await cache.delete_tags("u8")
    assert cache.peek("user:7:10") is not MISSING
    await cache.delete_tags("u7")
    assert cache.peek("user:7:10") is MISSING
    await counted.get(7)
    await cache.delete_tags("users")
    assert cache.peek("user:7:10") is MISSING


async def test_invalidate_removes_one_call(cache: Cache) -> None:
    counted = Counted(cache)
    await counted.get(1)
    await counted.get(2)
    await counted.get.invalidate(limit=10, user_id=1)
    await counted.get(1)
    await counted.get(2)
    assert counted.ran == [1, 2, 1]


async def test_refresh_runs_and_stores(cache: Cache) -> None:
    answers = iter([1, 2])

    @cache.cached(60, key="k")
    async def get() -> int:
        return next(answers)

    assert (await get(), await get.refresh(), await get()) == (1, 2, 2)


async def test_clear_removes_the_calls_of_one_function(cache: Cache) -> None:
    one, other = Counted(cache, key="1:{user_id}"), cache.cached(60)(_other)
    await one.get(1)
    await one.get(2)
    await other()
    await one.get.cache_clear()
    assert cache.peek("1:1") is MISSING and cache.peek("1:2") is MISSING
    assert cache.peek(other.key()) == "other"


async def _other() -> str:
    return "other"


async def test_refresh_does_not_bring_back_what_was_invalidated(cache: Cache) -> None:
    """1. A refresh has read; 2. the call's result is invalidated; 3. it would store."""
    read, gate = asyncio.Event(), asyncio.Event()

    @cache.cached(60, key="k")
    async def get() -> str:
        read.set()
        await gate.wait()
        return "old"

    refreshing = asyncio.ensure_future(get.refresh())
    await read.wait()
    await get.invalidate()
    gate.set()
    assert await refreshing == "old"
    assert cache.peek(get.key()) is MISSING


async def test_refresh_sees_what_is_new_though_another_run_began_before(
    pair: tuple[Cache, Cache],
) -> None:
    """1. Another process has read; 2. what it read changes; 3. a refresh is wanted."""
    database, gate, read = ["old"], asyncio.Event(), asyncio.Event()

    async def get() -> str:
        found = database[0]
        if found == "old":
            read.set()
            await gate.wait()
        return found

    one, other = (c.cached(60, key="k")(get) for c in pair)
    early = asyncio.ensure_future(other())
    await read.wait()
    database[0] = "new"
    refreshing = asyncio.ensure_future(one.refresh())
    await asyncio.sleep(0.02)
    gate.set()
    assert await refreshing == "new" == pair[0].peek("k")
    assert await early in ("old", "new") and pair[1].peek("k") == "new"


async def test_refresh_that_fails_leaves_what_stands_stale(
    cache: Cache, clock: FakeClock
) -> None:
    answers: list[Any] = ["v", OSError("away"), "w"]

    @cache.cached(60, key="k", grace=60)
    async def get() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert await get() == "v"
    with pytest.raises(OSError, match="away"):
        await get.refresh()
    found = cache.entry(get.key())
    assert found is not None and (found.value, found.state) == ("v", "stale")
    assert await get.refresh() == "w"


async def test_condition_says_what_is_stored(cache: Cache) -> None:
    counted = Counted(cache, condition=lambda found: found["id"] > 5)
    for _ in range(2):
        assert (await counted.get(1))["id"] == 1
        assert (await counted.get(6))["id"] == 6
    assert counted.ran == [1, 6, 1]
    await counted.get.refresh(2)
    assert cache.peek(counted.get.key(2)) is MISSING


async def test_life_is_as_of_get_or_set(cache: Cache, clock: FakeClock) -> None:
    @cache.cached(lambda n: n, grace="1h", negative_ttl=5)
    async def get(n: Any) -> Any:
        return n

    await get(10)
    await get(None)
    clock.advance(6)
    assert cache.peek(get.key(None)) is MISSING
    clock.advance(5)
    found = cache.entry(get.key(10))
    assert found is not None and found.state == "stale"


async def test_fill_says_more_of_a_result(cache: Cache) -> None:
    @cache.cached(60)
    async def get() -> Any:
        return Fill("private", shareable=False)

    assert await get() == "private"
    assert cache.peek(get.key()) is MISSING


async def test_condition_and_refresh_see_into_a_fill(cache: Cache) -> None:
    @cache.cached(60, condition=lambda value: value is not None, negative_ttl=5)
    async def get(value: Any) -> Any:
        return Fill(value, grace=9)

    assert [await get(None), await get(1), await get.refresh(1)] == [None, 1, 1]
    assert cache.peek(get.key(None)) is MISSING
    assert cache.peek(get.key(1)) == 1


async def test_two_functions_of_one_name_are_told_apart(cache: Cache) -> None:
    def make(table: str) -> Any:
        async def load(n: int) -> Any:
            return (table, n)

        return load

    with pytest.raises(ValueError, match=r"load.*key="):
        cache.cached(60)(make("users"))
    users = cache.cached(60, key="users:{n}")(make("users"))
    orders = cache.cached(60, key="orders:{n}")(make("orders"))
    assert (await users(1), await orders(1)) == (("users", 1), ("orders", 1))
    for bad in (lambda: None, Users(cache)._get):
        with pytest.raises(ValueError, match=r"coroutine|key="):
            cache.cached(60)(bad)
    twice = cache.cached(60)(_twin())
    with pytest.raises(ValueError, match=r"twin.*key="):
        cache.cached(60)(_twin())
    assert await twice() == 1


def _twin() -> Any:
    async def twin() -> int:
        return 1

    return twin


async def test_class_method_is_kept_for_each_class(cache: Cache) -> None:
    class Base:
        @classmethod
        @cache.cached(60)
        async def name(cls) -> str:
            return cls.__name__

    class Heir(Base):
        pass

    assert (await Base.name(), await Heir.name()) == ("Base", "Heir")


async def test_long_words_of_a_stranger_are_hashed(cache: Cache) -> None:
    @cache.cached(60, key="q:{q}", tags=["q:{q}"])
    async def search(q: str) -> str:
        return q

    words = "x" * 5000
    assert await search(words) == words
    assert cache.peek(search.key(words)) == words
    assert search.key(words) != search.key(words + "x")


async def test_wrong_call_fails_under_the_functions_name(cache: Cache) -> None:
    with pytest.raises(TypeError, match=r"_get\(\) missing 1 required"):
        await Counted(cache).get()


async def test_namespace_has_results_of_its_own(cache: Cache) -> None:
    one, other = Counted(cache), Counted(cache.namespace("n"))
    await one.get(1)
    await other.get(1)
    await other.get.cache_clear()
    assert cache.peek(one.get.key(1)) is not MISSING
    assert RAN == [1, 1]


async def test_refresh_is_its_own_where_the_fleet_has_a_stale_value(
    hosts: tuple[Cache, Cache],
) -> None:
    """Its value, and its failure; L2 answers with what was made stale."""
    answers: list[Any] = [1, 2, OSError("away")]

    async def get() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    cached = hosts[0].cached(60, key="k", grace=60)(get)
    assert [await cached(), await cached.refresh()] == [1, 2]
    assert await hosts[1].get("k") == 2
    with pytest.raises(OSError, match="away"):
        await cached.refresh()


async def test_refresh_hears_of_no_older_failure(pair: tuple[Cache, Cache]) -> None:
    """1. Another process computes; 2. a refresh waits for its claim; 3. that fails."""
    begun, gate = asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        begun.set()
        await gate.wait()
        raise OSError("old")

    early = asyncio.ensure_future(pair[1].get_or_set("k", fails))
    await begun.wait()
    late = asyncio.ensure_future(pair[0].recompute("k", lambda: "new", ttl=60))
    await asyncio.sleep(0.02)
    gate.set()
    with pytest.raises(OSError, match="old"):
        await early
    assert await late == "new" == pair[1].peek("k")


async def test_refresh_inside_of_a_cycle_is_told(cache: Cache) -> None:
    async def outer() -> Any:
        return await cache.recompute("inner", inner)

    async def inner() -> Any:
        return await cache.get_or_set("outer", outer)

    with pytest.raises(ReentrantCompute):
        await asyncio.wait_for(cache.get_or_set("outer", outer), 5)


class Users:
    def __init__(self, cache: Cache) -> None:
        self.ran = 0
        Users.get = cache.cached(60, noself=True)(Users._get)  # type: ignore
        Users.typed = cache.cached(60)(Users._get)  # type: ignore

    async def _get(self, user_id: int) -> int:
        self.ran += 1
        return user_id

    get: Any
    typed: Any


async def test_method_is_kept_for_all_objects_without_self(cache: Cache) -> None:
    one, other = Users(cache), Users(cache)
    assert await one.get(7) == await other.get(7) == 7
    assert (one.ran, other.ran) == (1, 0)
    assert "(7)" in one.get.key(7)
    await one.get.invalidate(7)
    assert await other.get(7) == 7 and other.ran == 1
    assert await one.get.refresh(one, 7) == 7


async def test_method_whose_self_is_in_no_key_says_what_to_do(cache: Cache) -> None:
    with pytest.raises(KeyRejected, match=r"argument 'self'.*noself=True"):
        await Users(cache).typed(7)


def _plain() -> None: ...


async def _generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    "function, words",
    [
        (_plain, "SyncCache"),
        (_generator, "generator"),
        (lambda: (yield 1), "generator"),
        (staticmethod(_other), "@staticmethod"),
        (classmethod(_other), "@classmethod"),
        (dict, "no function"),
        (functools.partial(_other), "no function"),
        (7, "parentheses"),
    ],
)
async def test_what_cannot_be_decorated_is_told(
    cache: Cache, function: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        cache.cached(60)(function)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"ttl": -1}, "ttl=-1"),
        ({"grace": "x"}, "grace='x'"),
        ({"tags": "a"}, "tags='a'"),
        ({"tags": ["{nobody}"]}, "nobody"),
        ({"key": "{nobody}"}, "no argument 'nobody'"),
        ({"noself": True}, "noself"),
        ({"ttl": 1, "errors": (KeyboardInterrupt,)}, "errors"),
    ],
)
async def test_wrong_wish_is_told_where_it_is_decorated(
    cache: Cache, given: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        cache.cached(**given)(_other)


# -- blocking


def test_blocking_function_is_kept_alike() -> None:
    ran: list[int] = []
    with SyncMemoryCache() as cache:

        @cache.cached("1m", key="k:{n}", tags=["t"], condition=lambda n: n > 0)
        def get(n: int) -> int:
            ran.append(n)
            return n

        assert [get(1), get(1), get(0), get(0)] == [1, 1, 0, 0]
        assert ran == [1, 0, 0] and get.cache_info() == (1, 3)
        assert (get.key(1), cache.peek("k:1")) == ("k:1", 1)
        get.invalidate(1)
        assert (get(1), get.refresh(1), ran[3:]) == (1, 1, [1, 1])
        get.cache_clear()
        assert cache.peek("k:1") is MISSING
        with pytest.raises(ValueError, match="use Cache"):
            cache.cached(1)(_other)
