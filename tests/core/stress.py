"""A parent that forks readers and writers of one segment, and kills them at random.

Each value names its key and ends in a checksum, so a torn or a foreign one shows.
Prints a line of counts; exits with 1 where a read was wrong or a child failed.

    python stress.py SEGMENT SECONDS
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import time
import zlib
from pathlib import Path

from shmcache._core import binding
from shmcache._core.binding import FOREVER, Table

CHILDREN = 4
KEYS = [f"key-{i:05d}" for i in range(4000)]
WRONG = 3


def value_of(key: str, rng: random.Random) -> bytes:
    body = (key.encode() + b"|") * rng.randrange(1, 100)
    return body + zlib.crc32(body).to_bytes(4, "big")


def is_right(key: str, value: bytes) -> bool:
    body, crc = value[:-4], value[-4:]
    return body.startswith(key.encode() + b"|") and zlib.crc32(body) == int.from_bytes(
        crc, "big"
    )


def work(file: Path, slot: int, seed: int) -> int:
    """Until killed. Returns WRONG at a value that is not its key's."""
    with file.open("r+b") as opened:
        table = Table(mmap.mmap(opened.fileno(), 0))
    table.take_slot(slot, os.getpid())
    rng = random.Random(seed)
    while True:
        key = rng.choice(KEYS)
        choice = rng.random()
        if choice < 0.35:
            table.put(
                key, value_of(key, rng), birth=0, fresh_until=FOREVER,
                dead_at=FOREVER, stamp=table.clock(),
            )  # fmt: skip
        elif choice < 0.37:
            number = table.number()
            table.raise_key(key, number)
            table.drop(key, floor=number)
        else:
            value = table.peek(key)
            if value is not None and not is_right(key, value):
                return WRONG


def start(file: Path, slot: int, seed: int) -> int:
    child = os.fork()
    if child == 0:
        os._exit(work(file, slot, seed))
    return child


def counts(table: Table) -> dict[str, int]:
    return dict(zip(binding.COUNTERS, table.counters(), strict=False))


def main() -> int:
    file, seconds = Path(sys.argv[1]), float(sys.argv[2])
    rng = random.Random(1)
    kills = failed = 0
    children = {start(file, slot, slot): slot for slot in range(CHILDREN)}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(0, 0.03))  # the pace of the kills, not a wait
        child = rng.choice(list(children))
        if rng.random() < 0.2:
            os.kill(child, signal.SIGSTOP)
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        failed += not os.WIFSIGNALED(status)
        kills += 1
        slot = children.pop(child)
        children[start(file, slot, kills + CHILDREN)] = slot
    for child in children:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        failed += not os.WIFSIGNALED(status)
    with file.open("r+b") as opened:
        table = Table(mmap.mmap(opened.fileno(), 0))
    wrong = sum(
        value is not None and not is_right(key, value)
        for key, value in ((key, table.peek(key)) for key in KEYS)
    )
    table.take_slot(CHILDREN, os.getpid())
    lost = sum(
        table.put(key, b"", birth=0, fresh_until=1, dead_at=1, stamp=table.clock())
        != binding.OK
        for key in KEYS
    )
    print({"kills": kills, "failed": failed, "wrong": wrong, "lost": lost}
          | counts(table))  # fmt: skip
    return failed or wrong or lost


if __name__ == "__main__":
    sys.exit(main())
