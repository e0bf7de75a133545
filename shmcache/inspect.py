"""What tools may see of a segment: regions, check, iteration. Reads alone.

Holding
    A view maps the file for reading and takes neither a flock nor a process slot. By a
    shared flock it would be a holder: the last process to stop could not remove the
    segment, which would then stay, and `clean` would leave it. Without one the file may
    be removed meanwhile: the view goes on showing what it mapped, and lets it go when
    it is dropped.

    Who holds a segment is read from the kernel's list of locks and asked of the slots'
    liveness locks. To try the exclusive flock would tell more, and keep it for a moment
    from a last process that stops. So a process of another PID namespace that has no
    slot is not seen; `clean` asks the flock itself, and leaves what is held.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from . import clock as clocks
from ._core import binding
from .check import WAYS, Claims, Region, Report, Shard, Slot, check
from .clock import SYSTEM, Clock
from .config import NAME
from .errors import SegmentError, SegmentGone
from .segment import SHM, _flock, _ours, _same_file, _unlink
from .stats import Hot

__all__ = [
    "Claims",
    "Hot",
    "Region",
    "Report",
    "Seen",
    "Shard",
    "Slot",
    "View",
    "clean",
    "clock_cost",
    "names",
]

_FILE = re.compile(rf"shmcache\.[0-9a-f]{{8}}\.(?P<name>{NAME})")
_NOT_OURS = "its name is none that shmcache makes"
_LOCKS = Path("/proc/locks")
_HEADER = mmap.PAGESIZE
_CHUNK = 4096
"""Slots of an index that are gone through without letting others run."""
_HOT_US = 64
"""Microseconds that a unit of weight stands for in the table of fills (`table.h`)."""


class Seen(NamedTuple):
    """A record that stands. Times are nanoseconds of CLOCK_BOOTTIME."""

    key: bytes
    hash: int
    """64 bits, under the segment's seed."""
    value_bytes: int
    state: str
    """fresh, stale or dead."""
    kind: int
    birth: int
    fresh_until: int
    dead_at: int
    fill_us: int


