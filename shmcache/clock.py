"""The host's clock: nanoseconds of CLOCK_BOOTTIME, or one that tests advance."""

from __future__ import annotations

import os
import time
from typing import Protocol


class Clock(Protocol):
    """Where times come from. Only differences and comparisons mean anything."""

    def now(self) -> int:
        """Nanoseconds; shared by the processes of a host, running in suspend too."""
        ...


class SystemClock:
    """CLOCK_BOOTTIME. The wall clock never decides freshness."""

    def now(self) -> int:
        """Nanoseconds since boot."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class FakeClock:
    """A clock that stands until it is advanced."""

    def __init__(self, now: int = 1_000_000_000_000) -> None:
        self._now = now

    def now(self) -> int:
        """The time it was advanced to."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._now += round(seconds * 1e9)


SYSTEM = SystemClock()


def boot_id() -> bytes:
    """16 bytes that name this boot of the kernel; times do not outlive it."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


def namespace() -> int:
    """Inode of the clock namespace, in which CLOCK_BOOTTIME may be shifted."""
    try:
        return os.stat("/proc/self/ns/time").st_ino
    except FileNotFoundError:  # kernels before 5.6 have one clock for all
        return 0
