"""Records that the host's processes change one step at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shmcache import TierUnavailable
from shmcache_server import ledger
from shmcache_server.ledger import Ledger
from tests.helpers import segment_name


@pytest.fixture
def name() -> str:
    return segment_name()


@pytest.fixture
async def pair(name: str) -> AsyncIterator[tuple[Ledger, Ledger]]:
    """Of two processes of a host."""
    one, other = Ledger(name), Ledger(name)
    yield one, other
    await one.close()
    await other.close()


def counted(record: list[int] | None) -> tuple[list[int], int]:
    count = record[0] + 1 if record else 1
    return [count], count


async def test_step_gets_what_the_other_process_left(pair) -> None:
    one, other = pair
    assert await one.change("k", counted) == 1
    assert await other.change("k", counted) == 2
    assert one.look("k") == [2]


async def test_step_is_begun_anew_if_the_record_was_changed_meanwhile(pair) -> None:
    one, other = pair
    await one.change("k", counted)
    inner, steps = one._cache.compare_and_set, []

    async def late(*args, **kwargs):
        if not steps:
            steps.append(await other.change("k", counted))
        return await inner(*args, **kwargs)

    one._cache.compare_and_set = late
    assert await one.change("k", counted) == 3
    assert steps == [2]


async def test_first_record_is_one_process_alone(pair) -> None:
    one, other = pair
    inner, steps = one._cache.add, []

    async def late(*args, **kwargs):
        if not steps:
            steps.append(await other.change("k", counted))
        return await inner(*args, **kwargs)

    one._cache.add = late
    assert await one.change("k", counted) == 2


async def test_record_may_be_left_as_it_is(pair) -> None:
    one, _ = pair
    assert await one.change("k", lambda record: (record, "none")) == "none"
    assert one.look("k") is None
    await one.change("k", counted)
    version = one._cache.look("k").version
    assert await one.change("k", lambda record: (record, "kept")) == "kept"
    assert one._cache.look("k").version == version


async def test_tries_have_an_end(pair) -> None:
    one, other = pair
    await one.change("k", counted)
    inner, tries = one._cache.compare_and_set, []

    async def late(*args, **kwargs):
        tries.append(await other.change("k", counted))
        return await inner(*args, **kwargs)

    one._cache.compare_and_set = late
    with pytest.raises(TierUnavailable, match="changed by others"):
        await one.change("k", counted)
    assert len(tries) == ledger.TRIES


async def test_stop_forgets_nothing(name) -> None:
    first = Ledger(name)
    await first.change("k", counted)
    await first.close()
    second = Ledger(name)
    assert await second.change("k", counted) == 2
    await second.close()


async def test_turn_is_one_process_alone(pair) -> None:
    one, other = pair
    turns = [await one.turn("t", 60), await other.turn("t", 60)]
    assert turns == [True, False]
