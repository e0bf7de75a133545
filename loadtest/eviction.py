"""Hit ratios of our own table on real traces, beside libcachesim's policies.

    python -m loadtest.eviction TRACE.csv.xz ... [--json FILE]

The real table, in memory of its own: a request is a `peek`, and a `put` where that
misses. The segment's size is sought such that the values it holds come to the share
wanted of the trace's distinct bytes; what it held in fact, in the mean, is the peers'
capacity. They are charged for values alone, so heads, index, ghosts and free extents
are ours to bear in the segment's size, not in the comparison.
"""

from __future__ import annotations

import argparse
import json
import mmap
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from shmcache._core import binding
from shmcache.errors import SegmentError

from . import command, policies
from .report import NONE, Target, shown, table, targets_table
from .traces import Trace, TraceError, read

PAGE = mmap.PAGESIZE
REWRITES = 0.3
"""Share of all operations, in the run with rewrites."""
RECENT = 1000
"""Requests among which a key to rewrite is chosen."""
SAMPLES = 12
"""Looks at what the table holds, over the last three quarters of a run."""
WITHIN = 0.01
"""How near the share wanted must be met, so that 10 % is no 11 %; what the peers get
is what was measured."""
LARGE, SMALL = 2000, 500
"""Records held, from which on the targets bind."""


@dataclass(frozen=True)
class Played:
    """One run of a trace through our table."""

    size: int
    """Bytes of the segment."""
    shards: int
    hit_ratio: float
    """Of the trace's requests, percent."""
    records: float
    live_bytes: float
    """Of values alone, as `records` in the mean over the samples."""
    refused: int
    """Stores that were refused: values too large for the segment."""
    rewrites: int


def play(
    trace: Trace, size: int, record: int, *, shards: int = 0, rewrites: float = 0.0
) -> Played:
    """Run the trace through a segment of `size` bytes, made for records of `record`
    bytes."""
    memory = mmap.mmap(-1, size)
    binding.init(
        memory, size=size, record_bytes=record, shards=shards,
        seed=bytes(range(16)), boot_id=bytes(16), clock_ns=0, config=0, uid=0,
    )  # fmt: skip
    table_ = binding.Table(memory)
    hits, refused, rewritten, samples = _requests(trace, table_, rewrites)
    shards = table_.geometry["shards"]
    # The table keeps its buffer for ever; the pages need not stay.
    memory.madvise(mmap.MADV_REMOVE)
    return Played(
        size=size,
        shards=shards,
        hit_ratio=100 * hits / len(trace.keys),
        records=sum(n for n, _ in samples) / len(samples),
        live_bytes=sum(b for _, b in samples) / len(samples),
        refused=refused,
        rewrites=rewritten,
    )


