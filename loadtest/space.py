"""What a segment has room for, what a reader's memory grows by, and how long a store
takes in C: the second table of `loadtest.l1`.

Run by itself, with a segment's name, it is the reader whose memory is measured.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from shmcache._core import binding
from shmcache.l1 import L1
from shmcache.record import FOREVER

from .report import NONE, Target, shown, table
from .stores import MIB, fresh_name, remove_all

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build" / "store"
SIZES = [64, 256]
"""Of the segments, MiB."""
HEAD_BYTES = 56
VALUE_BYTES = 300
LEAST, MOST = 100, 16 * 1024
TURNS = 2.2
"""How often a segment's bytes are stored in all: it is full then, and reuses."""


@dataclass(frozen=True)
class Space:
    """One segment, full twice: of small records, of records of many sizes."""

    mib: int
    records: int
    head_and_padding: float
    """Bytes of a small record beside its key and value; so the next two."""
    index: float
    ghosts: float
    live: float
    """Share of the segment that is key, value and head of records of many sizes."""
    private_kib: float
    """What a reader's private memory grew by, having read all the small ones."""

    @property
    def overhead(self) -> float:
        return self.head_and_padding + self.index + self.ghosts


@dataclass(frozen=True)
class Latency:
    """A store in C, nanoseconds; medians of the runs."""

    mib: int
    name: str
    mean: float
    p50: float
    p99: float
    p999: float
    max: float


def key_of(number: int) -> str:
    """Keys of 8 to 23 bytes, so that padding has its mean."""
    return f"{number:0{8 + number % 16}d}"


def sizes_of_many(count: int) -> list[int]:
    """Value sizes, log-uniform from 100 bytes to 16 KiB."""
    pick = random.Random(5)
    low, high = math.log(LEAST), math.log(MOST)
    return [round(math.exp(pick.uniform(low, high))) for _ in range(count)]


def fill(l1: L1, sizes: Iterator[int]) -> int:
    """Store a record of each size under a key of its own; how many."""
    put, now, data = l1.table.put, l1.clock.now(), bytes(MOST)
    number = 0
    for number, size in enumerate(sizes, 1):
        put(
            key_of(number), data[:size], birth=now, fresh_until=FOREVER,
            dead_at=FOREVER, stamp=0,
        )  # fmt: skip
    return number


def standing(l1: L1, count: int) -> Iterator[tuple[int, int]]:
    """(length of key, of value) of each record that stands."""
    look = l1.table.look
    for number in range(1, count + 1):
        key = key_of(number)
        if (row := look(key)) is not None:
            yield len(key), len(row[0])


