"""The breaker of a host: L2 is left alone for a while after failures in a row.

Its state is three words that all processes of the host share. Five failures in a row
open it; after a pause one operation is let through as a probe, and what becomes of it
closes the breaker or starts a longer pause. Pauses double from 0.1 s to 5 s and are
shortened by chance, so that the hosts of a fleet do not come back as one.
"""

from __future__ import annotations

import random
from enum import IntEnum
from typing import Protocol

from .clock import SYSTEM, Clock

FAILURES, OPEN_UNTIL, PROBE_UNTIL = 0, 1, 2
THRESHOLD = 5
PAUSE_MIN, PAUSE_MAX = 0.1, 5.0


class Words(Protocol):
    """64-bit words that processes share."""

    def load(self, i: int) -> int: ...
    def store(self, i: int, value: int) -> None: ...
    def add(self, i: int, n: int) -> int: ...
    def cas(self, i: int, old: int, new: int) -> bool: ...


class LocalWords:
    """The same for one process without a segment."""

    def __init__(self, count: int = 16) -> None:
        self._words = [0] * count

    def load(self, i: int) -> int:
        return self._words[i]

    def store(self, i: int, value: int) -> None:
        self._words[i] = value

    def add(self, i: int, n: int) -> int:
        self._words[i] += n
        return self._words[i]

    def cas(self, i: int, old: int, new: int) -> bool:
        if self._words[i] != old:
            return False
        self._words[i] = new
        return True


class Pass(IntEnum):
    """Whether an operation may go to L2."""

    REFUSED = 0
    GRANTED = 1
    PROBE = 2


class Breaker:
    """Counts the operations' ends and says whether another may begin."""

    def __init__(
        self, words: Words, *, probe_seconds: float, clock: Clock = SYSTEM
    ) -> None:
        self._words = words
        self._probe_ns = round(probe_seconds * 1e9)
        self._clock = clock

    @property
    def closed(self) -> bool:
        return self._words.load(OPEN_UNTIL) == 0

    def enter(self) -> Pass:
        """Every GRANTED or PROBE must be answered by `succeeded` or `failed`."""
        words, now = self._words, self._clock.now()
        open_until = words.load(OPEN_UNTIL)
        if open_until == 0:
            return Pass.GRANTED
        probe_until = words.load(PROBE_UNTIL)
        if now < open_until or now < probe_until:
            return Pass.REFUSED
        # a probe that died with its process is followed by another at its deadline
        won = words.cas(PROBE_UNTIL, probe_until, now + self._probe_ns)
        return Pass.PROBE if won else Pass.REFUSED

    def succeeded(self) -> bool:
        """Close it; True if it was open."""
        words = self._words
        if words.load(FAILURES):
            words.store(FAILURES, 0)
        if self.closed:
            return False
        words.store(OPEN_UNTIL, 0)
        words.store(PROBE_UNTIL, 0)
        return True

    def failed(self, entered: Pass) -> bool:
        """Count it; True if this opened the breaker.

        While it is open only the probe counts: the many operations that were under
        way when it opened must not lengthen the pause.
        """
        words = self._words
        if not self.closed and entered is not Pass.PROBE:
            return False
        failures = words.add(FAILURES, 1)
        if failures < THRESHOLD and entered is not Pass.PROBE:
            return False
        doublings = min(max(failures - THRESHOLD, 0), 10)
        pause = min(PAUSE_MAX, PAUSE_MIN * 2**doublings) * random.uniform(0.5, 1)
        opened = self.closed
        words.store(OPEN_UNTIL, self._clock.now() + round(pause * 1e9))
        words.store(PROBE_UNTIL, 0)
        return opened
