"""Claims: one holder a key, waiters woken by every change, the dead taken over."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from shmcache.claim import Claim, Claims, Held
from shmcache.clock import SYSTEM
from shmcache.keys import holder_key
from shmcache.l1 import FREED_ERROR, FREED_STORED, L1
from tests.caches import asking, die, held, siblings, until
from tests.helpers import Origin, alive, segment_name

SIZE = 2 << 20


@pytest.fixture
async def pair():
    """Two attachments of one segment, as two processes would have."""
    name = segment_name()
    both = []
    for _ in range(2):
        l1 = L1.open(name, SIZE)
        l1.join()
        claims = Claims(l1, overdue=3.0)
        claims.start()
        both.append(claims)
    yield both
    for claims in both:
        await claims.close()
        claims._l1.close(keep=False)


async def test_second_taker_is_shown_the_holder(pair):
    first, second = pair
    claim = first.take(b"k")
    assert isinstance(claim, Claim) and claim.ref
    assert isinstance(second.take(b"k"), Held)
    assert isinstance(second.take(b"other"), Claim)
    first.free(claim)
    assert isinstance(second.take(b"k"), Claim)


@pytest.mark.parametrize("state", [FREED_STORED, FREED_ERROR])
async def test_waiter_is_told_how_it_ended(pair, state):
    first, second = pair
    claim = first.take(b"k")
    waiting = asyncio.create_task(second.wait(second.take(b"k")))
    await asyncio.sleep(0)
    first.free(claim, state)
    assert await asyncio.wait_for(waiting, 1) == state


async def test_waiter_is_woken_not_polling(pair, monkeypatch):
    """A wake-up comes by the socket: with the poll out of reach it still arrives."""
    monkeypatch.setattr("shmcache.claim.POLL", 60)
    first, second = pair
    claim = first.take(b"k")
    waiting = asyncio.create_task(second.wait(second.take(b"k")))
    await asyncio.sleep(0)
    first.free(claim)
    assert await asyncio.wait_for(waiting, 5) == FREED_STORED


async def test_lost_wake_up_costs_one_poll(pair, monkeypatch):
    first, second = pair
    monkeypatch.setattr(first, "wake", lambda bitmap: None)
    claim = first.take(b"k")
    waiting = asyncio.create_task(second.wait(second.take(b"k")))
    await asyncio.sleep(0)
    first.free(claim)
    assert await asyncio.wait_for(waiting, 5) == FREED_STORED


async def test_change_before_the_wait_is_seen(pair):
    """1. the waiter reads the word; 2. the holder frees; 3. the waiter parks: not."""
    first, second = pair
    claim = first.take(b"k")
    held = second.take(b"k")
    first.free(claim)
    assert await asyncio.wait_for(second.wait(held), 1) == FREED_STORED


async def test_cancelled_waiter_leaves_nothing(pair):
    first, second = pair
    claim = first.take(b"k")
    waiting = asyncio.create_task(second.wait(second.take(b"k")))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert second._parked == {}
    first.free(claim)


async def test_voided_claim_is_taken_over(pair):
    """An invalidation came after the holder's stamp: its store would be refused."""
    first, second = pair
    claim = first.take(b"k")
    first.note(claim, first._table.clock(), SYSTEM.now())
    assert isinstance(second.take(b"k"), Held)
    first._table.raise_key(b"k", first._table.number())
    assert isinstance(second.take(b"k"), Claim)
    assert not first.note(claim, first._table.clock(), SYSTEM.now())


async def test_own_claim_of_another_key_is_not_waited_for(pair):
    first, _ = pair
    claim = first.take(b"k")
    again = first.take(b"k")
    assert isinstance(again, Claim) and again.ref is None
    first.free(again)
    first.free(claim)