def small(mib: int) -> Space:
    """Fill a segment with records of one small size, and have it read by another
    process; `live` is that of many sizes."""
    name = fresh_name()
    size = mib * MIB
    try:
        l1 = L1.open(name, size, record_bytes=VALUE_BYTES)
        l1.join()
        each = HEAD_BYTES + 16 + VALUE_BYTES
        stored = fill(l1, iter([VALUE_BYTES] * round(TURNS * size / each)))
        found = list(standing(l1, stored))
        padded = [-(-(HEAD_BYTES + key + value) // 8) * 8 for key, value in found]
        beside = sum(padded) - sum(key + value for key, value in found)
        regions = (binding.describe(l1.segment.memory) or {})["regions"]
        grown = _private_growth(name, size, stored)
        l1.close(keep=False)
    finally:
        remove_all(name)
    return Space(
        mib=mib,
        records=len(found),
        head_and_padding=beside / len(found),
        index=regions["index"][1] / len(found),
        ghosts=regions["ghosts"][1] / len(found),
        live=_live_share(size),
        private_kib=grown,
    )


def _live_share(size: int) -> float:
    name = fresh_name()
    mean = (MOST - LEAST) / math.log(MOST / LEAST)
    try:
        l1 = L1.open(name, size, record_bytes=round(mean))
        l1.join()
        stored = fill(l1, iter(sizes_of_many(round(TURNS * size / mean))))
        live = sum(HEAD_BYTES + k + v for k, v in standing(l1, stored))
        l1.close(keep=False)
    finally:
        remove_all(name)
    return live / size


def _private_growth(name: str, size: int, stored: int) -> float:
    """Of another process, which reads all that stands while this one has it mapped."""
    command = [sys.executable, "-m", __name__, name, str(size), str(stored)]
    path = os.pathsep.join(filter(None, [str(ROOT), *sys.path]))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode:
        raise RuntimeError(f"the reading process failed\n{done.stderr}")
    return float(done.stdout)


def private_bytes() -> int:
    """This process' private memory: what it does not share."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(x.split()[1]) for x in lines if x.startswith("Private"))


def read_all(name: str, size: int, stored: int) -> None:
    """The reader: print what its private memory grew by, KiB."""
    l1 = L1.open(name, size, record_bytes=VALUE_BYTES)
    l1.join()
    peek = l1.peek
    for number in range(1, 1000):
        peek(key_of(number))
    private_bytes()
    before = private_bytes()
    for number in range(1, stored + 1):
        peek(key_of(number))
    print((private_bytes() - before) / 1024)
    l1.close()


# --- stores in C -------------------------------------------------------------------


def latencies(sizes: list[int], puts: int, runs: int) -> list[Latency] | str:
    """Of `build/store`, or why there is none."""
    if not PROGRAM.is_file():
        return "stores in C: build/store is not there; `make bench-l1` builds it"
    core = min(os.sched_getaffinity(0))
    found = []
    for mib in sizes:
        told = [_run(mib, puts, core) for _ in range(runs)]
        for name in told[0]:
            figures = [run[name] for run in told]
            middle = {
                f: median(float(one[f]) for one in figures)
                for f in ("mean", "p50", "p99", "p999", "max")
            }
            found.append(Latency(mib=mib, name=name, **middle))
    return found


def _run(mib: int, puts: int, core: int) -> dict[str, dict[str, float]]:
    done = subprocess.run(
        ["taskset", "-c", str(core), str(PROGRAM), str(mib), str(puts)],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    told = map(json.loads, done.stdout.splitlines())
    return {line["name"]: line for line in told}


# --- telling -----------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    spaces: list[Space]
    latencies: list[Latency] | str

    def show(self) -> None:
        head = [
            "segment", "records of 300 B", "head, padding", "index", "ghosts",
            "overhead", "live, many sizes", "reader grew by",
        ]  # fmt: skip
        print(table(head, [self._line(s) for s in self.spaces]))
        print()
        if isinstance(self.latencies, str):
            print(self.latencies)
            return
        head = ["segment, stores in C", "mean ns", "p50", "p99", "p99.9", "max"]
        print(table(head, [_latency_line(x) for x in self.latencies]))

    def _line(self, s: Space) -> list[str]:
        parts = [s.head_and_padding, s.index, s.ghosts, s.overhead]
        return [
            f"{s.mib} MiB",
            shown(s.records),
            *(shown(part, ".1f") for part in parts),
            f"{100 * s.live:.1f} %",
            f"{s.private_kib:,.0f} KiB",
        ]

    def targets(self) -> Iterator[Target]:
        for s in self.spaces:
            at = f"{s.mib} MiB: "
            what = f"{at}overhead of 300 B, bytes"
            yield Target(what, s.overhead, 85, form=".1f")
            what = f"{at}live of many sizes, percent"
            yield Target(what, 100 * s.live, 88, least=True, form=".1f")
            what = f"{at}reader's private growth, KiB"
            yield Target(what, s.private_kib, 256, form=",.0f")
        known = [] if isinstance(self.latencies, str) else self.latencies
        for x in known:
            what = f"{x.mib} MiB: p99.9 of a store in C, {x.name}, microseconds"
            yield Target(what, x.p999 / 1000, 5, form=".1f")
        if not known:
            yield Target("p99.9 of a store in C, microseconds", None, 5)

    def as_json(self) -> dict[str, object]:
        known = self.latencies
        return {
            "space": [{**asdict(s), "overhead": s.overhead} for s in self.spaces],
            "stores_in_c": known
            if isinstance(known, str)
            else [asdict(x) for x in known],
        }


def _latency_line(x: Latency) -> list[str]:
    figures = [x.mean, x.p50, x.p99, x.p999, x.max]
    return [f"{x.mib} MiB, {x.name}", *(shown(f) or NONE for f in figures)]


def measure(note: Callable[[str], None], *, quick: bool) -> Found:
    sizes = SIZES[:1] if quick else SIZES
    found = []
    for mib in sizes:
        note(f"space: {mib} MiB")
        found.append(small(mib))
    note("stores in C")
    puts, runs = (200_000, 1) if quick else (500_000, 3)
    return Found(found, latencies(sizes, puts, runs))


if __name__ == "__main__":
    read_all(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
