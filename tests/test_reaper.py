"""What a dead process left: its claims freed, its leases given back."""

import asyncio
import subprocess
import sys

import pytest

from shmcache import Cache, CacheConfig
from shmcache.claim import Claims
from shmcache.l1 import L1, OK
from shmcache.reaper import Reaper
from tests.caches import SIZE, asking, die, until
from tests.helpers import Origin, segment_name

HOLDER = """
import asyncio, sys
import shmcache.holder
from shmcache import Cache, CacheConfig
name, size, url, app, named = sys.argv[1:]
shmcache.holder.SLOW_AFTER = float(named)
async def compute():
    await asyncio.sleep(0.05)
    print("computing", flush=True)
    await asyncio.Event().wait()
async def main():
    config = CacheConfig(name, int(size), l2=url or None, app=app, lease_life=5)
    async with Cache(config) as cache:
        await cache.get_or_set("k", compute)
asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A slot's lock is looked at when it has not beaten for a moment."""
    monkeypatch.setattr("shmcache.reaper.QUIET", 50_000_000)


def killed(config, named):
    """A process that was killed while it computed `k`."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", HOLDER, config.name, str(config.size_bytes)),
            *(config.l2 or "", config.app, str(named)),
        ],
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"computing\n"
    process.kill()
    process.communicate()


async def test_lease_of_a_killed_process_is_given_back(server):
    """Nobody on its host waits; another host goes on long before the lease ends."""
    app = segment_name()
    here, there = (
        CacheConfig(segment_name(), SIZE, l2=server.url, app=app, lease_life=5)
        for _ in "ab"
    )
    async with Cache(here) as sibling, Cache(there) as other:
        await asyncio.to_thread(killed, here, 0)
        asked = asking(other.get_or_set("k", Origin("v"), ttl=60))
        assert await asyncio.wait_for(asked, 3) == "v"
        await until(lambda: sibling.stats().claims_reaped == 1)
        assert not claims_held(sibling._l1)


async def test_lease_of_a_killed_process_whose_slot_was_taken_anew_is_given_back(
    server,
):
    """As where the master starts another worker at once."""
    app = segment_name()
    here, there = (
        CacheConfig(segment_name(), SIZE, l2=server.url, app=app, lease_life=5)
        for _ in "ab"
    )
    async with Cache(here) as sibling, Cache(there) as other:
        await asyncio.to_thread(killed, here, 0)
        async with Cache(here) as successor:
            assert successor._l1.table.slot == 1
            asked = asking(other.get_or_set("k", Origin("v"), ttl=60))
            assert await asyncio.wait_for(asked, 3) == "v"
            await until(lambda: sibling.stats().claims_reaped == 1)
            assert not claims_held(sibling._l1)


async def test_claim_whose_key_is_not_known_stands_for_its_token(server):
    """Who asks on the host takes it over, and the lease with it."""
    config = CacheConfig(
        segment_name(), SIZE, l2=server.url, app=segment_name(), lease_life=5
    )
    async with Cache(config) as sibling:
        await asyncio.to_thread(killed, config, 60)
        reaper = sibling._parts.reaper
        await until(lambda: reaper._left_some)
        assert claims_held(sibling._l1) == 1
        asked = asking(sibling.get_or_set("k", Origin("v"), ttl=60))
        assert await asyncio.wait_for(asked, 3) == "v"
        assert sibling.stats().claims_reaped == 0


async def test_claim_without_a_lease_is_freed():
    config = CacheConfig(segment_name(), SIZE)
    async with Cache(config) as sibling:
        await asyncio.to_thread(killed, config, 60)
        await until(lambda: sibling.stats().claims_reaped == 1)
        assert not claims_held(sibling._l1)


def claims_held(l1):
    words = (l1.table.claim_word(i) for i in range(l1.table.geometry["claim_sets"] * 8))
    return sum(word & 0b111 == 2 for word in words)


@pytest.fixture
async def alone():
    """A process with a reaper that beats when it is told, and another that is gone
    in one step."""
    name = segment_name()
    mine, dead = L1.open(name, SIZE), L1.open(name, SIZE)
    for l1 in (mine, dead):
        l1.join()
    claims = Claims(mine, 3.0)
    claims.start()
    yield mine, dead, claims
    await claims.close()
    for l1 in (dead, mine):
        l1.close(keep=False)


async def test_lease_that_must_have_ended_needs_no_key(alone):
    mine, dead, claims = alone
    _, index, word, _ = dead.table.claim_take(b"k")
    assert dead.table.claim_note(index, word, 1, 1, bytes(range(16))) == OK
    die(dead)
    await until(lambda: mine.clock.now() - mine.table.slot_info(1)[2] > 50_000_000)
    reaper = Reaper(mine, claims, None, overdue=60)
    reaper.beat()
    assert claims_held(mine) == 1
    reaper = Reaper(mine, claims, None, overdue=-1)
    reaper.beat()
    assert claims_held(mine) == 0


async def test_claims_of_a_slots_former_owners_are_reaped(alone):
    """Those of who has it now stand, and are looked for when it is dead too."""
    mine, dead, claims = alone
    dead.table.claim_take(b"k")
    die(dead)
    heir = L1.open(mine.segment.path.name.split(".", 2)[2], SIZE)
    heir.join()
    assert heir.table.slot == 1
    heir.table.claim_take(b"heirs")
    reaper = Reaper(mine, claims, None, overdue=60)
    for reaped in (1, 1):
        whole_round(reaper)
        assert (mine.stats().claims_reaped, claims_held(mine)) == (reaped, 1)
    assert not reaper._find()  # nothing to be looked for
    die(heir)
    await until(lambda: mine.clock.now() - mine.table.slot_info(1)[2] > 50_000_000)
    whole_round(reaper)
    assert (mine.stats().claims_reaped, claims_held(mine)) == (2, 0)
    assert not reaper._find()
    heir.close()


async def test_lease_of_a_slots_former_owner_ends_in_its_time(alone):
    """Its last beat is not known any more: it ended before the heir was met."""
    mine, dead, claims = alone
    _, index, word, _ = dead.table.claim_take(b"k")
    assert dead.table.claim_note(index, word, 1, 1, bytes(range(16))) == OK
    die(dead)
    heir = L1.open(mine.segment.path.name.split(".", 2)[2], SIZE)
    heir.join()
    reaper = Reaper(mine, claims, None, overdue=-0.95)
    whole_round(reaper)
    assert claims_held(mine) == 1
    met = mine.clock.now()
    await until(lambda: mine.clock.now() - met > 50_000_000)
    heir.beat()
    whole_round(reaper)
    assert claims_held(mine) == 0
    heir.close()


def whole_round(reaper):
    """From the first claim to the last."""
    reaper.beat()
    while reaper._looked_for:
        reaper.beat()


async def test_claims_of_the_living_are_left_alone(alone):
    mine, dead, claims = alone
    dead.table.claim_take(b"k")
    claims.take(b"mine")
    die(dead)
    beat = mine.table.slot_info(1)[2]
    await until(lambda: mine.clock.now() - beat > 50_000_000)
    reaper = Reaper(mine, claims, None, overdue=-1)
    for _ in range(3):
        reaper.beat()
    assert claims_held(mine) == mine.stats().claims_reaped == 1
    assert claims.take(b"mine").ref is None  # still its own


async def test_claim_of_a_quiet_but_living_process_is_left_alone(alone):
    mine, quiet, claims = alone
    quiet.table.claim_take(b"k")
    beat = mine.table.slot_info(1)[2]
    await until(lambda: mine.clock.now() - beat > 50_000_000)
    Reaper(mine, claims, None, overdue=-1).beat()
    assert claims_held(mine) == 1


async def test_beat_looks_at_a_part_of_the_claims(alone, monkeypatch):
    monkeypatch.setattr("shmcache.reaper.WORDS", 16)
    mine, dead, claims = alone
    for i in range(20):
        dead.table.claim_take(b"%d" % i)
    die(dead)
    await until(lambda: mine.clock.now() - mine.table.slot_info(1)[2] > 50_000_000)
    reaper = Reaper(mine, claims, None, overdue=3)
    left = []
    for _ in range(mine.table.geometry["claim_sets"] * 8 // 16):
        reaper.beat()
        left.append(claims_held(mine))
    assert left == sorted(left, reverse=True) and len(set(left)) > 3
    assert left[-1] == 0
    reaper.beat()
    assert not reaper._looked_for  # and is not looked for again