HOLDER = """
import asyncio, sys
from shmcache.claim import Claims
from shmcache.clock import SYSTEM
from shmcache.l1 import L1
async def main():
    l1 = L1.open(sys.argv[1], int(sys.argv[2]))
    l1.join()
    claims = Claims(l1, overdue=3.0)
    claims.start()
    claim = claims.take(b"k")
    claims.note(claim, l1.table.clock(), SYSTEM.now(), b"0123456789abcdef")
    print("taken", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
async def stranger(pair):
    """Another process that holds the claim of k."""
    name = pair[0]._l1.segment.path.name.split(".")[-1]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, name, str(SIZE)], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"taken\n"
    yield process
    process.kill()
    process.communicate()


async def test_killed_holder_is_taken_over_with_its_token(pair, stranger):
    claims = pair[0]
    held = claims.take(b"k")
    assert isinstance(held, Held)
    waiting = asyncio.create_task(claims.wait(held))
    await asyncio.sleep(0)
    stranger.kill()
    await asyncio.wait_for(waiting, 1)
    claim = claims.take(b"k")
    assert isinstance(claim, Claim)
    assert claim.instead_of == b"0123456789abcdef"
    assert isinstance(pair[1].take(b"k"), Held)


async def test_stopped_holder_is_overdue_after_a_lease_life(pair, stranger):
    claims = pair[0]
    claims._overdue = 300_000_000
    held = claims.take(b"k")
    assert isinstance(held, Held)
    os.kill(stranger.pid, signal.SIGSTOP)
    await asyncio.wait_for(claims.wait(held), 5)
    assert isinstance(claims.take(b"k"), Claim)
    os.kill(stranger.pid, signal.SIGCONT)


async def test_wake_socket_is_private_and_goes_with_close():
    l1 = L1.open(segment_name(), SIZE)
    l1.join()
    claims = Claims(l1, overdue=3.0)
    claims.start()
    path = l1.segment.wake_path(l1.table.slot)
    assert os.stat(path).st_mode & 0o777 == 0o600
    await claims.close()
    assert not os.path.exists(path)
    l1.close(keep=False)


async def test_named_claim_tells_its_key_until_it_is_freed(pair):
    first, second = pair
    claim = first.take(b"k")
    first.name(claim)
    name = holder_key(claim.index, claim.word)
    assert second._l1.look(name).value == b"k"
    first.free(claim)
    assert second._l1.look(name) is None


async def test_full_set_leaves_the_election_to_the_lease(pair):
    """Its key has no claim: each process goes on by itself, and it is counted."""
    first, second = pair
    claims = [first.take(b"%d" % i) for i in range(2000)]
    without = [claim for claim in claims if isinstance(claim, Claim) and not claim.ref]
    assert without
    key = without[0].key
    assert second.take(key).ref is None
    assert first.note(without[0], 1, 1)
    assert first._l1.stats().claims_full >= 2
    for claim in claims:
        first.free(claim)
    assert second.take(key).ref is not None


async def test_key_of_a_full_set_is_computed_and_stored():
    async with siblings() as (one, other):
        claims = [one._claims.take(b"%d" % i) for i in range(2000)]
        key = next(c.key for c in claims if c.ref is None)
        assert await one.get_or_set(key, Origin("v")) == "v"
        assert other.peek(key) == "v"
        for claim in claims:
            one._claims.free(claim)


@pytest.fixture
def crowd():
    """So many attachments of one segment that the last have slots beyond 64."""
    name = segment_name()
    l1s = [L1.open(name, SIZE) for _ in range(67)]
    for l1 in l1s:
        l1.join()
    yield l1s
    for l1 in l1s:
        l1.close(keep=False)


async def test_processes_beyond_64_elect_wait_and_take_over(crowd):
    """They have no bit in a claim's bitmap, and poll."""
    last, holder = Claims(crowd[66], overdue=3.0), Claims(crowd[65], overdue=3.0)
    assert crowd[65].table.slot >= 64
    for claims in (last, holder):
        claims.start()
    claim = holder.take(b"k")
    assert isinstance(claim, Claim) and claim.ref
    waiting = asking(last.wait(last.take(b"k")))
    await asyncio.sleep(0)
    holder.free(claim, FREED_ERROR)
    assert await asyncio.wait_for(waiting, 2) == FREED_ERROR
    again = holder.take(b"k")
    assert isinstance(again, Claim)
    waiting = asking(last.wait(last.take(b"k")))
    await holder.close()
    die(crowd[65])
    await asyncio.wait_for(waiting, 2)
    assert isinstance(last.take(b"k"), Claim)
    await last.close()


async def test_low_slot_wakes_a_high_one_that_polls(crowd):
    low, high = Claims(crowd[0], overdue=3.0), Claims(crowd[64], overdue=3.0)
    for claims in (low, high):
        claims.start()
    claim = low.take(b"k")
    waiting = asking(high.wait(high.take(b"k")))
    await asyncio.sleep(0)
    low.free(claim)
    assert await asyncio.wait_for(waiting, 2) == FREED_STORED
    for claims in (low, high):
        await claims.close()


FORKED = """
import asyncio, os, sys
from shmcache.claim import Claims
from shmcache.l1 import L1
l1 = L1.open(sys.argv[1], int(sys.argv[2]))
l1.join()
claims = Claims(l1, overdue=3.0)
async def main():
    claims.start()
    claims.take(b"k")
    child = os.fork()
    if child == 0:
        os.read(0, 1)
        os._exit(0)
    print(child, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_claim_of_a_killed_parent_is_not_kept_by_its_child(pair):
    """The child of a fork has the parent's descriptors, but not its liveness."""
    claims = pair[0]
    name = claims._l1.segment.path.name.split(".")[-1]
    process = subprocess.Popen(
        [sys.executable, "-c", FORKED, name, str(SIZE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        child = int(process.stdout.readline())
        held_by_parent = claims.take(b"k")
        assert isinstance(held_by_parent, Held)
        waiting = asking(claims.wait(held_by_parent))
        await asyncio.sleep(0)
        process.kill()
        await asyncio.wait_for(waiting, 2)
        assert isinstance(claims.take(b"k"), Claim)
        os.kill(child, 0)  # it lives
    finally:
        process.kill()
        process.stdin.close()  # its child reads the end, and goes
        process.stdout.close()
        process.wait()
        await until(lambda: not alive(child))


async def test_stopped_holder_that_goes_on_is_refused_and_its_callers_answered(
    monkeypatch,
):
    """1. a holder computes; 2. it does not beat for a lease life; 3. a sibling takes
    the claim over, computes and stores; 4. the first goes on: refused, counted."""
    async with siblings() as (one, other):
        origin = held("late")
        asked = asking(one.get_or_set("k", origin))
        await origin.started.wait()
        one._claims._beating.cancel()
        monkeypatch.setattr(other._claims, "_overdue", 100_000_000)
        assert await other.get_or_set("k", Origin("new")) == "new"
        origin.gate.set()
        assert await asked == "late"
        assert one.peek("k") == other.peek("k") == "new"
        stats = one.stats()
        assert (stats.fills_refused, stats.claims_taken_over) == (1, 1)


async def test_wake_ups_are_counted(pair):
    first, second = pair
    claim = first.take(b"k")
    waiting = asking(second.wait(second.take(b"k")))
    await asyncio.sleep(0)
    first.free(claim)
    await waiting
    await until(lambda: second._l1.stats().wakeups == 1)
