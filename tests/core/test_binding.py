"""The binding: what a table answers, at times that the test gives."""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest

from shmcache._core import binding
from shmcache._core.binding import FOREVER, Table, tag_number
from shmcache.errors import KeyRejected, LayoutMismatch, SegmentError

SECOND = 10**9


def put(table: Table, key: str | bytes, value: bytes = b"value", **more: Any) -> int:
    """Born at 0, fresh before 10, stale before 20."""
    record: dict[str, Any] = {
        "birth": 0, "fresh_until": 10, "dead_at": 20, "stamp": table.clock(), "now": 0
    }  # fmt: skip
    return table.put(key, value, **(record | more))


def count(table: Table, name: str) -> int:
    return table.counters()[binding.COUNTERS.index(name)]


# ---- records


def test_absent_key_is_none(table: Table) -> None:
    assert table.peek_at("k", 0) is None
    assert table.get("k", 0) is None
    assert table.look("k", 0) is None


def test_record_comes_back_with_all_it_bore(table: Table) -> None:
    rc = put(table, "k", b"v", stamp=0, nonce=2**64 - 1, fill_us=7, tags=(1, 2**20 - 1))
    assert rc == binding.OK
    want = (
        b"v",
        binding.FRESH,
        binding.VALUE,
        0,
        10,
        20,
        0,
        2**64 - 1,
        7,
        (1, 2**20 - 1),
    )
    assert table.get("k", 0) == table.look("k", 0) == want


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 300, 12_000])
def test_value_comes_back_whole(table: Table, size: int) -> None:
    value = random.Random(size).randbytes(size)
    assert put(table, "k", value) == binding.OK
    assert table.peek_at("k", 0) == value


def test_str_and_its_utf8_are_one_key(table: Table) -> None:
    put(table, "ключ", b"v")
    assert table.peek_at("ключ".encode(), 0) == b"v"


@pytest.mark.parametrize("key", ["x" * 1024, b"\0", "\0" * 1024, "é" * 512])
def test_key_within_limits_is_stored(table: Table, key: str | bytes) -> None:
    put(table, key, b"v")
    assert table.peek_at(key, 0) == b"v"


@pytest.mark.parametrize(
    "key", ["", b"", "x" * 1025, "é" * 513, "\ud800", 5, None, bytearray(b"k")]
)
def test_key_beyond_limits_is_rejected(table: Table, key: Any) -> None:
    for call in (table.peek, table.get, table.drop, table.highest, table.claim_take):
        with pytest.raises(KeyRejected):
            call(key)
    with pytest.raises(KeyRejected):
        put(table, key)


@pytest.mark.parametrize(
    ("now", "state"),
    [(0, binding.FRESH), (9, binding.FRESH), (10, binding.STALE), (19, binding.STALE),
     (20, binding.DEAD), (FOREVER - 1, binding.DEAD)],
)  # fmt: skip
def test_state_follows_the_time_given(table: Table, now: int, state: int) -> None:
    put(table, "k", b"v")
    found = table.get("k", now)
    assert found is not None and found[1] == state
    assert table.peek_at("k", now) == (b"v" if state == binding.FRESH else None)


def test_record_for_ever_stays_fresh(table: Table) -> None:
    put(table, "k", b"v", fresh_until=FOREVER, dead_at=FOREVER)
    assert table.peek_at("k", FOREVER - 1) == b"v"
    assert table.peek("k") == b"v"


def test_time_not_given_is_read(table: Table) -> None:
    put(table, "k", fresh_until=1, dead_at=FOREVER)
    found = table.get("k")
    assert found is not None and found[1] == binding.STALE


def test_peek_answers_values_only(table: Table) -> None:
    for kind in (binding.PASS, binding.ERROR):
        put(table, "k", b"v", kind=kind)
        assert table.peek_at("k", 0) is None
        found = table.get("k", 0)
        assert found is not None and found[2] == kind


def test_replaced_key_has_one_record(table: Table) -> None:
    for i in range(100):
        put(table, "k", b"%d" % i)
    assert table.peek_at("k", 0) == b"99"
    assert table.usage()["records"] == 1
    assert count(table, "replaced") == 99
    assert table.drop("k") == binding.OK
    usage = table.usage()
    assert (usage["records"], usage["live_bytes"], usage["disabled_shards"]) == (0,) * 3
    assert sum(usage[q] for q in ("free", "probation", "main", "rewrites")) == 64


