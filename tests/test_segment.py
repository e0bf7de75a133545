"""The segment's file: made once, attached, refused, replaced, removed; who is alive."""

import contextlib
import fcntl
import mmap
import os
import re
import resource
import signal
import subprocess
import sys
import time
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from shmcache import Cache, CacheConfig, room, segment
from shmcache.config import NAME
from shmcache.errors import LayoutMismatch, SegmentError, SegmentGone
from shmcache.l1 import L1, segment_name
from shmcache.segment import CUT, REMOVED, SHM, TAKEN, Segment
from tests.helpers import segment_name as unique
from tests.helpers import until
from tests.redis_server import eventually

SIZE = 2 << 20


@pytest.fixture
def name():
    chosen = unique()
    yield chosen
    for path in SHM.glob(f"*{chosen}*"):
        path.unlink()


def may_unshare():
    done = subprocess.run(["unshare", "-rm", "true"], capture_output=True)
    return done.returncode == 0


# A mount of our own, by a user namespace or, where only root may, without one.
NAMESPACE = ["unshare", "-rm"] if may_unshare() else ["unshare", "-m"]


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


# Byte of the header, what is written there, and the reason told (table.h).
DIFFERENCES = {
    "no-segment": (0, b"SOMETHING", "it is no segment"),
    "layout": (8, b"\7\0\0\0\1", r"its layout \(7\) is another build's"),
    "layout-hash": (12, b"\1\2\3\4", "layout .* another build's"),
    "geometry": (40, b"\2\0\0\0", "its header contradicts itself"),
    "boot-id": (80, b"another boot", "made before the last boot"),
    "clock-namespace": (96, b"\1\2\3\4\5\6\7\0", "its clock namespace is another"),
    "configuration": (104, b"\1\2\3\4", "another size or record size"),
    "owner": (112, b"\1\2\3\0", "its owner is another user"),
    "region": (120 + 16, b"\0\0\0\0\1", "its header contradicts itself"),
    "not-ready": (1408, b"\0\0\0\0", "it was never finished"),
}
differing = pytest.mark.parametrize(
    ("at", "written", "why"), DIFFERENCES.values(), ids=DIFFERENCES
)


def poke(path, at, written):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(written)


@differing
def test_left_segment_that_differs_is_replaced_with_the_reason(name, at, written, why):
    left = L1.open(name, SIZE)
    left.close(keep=True)
    path = left.segment.path
    inode = path.stat().st_ino
    poke(path, at, written)
    with path.open("rb") as old:  # or the next file may get its inode
        again = L1.open(name, SIZE)
        assert path.stat().st_ino != inode == os.fstat(old.fileno()).st_ino
    assert re.match(rf"replaced: .*{why}", again.segment.note)
    again.close(keep=False)


@differing
def test_segment_in_use_that_differs_is_refused_and_left_alone(
    name, at, written, why, monkeypatch
):
    """Whoever is attached goes on; the newcomer is told why, and what to do."""
    monkeypatch.setattr(segment, "_IN_USE_SECONDS", 0.02)
    monkeypatch.setattr(segment, "_ATTACH_DEADLINE", 0.05)
    live = L1.open(name, SIZE)
    inode = live.segment.path.stat().st_ino
    poke(live.segment.path, at, written)
    error = SegmentGone if "finished" in why else LayoutMismatch
    with pytest.raises(error, match=why) as caught:
        L1.open(name, SIZE)
    assert str(live.segment.path) in str(caught.value)
    assert live.segment.path.stat().st_ino == inode and live.segment.lost() == ""
    live.close(keep=False)


