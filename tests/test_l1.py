"""L1's face of the table: records in and out, slots, counters."""

import ctypes
import inspect
import logging
import os
import threading
from itertools import pairwise

import pytest

from shmcache import KeyRejected
from shmcache._core import binding
from shmcache.l1 import BEAT, DISABLED, L1, OK, OLDER, RAISED, TOO_LARGE, UNFOLLOWED
from shmcache.record import DEAD, FRESH, STALE, Record
from shmcache.stats import INDEX
from tests.helpers import segment_name

S = 1_000_000_000


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


def test_record_that_never_fits_is_refused_and_told_once(l1, clock, caplog):
    for _ in range(3):
        assert l1.put(b"k", record(clock, bytes(1 << 20))) == TOO_LARGE
    (told,) = caplog.messages
    assert f"value of {1 << 20} bytes" in told
    assert f"takes {l1.stats().value_max} at most" in told


@pytest.mark.parametrize(
    ("size", "length"),
    [
        (64 << 20, 0),
        (64 << 20, 1),
        (64 << 20, 30_000),  # about where a value is cut into pieces
        (64 << 20, 512 << 10),
        (256 << 20, 2 << 20),
    ],
)
def test_value_of_any_length_comes_back(size, length, clock):
    l1 = L1.open(segment_name(), size, clock=clock)
    value = os.urandom(length)
    for key in (b"k", b"x" * 1024):
        assert l1.put(key, record(clock, value)) == OK
        assert l1.peek(key) == value
        assert l1.get(key).value == value
    l1.close(keep=False)


@pytest.mark.parametrize("mib", [2, 8, 64])
def test_longest_value_comes_back_and_a_longer_one_is_refused(mib, clock):
    l1 = L1.open(segment_name(), mib << 20, clock=clock)
    longest = os.urandom(l1.stats().value_max)
    for i in range(5):
        assert l1.put(b"%d" % i, record(clock, longest)) == OK
        assert l1.peek(b"%d" % i) == longest
    assert l1.put(b"k", record(clock, longest + b"1")) == TOO_LARGE
    l1.close(keep=False)


def test_peek_is_the_tables_own_method():
    """No Python frame stands between a hit and the C call."""
    l1 = L1.open(segment_name(), 2 << 20)
    assert l1.peek == l1.table.peek
    assert not inspect.isfunction(l1.peek.__func__)
    l1.close(keep=False)


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


# -- counters and occupancy


def test_counters_stand_in_lines_of_their_own_slot(l1):
    """Processes count without a cache line that two of them write."""
    offsets = [l1.table.slot_offset(i) for i in range(binding.SLOTS)]
    assert all(offset % 64 == 0 for offset in offsets)
    assert {b - a for a, b in pairwise(offsets)} == {1024}
    l1.count("coalesced", 77)
    at = offsets[l1.table.slot] + 64 + 8 * INDEX["coalesced"]
    found = memoryview(l1.segment.memory)[at : at + 8]
    assert int.from_bytes(found, "little") == 77


def test_shards_tell_what_stands_in_them(clock):
    l1 = L1.open(segment_name(), 64 << 20, clock=clock)
    for i in range(2000):
        l1.put(b"%d" % i, record(clock, bytes(1000)))
    stats = l1.stats()
    assert len(stats.shards) == stats.geometry["shards"] == 8
    assert stats.records == sum(s.records for s in stats.shards) == 2000
    assert stats.live_bytes == sum(s.live_bytes for s in stats.shards) > 2_000_000
    assert stats.capacity_bytes == sum(s.capacity_bytes for s in stats.shards)
    for shard in stats.shards:
        assert 150 < shard.records < 350, "spread"
        queues = shard.free + shard.probation + shard.main + shard.rewrites
        assert queues == 64 and not shard.disabled
    l1.close(keep=False)


def test_geometry_follows_the_expected_record(clock):
    small, large = (
        L1.open(segment_name(), 8 << 20, record_bytes=n, clock=clock)
        for n in (300, 8000)
    )
    few, many = (l1.stats().geometry for l1 in (large, small))
    assert (few["record_bytes"], many["record_bytes"]) == (8000, 300)
    assert few["index_slots"] * 4 < many["index_slots"]
    assert few["extent_bytes"] > many["extent_bytes"]
    small.close(keep=False)
    large.close(keep=False)


