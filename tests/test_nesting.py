"""Inside of which computes code runs: through tasks, until they end."""

import asyncio

from shmcache import nesting
from shmcache.nesting import computing, inside_any, inside_of

ME, OTHER = object(), object()


def test_code_is_inside_of_what_runs_around_it():
    assert not inside_any()
    with computing(ME, b"a"), computing(ME, b"b"):
        assert inside_any()
        assert inside_of(ME, b"a") and inside_of(ME, b"b")
        assert not inside_of(ME, b"c") and not inside_of(OTHER, b"a")
    assert not inside_any()


async def test_tasks_are_inside_of_what_made_them():
    async def look():
        await asyncio.sleep(0)
        return inside_of(ME, b"a")

    with computing(ME, b"a"):
        assert await asyncio.gather(look(), asyncio.create_task(look())) == [True, True]
        assert await asyncio.to_thread(inside_of, ME, b"a")


async def test_task_that_outlives_it_is_inside_of_nothing():
    over = asyncio.Event()

    async def look():
        await over.wait()
        return inside_any()

    with computing(ME, b"a"):
        task = asyncio.create_task(look())
        await asyncio.sleep(0)
    over.set()
    assert not await task


def test_outer_one_ends_with_its_inner_still_there():
    with computing(ME, b"outer"), computing(ME, b"inner"):
        pass
    with computing(ME, b"outer"):
        assert not inside_of(ME, b"inner")


def test_outside_is_inside_of_nothing():
    with computing(ME, b"a"):
        assert not nesting.outside().run(inside_any)
        assert inside_any()
