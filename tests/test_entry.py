"""What is known of a value, and what stands for none."""

from shmcache import MISSING
from tests.helpers import Origin


async def test_entry_tells_state_age_and_source(cache, clock):
    assert cache.entry("k") is None
    await cache.set("k", "v", ttl=2, grace=2)
    for state, age, ttl in (("fresh", 0, 2), ("stale", 2, 0), ("dead", 4, -2)):
        entry = cache.entry("k")
        assert (entry.value, entry.state, entry.source) == ("v", state, "l1")
        assert (entry.age, entry.ttl) == (age, ttl)
        clock.advance(2)
    await cache.set("k", "v")
    assert cache.entry("k").ttl is None


async def test_absence_is_missing_or_the_default(cache):
    assert cache.peek("k") is MISSING
    assert not MISSING
    assert await cache.get("k") is MISSING
    assert await cache.get("k", 7) == 7


async def test_entry_bears_the_version_of_its_fill(pair):
    one, other = pair
    await one.set("k", 1)
    first = one.entry("k").version
    assert first == other.entry("k").version != 0
    await other.set("k", 1)
    assert one.entry("k").version != first
    made = await one.get_or_set_entry("other", Origin(1))
    assert made.version == other.entry("other").version