def _requests(
    trace: Trace, table_: binding.Table, rewrites: float
) -> tuple[int, int, int, list[tuple[int, int]]]:
    """(hits, refused stores, rewrites, samples of what was held)."""
    keys, sizes = trace.keys, trace.sizes
    peek, put, look = table_.peek, table_.put, table_.look
    fill, forever = bytes(max(sizes)), binding.FOREVER
    chance, pick = rewrites / (1 - rewrites), random.Random(1)
    step = max(1, len(keys) * 3 // 4 // SAMPLES)
    last = len(keys) - 1
    hits = refused = rewritten = 0
    samples = []

    def store(key: bytes, size: int, now: int) -> int:
        return put(
            key, fill[:size], birth=now, fresh_until=forever, dead_at=forever,
            stamp=0, now=now,
        ) != binding.OK  # fmt: skip

    for i, (key, size) in enumerate(zip(keys, sizes, strict=True)):
        now = 1_000_000_000 + 1000 * i  # a clock that only runs
        if chance and i and pick.random() < chance:
            j = _standing(look, keys, i, pick)
            if j >= 0:
                rewritten += 1
                refused += store(keys[j], sizes[j], now)
        if peek(key) is not None:  # no record ages: its clock is of no matter
            hits += 1
        else:
            refused += store(key, size, now)
        if (last - i) % step == 0 and i >= last // 4:
            samples.append(_held(trace, look))
    return hits, refused, rewritten, samples


def _standing(
    look: Callable[[bytes], object], keys: list[bytes], i: int, pick: random.Random
) -> int:
    """A recent request whose record stands, or -1 where none was found."""
    for _ in range(16):
        j = pick.randrange(max(0, i - RECENT), i)
        if look(keys[j]) is not None:
            return j
    return -1


def _held(
    trace: Trace, look: Callable[[bytes], tuple[bytes, ...] | None]
) -> tuple[int, int]:
    """(records, bytes of values) that stand now, each asked for by its key."""
    lengths = [len(row[0]) for key in trace.distinct if (row := look(key)) is not None]
    return len(lengths), sum(lengths)


# --- the segment's size ------------------------------------------------------------


def smallest(record_bytes: int) -> int:
    """The least size that makes a segment."""
    low, high = 0, 1 << 14  # pages: refused, accepted
    while high - low > 1:
        middle = (low + high) // 2
        try:
            binding.plan(middle * PAGE, record_bytes)
            high = middle
        except SegmentError:
            low = middle
    return high * PAGE


def first_guess(trace: Trace, record: int, wanted: float) -> int:
    """A size whose extents have room for `wanted` bytes of values and their heads."""
    room = wanted * (1 + 72 / trace.mean_bytes) / 0.93
    size = max(smallest(record), int(room))
    for _ in range(3):
        geometry = binding.plan(size, record)
        extents = geometry["shards"] * 64 * geometry["extent_bytes"]
        size = max(smallest(record), int(size + room - extents))
    return size


def seek(
    held: Callable[[int], float], wanted: float, first: int, least: int, tries: int = 6
) -> int | None:
    """The size, in whole pages, at which `held(size)` comes nearest to `wanted`: by
    the secant, by halves where that leaves what is known to hold the answer (more
    shards at some size make a step). None where even the least size holds more."""
    found: dict[int, float] = {}
    low, high = 0, 0  # sizes known to hold less, to hold more; 0: none known
    size, before, off_before = max(least, _pages(first)), 0, -wanted
    for _ in range(tries):
        found[size] = held(size)
        off = found[size] - wanted
        if abs(off) <= WITHIN * wanted:
            break
        if off < 0:
            low = max(low, size)
        elif not high or size < high:
            high = size
        slope = (off - off_before) / (size - before)
        before, off_before = size, off
        size = max(least, _pages(size - off / slope)) if slope > 0 else low
        if high and not low < size < high:
            size = max(least, _pages((low + high) / 2))
        if size in found:
            break
    best = min(found, key=lambda s: abs(found[s] - wanted))
    if best == least and found[best] > wanted * (1 + 2 * WITHIN):
        return None
    return best


def _pages(size: float) -> int:
    return round(size / PAGE) * PAGE


# --- rows --------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One trace at one share of its distinct bytes."""

    trace: str
    share: float
    """Percent, as wanted."""
    ours: Played | None
    """None: no segment is so small."""
    one_shard: Played | None = None
    rewritten: Played | None = None
    peers: dict[str, float] | None = None


def measure(trace: Trace, share: float, lib: ModuleType | None, record: int = 0) -> Row:
    """Seek the size, then run the variants and the peers. `record` is what an operator
    would set as the expected record's size; 0: the mean of the distinct ones."""
    record = record or round(trace.mean_bytes)
    wanted = trace.distinct_bytes * share / 100
    played: dict[int, Played] = {}

    def held(size: int) -> float:
        played[size] = play(trace, size, record)
        return played[size].live_bytes

    least = smallest(record)
    size = seek(held, wanted, first_guess(trace, record, wanted), least)
    if size is None:
        return Row(trace.name, share, None)
    ours = played[size]
    one = ours if ours.shards == 1 else play(trace, size, record, shards=1)
    rewritten = play(trace, size, record, rewrites=REWRITES)
    peers = policies.hit_ratios(lib, trace, int(ours.live_bytes)) if lib else None
    return Row(trace.name, share, ours, one, rewritten, peers)


COLUMNS = ["ours", "1 shard", "rewrites", *policies.NAMES]
HEAD = ["trace", "share", "records", "live bytes", *COLUMNS]


def line(row: Row) -> list[str]:
    start = [row.trace, f"{row.share:g} %"]
    if row.ours is None:
        return start + [NONE] * (len(HEAD) - 2)
    held = [shown(row.ours.records), shown(row.ours.live_bytes)]
    return start + held + [shown(_ratio(row, c), ".2f") for c in COLUMNS]


def mean_line(what: str, rows: list[Row]) -> list[str]:
    """Averages of the rows that have a figure."""
    means = [shown(_mean(rows, column), ".2f") for column in COLUMNS]
    return [what, "", "", "", *means]


def _ratio(row: Row, column: str) -> float | None:
    if row.ours is None:
        return None
    own = {"ours": row.ours, "1 shard": row.one_shard, "rewrites": row.rewritten}
    played = own.get(column)
    return played.hit_ratio if played else (row.peers or {}).get(column)


def _mean(rows: list[Row], column: str) -> float | None:
    figures = [f for row in rows if (f := _ratio(row, column)) is not None]
    return sum(figures) / len(figures) if figures else None


def targets(rows: list[Row]) -> list[Target]:
    """What is asked of the table, row by row and in the mean; in points."""
    found = []
    bound = [row for row in rows if row.ours and row.ours.records >= SMALL]
    large = [row for row in bound if row.ours and row.ours.records >= LARGE]

    def least(at: Row, what: str, of: str, than: str, slack: float) -> None:
        a, b = _ratio(at, of), _ratio(at, than)
        points = None if a is None or b is None else a - b
        what = f"{at.trace} {at.share:g} %: {what}"
        found.append(Target(what, points, -slack, least=True))

    for row in large:
        least(row, "ours - LRU", "ours", "LRU", 0)
    for row in bound:
        slack = 0.5 if row in large else 2.5
        least(row, "ours - S3-FIFO", "ours", "S3-FIFO", slack)
        if row.ours and row.ours.shards > 1:
            least(row, "ours - ours with 1 shard", "ours", "1 shard", 0.5)
        least(row, "with rewrites - without", "rewrites", "ours", 1)
    ours = _mean(large, "ours")
    for name in policies.NAMES:
        mean = _mean(large, name)
        if name != policies.OPTIMUM and large:
            points = None if ours is None or mean is None else ours - mean
            what = f"mean from {LARGE:,} records on: ours - {name}"
            found.append(Target(what, points, 0, least=True))
    return found


# --- the command -------------------------------------------------------------------


def groups(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows to take the mean of, and what it is the mean of."""
    have = [row for row in rows if row.ours]
    for share in dict.fromkeys(row.share for row in have):
        alike = [row for row in have if row.share == share]
        yield f"mean of {len(alike)} at {share:g} %", alike
    large = [row for row in have if row.ours and row.ours.records >= LARGE]
    if large:
        yield f"mean of {len(large)} from {LARGE:,} records", large


def show(rows: list[Row]) -> None:
    lines = [line(row) for row in rows]
    lines += [mean_line(what, alike) for what, alike in groups(rows)]
    print(
        "Hit ratio in percent; each peer holds the bytes that ours held in the mean.\n"
    )
    print(table(HEAD, lines, names=2), end="\n\n")
    for row in rows:
        at = f"{row.trace} at {row.share:g} %"
        if row.ours is None:
            print(f"{at}: no segment is so small; with a larger --unit one may be")
        elif row.ours.refused:
            print(f"{at}: {row.ours.refused} stores refused, too large")
    aims = targets(rows)
    if not aims:
        print(f"\nNo targets: no row holds {SMALL:,} records.")
        return
    print("\nTargets, in points of hit ratio:\n")
    print(targets_table(aims))


def as_json(rows: list[Row]) -> str:
    found: dict[str, object] = {
        "rows": [asdict(row) for row in rows],
        "means": {
            what: {column: _mean(alike, column) for column in COLUMNS}
            for what, alike in groups(rows)
        },
        "targets": [target.as_json() for target in targets(rows)],
    }
    return json.dumps(found, indent=2) + "\n"


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0
    if not 0 < share <= 100:
        raise argparse.ArgumentTypeError(f"expected percent, got {text!r}")
    return share


def options(args: list[str] | None) -> argparse.Namespace:
    parser = command.options("eviction", __doc__)
    parser.add_argument("traces", nargs="+", metavar="TRACE.csv.xz", type=Path)
    parser.add_argument(
        "--shares", nargs="+", type=_share, default=[1.0, 10.0], metavar="PERCENT",
        help="of the trace's distinct bytes (1 10)",
    )  # fmt: skip
    parser.add_argument(
        "--unit", type=command.positive, default=300, metavar="BYTES",
        help="what a size of 1 counts as (300)",
    )  # fmt: skip
    parser.add_argument(
        "--record-bytes", type=command.positive, default=0, metavar="BYTES",
        help="the expected record's size (the mean of the distinct ones)",
    )  # fmt: skip
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> int:
    asked = options(args)
    library = policies.library()
    lib = None if isinstance(library, str) else library
    if lib is None:
        print(f"eviction: ours alone, {library}", file=sys.stderr)
    try:
        traces = [read(path, asked.unit) for path in asked.traces]
    except TraceError as error:
        print(f"eviction: {error}", file=sys.stderr)
        return 2
    rows = []
    for trace in traces:
        for share in asked.shares:
            command.note(f"{trace.name} at {share:g} %")
            rows.append(measure(trace, share, lib, asked.record_bytes))
    show(rows)
    if asked.json:
        asked.json.write_text(as_json(rows))
    return 0


if __name__ == "__main__":
    sys.exit(command.run("eviction", main))
