"""What cannot be read in L2 is counted, told once, and deleted by who computes."""

from __future__ import annotations

import logging

import pytest

from shmcache.ask import WON
from shmcache.l2 import L2
from shmcache.scripts import Names
from tests.fills import fill, record, token
from tests.redis_server import redis_server


async def test_foreign_values_are_told_once_and_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "shmcache.l2")
    names = Names("app")
    with redis_server() as server:
        l2 = L2(server.url, "app", deadline=2.0)
        try:
            for key in (b"a", b"b"):
                await fill(l2, key, record())
                server.command("APPEND", names.value(key), "x")
            assert await l2.get_many([b"a"]) == {}
            for key in (b"a", b"b"):
                answer = await l2.acquire(key, offer=token())
                assert (answer.record, answer.lease) == (None, WON)
            assert l2.foreign == 3 and l2.available
            assert not server.command("EXISTS", *map(names.value, (b"a", b"b")))
        finally:
            await l2.close()
    levels = [r.levelno for r in caplog.records if "was dropped" in r.message]
    assert levels == [logging.WARNING, logging.DEBUG, logging.DEBUG]
