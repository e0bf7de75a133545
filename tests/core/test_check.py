"""The check of a shard: nothing to say of what writers leave, whatever they meet; every
planted damage is found; no bytes crash it; it writes nothing."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from shmcache._core import binding
from shmcache._core.binding import FOREVER, Table
from tests.core.conftest import init

MIB = 1 << 20
CORE = Path(binding.__file__).parent
PROBATION = 1
HEAD, KEY_LEN, KIND, STAMP = 56, 8, 11, 40  # of a record, as table.h draws it
PRINT, OFFSET_ONE, EXTENT_ONE, GENERATION_ONE = (1 << b for b in (0, 18, 40, 48))

SHARD_FIELDS = (
    *("opened", "chains", "disabled", "open", "rest", "victim", "cursor"),
    *("extents", "generations", "extents[0].queue", "extents[0].fill"),
    *("extents[0].age", "extents[0].live_records", "extents[1]"),
)


@cache
def places() -> dict[str, int]:
    """Where the fields of a shard are, as the compiler lays them out."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    assert compiler, "the C core's tests need a C compiler on PATH"
    lines = [f'printf("%zu\\n", offsetof(shmc_shard, {f}));' for f in SHARD_FIELDS]
    program = (
        '#include <stdio.h>\n#include "table.h"\nint main(void) {\n'
        + "\n".join(lines)
        + 'printf("%zu\\n", sizeof(shmc_shard)); }'
    )
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [compiler, f"-I{CORE}", "-o", f"{folder}/places", "-xc", "-"],
            input=program, text=True, check=True, timeout=60,
        )  # fmt: skip
        said = subprocess.run([f"{folder}/places"], capture_output=True, check=True)
    return dict(
        zip((*SHARD_FIELDS, "size"), map(int, said.stdout.split()), strict=True)
    )


def put(table: Table, key: str, value: bytes = b"value", **more: Any) -> int:
    record: dict[str, Any] = {
        "birth": 0, "fresh_until": FOREVER, "dead_at": FOREVER, "stamp": table.clock()
    }  # fmt: skip
    return table.put(key, value, **(record | more))


def checked(table: Table) -> list[dict[str, Any]]:
    return [table.check(shard) for shard in range(table.geometry["shards"])]


def total(found: list[dict[str, Any]], name: str) -> int:
    return sum(shard[name] for shard in found)


