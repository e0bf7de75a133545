"""What a compute is told of its call, and what it may say of its answer."""

from __future__ import annotations

import functools
import time
from typing import Any

import pytest

from shmcache import MISSING, Cache, Context, Fill
from shmcache.clock import FakeClock
from shmcache.context import bound


def _bound(compute: Any) -> Any:
    return bound(compute, b"k", 30.0, lambda: None)


async def _async(ctx: Context) -> str:
    return "async"


class Price:
    def of_self(self) -> str:
        return "none"

    def of_context(self, ctx: Context) -> Context:
        return ctx

    def __call__(self, ctx: Context, more: int = 0) -> str:
        return "call"


def test_compute_of_nothing_is_left_as_it_is() -> None:
    for compute in (lambda: 1, lambda a=1: a, Price().of_self, dict, _partial, any_of):
        assert _bound(compute) is compute


def _of_two(a: int, b: int) -> int:
    return a + b


_partial = functools.partial(_of_two, 1, 2)


def any_of(*args: Any, **kwargs: Any) -> None: ...


@functools.wraps(_async)
async def wrapped(*args: Any) -> Any:
    return await _async(*args)


@pytest.mark.parametrize(
    "compute",
    [
        lambda ctx: ctx,
        Price().of_context,
        Price(),
        functools.partial(lambda a, ctx: ctx, 1),
    ],
    ids=["function", "method", "object", "partial"],
)
def test_compute_of_one_argument_is_given_its_context(compute: Any) -> None:
    assert isinstance(_bound(compute)(), Fill)


async def test_compute_behind_a_decorator_is_given_its_context() -> None:
    assert (await _bound(wrapped)()).value == "async"


def test_compute_of_more_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match="not of 2 arguments"):
        _bound(_of_two)


def test_deadline_is_the_hard_timeout_from_the_call_on() -> None:
    before = time.monotonic()
    ctx = _bound(lambda ctx: ctx)().value
    assert before + 30 <= ctx.deadline <= time.monotonic() + 30


def test_what_a_fill_says_goes_before_what_its_context_was_told() -> None:
    def compute(ctx: Context) -> Fill:
        ctx.ttl, ctx.grace, ctx.tags = 1, 2, ["a"]
        return Fill("v", ttl=9)

    assert _bound(compute)() == Fill("v", ttl=9, grace=2, tags=["a"])


async def test_ttl_and_tags_of_a_context_hold(cache: Cache, clock: FakeClock) -> None:
    def compute(ctx: Context) -> str:
        ctx.ttl, ctx.tags = "10s", ["a"]
        return ctx.key.decode()

    assert await cache.get_or_set("k", compute, ttl=99) == "k"
    clock.advance(11)
    assert cache.peek("k") is MISSING
    assert await cache.get_or_set("k", compute) == "k"
    await cache.delete_tags("a")
    assert cache.peek("k") is MISSING


async def test_skipped_value_is_answered_and_stored_nowhere(cache: Cache) -> None:
    assert await cache.get_or_set("k", lambda ctx: ctx.skip("v"), ttl=9) == "v"
    assert cache.peek("k") is MISSING


async def test_not_modified_gives_what_stands_another_life(
    cache: Cache, clock: FakeClock
) -> None:
    seen: list[Any] = []

    async def compute(ctx: Context) -> Any:
        seen.append(ctx.stale)
        return ctx.not_modified() if ctx.stale is not None else "v"

    for _ in range(2):
        assert await cache.get_or_set("k", compute, ttl=10) == "v"
        clock.advance(11)
    assert seen[0] is None
    assert (seen[1].value, seen[1].state) == ("v", "dead")
    assert cache.entry("k").age == pytest.approx(11)  # type: ignore[union-attr]


async def test_not_modified_of_nothing_says_so(cache: Cache) -> None:
    with pytest.raises(LookupError, match="nothing stands"):
        await cache.get_or_set("k", lambda ctx: ctx.not_modified())


async def test_value_deleted_meanwhile_is_not_brought_back(
    pair: tuple[Cache, Cache], clock: FakeClock
) -> None:
    """1. A compute sees what stands; 2. the key is deleted; 3. it says that nothing
    has changed."""
    cache, other = pair
    await cache.set("k", "old", ttl=10, grace=0)
    clock.advance(11)

    async def compute(ctx: Context) -> Any:
        assert ctx.stale is not None
        fill = ctx.not_modified()
        await other.delete("k")
        return fill

    assert await cache.get_or_set("k", compute, ttl=10) == "old"
    assert cache.peek("k") is MISSING
