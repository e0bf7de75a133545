"""Processes that are killed in the core: a line in is one's segment, failpoints and
key; a line out is how it ended, as of `os.waitstatus_to_exitcode`.

Runs on a binding with failpoints in it, and forks, so that each costs next to nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys

from shmcache._core import binding
from shmcache._core.binding import FOREVER
from shmcache.l1 import L1

SIZE = 1 << 20
KEYS = 4000
STORES = 8000


def value_of(key: str, i: int) -> bytes:
    """Whose it is, over and over; every hundredth of it in pieces."""
    return f"{key}|{i}|".encode() * (400 if i % 100 == 99 else 1 + i % 30)


def is_right(key: str, value: bytes) -> bool:
    """Whether a value is one that the key was given, whole."""
    i = int(value.split(b"|", 2)[1])
    return value == value_of(key, i)


def store(l1: L1, key: str, i: int) -> int:
    return l1.table.put(
        key, value_of(key, i), birth=0, fresh_until=FOREVER, dead_at=FOREVER,
        stamp=l1.table.clock(),
    )  # fmt: skip


def open_and_store(name: str, key: str) -> None:
    """Attach, fill the segment some times over, drop some, and read."""
    l1 = L1.open(name, SIZE)
    l1.join()
    for i in range(STORES):
        store(l1, f"{key}-{i % KEYS}", i)
        if i % 8 == 0:
            l1.table.drop(f"{key}-{i % KEYS // 2}")
        value = l1.peek(f"{key}-{i // 2}")
        assert value is None or is_right(f"{key}-{i // 2}", value)


def main() -> None:
    core = ctypes.CDLL(binding.__file__)
    print("ready", flush=True)
    for line in sys.stdin:
        name, failpoints, key = line.split()
        child = os.fork()
        if not child:
            try:
                core.failpoint_arm_text(failpoints.encode())
                open_and_store(name, key)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
