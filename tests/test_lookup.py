"""Plain gets of L2, one and many: what is promoted, what is not believed."""

import pytest

from shmcache import MISSING, Fill, TierUnavailable
from tests.helpers import Origin


async def test_many_values_of_l2_are_promoted(hosts):
    one, other = hosts
    values = {f"k{i}": i for i in range(200)}
    await one.set_many(values, ttl=60)
    await one.namespace("n").set("k0", "n")
    found = await other.get_many([*values, "absent"])
    assert found == values
    assert all(other.peek(key) == value for key, value in values.items())
    stats = other.stats()
    assert (stats.l2_hits, stats.l2_misses) == (200, 1)
    assert await other.namespace("n").get_many(["k0", "k1"]) == {"k0": "n"}


async def test_many_take_from_l1_what_it_has(hosts, monkeypatch):
    one, _ = hosts
    await one.set_many({"a": 1, "b": 2})

    async def never(_):
        raise AssertionError

    monkeypatch.setattr(one._l2, "get_many", never)
    assert await one.get_many(["a", "b"]) == {"a": 1, "b": 2}


async def test_stale_value_of_l2_is_got(hosts):
    one, other = hosts
    await one.get_or_set("k", Origin(Fill("old", ttl=5, grace=60, age=6)))
    assert await other.get("k") == "old"
    one._l1.table.drop("k")
    assert await one.get_many(["k"]) == {"k": "old"}


@pytest.mark.parametrize("many", [False, True])
async def test_value_that_an_unsent_delete_meant_is_not_got(hosts, monkeypatch, many):
    """1. a value stands in L2; 2. it is deleted here, and Redis cannot be told."""
    one, other = hosts
    await other.set_many({"k": "old", "other": 1})
    await one.start()

    async def refuse(*_):
        raise TierUnavailable("mute")

    monkeypatch.setattr(one._invalidations.outbox, "tell", refuse)
    await one.delete("k")
    if many:
        assert await one.get_many(["k", "other"]) == {"other": 1}
    else:
        assert await one.get("k") is MISSING
        assert await one.get("other") == 1
    assert one.peek("k") is MISSING


@pytest.mark.parametrize("verb", ["acquire", "get_many"])
async def test_value_deleted_while_it_is_asked_for_is_not_got(hosts, monkeypatch, verb):
    """1. L2 is asked; 2. it answers; 3. the key is deleted; 4. the answer arrives."""
    one, other = hosts
    await other.set("k", "old")
    await one.start()
    ask = getattr(one._l2, verb)

    async def overtaken(*args, **options):
        answer = await ask(*args, **options)
        await one.delete("k")
        return answer

    monkeypatch.setattr(one._l2, verb, overtaken)
    if verb == "acquire":
        assert await one.get("k") is MISSING
    else:
        assert await one.get_many(["k"]) == {}
    assert one.peek("k") is MISSING


async def test_lookup_while_redis_is_away_finds_nothing_and_raises_nothing(
    hosts, monkeypatch
):
    one, _ = hosts
    await one.start()

    async def refuse(*_, **__):
        raise TierUnavailable("away")

    monkeypatch.setattr(one._l2, "acquire", refuse)
    monkeypatch.setattr(one._l2, "get_many", refuse)
    assert await one.get("k", 7) == 7
    assert await one.get_many(["k"]) == {}
    assert one.stats().l2_errors == 2