def test_dropped_key_is_gone(table: Table) -> None:
    put(table, "k")
    assert table.drop("k") == binding.OK
    assert table.peek_at("k", 0) is None
    assert table.drop("k") == binding.MISS


def test_drop_keeps_the_record_of_its_own_set(table: Table) -> None:
    put(table, "k", nonce=5)
    assert table.drop("k", keep_nonce=5) == binding.OK
    assert table.peek_at("k", 0) is not None
    assert table.drop("k", keep_nonce=6) == binding.OK
    assert table.peek_at("k", 0) is None
    put(table, "k", nonce=0)
    table.drop("k", keep_nonce=0)
    assert table.peek_at("k", 0) is None


def test_newer_only_refuses_an_older_birth(table: Table) -> None:
    put(table, "k", b"new", birth=5)
    assert put(table, "k", b"old", birth=4, newer_only=True) == binding.OLDER
    assert table.peek_at("k", 0) == b"new"
    assert put(table, "k", b"same", birth=5, newer_only=True) == binding.OK
    assert put(table, "k", b"old", birth=4) == binding.OK


def test_newer_only_is_not_refused_by_what_was_invalidated(table: Table) -> None:
    put(table, "k", b"new", birth=5, tags=(9,))
    table.raise_tag(9, table.number())
    assert put(table, "k", b"old", birth=4, newer_only=True) == binding.OK