class Bytes:
    """A segment's bytes, to be damaged."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        described = binding.describe(memory)
        assert described is not None
        self.geometry = described["geometry"]
        self.at = {name: place[0] for name, place in described["regions"].items()}
        whole = places()["size"] * self.geometry["shards"]
        assert described["regions"]["shards"][1] == whole

    def get(self, form: str, at: int) -> int:
        value: int = struct.unpack_from(form, self.memory, at)[0]
        return value

    def put(self, form: str, at: int, value: int) -> None:
        struct.pack_into(form, self.memory, at, value)

    def shard(self, field: str) -> int:
        return self.at["shards"] + places()[field]

    def extent(self, number: int, field: str) -> int:
        size = places()["extents[1]"] - places()["extents"]
        return self.shard(f"extents[0].{field}") + number * size

    def open(self, queue: int) -> int:
        return self.shard("open") + 4 * queue

    def slot(self, number: int) -> int:
        return self.at["index"] + 8 * number

    def slots(self) -> Iterator[tuple[int, int]]:
        """(number, word) of the slots of the first shard that mean something."""
        for i in range(self.geometry["buckets"] * 8):
            if word := self.get("Q", self.slot(i)):
                yield i, word

    def record(self, word: int) -> int:
        extent, offset = word >> 40 & 63, (word >> 18 & 0x3FFFFF) * 8
        return self.at["extents"] + extent * self.geometry["extent_bytes"] + offset

    def slot_of(self, key: bytes) -> tuple[int, int]:
        """(number, word) of the slot that means a key without tags."""
        for i, word in self.slots():
            at = self.record(word) + HEAD
            if self.memory[at : at + len(key)] == key:
                return i, word
        raise LookupError(key)

    def vacant(self, bucket: int) -> int:
        """An empty slot of a bucket."""
        return next(
            i
            for i in range(bucket * 8, bucket * 8 + 8)
            if not self.get("Q", self.slot(i))
        )


# ---- what writers leave


def fill(table: Table, rng: random.Random, rounds: int) -> None:
    """Keys replaced, hit, dropped, expired, invalidated by key and by tag, and chains:
    more than the segment holds."""
    for i in range(rounds):
        key = f"key-{rng.randrange(rounds // 2)}"
        until = rng.choice((5, FOREVER))
        put(
            table, key, rng.randbytes(rng.randrange(600)), fresh_until=until,
            dead_at=until, now=rng.choice((1, 10)), tags=(rng.randrange(50),),
        )  # fmt: skip
        table.get(f"key-{rng.randrange(rounds // 2)}", 1)
        if i % 50 == 0:
            table.drop(f"key-{rng.randrange(rounds // 2)}")
            table.raise_tag(rng.randrange(50), table.number())
        if i % 200 == 0:
            length = rng.randrange(table.value_max // 8, table.value_max + 1)
            stored = put(table, f"long-{i % 1600}", bytes(length))
            assert stored in (binding.OK, binding.BUSY)


def test_full_table_has_no_fault_and_counts_agree(table: Table) -> None:
    fill(table, random.Random(1), 20_000)
    found = checked(table)
    assert all(not shard["found"] and not shard["faults"] for shard in found)
    assert total(found, "unsettled") == total(found, "drifted") == 0
    usage = table.usage()
    assert total(found, "records") == usage["records"] > 1000
    assert total(found, "live_bytes") == usage["live_bytes"]
    assert total(found, "chains") > 0 and total(found, "pieces") > 0
    assert total(found, "ghosts") > 100
    assert {q: total(found, q) for q in ("free", "probation", "main", "rewrites")} == {
        q: usage[q] for q in ("free", "probation", "main", "rewrites")
    }
    assert table.check_stripes() == (0, 0)


def test_check_of_a_mapping_for_reading_changes_no_byte(
    table: Table, segment: mmap.mmap, segment_file: Path
) -> None:
    fill(table, random.Random(2), 4000)
    table.outbox_add(1, b"key")
    before = hashlib.sha256(segment).digest()
    with segment_file.open("rb") as file:
        reader = Table(
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), read_only=True
        )
    assert not any(shard["found"] for shard in checked(reader))
    assert reader.check_stripes() == (0, 0)
    assert not reader.check_outbox()["found"]
    assert len(reader.outbox_unsent(1 << 62, 9)) == 1
    assert reader.records(0, 0, 1 << 20)
    assert hashlib.sha256(segment).digest() == before


WRITER = """
import mmap, os, random, sys
from shmcache._core.binding import FOREVER, Table
from tests.core.test_check import fill, put
with open(sys.argv[1], "r+b") as file:
    table = Table(mmap.mmap(file.fileno(), 0))
slot = int(sys.argv[2])
table.take_slot(slot, os.getpid())
rng = random.Random(int(sys.argv[3]))
print("begun", flush=True)
while True:
    fill(table, rng, 4000)
