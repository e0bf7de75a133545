"""A right that is missing is named before anything is lost for want of it."""

from __future__ import annotations

import pytest

from shmcache.address import ACL_RULES
from shmcache.errors import ConfigError, TierUnavailable
from shmcache.l2 import L2
from tests.fills import fill, read, record
from tests.redis_server import RedisServer

NEEDED = """
    info time get mget getrange set setrange del pttl pexpire persist sadd smembers
    hset hsetnx hget hmget hincrby xadd xread publish subscribe eval evalsha
""".split()  # noqa: SIM905


@pytest.fixture
def user(server: RedisServer) -> L2:
    """Of a Redis user with the rights that we ask for."""
    server.command("FLUSHALL")
    server.command("ACL", "SETUSER", "u", "reset", "on", ">x", *ACL_RULES.split())
    return L2(server.url + "?username=u&password=x", "app", deadline=2.0)


async def test_rights_that_we_ask_for_are_enough(user: L2, server: RedisServer) -> None:
    await user.check()
    await fill(user, b"k", record(b"value"))
    assert (await read(user)).value == b"value"
    await user.close()


@pytest.mark.parametrize("command", NEEDED)
async def test_missing_right_is_named_and_nothing_left(
    user: L2, server: RedisServer, command: str
) -> None:
    server.command("ACL", "SETUSER", "u", f"-{command}")
    with pytest.raises(ConfigError, match=f"(?i){command}"):
        await user.check()
    await user.close()
    if command != "del":
        assert server.command("DBSIZE") == 0
    else:  # what cannot be deleted ends by itself
        keys = server.command("KEYS", "*")
        assert keys and all(0 < server.command("PTTL", key) <= 1000 for key in keys)


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (("resetchannels",), "channel"),
        (("resetkeys", "~other:*"), "key"),
        (("resetchannels", "&other:*"), "channel"),
    ],
    ids=["channels", "keys", "other-channels"],
)
async def test_missing_pattern_is_named(
    user: L2, server: RedisServer, rule: tuple[str, ...], names: str
) -> None:
    server.command("ACL", "SETUSER", "u", *rule)
    with pytest.raises(ConfigError, match=names):
        await user.check()
    await user.close()
    assert server.command("DBSIZE") == 0


async def test_check_leaves_what_stands_as_it_is(user: L2, server: RedisServer) -> None:
    await user.check()
    assert server.command("DBSIZE") == 0
    await fill(user, b"k", record())
    keys = sorted(server.command("KEYS", "*"))
    before = [server.command("DUMP", key) for key in keys]
    await user.check()
    assert sorted(server.command("KEYS", "*")) == keys
    assert [server.command("DUMP", key) for key in keys] == before
    await user.close()


async def test_check_is_two_round_trips(user: L2, server: RedisServer) -> None:
    await user.check()
    server.command("CONFIG", "RESETSTAT")
    before = server.command("INFO", "stats")["total_connections_received"]
    await user.check()
    after = server.command("INFO", "stats")["total_connections_received"]
    assert after - before <= 3  # one is our own
    await user.close()


async def test_redis_without_memory_is_no_missing_right(
    user: L2, server: RedisServer
) -> None:
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(TierUnavailable, match="OOM"):
            await user.check()
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
    await user.close()