def test_value_longer_than_an_extent_comes_back_whole(table: Table) -> None:
    extent = table.geometry["extent_bytes"]
    for size in (extent // 4, extent, 3 * extent + 5, table.value_max):
        value = random.Random(size).randbytes(size)
        assert put(table, "k", value) == binding.OK
        assert table.peek_at("k", 0) == value
        found = table.get("k", 0)
        assert found is not None and found[0] == value and found[2] == binding.VALUE


@pytest.mark.parametrize("over", [1, 2**20])
def test_value_above_the_limit_is_refused(table: Table, over: int) -> None:
    value = bytes(table.value_max)
    assert put(table, "k", value) == binding.OK
    assert put(table, "k", bytes(table.value_max + over)) == binding.TOO_LARGE
    assert table.peek_at("k", 0) == value
    assert count(table, "too_large") == 1


def test_more_tags_than_a_record_bears_are_refused(table: Table) -> None:
    assert put(table, "k", tags=tuple(range(33))) == binding.OK
    with pytest.raises(ValueError, match="33"):
        put(table, "k", tags=tuple(range(34)))


def test_full_segment_loses_the_oldest_and_serves_on(table: Table) -> None:
    for i in range(6000):
        assert put(table, f"k{i}", b"%d" % i * 100) == binding.OK
    kept = [i for i in range(6000) if table.peek_at(f"k{i}", 0) is not None]
    assert all(table.peek_at(f"k{i}", 0) == b"%d" % i * 100 for i in kept)
    assert count(table, "evicted") > 3000
    assert len(kept) == table.usage()["records"]
    assert kept[-1000:] == list(range(5000, 6000))
    assert len(kept) / (6000 - kept[0]) > 0.99  # but for want of a slot


# ---- mapping


def test_mapping_is_the_file_and_keeps_no_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    begun = os.listdir("/proc/self/fd")
    with path.open("r+b") as file:
        memory = binding.Mapping(file.fileno(), 8192)
    assert os.listdir("/proc/self/fd") == begun and len(memory) == 8192
    view = memoryview(memory)
    view[4096:4099] = b"abc"
    assert path.read_bytes()[4096:4099] == b"abc"
    path.write_bytes(b"x" + bytes(8191))
    assert view[0] == ord("x")
    memory.advise(mmap.MADV_DONTDUMP)
    with pytest.raises(OSError, match="Invalid argument"):
        memory.advise(-1)
    del memory  # the view has it still
    assert view[0] == ord("x") and mapped(path)
    del view
    assert not mapped(path)


def mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("size", [0, -1, 1 << 62])
def test_what_cannot_be_mapped_is_an_error(tmp_path: Path, size: int) -> None:
    with (tmp_path / "file").open("w+b") as file, pytest.raises(OSError):
        binding.Mapping(file.fileno(), size)
    with pytest.raises(OSError, match="Bad file descriptor"):
        binding.Mapping(-1, 4096)


# ---- conditions


BIG = 30_000  # bytes of a value in pieces
ways = pytest.mark.parametrize("size", [5, BIG], ids=["whole", "in-pieces"])
hows = pytest.mark.parametrize("raising", [False, True], ids=["fill", "raising"])


def standing(table: Table, now: int = 0) -> tuple[bytes, int] | None:
    found = table.look("k", now)
    return None if found is None else (found[0], found[7])


@ways
@hows
def test_absent_only_is_refused_while_a_record_is_not_dead(
    table: Table, size: int, raising: bool
) -> None:
    more: dict[str, Any] = {"absent_only": True, "raise_": raising}
    assert put(table, "k", b"a" * size, nonce=1, **more) == binding.OK
    for now in (0, 15):  # fresh, stale
        clock = table.clock()
        assert put(table, "k", b"b" * size, **more, now=now) == binding.STANDS
        assert (table.clock(), table.highest("k")) == (clock, int(raising))
    assert standing(table) == (b"a" * size, 1)
    late: dict[str, Any] = {"birth": 20, "fresh_until": 30, "dead_at": 40, "nonce": 2}
    assert put(table, "k", b"c" * size, **more | late, now=20) == binding.OK  # dead
    assert standing(table, 20) == (b"c" * size, 2)


def test_absent_only_takes_what_readers_miss_for_absent(table: Table) -> None:
    put(table, "k", tags=(3,))
    table.raise_tag(3, table.number())
    assert put(table, "k", b"new", absent_only=True) == binding.OK
    table.raise_all(table.number())
    assert put(table, "k", b"new", absent_only=True) == binding.OK


@ways
@hows
def test_if_nonce_replaces_only_the_record_that_bears_it(
    table: Table, size: int, raising: bool
) -> None:
    more: dict[str, Any] = {"raise_": raising}
    assert put(table, "k", b"a", if_nonce=7, **more) == binding.STANDS  # nothing does
    put(table, "k", b"a" * size, nonce=7)
    assert put(table, "k", b"b", nonce=8, if_nonce=9, **more) == binding.STANDS
    assert put(table, "k", b"b" * size, nonce=8, if_nonce=7, **more) == binding.OK
    assert put(table, "k", b"c", nonce=9, if_nonce=7, **more) == binding.STANDS
    assert standing(table) == (b"b" * size, 8)
    stamp = table.clock()
    assert put(table, "k", b"c", if_nonce=8, **more, now=20) == binding.STANDS  # dead
    assert table.clock() == stamp
    assert put(table, "k", b"d", nonce=9, if_nonce=8, now=15, **more) == binding.OK


@ways
def test_replaced_in_raising_it_bears_the_stamp_it_brings(
    table: Table, size: int
) -> None:
    """What stands may be stored again, with another life: what was raised above it
    stands above that too. Fills under way are refused."""
    put(table, "k", b"a" * size, nonce=7, stamp=table.number())
    table.raise_key("k", table.number(), soft=True)
    more: dict[str, Any] = {"raise_": True, "stamp": 1, "dead_at": FOREVER}
    assert put(table, "k", b"b" * size, nonce=8, if_nonce=7, **more) == binding.OK
    assert table.look("k", 0)[6] == 1 and table.look("k", 0)[1] == binding.STALE
    assert table.highest("k") == table.clock() == 3
    assert put(table, "k", stamp=2) == binding.RAISED
    table.raise_gap(table.number(), 0)
    again: dict[str, Any] = more | {"stamp": 3}
    assert put(table, "k", b"c", nonce=9, if_nonce=8, **again) == binding.OK
    assert table.look("k", 0)[1] == binding.STALE
    assert table.look("k", 4 * 10**9) is None


@ways
def test_record_that_lacks_a_piece_does_not_stand(table: Table, size: int) -> None:
    put(table, "k", b"a" * BIG, nonce=7)
    index = table.words("index")
    slots = [i for i in range(len(index)) if index.load(i)]
    for i in slots:  # without each piece in turn; one of the slots is the record's
        word = index.load(i)
        index.store(i, 0)
        assert table.look("k", 0) is None
        assert put(table, "k", b"b", nonce=8, if_nonce=7) == binding.STANDS
        index.store(i, word)
    assert table.look("k", 0) is not None and len(slots) > 3
    index.store(slots[-1], 0)
    assert put(table, "k", b"b" * size, nonce=8, absent_only=True) == binding.OK
    assert standing(table) == (b"b" * size, 8)


def test_lost_claim_is_told_before_what_stands(table: Table) -> None:
    put(table, "k")
    _, index, word, _ = table.claim_take("k")
    table.claim_free(index, word, binding.FREED)
    refused = put(table, "k", claim=(index, word), absent_only=True, raise_=True)
    assert refused == binding.LOST and table.clock() == 0


# ---- early window


@pytest.mark.parametrize(
    ("early", "now", "answered"),
    [(0.0, 999, True), (1.0, 899, True), (1.0, 900, True), (1.0, 901, False),
     (1.0, 999, False), (2.5, 750, True), (2.5, 751, False)],
)  # fmt: skip
def test_peek_leaves_the_last_of_a_fresh_time_to_the_slow_path(
    table: Table, early: float, now: int, answered: bool
) -> None:
    put(table, "k", b"v", fresh_until=1_000_000, dead_at=FOREVER, fill_us=100)
    table.early = early
    found = table.peek_at("k", now * 1000)
    assert found == (b"v" if answered else None)
    assert count(table, "hits") == answered
    got = table.get("k", now * 1000)
    assert got is not None and got[1] == binding.FRESH


def test_record_for_ever_or_without_a_cost_is_never_early(table: Table) -> None:
    table.early = 1e6
    put(table, "k", b"v", fresh_until=FOREVER, dead_at=FOREVER, fill_us=10**6)
    assert table.peek("k") == b"v"
    put(table, "k", b"v", fresh_until=10, fill_us=0)
    assert table.peek_at("k", 9) == b"v"


# ---- invalidation


def test_store_under_a_raised_key_is_refused(table: Table) -> None:
    stamp = table.clock()
    table.raise_key("k", table.number())
    assert put(table, "k", stamp=stamp) == binding.RAISED
    assert table.peek_at("k", 0) is None
    assert put(table, "k", stamp=table.clock()) == binding.OK
    assert count(table, "refused_raised") == 1


def test_raised_key_leaves_a_standing_record_to_drop(table: Table) -> None:
    put(table, "k")
    table.raise_key("k", table.number())
    assert table.peek_at("k", 0) is not None
    assert table.highest("k") == 1


@pytest.mark.parametrize("what", ["tag", "all"])
def test_hard_raise_hides_records_and_refuses_stores(table: Table, what: str) -> None:
    stamp = table.clock()
    put(table, "k", tags=(3, 9))
    number = table.number()
    table.raise_tag(9, number) if what == "tag" else table.raise_all(number)
    assert table.get("k", 0) is None
    assert table.highest("k", (3, 9)) == number
    assert put(table, "k", stamp=stamp, tags=(3, 9)) == binding.RAISED
    assert put(table, "k", stamp=number, tags=(3, 9)) == binding.OK
    assert table.peek_at("k", 0) is not None


@pytest.mark.parametrize("what", ["key", "tag", "all"])
def test_soft_raise_makes_records_stale(table: Table, what: str) -> None:
    stamp = table.clock()
    put(table, "k", tags=(9,))
    number = table.number()
    if what == "key":
        table.raise_key("k", number, soft=True)
    elif what == "tag":
        table.raise_tag(9, number, soft=True)
    else:
        table.raise_all(number, soft=True)
    for _ in range(2):
        found = table.get("k", 0)
        assert found is not None and found[1] == binding.STALE
        # a store under it is made, and reads as stale
        assert put(table, "k", stamp=stamp, tags=(9,)) == binding.OK
    assert put(table, "k", stamp=number, tags=(9,)) == binding.OK
    assert table.peek_at("k", 0) is not None


@pytest.mark.parametrize("what", ["key", "tag", "all"])
def test_highest_of_soft_raises_includes_hard_ones(table: Table, what: str) -> None:
    raises: dict[str, Callable[[int, bool], None]] = {
        "key": lambda n, soft: table.raise_key("k", n, soft),
        "tag": lambda n, soft: table.raise_tag(9, n, soft),
        "all": lambda n, soft: table.raise_all(n, soft),
    }
    raises[what](5, True)
    assert (table.highest("k", (9,)), table.highest("k", (9,), soft=True)) == (0, 5)
    raises[what](7, False)
    assert (table.highest("k", (9,)), table.highest("k", (9,), soft=True)) == (7, 7)
    assert table.highest("k", (8,), True) == (0 if what == "tag" else 7)


def test_stripe_never_falls(table: Table) -> None:
    table.raise_key("k", 9)
    table.raise_key("k", 4)
    assert table.highest("k") == 9


def test_gap_is_soft_for_four_seconds_then_hard(table: Table) -> None:
    put(table, "k", dead_at=FOREVER, fresh_until=FOREVER)
    table.raise_gap(table.number(), now=100)
    found = table.get("k", 100 + 4 * SECOND - 1)
    assert found is not None and found[1] == binding.STALE
    assert table.get("k", 100 + 4 * SECOND) is None
    put(table, "k", dead_at=FOREVER, fresh_until=FOREVER)
    assert table.peek_at("k", 100 + 9 * SECOND) is not None


def test_second_gap_does_not_bring_back_what_the_first_hid(table: Table) -> None:
    put(table, "k", dead_at=FOREVER, fresh_until=FOREVER)
    table.raise_gap(table.number(), now=0)
    table.raise_gap(table.number(), now=3 * SECOND)
    assert table.get("k", 3 * SECOND) is not None
    assert table.get("k", 4 * SECOND) is None
    table.raise_gap(table.number(), now=5 * SECOND)
    assert table.get("k", 5 * SECOND) is None


def test_raising_store_bears_its_own_number(table: Table) -> None:
    put(table, "k", b"old")
    stamp = table.clock()
    assert put(table, "k", b"new", stamp=0, raise_=True) == binding.OK
    found = table.get("k", 0)
    assert found is not None and found[0] == b"new" and found[6] == stamp + 1
    assert put(table, "k", b"late", stamp=stamp) == binding.RAISED
    assert table.peek_at("k", 0) == b"new"


def test_tag_number_is_siphash_without_a_key() -> None:
    """What CPython hashes to under PYTHONHASHSEED=0, where its own SipHash-1-3 has a
    key of zero: the same on every host, for ever."""
    assert [tag_number(s) for s in ("t", b"tag", "x" * 65)] == [1025004, 70789, 213780]


# ---- segment and attachments


def test_plan_refuses_what_is_too_small() -> None:
    assert binding.plan(1 << 20, 0)["shards"] == 1
    assert binding.plan(1 << 19, 0)["size"] == 1 << 19
    with pytest.raises(SegmentError, match="512 KiB at least"):
        binding.plan(1 << 18, 0)


def test_description_tells_who_made_it(segment: mmap.mmap) -> None:
    found = binding.describe(segment)
    assert found is not None
    assert found["ready"] and found["layout_hash"] == binding.layout_hash()
    assert found["boot_id"] == b"boot" * 4
    assert (found["clock_ns"], found["config"], found["uid"]) == (5, 6, 7)
    assert found["geometry"] == binding.plan(1 << 20, 0)
    assert {"slots", "claims", "breakers", "stream", "extents"} <= set(found["regions"])


def test_description_of_anything_else_is_none() -> None:
    assert binding.describe(b"") is None
    assert binding.describe(bytes(8192)) is None


def test_foreign_buffer_is_refused(segment: mmap.mmap) -> None:
    with pytest.raises(LayoutMismatch):
        Table(bytearray(1 << 20))
    with pytest.raises(LayoutMismatch):
        Table(segment[: 1 << 19], read_only=True)


def test_segment_opens_by_name_as_shared_memory(segment_file: Path) -> None:
    assert segment_file.parent == Path("/dev/shm")
    with segment_file.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 1 << 20)
    binding.init(
        mapped, size=1 << 20, record_bytes=0, seed=bytes(16), boot_id=bytes(16),
        clock_ns=0, config=0, uid=0,
    )  # fmt: skip
    shm = SharedMemory(segment_file.name)
    try:
        found = binding.describe(shm.buf)
        assert found is not None and found["ready"]
    finally:
        shm.close()
        # its tracker would remove the name a second time
        resource_tracker.unregister(f"/{shm.name}", "shared_memory")


