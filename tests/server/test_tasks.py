"""Tasks that go on by themselves: what is heard of them, and how they end."""

from __future__ import annotations

import asyncio

import pytest

from shmcache_server.answering import OriginError
from shmcache_server.tasks import Tasks
from tests.server.conftest import eventually


@pytest.mark.parametrize(
    ("error", "heard"), [(OriginError("gone"), 0), (KeyError("ours"), 1)], ids=repr
)
async def test_failure_that_is_ours_is_heard(caplog, error, heard) -> None:
    async def fail() -> None:
        raise error

    tasks = Tasks()
    tasks.keep(fail())
    await eventually(lambda: not tasks)
    assert [r.exc_info[1] for r in caplog.records] == [error] * heard


async def test_closing_ends_all_and_waits_for_their_ends() -> None:
    tasks, ended = Tasks(), []

    async def go_on(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    for name in ("one", "two"):
        tasks.keep(go_on(name))
    await asyncio.sleep(0)
    await tasks.close()
    assert sorted(ended) == ["one", "two"] and not tasks
