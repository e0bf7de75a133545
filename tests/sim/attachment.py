"""What a simulated process sees of its host: segment, slots, wake sockets, clock.

The table is the real one, on memory that all processes of the host share. Only the
kernel is replaced: byte locks that die with a process, and datagrams.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shmcache._core import binding
from shmcache.l1 import HELD, UNFOLLOWED, UNFOLLOWED_UNTIL
from shmcache.record import FRESH, STALE, Record
from shmcache.stream import Place

if TYPE_CHECKING:
    from .fleet import Fleet
    from .world import Process, World

SLOTS = 6
"""More than processes of a host that live at once."""


class Killed(BaseException):
    """The process was killed where this is raised."""


class SimClock:
    """CLOCK_BOOTTIME of one host."""

    def __init__(self, host: SimHost) -> None:
        self._host = host

    def now(self) -> int:
        host = self._host
        return int(host.world.now * 1e9) + host.boot_ns


class SimHost:
    """One host: its memory, and who holds which process slot."""

    def __init__(self, fleet: Fleet, number: int, size: int, seed: bytes) -> None:
        self.fleet = fleet
        self.number = number
        self.memory = mmap.mmap(-1, size)
        binding.init(
            self.memory, size=size, record_bytes=300, seed=seed, boot_id=bytes(16),
            clock_ns=0, config=0, uid=os.geteuid(),
        )  # fmt: skip
        self._image = self.memory[:]
        self.observer = binding.Table(self.memory)
        """What the simulation itself looks through."""
        self._stream = self.observer.words("stream")
        self.place = Place(self._stream, 0)
        self.path = Path("/sim") / f"host{number}"
        self.boot_ns = 10**12 * (1 + number)
        self.world: World
        self.cut_until = 0.0
        self.slots: dict[int, Process] = {}
        self.sockets: dict[str, SimSocket] = {}
        self.clock = SimClock(self)
        self.changed = False
        """A reader might see something else than before."""

    def reset(self, world: World) -> None:
        """As just made."""
        self.memory[:] = self._image
        self.world = world
        self.cut_until = 0.0
        self.slots.clear()
        self.sockets.clear()

    def look(self, key: bytes) -> Record | None:
        """What a process of the host would find in L1."""
        row = self.observer.look(key, self.clock.now())
        if row is None:
            return None
        record = Record._make(row)
        doubtful = (
            record.state == FRESH
            and record.stamp < self._stream.load(UNFOLLOWED)
            and self.clock.now() < self._stream.load(UNFOLLOWED_UNTIL)
        )
        return record._replace(state=STALE) if doubtful else record

    def release(self, process: Process) -> None:
        """The kernel drops a dead process' locks."""
        for byte in [b for b, holder in self.slots.items() if holder is process]:
            del self.slots[byte]


class SimSegment:
    """`Segment` of one process on its host's memory."""

    note = "made"
    forked = False

    def __init__(self, process: Process) -> None:
        self._process = process
        self._host = process.host
        self.memory = process.host.memory
        self.path = process.host.path

    def lock_slot(self, byte: int) -> bool:
        return self._host.slots.setdefault(byte, self._process) is self._process

    def alive(self, byte: int) -> bool:
        return byte in self._host.slots

    def wake_path(self, slot: int) -> str:
        return f"{self.path}~{slot}"

    def lost(self) -> str:
        return ""

    def detach(self) -> None:
        self._host.release(self._process)

    def remove(self) -> bool:
        return False