"""


def writer(file: Path, slot: int, seed: int) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file), str(slot), str(seed)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "begun\n"
    return started


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_writers_at_work_and_killed_leave_no_fault(
    table: Table, segment_file: Path
) -> None:
    """Each single look, while two processes write and one after the other is killed."""
    writers = [writer(segment_file, slot, slot) for slot in (1, 2)]
    seen = set()
    try:
        for kills in range(6):
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                found = checked(table)
                assert not [shard["faults"] for shard in found if shard["found"]]
                seen.add(total(found, "live_bytes"))
            kill(writers[0])
            writers = [writers[1], writer(segment_file, kills % 2 + 1, kills)]
    finally:
        for one in writers:
            kill(one)
    assert len(seen) > 10, "nobody wrote while it looked"
    assert not any(shard["found"] for shard in checked(table))
    # what the killed left is mended by use alone
    fill(table, random.Random(3), 20_000)
    found = checked(table)
    assert not any(shard["found"] or shard["orphaned"] for shard in found)


def test_stopped_writer_leaves_no_fault(table: Table, segment_file: Path) -> None:
    """Stopped wherever it stands: in a store, an emptying, a chain."""
    one = writer(segment_file, 1, 9)
    rng = random.Random(4)
    try:
        for _ in range(40):
            time.sleep(rng.uniform(0, 0.005))  # where it stops, not a wait
            assert one.poll() is None
            os.kill(one.pid, signal.SIGSTOP)
            assert not any(shard["found"] for shard in checked(table))
            os.kill(one.pid, signal.SIGCONT)
    finally:
        kill(one)


# ---- planted damage

Plant = Callable[[Bytes, Table], None]


def one_slot(b: Bytes) -> tuple[int, int]:
    return b.slot_of(b"key-7")


def alter_slot(change: int) -> Plant:
    def plant(b: Bytes, table: Table) -> None:
        number, word = one_slot(b)
        b.put("Q", b.slot(number), word ^ change)

    return plant


def alter_head(form: str, field: int, value: int, key: bytes = b"key-7") -> Plant:
    def plant(b: Bytes, table: Table) -> None:
        b.put(form, b.record(b.slot_of(key)[1]) + field, value)

    return plant


def alter_shard(form: str, field: str, value: int) -> Plant:
    return lambda b, table: b.put(form, b.shard(field), value)


def alter_open(queue: int, extent: int) -> Plant:
    return lambda b, table: b.put("I", b.open(queue), extent)


def alter_extent(form: str, field: str, change: Callable[[int], int]) -> Plant:
    """Of the extent in which the key stands."""

    def plant(b: Bytes, table: Table) -> None:
        at = b.extent(one_slot(b)[1] >> 40 & 63, field)
        b.put(form, at, change(b.get(form, at)))

    return plant


def point_into_a_free_extent(b: Bytes, table: Table) -> None:
    number, word = one_slot(b)
    free = next(e for e in range(64) if b.get("I", b.extent(e, "queue")) == 0)
    word = word & ~(63 << 40) | free << 40
    b.put("Q", b.slot(number), word)


def point_twice(b: Bytes, table: Table) -> None:
    number, word = one_slot(b)
    b.put("Q", b.slot(b.vacant(number // 8)), word)


def point_from_elsewhere(b: Bytes, table: Table) -> None:
    number, word = one_slot(b)
    b.put("Q", b.slot(number), 0)
    b.put("Q", b.slot(b.vacant((number // 8 + 3) % b.geometry["buckets"])), word)


def name_another_shards_key(b: Bytes, table: Table) -> None:
    mine = table.hash("key-7") >> 54 & 1
    other = next(
        key for key in map("new-{}".format, range(10))
        if table.hash(key) >> 54 & 1 != mine
    )  # fmt: skip
    at = b.record(one_slot(b)[1]) + HEAD
    b.memory[at : at + 5] = other.encode()


def store_a_key_twice(b: Bytes, table: Table) -> None:
    """The record of another key is made one of the first's, with a slot beside."""
    number, word = one_slot(b)
    other, other_word = b.slot_of(b"key-8")
    at = b.record(other_word) + HEAD
    b.memory[at : at + 5] = b"key-7"
    b.put("Q", b.slot(other), 0)
    mask = (1 << 18) - 1
    b.put("Q", b.slot(b.vacant(number // 8)), other_word & ~mask | word & mask)


def open_another_queues(b: Bytes, table: Table) -> None:
    extent = one_slot(b)[1] >> 40 & 63
    b.put("I", b.open(PROBATION + 1), extent)


def empty_beyond_the_fill_mark(b: Bytes, table: Table) -> None:
    extent = one_slot(b)[1] >> 40 & 63
    b.put("I", b.open(PROBATION), 64)
    b.put("I", b.shard("victim"), extent)
    b.put("I", b.shard("cursor"), b.get("I", b.extent(extent, "fill")) + 8)


def empty_between_records(b: Bytes, table: Table) -> None:
    empty_beyond_the_fill_mark(b, table)
    b.put("I", b.shard("cursor"), 16)


def first_piece(b: Bytes) -> int:
    return next(
        record for _, word in b.slots()
        if b.get("B", (record := b.record(word)) + KIND) & 0x80
    )  # fmt: skip


def alter_piece(b: Bytes, table: Table) -> None:
    b.put("B", first_piece(b) + KIND, 0x81)


DAMAGE: list[tuple[str, str, Plant]] = [
    ("fingerprint", "print", alter_slot(PRINT << 3)),
    ("offset-within", "record", alter_slot(OFFSET_ONE << 1)),
    ("offset-beyond", "outside", alter_slot(OFFSET_ONE << 20)),
    ("generation-of-slot", "past", alter_slot(GENERATION_ONE << 5)),
    ("generation-of-extent", "past", alter_shard("Q", "generations", 77)),
    ("free-extent", "outside", point_into_a_free_extent),
    ("slot-twice", "twice", point_twice),
    ("slot-elsewhere", "bucket", point_from_elsewhere),
    ("key-of-another-shard", "shard", name_another_shards_key),
    ("key-twice", "key", store_a_key_twice),
    ("head-zeroed", "log", alter_head("Q", 0, 0)),
    ("head-length", "log", alter_head("I", 0, 12)),
    ("head-key-length", "record", alter_head("H", KEY_LEN, 0)),
    ("head-stamp", "stamp", alter_head("Q", STAMP, 1 << 40)),
    ("head-chained", "chain", alter_head("B", KIND, 0x40)),
    ("chain-length", "chain", alter_head("I", HEAD + 6 + 8, 1 << 30, b"long-1")),
    ("chain-unknown", "chain", alter_head("Q", HEAD + 6, 99, b"long-1")),
    ("piece-kind", "piece", alter_piece),
    ("chains-forgotten", "piece", alter_shard("Q", "chains", 0)),
    ("fill-unaligned", "fill", alter_extent("I", "fill", lambda n: n + 4)),
    ("fill-high", "log", alter_extent("I", "fill", lambda n: n + 64)),
    ("fill-beyond", "fill", alter_extent("I", "fill", lambda n: n + (1 << 24))),
    ("fill-low", "outside", alter_extent("I", "fill", lambda n: 8)),
    ("queue-none", "queue", alter_extent("I", "queue", lambda n: 9)),
    ("queue-free", "outside", alter_extent("I", "queue", lambda n: 0)),
    ("age-ahead", "age", alter_extent("Q", "age", lambda n: n + 1000)),
    ("opened-back", "age", alter_shard("Q", "opened", 0)),
    ("open-of-another", "open", open_another_queues),
    ("open-beyond", "open", alter_open(PROBATION, 70)),
    ("open-free", "open", alter_open(0, 3)),
    ("rest-beyond", "open", alter_shard("I", "rest", 70)),
    ("rest-free", "open", alter_shard("I", "rest", 60)),
    ("victim-beyond", "victim", alter_shard("I", "victim", 90)),
    ("victim-free", "victim", alter_shard("I", "victim", 63)),
    ("cursor-beyond", "victim", empty_beyond_the_fill_mark),
    ("cursor-between", "victim", empty_between_records),
    ("state", "state", alter_shard("I", "disabled", 5)),
]


@pytest.fixture
def damaged() -> tuple[Bytes, Table]:
    """Two shards with few records, whose keys all stand in the first."""
    memory = mmap.mmap(-1, 16 * MIB)
    init(memory)
    table = Table(memory)
    assert table.geometry["shards"] == 2
    for key in ("key-7", "key-8", "long-1", *map("more-{}".format, range(50))):
        if key.startswith("more") or table.hash(key) >> 54 & 1 == 0:
            put(table, key, bytes(300_000) if key == "long-1" else b"v" * 40)
    assert not any(shard["found"] for shard in checked(table))
    return Bytes(memory), table


@pytest.mark.parametrize(
    ("kind", "plant"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE]
)
def test_planted_damage_is_found(
    kind: str, plant: Plant, damaged: tuple[Bytes, Table]
) -> None:
    plant(*damaged)
    found = damaged[1].check(0)
    assert found["found"].get(kind), found
    assert kind in [fault[0] for fault in found["faults"]]


def test_every_kind_of_fault_is_planted() -> None:
    assert {kind for _, kind, _ in DAMAGE} == set(binding.FAULTS)


def test_many_faults_are_counted_and_the_first_told(
    table: Table, segment: mmap.mmap
) -> None:
    fill(table, random.Random(5), 2000)
    b = Bytes(segment)
    for number, word in list(b.slots()):
        b.put("Q", b.slot(number), word ^ PRINT)
    found = table.check(0)
    assert len(found["faults"]) == 32 < found["found"]["print"]


# ---- what is no fault


def test_counts_that_drifted_are_told_beside(damaged: tuple[Bytes, Table]) -> None:
    b, table = damaged
    extent = one_slot(b)[1] >> 40 & 63
    at = b.extent(extent, "live_records")
    b.put("I", at, b.get("I", at) + 3)
    found = table.check(0)
    assert not found["found"]
    assert (found["drifted"], found["drift_records"], found["drift_bytes"]) == (1, 3, 0)


def test_missing_and_orphan_pieces_are_counted(damaged: tuple[Bytes, Table]) -> None:
    b, table = damaged
    pieces = [
        number for number, word in b.slots()
        if b.get("B", b.record(word) + KIND) & 0x80
    ]  # fmt: skip
    b.put("Q", b.slot(pieces[0]), 0)
    found = table.check(0)
    assert not found["found"] and found["orphan_pieces"] == 0
    assert (found["broken_chains"], found["missing_pieces"]) == (1, 1)
    b.put("Q", b.slot(b.slot_of(b"long-1")[0]), 0)
    found = table.check(0)
    assert not found["found"]
    assert (found["chains"], found["orphan_pieces"]) == (0, len(pieces) - 1)


def test_shard_that_is_given_up_is_not_looked_into(
    damaged: tuple[Bytes, Table],
) -> None:
    b, table = damaged
    for state in (1, 2):
        b.put("I", b.shard("disabled"), state)
        b.put("I", b.shard("victim"), 90)
        found = table.check(0)
        assert not found["found"] and found["disabled"] == state


def test_stripe_above_what_covers_it_is_found(damaged: tuple[Bytes, Table]) -> None:
    b, table = damaged
    table.raise_key("key-7", table.number(), soft=True)
    assert table.check_stripes() == (0, 0)
    b.put("Q", b.at["key_floor"], 1)
    assert table.check_stripes() == (0, 1)
    b.put("Q", b.at["tag_hard"] + 8, 1 << 50)
    assert table.check_stripes() == (1, 1)


# ---- outbox

RING = 192  # of the outbox, as table.h draws it
HEAD_OF_RING, TAIL, LOWEST, MARK, STATE_OF_LOCK = 64, 72, 128, 136, 40


def entry_at(b: Bytes, number: int) -> int:
    return b.at["outbox"] + RING + 8 * (number - 1)


def alter_entry(word: int, change: Callable[[int], int]) -> Plant:
    """A word of the second entry of three."""

    def plant(b: Bytes, table: Table) -> None:
        number = table.outbox_unsent(1 << 60, 3)[1][0]
        at = entry_at(b, number) + 8 * word
        b.put("Q", at, change(b.get("Q", at)))

    return plant


def alter_outbox(field: int, change: Callable[[int], int]) -> Plant:
    def plant(b: Bytes, table: Table) -> None:
        at = b.at["outbox"] + field
        b.put("Q", at, change(b.get("Q", at)))

    return plant


OUTBOX_DAMAGE: list[tuple[str, str, Plant]] = [
    ("lock-state", "state", alter_outbox(STATE_OF_LOCK, lambda n: 7)),
    ("head-beyond-tail", "ends", alter_outbox(HEAD_OF_RING, lambda n: 1 << 40)),
    ("tail-too-far", "ends", alter_outbox(TAIL, lambda n: n + (1 << 40))),
    ("tail-far", "entry", alter_outbox(TAIL, lambda n: n + 4)),
    ("tail-within", "entry", alter_outbox(TAIL, lambda n: n - 1)),
    ("head-within", "entry", alter_outbox(HEAD_OF_RING, lambda n: n + 1)),
    ("begins-not", "entry", alter_entry(0, lambda n: n ^ 1 << 63)),
    ("number", "entry", alter_entry(0, lambda n: n + 1)),
    ("length", "entry", alter_entry(3, lambda n: n + (1 << 20))),
    ("kind", "entry", alter_entry(3, lambda n: n & 0xFFFFFFFF)),
    ("name-begins", "entry", alter_entry(4, lambda n: n | 1 << 63)),
    ("clock-falls", "clock", alter_entry(1, lambda n: 0)),
    ("clock-ahead", "clock", alter_entry(1, lambda n: 1 << 50)),
    ("mark-ahead", "clock", alter_outbox(MARK, lambda n: 99 << 16 | 1)),
    ("lowest-high", "lowest", alter_outbox(LOWEST, lambda n: 2)),
    ("lowest-none", "lowest", alter_outbox(LOWEST, lambda n: 2**64 - 1)),
]


@pytest.mark.parametrize(
    ("kind", "plant"), [d[1:] for d in OUTBOX_DAMAGE], ids=[d[0] for d in OUTBOX_DAMAGE]
)
def test_damage_of_the_outbox_is_found_and_outlived(
    kind: str, plant: Plant, damaged: tuple[Bytes, Table]
) -> None:
    b, table = damaged
    for name in (b"one", b"two", b"three"):
        table.number()
        table.outbox_add(1, name)
    assert not table.check_outbox()["found"]
    plant(b, table)
    assert kind in table.check_outbox()["found"]
    for _ in range(10):
        table.outbox_add(1, b"more")
        for number, *_rest in table.outbox_unsent(1 << 62, 100):
            table.outbox_sent(number)
        table.outbox_overflowed(table.outbox_overflow())


def test_every_kind_of_fault_of_the_outbox_is_planted() -> None:
    assert {kind for _, kind, _ in OUTBOX_DAMAGE} == set(binding.OUTBOX_FAULTS)


def test_lowest_that_is_too_low_is_no_fault(damaged: tuple[Bytes, Table]) -> None:
    b, table = damaged
    table.number()
    table.outbox_add(1, b"one")
    alter_outbox(LOWEST, lambda n: 0)(b, table)
    assert not table.check_outbox()["found"]
    assert table.outbox_unsent(1 << 62, 9) and table.outbox_lowest() == 1


# ---- listing


def test_records_are_listed_once_and_without_pieces(
    damaged: tuple[Bytes, Table],
) -> None:
    _, table = damaged
    rows = [row for shard in (0, 1) for row in table.records(shard, 0, 1 << 30, now=1)]
    keys = [row[0].decode() for row in rows]
    assert len(set(keys)) == len(keys) == 53
    long = rows[keys.index("long-1")]
    assert long[1:5] == (table.hash("long-1"), 300_000, binding.FRESH, binding.VALUE)
    high = table.hash("key-7") >> 32
    shard = table.hash("key-7") >> 54 & 1
    assert [r[0] for r in table.records(shard, 0, 1 << 30, wanted={high})] == [b"key-7"]
    assert table.records(shard, 0, 1 << 30, wanted=set()) == []


def test_invalidated_record_is_not_listed(table: Table) -> None:
    put(table, "k", tags=(3,))
    assert len(table.records(0, 0, 1 << 30)) == 1
    table.raise_tag(3, table.number())
    assert table.records(0, 0, 1 << 30) == []


@pytest.mark.parametrize("shard", [-1, 1, 1 << 20])
def test_shard_outside_the_segment_is_refused(table: Table, shard: int) -> None:
    for call in (table.check, lambda n: table.records(n, 0, 8)):
        with pytest.raises((IndexError, OverflowError)):
            call(shard)


# ---- any bytes

FUZZ = """
import mmap, random, sys
from shmcache._core.binding import Table
from shmcache.errors import LayoutMismatch
from tests.core.conftest import init
from tests.core.test_check import Bytes, checked, fill, places as fields
rng = random.Random(int(sys.argv[1]))
memory = mmap.mmap(-1, 2 << 20)
init(memory)
fill(Table(memory), rng, 6000)
while Table(memory).outbox_add(1, rng.randbytes(30)):
    pass
b = Bytes(memory)
sound = bytes(memory)
places = {name: (at, at + 4096) for name, at in b.at.items()} | {
    "shards": (b.at["shards"] + 64, b.at["shards"] + fields()["size"]),
    "index": (b.at["index"], b.at["index"] + b.geometry["buckets"] * 64),
    "extents": (b.at["extents"], len(memory)),
    "outbox": (b.at["outbox"] + 64, b.at["outbox"] + 1024),
    "header": (0, 4096), "any": (0, len(memory)),
}
faults = refused = 0
for i in range(300):
    if i % 30 == 0:
        memory[:] = sound
    low, high = places[rng.choice(list(places))] if i % 20 else (0, 64)
    at = rng.randrange(low, high)
    if b.at["shards"] <= at < b.at["shards"] + 64:
        continue
    memory[at] ^= 1 << rng.randrange(8)
    if i % 10 == 9:
        memory[at : at + 64] = rng.randbytes(64)[: len(memory) - at]
    try:
        table = Table(memory, read_only=True)
    except LayoutMismatch:
        refused += 1
        memory[0:4096] = sound[0:4096]
        continue
    faults += sum(sum(shard["found"].values()) for shard in checked(table))
    table.check_stripes()
    faults += sum(table.check_outbox()["found"].values())
    table.outbox_unsent(1 << 62, 1000), table.outbox_usage()
    for shard in range(table.geometry["shards"]):
        table.records(shard, 0, 1 << 20, now=1)
print(faults > 0, refused > 0)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_flipped_bits_never_crash_it(seed: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FUZZ, str(seed)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "True True\n"), ran.stderr