class View:
    """A segment mapped for reading. `why` says why no process of this build and boot
    would attach it; `damaged`, that the cause is its own; then `table` may be None."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.file_bytes = os.fstat(fd).st_size
        self.table: binding.Table | None = None
        self.header: dict[str, Any] | None = None
        self.why, self.damaged = self._attach()

    @classmethod
    def open(cls, file: str) -> View:
        """Look at a file of /dev/shm, by its whole name as `names` tells it.

        `SegmentGone` if there is none; `SegmentError` if it is not a file of our own.
        """
        path = SHM / file
        if not _FILE.fullmatch(file):
            raise SegmentError(f"segment {path}: {_NOT_OURS}")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(path, flags | os.O_NONBLOCK)  # a pipe would be waited for
        except FileNotFoundError:
            raise SegmentGone(f"segment {path}: there is none") from None
        except OSError as e:
            raise SegmentError(f"segment {path}: {e.strerror}") from e
        if not _ours(os.fstat(fd)):
            os.close(fd)
            raise SegmentError(
                f"segment {path}: no file of our own, mode 0600, one link"
            )
        return cls(path, fd)

    def close(self) -> None:
        """Let go of the file; records and check end here."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self.table = -1, None

    def __enter__(self) -> View:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """As it was given when the segment was made."""
        found = _FILE.fullmatch(self.path.name)
        return found["name"] if found else self.path.name

    @property
    def geometry(self) -> dict[str, int]:
        """Sizes chosen when the segment was made; empty where they cannot be read."""
        return dict(self.table.geometry) if self.table else {}

    def _attach(self) -> tuple[str | None, bool]:
        if self.file_bytes < _HEADER:
            return "it was never finished", False
        try:
            memory = mmap.mmap(self._fd, self.file_bytes, access=mmap.ACCESS_READ)
        except ValueError:  # since its size was asked
            return "it is being truncated", True
        except OSError as e:
            return f"it cannot be mapped: {e.strerror}", False
        found = binding.describe(memory)
        if found is None:
            if any(memory[:_HEADER]):
                return "it is no segment", True
            return "it was never finished", False
        if found["layout_hash"] not in (0, binding.layout_hash()):  # 0: not written yet
            return f"its layout ({found['layout']}) is another build's", False
        self.header = found
        if not found["ready"]:
            return "it was never finished", False
        if found["geometry"]["size"] > self.file_bytes:
            return f"it was truncated to {self.file_bytes} bytes", True
        try:
            self.table = binding.Table(memory, read_only=True)
        except SegmentError:
            return "its header contradicts itself", True
        return _foreign(found), False

    # -- what it is

    def regions(self) -> list[Region]:
        """What stands where, in the order of the file."""
        found = self.header["regions"] if self.header else {}
        all_ = [Region(name, *place) for name, place in found.items()]
        return sorted(all_, key=lambda r: (r.offset, r.name))

    def holders(self) -> list[int]:
        """PIDs of the processes that hold the segment; of a slot whose process is of
        another PID namespace, the number it goes by there."""
        pids = {slot.pid for slot in self.slots() if slot.alive}
        found = os.fstat(self._fd)
        device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
        for line in _locks():
            columns = line.split()
            if columns[1] == "FLOCK" and columns[5] == f"{device}:{found.st_ino}":
                pids.add(int(columns[4]))
        return sorted(pids)

    def slots(self, clock: Clock = SYSTEM) -> list[Slot]:
        """The process slots that were ever taken."""
        if self.table is None:
            return []
        now, found = clock.now(), []
        for i in range(binding.SLOTS):
            incarnation, pid, beat = self.table.slot_info(i)
            alive = self._alive(self.table.slot_offset(i))
            if incarnation or pid or alive:
                age = max(0, now - beat) / 1e9
                found.append(Slot(i, pid, incarnation, alive, age))
        return found

    def _alive(self, byte: int) -> bool:
        reply = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
        return bool(struct.unpack_from("h", reply)[0] != fcntl.F_UNLCK)

    # -- records

    def records(self, clock: Clock = SYSTEM) -> Iterator[Seen]:
        """Every record that stands, in no order. One that stands all the while is met
        once, wherever writers move it; those that come or go may be met or not."""
        for shard in range(self.geometry.get("shards", 0)):
            yield from self._records_of(shard, None, clock)

    def _records_of(
        self, shard: int, wanted: set[int] | None, clock: Clock
    ) -> Iterator[Seen]:
        assert self.table is not None
        slots = self.table.geometry["buckets"] * WAYS
        for first in range(0, slots, _CHUNK):
            end = first + _CHUNK
            rows = self.table.records(shard, first, end, wanted=wanted, now=clock.now())
            for key, hash_, length, state, *rest in rows:
                yield Seen(key, hash_, length, _STATES[state], *rest)

    def hot(self, clock: Clock = SYSTEM) -> tuple[list[Hot], list[Hot]]:
        """The keys hit most, and those whose computes took longest in all, misses x
        their time: at most 64 each, the weightiest first. The tables are bounded: a
        key's weight may include what a lighter one left."""
        if self.table is None:
            return [], []
        words = self.table.words("hot")
        found = [words.load(i) for i in range(128)]
        keys = self._keys({word >> 32 for word in found if word}, clock)
        hits, fills = (
            sorted(
                (_hot(word, unit, keys) for word in table if word),
                key=lambda h: (-h.weight, h.hash),
            )
            for table, unit in ((found[:64], 1), (found[64:], _HOT_US / 1e6))
        )
        return hits, fills

    def _keys(self, wanted: set[int], clock: Clock) -> dict[int, bytes]:
        """The keys whose hashes have these high 32 bits, of which ten say the shard."""
        shards: dict[int, set[int]] = {}
        for high in wanted:
            shards.setdefault(high >> 22 & self.geometry["shards"] - 1, set()).add(high)
        return {
            seen.hash >> 32: seen.key
            for shard, some in shards.items()
            for seen in self._records_of(shard, some, clock)
        }

    # -- check

    def check(self, clock: Clock = SYSTEM) -> Report:
        """All that `check.py` looks at; where nothing can be read, just why."""
        report = Report()
        if self.table is not None:
            report = check(
                *(self.table, self.regions(), self.file_bytes, self.slots(clock)),
                clock.now(),
            )
        if self._fd >= 0 and not os.fstat(self._fd).st_nlink:
            # the last process gave its pages back, at some moment of the look
            report = Report(notes=["it was removed meanwhile"])
        if self.why:
            (report.faults if self.damaged else report.notes).insert(0, self.why)
        return report


# -- finding and removing


def names(name: str | None = None) -> list[str]:
    """Files of our own segments in /dev/shm: all, or those that bear `name`, whether it
    is the whole of the file's or as it was given when the segment was made."""
    found = []
    for path in SHM.iterdir():
        match = _FILE.fullmatch(path.name)
        if match and name in (None, path.name, match["name"]) and _is_ours(path):
            found.append(path.name)
    return sorted(found)


def clean(file: str) -> str | None:
    """Remove a segment that nobody holds, and the wake sockets beside it. None if it is
    gone, by us or by somebody else; else why it was left. Under the exclusive flock, as
    every removal."""
    path = SHM / file
    if not _FILE.fullmatch(file):
        return _NOT_OURS
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as e:
        return e.strerror
    try:
        if not _ours(os.fstat(fd)):
            return "it is no file of our own, mode 0600, one link"
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _same_file(path, fd):
            _unlink(path)
    except BlockingIOError:
        return "it is held"
    finally:
        os.close(fd)
    return None


def clock_cost() -> float:
    """Nanoseconds that one look at the clock takes: tens by the vDSO."""
    return min(binding.clock_cost() for _ in range(10))


def _locks() -> list[str]:
    """The kernel's list of locks; none where it may not be read."""
    try:
        return _LOCKS.read_text().splitlines()
    except OSError:
        return []


def _is_ours(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def _foreign(found: dict[str, Any]) -> str | None:
    """Why a segment so described is not one of this boot and user."""
    if found["boot_id"] != clocks.boot_id():
        return "it was made before the last boot"
    if found["clock_ns"] != clocks.namespace():
        return "its clock namespace is another"
    if found["uid"] != os.geteuid():
        return "its owner is another user"
    return None


_STATES = {binding.FRESH: "fresh", binding.STALE: "stale", binding.DEAD: "dead"}


def _hot(word: int, unit: float, keys: dict[int, bytes]) -> Hot:
    return Hot((word & 0xFFFFFFFF) * unit, word >> 32, keys.get(word >> 32))