# -- a shard whose lock is lost


def lose_lock(l1, shard):
    """Its holder dies, and who takes it over lets go without saying that all is well:
    from then on nobody can have it."""
    libc = ctypes.CDLL(None)
    offset, length, _ = binding.describe(l1.segment.memory)["regions"]["shards"]
    start = ctypes.addressof(ctypes.c_char.from_buffer(l1.segment.memory, offset))
    lock = ctypes.c_void_p(start + shard * length // l1.table.geometry["shards"])
    holder = threading.Thread(target=libc.pthread_mutex_lock, args=(lock,))
    holder.start()
    holder.join()
    assert libc.pthread_mutex_lock(lock) == 130, "EOWNERDEAD"
    assert libc.pthread_mutex_unlock(lock) == 0


@pytest.mark.parametrize("seen_by", ["store", "stats"])
def test_disabled_shard_is_told_once_and_misses(clock, caplog, seen_by):
    l1 = L1.open(segment_name(), 64 << 20, clock=clock)
    keys = [b"%d" % i for i in range(200)]
    for key in keys:
        l1.put(key, record(clock))
    lose_lock(l1, 3)
    refused = [k for k in keys if l1.table.drop(k) != OK]
    assert 5 < len(refused) < 60
    for _ in range(3):
        if seen_by == "stats":
            l1.stats()
        else:
            assert {l1.put(k, record(clock)) for k in refused} == {DISABLED}
        clock.advance(2)
    (told,) = caplog.messages
    assert "shard 3 could not be recovered" in told
    assert all(l1.peek(k) is None for k in refused)
    stats = l1.stats()
    assert [s.disabled for s in stats.shards].index(True) == 3
    assert stats.disabled_shards == 1
    l1.close(keep=False)


# -- unfollowed: nobody was there to hear what other hosts deleted


@pytest.fixture
def left(clock):
    """A segment with a fresh record, whose processes are all gone."""
    name = segment_name()
    gone = L1.open(name, 2 << 20, clock=clock)
    gone.join(follows=True)
    gone.put(b"k", record(clock, b"old", ttl=100, stamp=gone.table.clock()))
    gone.close(keep=True)
    return name


def joined(name, clock, follows=True):
    l1 = L1.open(name, 2 << 20, clock=clock)
    l1.join(follows=follows)
    return l1


def test_left_record_is_stale_until_the_host_follows(left, clock):
    l1 = joined(left, clock)
    assert l1.peek(b"k") is None
    assert l1.get(b"k").state == l1.look(b"k").state == STALE
    assert (l1.stats().hits, l1.stats().stale_hits) == (0, 1)
    l1.table.words("stream").store(UNFOLLOWED, 0)
    assert l1.peek(b"k") == b"old"
    assert l1.get(b"k").state == FRESH
    assert l1.peek == l1._fast
    l1.close(keep=False)


def test_left_record_is_fresh_again_after_4_seconds_without_redis(left, clock):
    l1 = joined(left, clock)
    clock.advance(3.9)
    assert l1.look(b"k").state == STALE and l1.peek(b"k") is None
    clock.advance(0.2)
    assert l1.peek(b"k") == b"old"
    l1.close(keep=False)


def test_record_begun_since_is_fresh(left, clock):
    l1 = joined(left, clock)
    l1.put(b"new", record(clock, b"v", stamp=l1.table.clock()))
    assert l1.peek(b"new") == b"v"
    assert l1.peek(b"k") is None, "still"
    assert l1.stats().hits == 1
    l1.close(keep=False)


def test_who_comes_second_doubts_as_well(left, clock):
    first, second = joined(left, clock), joined(left, clock)
    assert second.peek(b"k") is None
    clock.advance(3)
    third = joined(left, clock)
    clock.advance(1.1)
    assert third.peek(b"k") == second.peek(b"k") == b"old", "counted from the first"
    for l1 in (third, second, first):
        l1.close(keep=False)


def test_who_joins_others_that_follow_nothing_doubts(left, clock):
    """They are attached, and never started: nobody heard what was deleted elsewhere."""
    first = joined(left, clock)
    first.table.words("stream").store(UNFOLLOWED, 0)
    second = joined(left, clock)
    assert second.peek(b"k") is None
    assert second.look(b"k").state == STALE
    for l1 in (second, first):
        l1.close(keep=False)


def test_who_joins_others_doubts_nothing(left, clock):
    first = joined(left, clock)
    words = first.table.words("stream")
    words.store(UNFOLLOWED, 0)
    words.store(BEAT, clock.now())
    second = joined(left, clock)
    assert second.peek(b"k") == b"old"
    for l1 in (first, second):
        l1.close(keep=False)


def test_host_is_followed_once_the_role_beats_and_came_to_the_end(left, clock):
    l1 = joined(left, clock)
    words = l1.table.words("stream")
    words.store(BEAT, clock.now())
    assert not l1.followed
    words.store(UNFOLLOWED, 0)
    assert l1.followed
    clock.advance(2.1)
    assert not l1.followed
    l1.close(keep=False)


def test_host_without_a_fleet_doubts_nothing(left, clock):
    l1 = joined(left, clock, follows=False)
    assert l1.peek(b"k") == b"old"
    l1.close(keep=False)


# -- the file, and what somebody did to it


def test_removed_segment_is_used_on_and_told_once(l1, clock, caplog):
    l1.put(b"k", record(clock))
    l1.beat()
    assert l1.stats().l1 == "up" and not caplog.messages
    l1.segment.path.unlink()
    l1.beat()
    l1.beat()
    (told,) = caplog.messages
    assert "somebody removed its file" in told
    assert l1.peek(b"k") == b"v"
    assert l1.stats().l1 == "removed"


def test_l1_that_is_off_stays_off(l1, clock, caplog):
    """Also where the file that took the name is removed, and in a forked child."""
    l1.put(b"k", record(clock))
    l1.segment.path.unlink()
    l1.segment.path.touch()
    l1.beat()
    l1.segment.path.unlink()
    l1.beat()
    assert len(caplog.messages) == 1 and l1.stats().l1 == "off"
    l1.table.words("stream").store(UNFOLLOWED, 0)
    l1.segment.forked = True
    l1.segment._born()
    l1.join(follows=True)
    assert l1.peek(b"k") is None and l1.look(b"k") is None


def test_replaced_segment_turns_l1_off(l1, clock, caplog):
    """Who came later deletes in another segment: what stands here must not be told."""
    l1.put(b"k", record(clock))
    l1.segment.path.unlink()
    other = L1.open(l1.segment.path.name.split(".")[-1], 2 << 20, clock=clock)
    l1.beat()
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    assert l1.peek(b"k") is l1.get(b"k") is l1.look(b"k") is None
    assert l1.put(b"k", record(clock)) == DISABLED
    assert (l1.stats().l1, l1.stats().misses) == ("off", 1)
    assert other.put(b"k", record(clock)) == OK and other.peek(b"k") == b"v"
    other.close(keep=False)


def test_closed_l1_answers_misses(clock):
    opened = L1.open(segment_name(), 2 << 20, clock=clock)
    opened.join()
    assert opened.put(b"k", record(clock)) == OK and opened.peek("k") == b"v"
    opened.close(keep=False)
    assert opened.peek("k") is None
    assert opened.get("k") is None and opened.look("k") is None


def test_last_one_gives_the_pages_back() -> None:
    """Its mapping outlives `close`, and holds none of them; a child's is left alone."""
    held = []
    for child in (False, True):
        l1 = L1.open(segment_name(), 1 << 21)
        l1.join()
        fd = os.dup(l1.segment._fd)
        if child and (pid := os.fork()) == 0:
            os._exit(0)
        if child:
            os.waitpid(pid, 0)
        assert l1.close(keep=False)
        held.append(os.fstat(fd).st_blocks)
        os.close(fd)
    assert held[0] == 0 and held[1] > 0
