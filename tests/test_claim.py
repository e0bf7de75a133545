"""Claims: one holder a key, waiters woken by every change, the dead taken over."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from shmcache.claim import Claim, Claims, Held
from shmcache.clock import SYSTEM
from shmcache.l1 import FREED_ERROR, FREED_STORED, L1
from tests.helpers import segment_name

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
    monkeypatch.setattr(first, "_wake", lambda bitmap: None)
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
