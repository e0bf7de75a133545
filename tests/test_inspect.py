"""What tools see of a segment, live or left over, and that looking holds nobody up."""

from __future__ import annotations

import hashlib
import mmap
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmcache import inspect
from shmcache._core import binding
from shmcache.clock import FakeClock
from shmcache.errors import SegmentError, SegmentGone
from shmcache.inspect import View
from shmcache.l1 import L1, segment_name
from shmcache.record import Record
from shmcache.segment import SHM
from tests.helpers import segment_name as unique

SIZE = 2 << 20
S = 10**9

HOLD = """
import sys
from shmcache.l1 import L1
from shmcache.record import Record
l1 = L1.open(sys.argv[1], int(sys.argv[2]))
if sys.argv[3] == "joined":
    l1.join()
    l1.table.claim_take("claimed")
    now = l1.clock.now()
    for i in range(5000):
        value = Record(b"v" * 200, 0, 0, now, now + 10**12, now + 10**12, 0, 1, 2, ())
        assert l1.put(b"key-%d" % i, value) == 0
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def name() -> Iterator[str]:
    chosen = unique()
    yield chosen
    for path in SHM.glob(f"*{chosen}*"):
        path.unlink()


@pytest.fixture
def hold() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that has the segment attached."""
    started: list[subprocess.Popen[str]] = []

    def hold(name: str, how: str = "joined") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, name, str(SIZE), how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def left_over(name: str) -> Path:
    """A sound segment that nobody holds."""
    L1.open(name, SIZE).close(keep=True)
    return SHM / segment_name(name)


def header_offset(field: str) -> int:
    """Of a field of `shmc_header`, as table.h draws it."""
    return {"layout_hash": 12, "boot_id": 80, "clock_ns": 96, "uid": 112}[field]


