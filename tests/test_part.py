"""A record's life in ms, by which Redis bounds it; replies that are not ours."""

from __future__ import annotations

import pytest

from shmcache.ask import WON, FleetClock, Invalidation
from shmcache.envelope import FOREVER_MS, GRACE_MAX_MS, VALUE_MAX
from shmcache.errors import TierUnavailable
from shmcache.l2 import L2
from shmcache.part import lives
from shmcache.record import FOREVER
from tests.fills import record, won
from tests.redis_server import RedisServer, eventually


@pytest.mark.parametrize(
    ("fresh_until", "dead_at", "expected"),
    [
        (1_999_999, 5_000_000, (1, 3)),
        (FOREVER, FOREVER, (FOREVER_MS, GRACE_MAX_MS)),
        (2_000_000, FOREVER, (2, GRACE_MAX_MS)),
        (-5, -9, (0, 0)),
    ],
    ids=["rounded-down", "endless", "endless-grace", "over"],
)
def test_life_is_never_rounded_up(
    fresh_until: int, dead_at: int, expected: tuple[int, int]
) -> None:
    one = record()._replace(birth=0, fresh_until=fresh_until, dead_at=dead_at)
    assert lives(one) == expected


async def test_value_that_does_not_travel_in_time_is_not_sent(
    l2: L2, server: RedisServer
) -> None:
    """And nobody waits for the end of its lease."""
    large = record(bytes(VALUE_MAX + 1))
    server.command("CONFIG", "RESETSTAT")
    (one, at), (two, since) = await won(l2, b"one"), await won(l2, b"two")
    assert await l2.put_fenced(b"one", one, large, at) == "full"
    small, begun = await won(l2, b"small")
    items = [
        (b"two", two, large, since),
        (b"small", small, record(), begun),
        (b"two", two, large, since),
    ]
    assert await l2.put_many(items) == ["full", "stored", "full"]
    assert await l2.put_many(items[:1]) == ["full"]
    await eventually(lambda: not l2.under_way)
    assert not server.command("EXISTS", *map(l2.names.lease, (b"one", b"two")))
    assert server.command("INFO", "stats")["total_net_input_bytes"] < VALUE_MAX


PUT = (b"k", bytes(16), record(), FleetClock(bytes(8), 0, 0))
CALLS = {
    "put": lambda part: part.put(PUT),
    "put_many": lambda part: part.put_many([PUT]),
    "renew": lambda part: part.renew(b"k", bytes(16), 1),
    "abandon": lambda part: part.abandon(b"k", bytes(16), b""),
    "invalidate": lambda part: part.invalidate([Invalidation(b"d", b"k")], b"", False),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "reply",
    [b"\xa1", None, 7, [b"what", 0], [], [b"\xa1" * 8, b"0", 1], b"OK"],
    ids=["bytes", "nothing", "number", "word", "empty", "clock", "ok"],
)
async def test_reply_of_another_command_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, call: str, reply: object
) -> None:
    """Told as L2's, whatever it looks like; the connection has one too many then."""
    l2 = L2("unix:///nowhere/redis.sock", "app")
    part = l2._part(b"k")

    async def shifted(*commands: object) -> list[object]:
        return [reply] * len(commands)

    monkeypatch.setattr(part.operations.link, "exchange", shifted)
    with pytest.raises(TierUnavailable, match="another"):
        await CALLS[call](part)
    await l2.close()


async def test_lease_of_another_ask_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    l2 = L2("unix:///nowhere/redis.sock", "app")
    theirs = b"%b%17d%17d%b%17d%b%b%17d%5d%b" % (
        *(bytes(8), 0, 0, b"0", 0, bytes(8), b"1", 3000, 16, b"t" * 16),
    )

    async def shifted(*commands: object) -> list[object]:
        return [theirs, [None]]

    monkeypatch.setattr(l2._part(b"k").operations.link, "exchange", shifted)
    with pytest.raises(TierUnavailable, match="another"):
        await l2.acquire(b"k", offer=b"o" * 16)
    assert (await l2.acquire(b"k", offer=b"t" * 16)).lease == WON
    await l2.close()