def test_truncated_file_is_replaced(name):
    left = L1.open(name, SIZE)
    left.close(keep=True)
    os.truncate(left.segment.path, SIZE // 2)
    again = L1.open(name, SIZE)
    assert again.segment.note == f"replaced: it was truncated to {SIZE // 2} bytes"
    again.close(keep=False)


def test_two_layouts_run_side_by_side(name, monkeypatch):
    one = L1.open(name, SIZE)
    monkeypatch.setattr("shmcache.l1.binding.layout_hash", lambda: 0x1234)
    assert segment_name(name) != one.segment.path.name
    other = L1.open(name, SIZE)
    assert other.segment.note == "made" and one.segment.lost() == ""
    one.close(keep=False)
    other.close(keep=False)


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


def test_fifo_is_refused(name):
    os.mkfifo(SHM / segment_name(name), 0o600)
    with pytest.raises(SegmentError, match=r"file of our own.* mode prw"):
        L1.open(name, SIZE)


def test_hard_link_is_refused(name):
    path = SHM / segment_name(name)
    path.touch(0o600)
    os.link(path, f"{path}.again")
    with pytest.raises(SegmentError, match="2 links"):
        L1.open(name, SIZE)


def test_file_of_another_user_is_refused(name):
    """As root; a user cannot even make one."""
    path = SHM / segment_name(name)
    path.touch(0o600)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        with pytest.raises(SegmentError, match="uid 12345"):
            L1.open(name, SIZE)
        assert os.stat(path).st_uid == 12345
    said = as_user(12346, name)
    assert "SegmentError" in said and "Permission denied" in said
    assert f"uid {os.stat(path).st_uid}" in said


def as_user(uid, name):
    """What a process of another user is told that opens our segment."""
    code = """
import os, sys
from shmcache.l1 import L1
if os.geteuid() == 0:
    os.setuid(int(sys.argv[3]))
else:  # cannot become another: what is refused to us is refused alike
    os.chmod(os.path.join("/dev/shm", sys.argv[4]), 0)
try:
    L1.open(sys.argv[1], int(sys.argv[2]))
except Exception as e:
    print(type(e).__name__, e)
"""
    process = child(code, name, SIZE, uid, segment_name(name))
    return process.communicate("")[0]


# -- a size that does not fit


def test_size_above_the_free_space_says_so_and_leaves_nothing(name):
    found = os.statvfs(SHM)
    huge = found.f_blocks * found.f_frsize * 2 // mmap.PAGESIZE * mmap.PAGESIZE
    began = time.monotonic()
    with pytest.raises(SegmentError, match=r"size: .* does not fit .* bytes free"):
        L1.open(name, huge)
    assert time.monotonic() - began < 1
    assert not list(SHM.glob(f"*{name}*"))


def test_size_above_the_memory_limit_says_so_and_leaves_nothing(
    name, tmp_path, monkeypatch
):
    limit = room.Limit(tmp_path / "memory.max", SIZE, 4096)
    monkeypatch.setattr(room, "memory_limits", lambda: iter([limit]))
    with pytest.raises(SegmentError, match=rf"size: .*limit of {SIZE} bytes .*4096"):
        L1.open(name, SIZE)
    assert not list(SHM.glob(f"*{name}*"))


TOLD = """
import sys
from shmcache.l1 import L1
from shmcache.errors import SegmentError
if "blind" in sys.argv:  # as if the room went between the look and the step
    from shmcache import room, segment
    segment._STEP = 2**18
    look, looks = room.refusal, iter([True])
    room.refusal = lambda *a: None if next(looks, False) else look(*a)
try:
    L1.open(sys.argv[1], int(sys.argv[2]))
except SegmentError as e:
    print(e)
"""


@pytest.mark.parametrize("how", ["told", "blind"])
def test_file_size_limit_is_told_and_no_signal_kills(name, how):
    """The kernel sends SIGXFSZ with EFBIG."""
    limit = (SIZE // 2, SIZE // 2)
    process = child(
        TOLD, name, SIZE, how,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )  # fmt: skip
    said, _ = process.communicate("")
    assert process.returncode == 0
    assert said.startswith("size: ") and f"RLIMIT_FSIZE is {SIZE // 2} bytes" in said
    assert not list(SHM.glob(f"*{name}*"))


@pytest.mark.parametrize("how", ["told", "blind"])
def test_small_tmpfs_is_told_and_nothing_is_left(name, how, tmp_path):
    """On a /dev/shm of 1 MiB in a mount namespace of its own."""
    script = tmp_path / "told.py"
    script.write_text(TOLD + "import os; print(os.listdir('/dev/shm'))")
    inner = f"mount -t tmpfs -o size=1m tmpfs {SHM} && exec {sys.executable} {script}"
    command = [*NAMESPACE, "sh", "-c", f"{inner} {name} {SIZE} {how}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines()[1:] == ["[]"], done.stderr
    assert re.match(r"size: .* does not fit /dev/shm, .* 10[0-9]+ bytes", done.stdout)


def test_address_space_limit_is_told(name):
    held = L1.open(name, 64 << 20)
    code = TOLD.replace(
        "try:",
        "import resource\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + 2**25\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\ntry:",
    )
    said, _ = child(code, name, 64 << 20).communicate("")
    assert said.startswith("size: ") and "ulimit -v" in said
    held.close(keep=False)


def test_reserving_is_done_in_steps_that_no_signal_ends(name, monkeypatch):
    """A signal undoes a step of the reservation on some kernels, and it is begun anew:
    one that comes oftener than a step takes would keep it busy for ever."""
    monkeypatch.setattr(segment, "_STEP", 64 << 20)
    reserve, steps, came = os.posix_fallocate, [], []

    def step(fd, at, size):
        assert signal.SIGALRM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        steps.append(size)
        reserve(fd, at, size)

    monkeypatch.setattr(os, "posix_fallocate", step)
    before = signal.signal(signal.SIGALRM, lambda *_: came.append(len(steps)))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        l1 = L1.open(name, 160 << 20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert steps == [64 << 20, 64 << 20, 32 << 20]
    assert {1, 2} <= set(came), "heard between the steps"
    assert os.stat(l1.segment.path).st_blocks * 512 >= 160 << 20
    l1.close(keep=False)


def test_interrupted_creator_leaves_nothing(name, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "posix_fallocate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        L1.open(name, SIZE)
    assert not list(SHM.glob(f"*{name}*"))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


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
    left = SHM / f"{segment_name(name)}~7"
    left.touch()
    assert l1.close(keep=False)
    assert not left.exists()


def test_last_one_tidies_up_beside_a_segment_that_is_kept(name):
    """A process that was killed leaves its socket, and nobody may take its slot."""
    first, last = L1.open(name, SIZE), L1.open(name, SIZE)
    left, others = (SHM / segment_name(f"{name}{end}") for end in ("~7", ".w1~7"))
    left.touch()
    others.touch()
    try:
        first.close(keep=True)
        assert left.exists()
        last.close(keep=True)
        assert not left.exists()
        assert others.exists()
        assert L1.open(name, SIZE).close(keep=False)
    finally:
        others.unlink()


@pytest.mark.parametrize("keep", [True, False])
def test_what_cannot_be_removed_beside_it_holds_up_nobody(name, keep):
    l1 = L1.open(name, SIZE)
    stays = SHM / segment_name(f"{name}~7")
    stays.mkdir()
    try:
        assert l1.close(keep=keep) is not keep
        assert L1.open(name, SIZE).close(keep=False)
    finally:
        stays.rmdir()


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
    one, other = L1.open(name, SIZE), L1.open(f"{name}.w1", SIZE)
    beside = SHM / f"{other.segment.path.name}~3"
    beside.touch()
    one.close(keep=False)
    assert other.segment.path.exists() and beside.exists()
    other.close(keep=False)


def test_no_cache_can_bear_the_name_of_a_wake_socket(name):
    l1 = L1.open(name, SIZE)
    wake = Path(l1.segment.wake_path(1)).name
    assert not re.fullmatch(NAME, wake.removeprefix(segment_name("")))
    l1.close(keep=False)


def test_child_forked_within_a_removal_goes_on(name):
    """1. one thread removes the segment: it has the exclusive lock; 2. another forks:
    the child is born with the descriptor of that lock."""
    code = """
import fcntl, os, signal, sys
from shmcache.l1 import L1
l1 = L1.open(sys.argv[1], int(sys.argv[2]))
fcntl.flock(l1.segment._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
signal.alarm(5)
if os.fork() == 0:
    os._exit(0)
l1.segment.path.unlink()
l1.segment.detach()
os.wait()
"""
    parent = child(code, name, SIZE, start_new_session=True)
    try:
        assert parent.wait(10) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()


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


# -- what somebody else does to the file


def test_removed_file_is_told_and_used_on(name):
    one, other = L1.open(name, SIZE), L1.open(name, SIZE)
    assert one.segment.lost() == ""
    one.segment.path.unlink()
    assert one.segment.lost() == REMOVED
    one.table.raise_all(one.table.number())
    assert other.table.clock() == one.table.clock() == 1, "still one memory"
    assert not one.close(keep=False)
    assert one.segment.lost() == "", "no longer asked"
    assert other.close(keep=False)


def test_file_that_takes_the_name_is_told_and_left_alone(name):
    one = L1.open(name, SIZE)
    one.segment.path.unlink()
    other = L1.open(name, SIZE)
    assert (one.segment.lost(), other.segment.lost()) == (TAKEN, "")
    one.close(keep=False)
    assert other.segment.lost() == ""
    other.close(keep=False)


def test_truncated_file_is_told(name):
    one = L1.open(name, SIZE)
    os.truncate(one.segment.path, SIZE - 4096)
    assert one.segment.lost() == CUT
    one.close(keep=False)


# -- the mapping and its descriptors


def flags_of(path):
    """Of the mapping of that file in this process."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(path)):
            return next(at for at in lines if at.startswith("VmFlags")).split()
    raise AssertionError(f"{path} is not mapped")


def test_mapping_is_left_out_of_core_dumps(name):
    l1 = L1.open(name, SIZE)
    assert "dd" in flags_of(l1.segment.path)
    l1.close(keep=False)


def test_mapping_asks_for_huge_pages_where_there_are_any(name):
    l1 = L1.open(name, SIZE)
    known = Path("/sys/kernel/mm/transparent_hugepage").exists()
    assert ("hg" in flags_of(l1.segment.path)) is known
    l1.close(keep=False)


def test_started_program_inherits_no_descriptor(name):
    l1 = L1.open(name, SIZE)
    l1.join()
    command = ["ls", "-l", "/proc/self/fd"]
    done = subprocess.run(command, close_fds=False, capture_output=True, text=True)
    assert "/proc/" in done.stdout and name not in done.stdout
    l1.close(keep=False)


@pytest.mark.parametrize("error", [LayoutMismatch("not usable"), MemoryError()])
def test_segment_that_cannot_be_used_is_let_go(name, monkeypatch, error):
    held = L1.open(name, SIZE)

    def broken(memory):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("shmcache.l1.binding.Table", broken)
        with pytest.raises(type(error)):
            L1.open(name, SIZE)
    held.close(keep=True)
    last = L1.open(name, SIZE)
    assert last.close(keep=False), "nobody else holds it"


# -- races


RACE = """
import os, random, signal, sys, time
from shmcache.l1 import L1
name, size, rounds, kill = sys.argv[1], *map(int, sys.argv[2:])
random.seed(rounds)

def racer(told, start, end):
    os.read(start, 1)
    l1 = L1.open(name, size)
    l1.join()
    found = os.fstat(l1.segment._fd)
    os.write(told, f"{found.st_ino} {found.st_nlink} {l1.table.slot}\\n".encode())
    os.read(end, 1)
    l1.close(keep=False)
    os._exit(0)

for round in range(rounds):
    (answers, told), (start, go), (end, stop) = os.pipe(), os.pipe(), os.pipe()
    pids = []
    for _ in range(16):
        if not (pid := os.fork()):
            os.close(go), os.close(stop)
            racer(told, start, end)
        pids.append(pid)
    os.close(told), os.close(start), os.close(end)
    os.close(go)
    if kill:
        time.sleep(random.uniform(0, 0.01))
        os.kill(pids[0], signal.SIGKILL)
    lines = b""
    while lines.count(b"\\n") < 16 - kill:
        assert (more := os.read(answers, 4096)), lines
        lines += more
    found = [line.split() for line in lines.decode().splitlines()]
    assert len({inode for inode, _, _ in found}) == 1, found
    assert {links for _, links, _ in found} == {"1"}, found
    assert len({slot for _, _, slot in found}) >= len(found) - kill, found
    os.close(stop)
    ended = [os.waitpid(pid, 0)[1] for pid in pids]
    assert ended[1:] == [0] * 15, ended
    os.close(answers)
print("done")
"""


@pytest.mark.parametrize("kill", [0, 1], ids=["all-live", "one-killed"])
def test_sixteen_creators_racing_share_one_segment(name, kill):
    """Whoever makes it, and whoever is killed at it: in the end all who live are
    attached to one file, whose name it is."""
    racers = child(RACE, name, SIZE, 12, kill)
    out, _ = racers.communicate("", timeout=60)
    assert (racers.returncode, out.strip()) == (0, "done")


def test_racers_replace_a_left_segment_that_differs(name):
    """1. two look at it under the shared lock; 2. each asks for the exclusive one, and
    the other's look is in its way. Neither may take that for a segment in use."""
    L1.open(name, 2 * SIZE).close(keep=True)
    racers = child(RACE, name, SIZE, 1, 0)
    out, _ = racers.communicate("", timeout=60)
    assert (racers.returncode, out.strip()) == (0, "done")


def test_look_of_another_is_not_taken_for_use(name, monkeypatch):
    """The interleaving above, forced."""
    L1.open(name, 2 * SIZE).close(keep=True)
    path = SHM / segment_name(name)
    looking = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(looking, fcntl.LOCK_SH)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            os.close(looking)

    monkeypatch.setattr(time, "sleep", sleep)
    l1 = L1.open(name, SIZE)
    assert len(slept) == 3 and "another size" in l1.segment.note
    l1.close(keep=False)


def test_large_segment_is_waited_for_longer():
    assert segment._patience(64 << 30) >= segment._patience(64 << 20) + 60


def test_creator_that_never_ends_is_told(name, monkeypatch):
    monkeypatch.setattr(segment, "_ATTACH_DEADLINE", 0.05)
    path = SHM / segment_name(name)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(SegmentGone, match="somebody else has been making"):
        L1.open(name, SIZE)
    os.close(fd)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_attachment_that_ended_leaves_no_descriptor(name):
    """Its mapping stays, for a thread may be inside."""
    begun, ended = descriptors(), []
    for _ in range(50):
        l1 = L1.open(name, SIZE)
        l1.join()
        l1.close(keep=True)
        ended.append(l1)
    assert descriptors() == begun
    maps = Path("/proc/self/maps").read_text().splitlines()
    assert sum(line.endswith(str(l1.segment.path)) for line in maps) == len(ended)


@pytest.mark.parametrize("l2", [False, True], ids=["lone", "fleet"])
async def test_cache_that_was_closed_leaves_no_descriptor(name, server, l2):
    config = CacheConfig(name, SIZE, keep=True, l2=server.url if l2 else None)
    async with Cache(config) as cache:  # what the process makes once
        await cache.set("k", 0)
    begun = descriptors()
    for i in range(50):
        async with Cache(config) as cache:
            await cache.set("k", i)
    await eventually(lambda: descriptors() <= begun)