class SimTable(binding.Table):
    """The real table; each call may be interrupted, and a dead process makes none."""

    process: Process

    def _enter(self, name: str) -> None:
        process = self.process
        if process.dead:
            raise Killed
        world = process.world
        world.interruption -= world.focus_weight if name == world.focus else 1
        if world.interruption <= 0:
            world.interrupt(process)
            if process.dead:  # it was stopped, and killed there
                raise Killed

    def raise_gap(self, number: int, now: int = -1) -> None:
        self._enter("raise_gap")
        self.process.host.changed = True
        super().raise_gap(number, self.process.host.clock.now() if now < 0 else now)

    def slot_info(self, i: int) -> tuple[int, int, int]:
        """Of few slots, for a beat looks at them all."""
        if i >= SLOTS:
            raise IndexError
        return super().slot_info(i)

    def claim_word(self, index: int) -> int:
        """A reaper looks at all of them: only at one that is held others come first."""
        word = super().claim_word(index)
        if word & 0b111 == HELD:
            self._enter("claim_word")
            word = super().claim_word(index)
        return word

    def words(self, region: str) -> Any:
        return SimWords(self, super().words(region))


def _entered(name: str, shown: bool) -> Any:
    real = getattr(binding.Table, name)

    def call(self: SimTable, *args: Any, **more: Any) -> Any:
        process = self.process
        if process.dead:
            raise Killed
        world = process.world
        world.interruption -= world.focus_weight if name == world.focus else 1
        if world.interruption <= 0:
            world.interrupt(process)
            if process.dead:
                raise Killed
        if shown:
            process.host.changed = True
        return real(self, *args, **more)

    return call


_CALLS = (
    *("clock", "number", "raise_key", "raise_tag", "raise_all", "highest"),
    *("peek_at", "get", "look", "put", "drop", "beat", "take_slot"),
    *("claim_take", "claim_over", "claim_free", "claim_note", "claim_noted"),
    *("claim_void", "claim_wait"),
    *("outbox_add", "outbox_sent", "outbox_lowest", "outbox_unsent"),
    *("outbox_overflow", "outbox_overflowed"),
)
_SHOWN = ("raise_key", "raise_tag", "raise_all", "put", "drop")
"""What readers may see of it."""
for _name in _CALLS:
    setattr(SimTable, _name, _entered(_name, _name in _SHOWN))


FOCUSES = (
    *("raise_key", "drop", "put", "number", "outbox_add", "outbox_sent", "raise_gap"),
    *("cas", "claim_take", "claim_over", "claim_free", "claim_note", "outbox_lowest"),
    *("highest", "clock", "look"),
)
"""Calls at which a history may be interrupted above all."""


class SimWords:
    """Words of a region, with the same interruptions."""

    def __init__(self, table: SimTable, words: Any) -> None:
        self._enter = table._enter
        self._words = words

    def load(self, i: int) -> int:
        self._enter("load")
        return int(self._words.load(i))

    def store(self, i: int, value: int) -> None:
        self._enter("store")
        self._words.store(i, value)

    def add(self, i: int, n: int) -> int:
        self._enter("add")
        return int(self._words.add(i, n))

    def cas(self, i: int, old: int, new: int) -> bool:
        self._enter("cas")
        return bool(self._words.cas(i, old, new))

    def lift(self, i: int, value: int) -> None:
        self._enter("lift")
        self._words.lift(i, value)


class SimSocket:
    """A datagram socket bound beside the segment."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.host = process.host
        self._path = ""
        self._queued = 0
        process.sockets.append(self)

    def setblocking(self, flag: bool) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def bind(self, path: str) -> None:
        self._path = path
        self.host.sockets[path] = self

    def sendto(self, data: bytes, path: str) -> None:
        if self.process.dead:
            raise Killed
        other = self.host.sockets.get(path)
        if other is None:
            raise ConnectionRefusedError
        world = self.process.world
        if world.chance(world.lost_wakeups):
            return
        other._queued += 1
        reader = other.process.loop.readers.get(other)
        if reader is not None:
            other.process.loop.call_soon(reader)

    def recv(self, size: int) -> bytes:
        if not self._queued:
            raise BlockingIOError
        self._queued -= 1
        return b""

    def close(self) -> None:
        if self.host.sockets.get(self._path) is self:
            del self.host.sockets[self._path]