def test_reader_of_a_read_only_mapping_changes_nothing(segment_file: Path) -> None:
    with segment_file.open("r+b") as file:
        writer = mmap.mmap(file.fileno(), 0)
        reader = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    binding.init(
        writer, size=1 << 20, record_bytes=0, seed=bytes(16), boot_id=bytes(16),
        clock_ns=0, config=0, uid=0,
    )  # fmt: skip
    put(Table(writer), "k", b"v")
    table = Table(reader, read_only=True)
    before = segment_file.read_bytes()
    assert table.peek_at("k", 0) == b"v" and table.get("no", 0) is None
    assert table.words("stream").load(0) == 0
    assert sum(table.counters()) == 0
    for write in (
        lambda: put(table, "k"),
        lambda: table.drop("k"),
        lambda: table.number(),
        lambda: table.take_slot(0, 1),
        lambda: table.words("stream").add(0, 1),
        lambda: table.claim_take("k"),
    ):
        with pytest.raises(SegmentError):
            write()
    assert segment_file.read_bytes() == before


def test_other_process_shares_the_records(segment_file: Path, table: Table) -> None:
    put(table, "from here", b"1", dead_at=FOREVER, fresh_until=FOREVER)
    code = """
        import mmap, sys
        from shmcache._core.binding import FOREVER, Table
        with open(sys.argv[1], "r+b") as file:
            table = Table(mmap.mmap(file.fileno(), 0))
        assert table.peek("from here") == b"1"
        table.put("from there", b"2", birth=0, fresh_until=FOREVER, dead_at=FOREVER,
                  stamp=table.clock())
        table.raise_tag(4, table.number())
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(segment_file)], check=True
    )
    assert table.peek("from there") == b"2"
    assert table.highest("any", (4,)) == 1


# ---- process slots, counters, words


def test_each_taker_raises_the_incarnation(attach: Callable[[int], Table]) -> None:
    first, second = attach(3), attach(3)
    assert (first.slot, first.incarnation, second.incarnation) == (3, 1, 2)
    assert second.slot_info(3) == (2, 1003, 0)
    second.beat(now=77)
    assert first.slot_info(3) == (2, 1003, 77)
    assert first.slot_offset(4) - first.slot_offset(3) == 1024
    with pytest.raises(IndexError):
        first.take_slot(binding.SLOTS, 1)


def test_counters_are_the_slots_and_outlive_it(attach: Callable[[int], Table]) -> None:
    one, two = attach(1), attach(2)
    put(one, "k")
    for _ in range(3):
        two.peek_at("k", 0)
    two.get("k", 15), two.get("k", 25), two.get("absent", 0), two.get("k", 0)
    two.count(60, 5)
    names = dict(zip(binding.COUNTERS, two.counters(2), strict=False))
    assert (names["hits"], names["stale_hits"], names["misses"]) == (3, 1, 2)
    assert two.counters(2)[60] == 5
    assert two.counters(1)[binding.COUNTERS.index("stores")] == 1
    assert two.look("k", 0) is not None
    again = attach(2)
    assert again.counters(2) == two.counters(2)
    assert count(again, "hits") == 3


def test_words_of_a_region_are_atomic_words(attach: Callable[[int], Table]) -> None:
    one, two = attach(1).words("breakers"), attach(2).words("breakers")
    assert len(one) == 512
    one.store(7, 2**64 - 1)
    assert two.load(7) == 2**64 - 1
    assert two.add(7, 3) == 2
    assert not one.cas(7, 3, 9) and one.cas(7, 2, 9)
    two.lift(7, 5)
    assert one.load(7) == 9
    two.lift(7, 10)
    assert one.load(7) == 10
    for i in (-1, 512):
        with pytest.raises(IndexError):
            one.load(i)
    with pytest.raises(SegmentError):
        attach(1).words("nowhere")


def test_table_without_its_segment_is_not_made() -> None:
    with pytest.raises(TypeError):
        Table.__new__(Table)
    with pytest.raises(TypeError):
        binding.Words()
    words = binding.Words.__new__(binding.Words)
    assert len(words) == 0
    with pytest.raises(IndexError):
        words.load(0)


def test_table_made_again_stays_attached_where_it_is(
    segment: mmap.mmap, table: Table
) -> None:
    put(table, "k", b"v")
    table.__init__(bytearray(1 << 20))  # type: ignore[misc]
    assert table.peek_at("k", 0) == b"v"
