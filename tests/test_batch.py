"""Many keys, one compute; each with a claim of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from shmcache import Cache, CodecError, ComputeFailed, Fill, ReentrantCompute
from shmcache.clock import FakeClock
from tests.caches import asking, held, landed, until


class Squares:
    """A compute that counts, and answers when it is let."""

    def __init__(self, hold: bool = False) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()
        if not hold:
            self.gate.set()

    async def __call__(self, keys: list[str]) -> dict[str, int]:
        self.calls.append(sorted(map(int, keys)))
        await self.gate.wait()
        return {key: int(key) ** 2 for key in keys}


def names(numbers: Sequence[int]) -> list[str]:
    return [str(n) for n in numbers]


async def test_only_the_missing_are_computed_and_at_once(cache: Cache) -> None:
    await cache.set("2", "two", ttl=9)
    squares = Squares()
    found = await cache.get_or_set_many(names([3, 2, 1]), squares, ttl=9)
    assert list(found.items()) == [("3", 9), ("2", "two"), ("1", 1)]
    assert squares.calls == [[1, 3]]
    assert await cache.get_or_set_many(names([1, 3]), squares) == {"1": 1, "3": 9}
    assert len(squares.calls) == 1


async def test_plain_function_will_do(cache: Cache) -> None:
    found = await cache.get_or_set_many(["a", "b"], lambda keys: dict.fromkeys(keys, 1))
    assert found == {"a": 1, "b": 1}


async def test_key_named_twice_is_one(cache: Cache) -> None:
    squares = Squares()
    found = await cache.get_or_set_many(["1", b"1", "1"], squares)
    assert found == {"1": 1, b"1": 1} and squares.calls == [[1]]


async def test_two_callers_share_what_they_both_want(
    pair: tuple[Cache, Cache],
) -> None:
    """In two processes; each computes what only it wants, and at once."""
    first, other = Squares(hold=True), Squares()
    one = asking(pair[0].get_or_set_many(names([1, 2]), first, ttl=9))
    await until(lambda: first.calls)
    two = asking(pair[1].get_or_set_many(names([2, 3, 4]), other, ttl=9))
    await until(lambda: other.calls)
    assert other.calls == [[3, 4]] and not two.done()
    first.gate.set()
    assert await one == {"1": 1, "2": 4}
    assert await two == {"2": 4, "3": 9, "4": 16}
    assert (first.calls, other.calls) == ([[1, 2]], [[3, 4]])


async def test_key_that_is_computed_alone_is_waited_for(cache: Cache) -> None:
    origin, squares = held("lone"), Squares()
    alone = asking(cache.get_or_set("1", origin, ttl=9))
    await until(lambda: origin.calls)
    many = asking(cache.get_or_set_many(names([1, 2]), squares, ttl=9))
    await until(lambda: squares.calls)
    origin.gate.set()
    assert await many == {"1": "lone", "2": 4}
    assert squares.calls == [[2]] and await alone == "lone"


async def test_stale_ones_are_answered_and_refreshed_together(
    cache: Cache, clock: FakeClock
) -> None:
    await cache.set_many({"1": "old", "2": "old"}, ttl=1, grace=99)
    clock.advance(2)
    squares = Squares()
    found = await cache.get_or_set_many(names([1, 2]), squares, ttl=9)
    assert found == {"1": "old", "2": "old"}
    await landed(cache)
    assert squares.calls == [[1, 2]]
    assert await cache.get_many(names([1, 2])) == {"1": 1, "2": 4}


async def test_what_it_has_no_value_for_is_left_out(pair: tuple[Cache, Cache]) -> None:
    asked = asyncio.Event()
    gate = asyncio.Event()

    async def compute(keys: list[str]) -> dict[str, int]:
        asked.set()
        await gate.wait()
        return {"a": 1}

    one = asking(pair[0].get_or_set_many(["a", "b"], compute, ttl=9))
    await asked.wait()
    others = [asking(c.get_or_set_many(["b"], compute)) for c in pair]
    await asyncio.sleep(0.01)
    gate.set()
    assert await one == {"a": 1}
    assert await asyncio.gather(*others) == [{}, {}]
    assert pair[0].entry("b") is None


async def test_who_waits_for_what_a_batch_has_not_computes_for_himself(
    pair: tuple[Cache, Cache],
) -> None:
    asked, gate = asyncio.Event(), asyncio.Event()

    async def nothing(keys: list[str]) -> dict[str, int]:
        asked.set()
        await gate.wait()
        return {}

    one = asking(pair[0].get_or_set_many(["k"], nothing))
    await asked.wait()
    others = [asking(c.get_or_set("k", lambda: "mine")) for c in pair]
    await asyncio.sleep(0.01)
    gate.set()
    assert await one == {}
    assert await asyncio.gather(*others) == ["mine", "mine"]


class Abort(BaseException):
    pass


async def test_compute_that_is_ended_by_no_exception_fails_its_callers(
    cache: Cache,
) -> None:
    loop = asyncio.get_running_loop()
    told: list[Any] = []
    loop.set_exception_handler(lambda _, context: told.append(context))

    def abort(*_: Any) -> None:
        raise Abort

    with pytest.raises(ComputeFailed, match="Abort"):
        await cache.get_or_set_many(["a", "b"], abort)
    with pytest.raises(ComputeFailed, match="Abort"):
        await cache.get_or_set("c", abort)
    loop.set_exception_handler(None)


async def test_mapping_that_fails_fails_its_callers(cache: Cache) -> None:
    class Broken(dict[str, int]):
        def __getitem__(self, key: str) -> int:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await cache.get_or_set_many(["a"], lambda keys: Broken(a=1))


async def test_fill_says_more_of_one_value(cache: Cache, clock: FakeClock) -> None:
    def compute(keys: list[str]) -> dict[str, Any]:
        return {"a": Fill(1, ttl=1), "b": 2}

    await cache.get_or_set_many(["a", "b"], compute, ttl=9)
    clock.advance(2)
    assert await cache.get_many(["a", "b"]) == {"b": 2}


async def test_failure_is_that_of_all(cache: Cache) -> None:
    def compute(keys: list[str]) -> dict[str, int]:
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        await cache.get_or_set_many(["a", "b"], compute)


async def test_value_that_cannot_be_cached_is_named(cache: Cache) -> None:
    with pytest.raises(CodecError, match="object"):
        await cache.get_or_set_many(["a", "b"], lambda keys: {"a": object(), "b": 1})
    assert cache.peek("b") == 1


async def test_answer_that_is_no_mapping_is_refused(cache: Cache) -> None:
    with pytest.raises(TypeError, match="mapping"):
        await cache.get_or_set_many(["a"], lambda keys: [1])  # type: ignore


@pytest.mark.parametrize("wanted", ["a", [], [1], None])
async def test_wrong_keys_are_refused(cache: Cache, wanted: Any) -> None:
    with pytest.raises(ValueError):
        await cache.get_or_set_many(wanted, Squares())


async def test_wrong_compute_is_refused(cache: Cache) -> None:
    with pytest.raises(ValueError, match="compute"):
        await cache.get_or_set_many(["a"], {"a": 1})  # type: ignore[arg-type]


async def test_compute_that_asks_for_its_own_key_is_told(cache: Cache) -> None:
    async def compute(keys: list[str]) -> dict[str, int]:
        return {"a": await cache.get_or_set("b", lambda: 1), "b": 1}

    with pytest.raises(ReentrantCompute):
        await cache.get_or_set_many(["a", "b"], compute)


async def test_caller_that_is_cancelled_leaves_the_others_their_values(
    cache: Cache,
) -> None:
    squares = Squares(hold=True)
    one = asking(cache.get_or_set_many(names([1, 2]), squares, ttl=9))
    await until(lambda: squares.calls)
    two = asking(cache.get_or_set("1", held("never"), ttl=9))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    squares.gate.set()
    assert await two == 1


async def test_compute_of_whom_nobody_waits_for_is_cancelled() -> None:
    """At the hard timeout of its flights."""
    from shmcache import ComputeTimeout
    from tests.caches import siblings

    async with siblings(hard_timeout=0.05) as (cache, _):
        ended = asyncio.Event()

        async def compute(keys: list[str]) -> dict[str, int]:
            try:
                await asyncio.sleep(99)
            finally:
                ended.set()
            return {}

        with pytest.raises(ComputeTimeout):
            await cache.get_or_set_many(["a", "b"], compute)
        await asyncio.wait_for(ended.wait(), 1)


async def test_lease_is_taken_for_each_key(hosts: tuple[Cache, Cache]) -> None:
    """Over two hosts: what one computes the other waits for."""
    first, other = Squares(hold=True), Squares()
    one = asking(hosts[0].get_or_set_many(names([1, 2]), first, ttl=9))
    await until(lambda: first.calls)
    two = asking(hosts[1].get_or_set_many(names([2, 3]), other, ttl=9))
    await until(lambda: other.calls)
    first.gate.set()
    assert await one == {"1": 1, "2": 4}
    assert await two == {"2": 4, "3": 9}
    assert other.calls == [[3]]
