"""L1's face of the table: records in and out, slots, counters."""

import pytest

from shmcache import KeyRejected
from shmcache.clock import FakeClock
from shmcache.l1 import L1, OK, OLDER, RAISED, TOO_LARGE
from shmcache.record import DEAD, FRESH, STALE, Record
from tests.helpers import segment_name

S = 1_000_000_000


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def l1(clock):
    opened = L1.open(segment_name(), 2 << 20, clock=clock)
    opened.join()
    yield opened
    opened.close(keep=False)


def record(clock, value=b"v", ttl=10, grace=5, **fields):
    now = clock.now()
    base = Record(
        value, FRESH, 0, now, now + ttl * S, now + (ttl + grace) * S, 0, 1, 2, ()
    )
    return base._replace(**fields)


def test_record_comes_back_whole(l1, clock):
    stored = record(clock, b"\x00" * 300, stamp=l1.table.clock(), tags=(5, 9))
    assert l1.put(b"k", stored) == OK
    assert l1.peek("k") == stored.value
    assert l1.get(b"k") == stored


def test_record_ages_through_its_states(l1, clock):
    l1.put(b"k", record(clock))
    assert l1.get(b"k").state == FRESH
    clock.advance(10)
    assert l1.peek(b"k") is None
    assert l1.get(b"k").state == STALE
    clock.advance(5)
    assert l1.get(b"k").state == DEAD


def test_store_below_an_invalidation_is_refused(l1, clock):
    begun = l1.table.clock()
    l1.table.raise_key(b"k", l1.table.number())
    assert l1.put(b"k", record(clock, stamp=begun)) == RAISED
    assert l1.put(b"k", record(clock, stamp=l1.table.clock())) == OK


def test_raising_store_wins_over_what_was_begun_before(l1, clock):
    begun = l1.table.clock()
    assert l1.put(b"k", record(clock, b"set"), raising=True) == OK
    assert l1.put(b"k", record(clock, b"late", stamp=begun)) == RAISED
    assert l1.peek(b"k") == b"set"


def test_older_birth_does_not_replace_a_newer(l1, clock):
    l1.put(b"k", record(clock, b"new"))
    older = record(clock, b"old", birth=clock.now() - S)
    assert l1.put(b"k", older, newer_only=True) == OLDER
    assert l1.peek(b"k") == b"new"


def test_record_that_never_fits_is_refused(l1, clock):
    assert l1.put(b"k", record(clock, bytes(1 << 20))) == TOO_LARGE


@pytest.mark.parametrize("key", ["", b"x" * 1025, 3])
def test_key_of_wrong_form_is_rejected(l1, key):
    with pytest.raises(KeyRejected):
        l1.peek(key)


def test_counters_are_summed_over_attachments(l1, clock):
    other = L1.open(l1.segment.path.name.split(".")[-1], 2 << 20, clock=clock)
    other.join()
    l1.put(b"k", record(clock))
    assert l1.peek(b"k") and other.peek(b"k") and other.get(b"absent") is None
    other.count("coalesced", 3)
    other.close()
    stats = l1.stats()
    assert (stats.hits, stats.misses, stats.coalesced) == (2, 1, 3)
    assert (stats.processes, stats.records) == (1, 1)


def test_look_counts_nothing(l1, clock):
    l1.put(b"k", record(clock))
    before = l1.stats().counters
    assert l1.look(b"k") is not None
    assert l1.look(b"absent") is None
    assert l1.stats().counters == before