def patch(path: Path, at: int, new: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(new)


# ---- who holds it


def test_segment_left_by_a_kill_is_checked_listed_and_removed(name, hold) -> None:
    holder = hold(name)
    holder.kill()
    holder.communicate()
    file = segment_name(name)
    beside = SHM / f"{file}~0"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wake:
        wake.bind(str(beside))
    assert file in inspect.names() and inspect.names(name) == [file]
    with View.open(file) as view:
        report = view.check()
        assert (view.holders(), view.why, report.faults) == ([], None, [])
        assert not view.slots()[0].alive and view.slots()[0].pid == holder.pid
        assert report.records > 1000 and report.claims.dead == 1
    assert inspect.clean(file) is None
    assert not beside.exists() and inspect.names(name) == []


@pytest.mark.parametrize("how", ["joined", "attached"])
def test_held_segment_is_not_removed(name, hold, how) -> None:
    holder = hold(name, how)
    file = segment_name(name)
    with View.open(file) as view:
        assert view.holders() == [holder.pid]
        assert [slot.alive for slot in view.slots()] == [True] * (how == "joined")
        assert view.check().faults == []
    assert inspect.clean(file) == "it is held"
    assert (SHM / file).exists()


def test_view_keeps_no_segment(name) -> None:
    """1. somebody looks; 2. the last process stops, removes the file, and gives its
    pages back; 3. the view finds no fault in that."""
    l1 = L1.open(name, SIZE)
    l1.join()
    view = View.open(segment_name(name))
    assert l1.close(keep=False)
    report = view.check()
    assert (report.faults, report.notes) == ([], ["it was removed meanwhile"])
    assert view.holders() == []
    view.close()


def test_view_is_no_holder_for_clean(name) -> None:
    left_over(name)
    with View.open(segment_name(name)):
        assert inspect.clean(segment_name(name)) is None


def mapped_for_reading(path: Path) -> bool:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return any(line.endswith(str(path)) and " r--s " in line for line in lines)


def test_closed_view_unmaps_the_segment(name) -> None:
    path = left_over(name)
    view = View.open(path.name)
    view.check()
    assert mapped_for_reading(path)
    view.close()
    assert not mapped_for_reading(path)


def test_check_changes_no_byte(name, hold) -> None:
    holder = hold(name)
    holder.kill()
    holder.communicate()
    path = SHM / segment_name(name)
    before = hashlib.sha256(path.read_bytes()).digest()
    with View.open(path.name) as view:
        view.check()
        list(view.records())
        view.hot()
    assert hashlib.sha256(path.read_bytes()).digest() == before


# ---- why it cannot be attached


@pytest.mark.parametrize(
    ("field", "new", "words"),
    [
        ("layout_hash", b"\0\1\2\3", "another build's"),
        ("boot_id", bytes(16), "before the last boot"),
        ("clock_ns", b"\7" * 8, "clock namespace"),
        ("uid", struct.pack("I", os.geteuid() + 1), "another user"),
    ],
)
def test_foreign_segment_says_why_and_may_be_cleaned(name, field, new, words) -> None:
    path = left_over(name)
    patch(path, header_offset(field), new)
    with View.open(path.name) as view:
        assert view.why is not None and words in view.why and not view.damaged
        report = view.check()
        assert report.faults == [] and view.why in report.notes
    assert inspect.clean(path.name) is None


def test_foreign_segment_in_use_is_left(name, hold) -> None:
    holder = hold(name, "attached")
    path = SHM / segment_name(name)
    patch(path, header_offset("layout_hash"), b"\0\1\2\3")
    with View.open(path.name) as view:
        assert "another build's" in str(view.why)
        assert view.holders() == [holder.pid]
    assert inspect.clean(path.name) == "it is held"


@pytest.mark.parametrize(
    ("make", "words", "damaged"),
    [
        (lambda path: os.truncate(path, 0), "never finished", False),
        (lambda path: path.write_bytes(bytes(SIZE)), "never finished", False),
        (
            lambda path: path.write_bytes(b"SHMCACHE".ljust(SIZE, b"\0")),
            "never fin",
            False,
        ),
        (lambda path: path.write_bytes(b"x" * SIZE), "no segment", True),
        (lambda path: os.truncate(path, SIZE // 2), "truncated", True),
        (lambda path: patch(path, 32 + 8, b"\xff" * 4), "contradicts itself", True),
    ],
    ids=["empty", "zeros", "begun", "garbage", "truncated", "geometry"],
)
def test_unusable_file_says_why(name, make, words, damaged) -> None:
    path = left_over(name)
    make(path)
    with View.open(path.name) as view:
        assert view.why is not None and words in view.why
        assert view.damaged == damaged
        assert len(view.check().faults) == damaged
        assert list(view.records()) == [] and view.hot() == ([], [])


def test_damage_is_told_with_its_place(name) -> None:
    path = left_over(name)
    with View.open(path.name) as view:
        index = next(r.offset for r in view.regions() if r.name == "index")
    patch(path, index + 8 * 9, b"\xff" * 8)
    with View.open(path.name) as view:
        (fault,) = view.check().faults
        assert fault.startswith("shard 0: slot 9 is of a past generation")


def test_missing_file_and_foreign_files_are_refused(name, tmp_path) -> None:
    with pytest.raises(SegmentGone):
        View.open(segment_name(name))
    path = SHM / segment_name(name)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SegmentError):
        View.open(path.name)
    path.unlink()
    left_over(name).chmod(0o644)
    with pytest.raises(SegmentError, match="0600"):
        View.open(path.name)
    assert "0600" in str(inspect.clean(path.name))
    assert path.exists()


@pytest.mark.parametrize(
    "form",
    ["other-{}", "shmcache-{}", "shmcache.{}", "shmcache.12345678.{}\x1b[31m"],
)
def test_other_names_are_never_touched(name, form) -> None:
    beside = SHM / form.format(name)
    beside.touch(0o600)
    assert beside.name not in inspect.names()
    assert inspect.clean(beside.name) is not None and beside.exists()
    with pytest.raises(SegmentError, match="none that shmcache makes"):
        View.open(beside.name)


def test_name_that_leads_elsewhere_is_refused(name) -> None:
    folder, victim = SHM / f"shmcache.12345678.{name}", SHM / f"victim-{name}"
    folder.mkdir()
    try:
        victim.touch(0o600)
        assert inspect.clean(f"{folder.name}/../{victim.name}") is not None
        assert victim.exists()
    finally:
        folder.rmdir()


def test_pipe_is_refused_and_not_waited_for(name) -> None:
    path = SHM / segment_name(name)
    os.mkfifo(path, 0o600)
    code = "import sys; from shmcache.inspect import View; View.open(sys.argv[1])"
    told = subprocess.run(
        [sys.executable, "-c", code, path.name],
        capture_output=True, text=True, timeout=10,
    )  # fmt: skip
    assert "no file of our own" in told.stderr.splitlines()[-1]
    assert inspect.names(name) == [] and inspect.clean(path.name) is not None


def test_segment_that_somebody_else_removed_is_gone(name) -> None:
    assert inspect.clean(segment_name(name)) is None


def test_holders_are_read_from_the_slots_where_locks_are_hidden(
    name, hold, monkeypatch
) -> None:
    holder = hold(name)
    monkeypatch.setattr(inspect, "_LOCKS", Path("/proc/none"))
    with View.open(segment_name(name)) as view:
        assert view.holders() == [holder.pid]


def test_view_that_cannot_map_says_why(name) -> None:
    """In a process whose address space is limited."""
    left_over(name)
    code = """
import resource, sys
from shmcache.inspect import View
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), -1))
print(View.open(sys.argv[1]).why)
"""
    told = subprocess.run(
        [sys.executable, "-c", code, segment_name(name)],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert told.stdout.startswith("it cannot be mapped: "), told.stderr


def test_segment_whose_name_begins_alike_is_not_meant(name) -> None:
    mine, other = left_over(name), left_over(f"{name}2")
    assert inspect.names(name) == [mine.name]
    assert inspect.names(mine.name) == [mine.name]
    assert {mine.name, other.name} <= set(inspect.names())


# ---- what stands there


@pytest.fixture
def l1(name) -> Iterator[L1]:
    opened = L1.open(name, SIZE, clock=FakeClock())
    opened.join()
    yield opened
    opened.close(keep=False)


def put(l1: L1, key: bytes, value: bytes = b"v", ttl: int = 10, **more) -> None:
    now = l1.clock.now()
    record = Record(value, 0, 0, now, now + ttl * S, now + 2 * ttl * S, 0, 1, 0, ())
    assert l1.put(key, record._replace(**more)) == 0


def test_regions_lie_beside_each_other(l1) -> None:
    with View.open(l1.segment.path.name) as view:
        regions = view.regions()
        assert {"slots", "claims", "shards", "index", "extents"} <= {
            r.name for r in regions
        }
        ends = [r.offset + r.bytes for r in regions]
        assert (
            all(a <= b.offset for a, b in zip(ends, regions[1:], strict=False))
            and ends[-1] <= SIZE == view.file_bytes
        )
        assert view.geometry == l1.table.geometry
        assert view.name == l1.segment.path.name.split(".", 2)[2]


def test_records_are_told_with_their_states(l1) -> None:
    put(l1, b"fresh", b"x" * 300, ttl=100)
    put(l1, b"stale", ttl=10)
    put(l1, b"dead", ttl=1)
    put(l1, b"long", bytes(100_000), ttl=100, fill_us=77)
    l1.clock.advance(15)
    with View.open(l1.segment.path.name) as view:
        seen = {r.key: r for r in view.records(l1.clock)}
    assert {key: r.state for key, r in seen.items()} == {
        b"fresh": "fresh", b"stale": "stale", b"dead": "dead", b"long": "fresh"
    }  # fmt: skip
    assert seen[b"fresh"].value_bytes == 300
    assert (seen[b"long"].value_bytes, seen[b"long"].fill_us) == (100_000, 77)
    assert seen[b"fresh"].hash == l1.table.hash("fresh")


def test_hot_keys_are_told_by_name_while_they_stand(l1) -> None:
    for i in range(5):
        put(l1, b"key-%d" % i, ttl=1000, fill_us=64_000 * (i + 1))
    for i, hits in enumerate((640, 1280, 64)):
        for _ in range(hits):
            assert l1.peek(b"key-%d" % i)
    l1.table.drop("key-4")
    with View.open(l1.segment.path.name) as view:
        hits, fills = view.hot(l1.clock)
    assert [(h.key, h.weight) for h in hits] == [
        (b"key-1", 1280), (b"key-0", 640), (b"key-2", 64)
    ]  # fmt: skip
    assert [h.key for h in fills] == [None, b"key-3", b"key-2", b"key-1", b"key-0"]
    assert fills[0].hash == l1.table.hash("key-4") >> 32
    assert fills[1].weight == pytest.approx(0.256, rel=0.01)


def test_slots_tell_age_of_beat_and_incarnation(l1) -> None:
    l1.clock.advance(3)
    with View.open(l1.segment.path.name) as view:
        (slot,) = view.slots(l1.clock)
    assert slot == (0, os.getpid(), 1, True, 3.0)


def test_check_of_a_live_segment_agrees_with_its_own_counts(l1) -> None:
    for i in range(20_000):
        put(l1, b"key-%d" % (i % 9000), b"x" * (i % 500), ttl=100)
    l1.table.claim_take("claimed")
    with View.open(l1.segment.path.name) as view:
        report = view.check(l1.clock)
    stats = l1.stats()
    assert report.faults == []
    assert (report.records, report.live_bytes, report.capacity_bytes) == (
        stats.records, stats.live_bytes, stats.capacity_bytes
    )  # fmt: skip
    assert report.claims.held == 1 and report.counters == stats.counters


def test_clock_cost_is_a_positive_time() -> None:
    assert 1 < inspect.clock_cost() < 100_000


def test_view_of_a_buffer_is_for_reading_only(l1) -> None:
    with View.open(l1.segment.path.name) as view:
        assert view.table is not None
        with pytest.raises(SegmentError, match="reading only"):
            view.table.drop("k")
        with pytest.raises(SegmentError, match="reading only"):
            view.table.words("stream").store(0, 1)


def test_words_outlive_their_reader(l1) -> None:
    """A region's words point into the mapping: they keep it."""
    with l1.segment.path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    words = binding.Table(memory, read_only=True).words("stream")
    with pytest.raises(BufferError):
        memory.close()
    assert words.load(0) == 0
    del words
    memory.close()
