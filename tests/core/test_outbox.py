"""The outbox through the binding: random histories against a list, and its answers."""

from __future__ import annotations

import mmap
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shmcache._core.binding import Table, plan
from shmcache.errors import SegmentError
from tests.core.conftest import MIB, init

NONE = 2**64 - 1
NAMES = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 1024).map(lambda n: b"\xff" * n),
)


@dataclass
class Known:
    number: int
    at: int
    kind: int
    name: bytes
    clock: int
    sent: bool = False

    @property
    def bytes(self) -> int:
        return 8 * (4 + (len(self.name) + 6) // 7)


class OutboxMachine(RuleBasedStateMachine):
    """`known` is what the ring holds: from the first unsent entry on."""

    def __init__(self) -> None:
        super().__init__()
        memory = mmap.mmap(-1, MIB)
        init(memory)
        self.table, self.other = Table(memory), Table(memory)
        self.capacity = self.table.outbox_usage()["capacity_bytes"]
        self.known: list[Known] = []
        self.gone: list[int] = []
        self.lost = self.lost_at = self.now = 0

    @rule(name=NAMES, kind=st.integers(1, 255), back=st.integers(0, 2))
    def add(self, name: bytes, kind: int, back: int) -> None:
        entry = Known(0, max(0, self.now - back), kind, name, self.table.clock())
        entry.number = self.table.outbox_add(kind, name, entry.at)
        if sum(e.bytes for e in self.known) + entry.bytes <= self.capacity:
            last = (self.known[-1].number if self.known else 0, *self.gone[-1:])
            assert entry.number > max(last)
            self.known.append(entry)
        else:
            assert entry.number == 0
            self.lost_at = min(self.lost_at, entry.clock) if self.lost else entry.clock
            self.lost += 1

    @rule(seed=st.integers(0, 2**32))
    def add_many(self, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(rng.randrange(60)):
            self.add(rng.randbytes(rng.randrange(200)), rng.randrange(1, 256), 0)

    @precondition(lambda self: self.known)
    @rule(part=st.floats(0, 1), seed=st.integers(0, 2**32))
    def send(self, part: float, seed: int) -> None:
        rng = random.Random(seed)
        chosen = rng.sample(self.known, int(part * len(self.known)))
        for entry in chosen:
            self.other.outbox_sent(entry.number)
            entry.sent = True
        while self.known and self.known[0].sent:
            self.gone.append(self.known.pop(0).number)

    @precondition(lambda self: self.gone)
    @rule(seed=st.integers(0, 2**32))
    def send_again(self, seed: int) -> None:
        self.table.outbox_sent(random.Random(seed).choice(self.gone))
        self.table.outbox_sent(0)

    @rule()
    def invalidate(self) -> None:
        self.table.number()

    @rule()
    def pass_time(self) -> None:
        self.now += 1

    @rule()
    def make_up(self) -> None:
        mark = self.other.outbox_overflow()
        assert mark >> 16 == self.lost_at and mark & 0xFFFF == self.lost
        assert self.table.outbox_overflowed(mark) == (self.lost > 0)
        self.lost = self.lost_at = 0

    @rule(ago=st.integers(0, 3), limit=st.integers(0, 40))
    def read_before(self, ago: int, limit: int) -> None:
        want = []
        for e in self.known:
            if not e.sent and e.at >= self.now - ago:
                break
            if not e.sent:
                want.append((e.number, e.at, e.kind, e.name))
        assert self.table.outbox_unsent(self.now - ago, limit) == want[:limit]

    @invariant()
    def agrees(self) -> None:
        unsent = [e for e in self.known if not e.sent]
        clocks = [e.clock for e in unsent[:1]] + [self.lost_at] * (self.lost > 0)
        assert self.other.outbox_lowest() == min(clocks, default=NONE)
        assert self.table.outbox_usage() == {
            "unsent": len(unsent),
            "bytes": sum(e.bytes for e in self.known),
            "capacity_bytes": self.capacity,
        }
        found = self.other.check_outbox()
        assert not found["found"] and found["entries"] == len(self.known)


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)


# ---- answers


def test_entry_bears_the_clock_of_when_it_was_added(table: Table) -> None:
    for _ in range(5):
        table.number()
    number = table.outbox_add(ord("d"), b"key")
    table.number()
    assert number > 0 and table.outbox_lowest() == 5
    ((first, at, kind, name),) = table.outbox_unsent(2**63 - 1, 10)
    assert (first, kind, name) == (number, ord("d"), b"key")
    assert at > 0  # the time was read


@pytest.mark.parametrize("kind", [0, -1, 256])
def test_kind_that_is_no_byte_is_refused(table: Table, kind: int) -> None:
    with pytest.raises(ValueError, match="kind"):
        table.outbox_add(kind, b"key")


def test_name_too_long_is_refused(table: Table) -> None:
    assert table.outbox_add(1, bytes(1024))
    with pytest.raises(ValueError, match="1024 bytes"):
        table.outbox_add(1, bytes(1025))
    assert table.outbox_overflow() == 0


@pytest.mark.parametrize(
    ("size", "room"), [(1, 16), (4, 64), (8, 64), (256, 2048), (1024, 4096)]
)
def test_outbox_grows_with_the_segment(size: int, room: int) -> None:
    assert plan(size * MIB, 0)["outbox_bytes"] == room * 1024


def test_reader_for_reading_only_sees_the_outbox(
    table: Table, segment_file: Path
) -> None:
    number = table.outbox_add(1, b"key", 5)
    with segment_file.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    reader = Table(memory, read_only=True)
    assert reader.outbox_unsent(6, 9) == [(number, 5, 1, b"key")]
    assert (reader.outbox_lowest(), reader.outbox_overflow()) == (0, 0)
    assert reader.outbox_usage()["unsent"] == 1
    writes: list[Callable[[], object]] = [
        lambda: reader.outbox_add(1, b""),
        lambda: reader.outbox_sent(number),
        lambda: reader.outbox_overflowed(1),
    ]
    for write in writes:
        with pytest.raises(SegmentError):
            write()


def test_entries_of_a_killed_process_are_sent_by_its_sibling(
    table: Table, segment_file: Path
) -> None:
    code = """
        import mmap, os, signal, sys
        from shmcache._core.binding import Table
        with open(sys.argv[1], "r+b") as file:
            table = Table(mmap.mmap(file.fileno(), 0))
        table.outbox_sent(table.outbox_add(1, b"told"))
        assert table.outbox_add(1, b"one") and table.outbox_add(2, b"two")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(segment_file)]
    assert subprocess.run(command).returncode == -9
    left = table.outbox_unsent(2**63 - 1, 10)
    assert [(kind, name) for _, _, kind, name in left] == [(1, b"one"), (2, b"two")]
    for number, *_ in left:
        table.outbox_sent(number)
    assert table.outbox_lowest() == NONE and table.outbox_usage()["bytes"] == 0
