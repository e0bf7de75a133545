"""The segment's file: made once, attached, refused, replaced, removed; who is alive."""

import fcntl
import mmap
import os
import subprocess
import sys
from multiprocessing import shared_memory

import pytest

from shmcache.errors import LayoutMismatch, SegmentError
from shmcache.l1 import L1, segment_name
from shmcache.segment import SHM, Segment
from tests.helpers import segment_name as unique
from tests.helpers import until

SIZE = 2 << 20


@pytest.fixture
def name():
    chosen = unique()
    yield chosen
    for path in SHM.glob(f"*{chosen}*"):
        path.unlink()


def child(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


HOLD = """
import sys
from shmcache.l1 import L1
l1 = L1.open(sys.argv[1], int(sys.argv[2]))
l1.join()
print(l1.segment.note, l1.table.slot, flush=True)
sys.stdin.read()
"""


def test_shared_memory_can_open_it(name):
    l1 = L1.open(name, SIZE)
    seen = shared_memory.SharedMemory(segment_name(name))
    try:
        assert bytes(seen.buf[:8]) == b"SHMCACHE"
        assert seen.size == SIZE
    finally:
        seen.close()
        # The standard library would unlink at exit what it only opened.
        from multiprocessing import resource_tracker

        resource_tracker.unregister(seen._name, "shared_memory")
        l1.close(keep=False)


def test_file_is_private_and_wholly_reserved(name):
    l1 = L1.open(name, SIZE)
    found = os.stat(l1.segment.path)
    assert found.st_mode & 0o777 == 0o600
    assert found.st_blocks * 512 >= SIZE
    l1.close(keep=False)


def test_last_one_out_removes_it(name):
    first, second = L1.open(name, SIZE), L1.open(name, SIZE)
    assert (first.segment.note, second.segment.note) == ("made", "attached")
    assert not first.close(keep=False)
    assert second.segment.path.exists()
    assert second.close(keep=False)
    assert not second.segment.path.exists()


def test_kept_segment_is_attached_again(name):
    L1.open(name, SIZE).close(keep=True)
    again = L1.open(name, SIZE)
    assert again.segment.note == "attached"
    again.close(keep=False)


def test_segment_in_use_with_another_size_is_refused(name):
    first = L1.open(name, SIZE)
    with pytest.raises(LayoutMismatch, match=r"in use.*another size"):
        L1.open(name, 2 * SIZE)
    first.close(keep=False)


def test_segment_left_with_another_size_is_replaced(name):
    L1.open(name, SIZE).close(keep=True)
    again = L1.open(name, 2 * SIZE)
    assert "another size" in again.segment.note
    assert again.table.geometry["size"] == 2 * SIZE
    again.close(keep=False)


@pytest.mark.parametrize("left", [b"", b"x", b"x" * 5000, bytes(SIZE)])
def test_unfinished_file_is_replaced(name, left):
    path = SHM / segment_name(name)
    path.write_bytes(left)
    path.chmod(0o600)
    l1 = L1.open(name, SIZE)
    assert l1.table.geometry["size"] == SIZE
    l1.close(keep=False)


def test_file_that_others_may_read_is_refused(name):
    path = SHM / segment_name(name)
    path.touch(0o600)
    path.chmod(0o644)
    with pytest.raises(SegmentError, match="mode"):
        L1.open(name, SIZE)


def test_link_is_refused(name, tmp_path):
    target = tmp_path / "target"
    target.touch()
    (SHM / segment_name(name)).symlink_to(target)
    with pytest.raises(SegmentError, match="cannot be opened"):
        L1.open(name, SIZE)
    assert target.read_bytes() == b""


def test_size_that_does_not_fit_says_so_and_leaves_nothing(name):
    room = os.statvfs(SHM)
    huge = room.f_blocks * room.f_frsize * 2 // mmap.PAGESIZE * mmap.PAGESIZE
    with pytest.raises(SegmentError, match=r"size: .* does not fit .* free"):
        L1.open(name, huge)
    assert not list(SHM.glob(f"*{name}*"))


def test_size_too_small_is_refused(name):
    with pytest.raises(SegmentError, match="too small"):
        L1.open(name, 4096)
    assert not list(SHM.glob(f"*{name}*"))


def test_creators_racing_make_one(name):
    racers = [child(HOLD, name, SIZE) for _ in range(8)]
    try:
        notes = [racer.stdout.readline().split() for racer in racers]
        assert sorted(note for note, _ in notes) == ["attached"] * 7 + ["made"]
        assert len({slot for _, slot in notes}) == 8
        inodes = {os.stat(SHM / segment_name(name)).st_ino}
        assert len(inodes) == 1
    finally:
        for racer in racers:
            racer.communicate("")


def test_killed_process_leaves_slot_and_segment_to_others(name):
    holder = child(HOLD, name, SIZE)
    assert holder.stdout.readline().split() == ["made", "0"]
    l1 = L1.open(name, SIZE)
    l1.join()
    incarnation = l1.table.slot_info(0)[0]
    assert l1.table.slot == 1
    assert l1.alive(0, incarnation)
    holder.kill()
    holder.communicate()
    assert not l1.alive(0, incarnation)
    successor = L1.open(name, SIZE)
    successor.join()
    assert successor.table.slot == 0
    assert not l1.alive(0, incarnation)  # another incarnation is not the dead one
    assert l1.alive(0, successor.table.incarnation)
    successor.close()
    l1.close(keep=False)


def test_forked_child_does_not_keep_its_parent_alive(name):
    code = """
import os, sys
from shmcache.l1 import L1
l1 = L1.open(sys.argv[1], int(sys.argv[2]))
l1.join()
if os.fork() == 0:
    print("child", os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
os.wait()
"""
    parent = child(code, name, SIZE)
    assert parent.stdout.readline().startswith("child")
    l1 = L1.open(name, SIZE)
    incarnation = l1.table.slot_info(0)[0]
    assert l1.alive(0, incarnation)
    os.kill(parent.pid, 9)
    until(lambda: not l1.alive(0, incarnation), what="the slot to be free")
    parent.communicate("")
    l1.close(keep=True)


def test_wake_sockets_go_with_the_segment(name):
    l1 = L1.open(name, SIZE)
    left = SHM / f"{segment_name(name)}.w7"
    left.touch()
    assert l1.close(keep=False)
    assert not left.exists()


def test_attachers_meet_removers_and_never_two_segments(name):
    """Opening and removing at once: whoever is attached shares one inode."""
    code = """
import os, sys
from shmcache.l1 import L1
for _ in range(40):
    l1 = L1.open(sys.argv[1], int(sys.argv[2]))
    fd = l1.segment._fd
    ours, named = os.fstat(fd), os.stat(l1.segment.path)
    assert ours.st_ino == named.st_ino and ours.st_nlink == 1
    l1.close(keep=False)
print("done")
"""
    racers = [child(code, name, SIZE) for _ in range(4)]
    for racer in racers:
        out, _ = racer.communicate("", timeout=60)
        assert (racer.returncode, out.strip()) == (0, "done")


def test_slot_byte_is_locked_once(name):
    first, second = L1.open(name, SIZE), L1.open(name, SIZE)
    byte = first.table.slot_offset(3)
    assert first.segment.lock_slot(byte)
    assert not second.segment.lock_slot(byte)
    assert isinstance(second.segment, Segment)
    first.close()
    assert second.segment.lock_slot(byte)
    second.close(keep=False)


def test_two_last_ones_closing_at_once_remove_it(name, monkeypatch):
    """1. the first is about to ask for the exclusive lock; 2. the second asks, both
    still attached; 3. the first asks: one of them must have had it."""
    first, second = L1.open(name, SIZE).segment, L1.open(name, SIZE).segment
    flock, removed = fcntl.flock, []

    def interleaved(fd, operation):
        if operation & fcntl.LOCK_EX and not removed:
            removed.append(False)
            removed.append(second.remove())
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", interleaved)
    removed.append(first.remove())
    assert any(removed)
    assert not first.path.exists()
    first.detach()
    second.detach()


def test_segment_whose_name_begins_alike_is_left_alone(name):
    one, other = L1.open(name, SIZE), L1.open(f"{name}.w1x", SIZE)
    beside = SHM / f"{other.segment.path.name}.w3"
    beside.touch()
    one.close(keep=False)
    assert other.segment.path.exists() and beside.exists()
    other.close(keep=False)


def test_child_that_lets_go_leaves_the_parents_hold(name):
    """A flock belongs to the description, which fork shares: a child that closes its
    inherited one must not unlock, and so remove, its parent's segment."""
    code = """
import os, sys
from shmcache.l1 import L1
l1 = L1.open(sys.argv[1], int(sys.argv[2]))
l1.join()
if os.fork() == 0:
    print(l1.close(keep=False), flush=True)
    os._exit(0)
os.wait()
print(l1.segment.path.exists(), l1.close(keep=False), flush=True)
"""
    parent = child(code, name, SIZE)
    out, _ = parent.communicate("")
    assert out.split() == ["False", "True", "True"]
