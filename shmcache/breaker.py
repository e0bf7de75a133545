"""The breaker of a host: L2 is left alone for a while after failures in a row.

Its state is three words that all processes of the host share. Five failures in a row
open it; after a pause one process may probe, and what becomes of the probe closes the
breaker or starts a longer pause. Pauses double from 0.1 s to 5 s and are shortened by
chance, so that the hosts of a fleet do not come back as one.

Operations never close it. One that was under way as it opened may end well, but what
was refused meanwhile is still to be sent: a probe does that before it closes it.
"""

from __future__ import annotations

import random
from typing import Protocol

from .clock import SYSTEM, Clock

FAILURES, OPEN_UNTIL, PROBE_UNTIL = 0, 1, 2
WORDS = 8
"""From one breaker's words to the next one's."""
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

    def __init__(self, count: int = 512) -> None:
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


class Breaker:
    """Counts the operations' ends and says whether another may begin."""

    def __init__(
        self,
        words: Words,
        *,
        probe_seconds: float,
        clock: Clock = SYSTEM,
        partition: int = 0,
    ) -> None:
        """A probe that is not heard of for `probe_seconds` is taken for dead."""
        self._words = words
        self._probe_ns = round(probe_seconds * 1e9)
        self.clock = clock
        first = WORDS * partition
        self._failures = first + FAILURES
        self._open_until = first + OPEN_UNTIL
        self._probe_until = first + PROBE_UNTIL

    @property
    def closed(self) -> bool:
        return self._words.load(self._open_until) == 0

    def succeeded(self) -> None:
        """An operation ended well: failures are not in a row."""
        if self._words.load(self._failures) and self.closed:
            self._words.store(self._failures, 0)

    def failed(self) -> bool:
        """Count it; True if this opened the breaker.

        While it is open nothing counts: the many operations that were under way when
        it opened must not lengthen the pause.
        """
        words = self._words
        if not self.closed:
            return False
        failures = words.add(self._failures, 1)
        return failures >= THRESHOLD and self._open(0, failures)

    def trip(self) -> bool:
        """Open it at once, for who has waited long enough; True if this opened it."""
        return self.closed and self._open(0, THRESHOLD)

    def hurry(self) -> None:
        """Have the next probe due now: there is a sign of life."""
        if open_until := self._words.load(self._open_until):
            self._words.cas(self._open_until, open_until, 1)

    # -- probes

    def probe(self) -> int:
        """The mark of a probe that this process is to make now, or 0. One at a time:
        it must be `held`, and end in `probed`."""
        words, now = self._words, self.clock.now()
        open_until = words.load(self._open_until)
        probe_until = words.load(self._probe_until)
        if open_until == 0 or now < open_until or now < probe_until:
            return 0
        # a probe that died with its process is followed by another
        mark = now + self._probe_ns
        return mark if words.cas(self._probe_until, probe_until, mark) else 0

    def held(self, mark: int) -> int:
        """The new mark of a probe that goes on; 0 if it was taken for dead."""
        new = self.clock.now() + self._probe_ns
        return new if self._words.cas(self._probe_until, mark, new) else 0

    def probed(self, mark: int, good: bool) -> bool:
        """The probe's end; True if it closed the breaker. One that was taken for dead
        decides nothing: another was made since."""
        words = self._words
        if not mark or words.load(self._probe_until) != mark:
            return False
        if not good:
            open_until = words.load(self._open_until)
            self._open(open_until, words.add(self._failures, 1))
        elif words.cas(self._probe_until, mark, 0):
            words.store(self._failures, 0)
            words.store(self._open_until, 0)
            return True
        return False

    def _open(self, was: int, failures: int) -> bool:
        doublings = min(max(failures - THRESHOLD, 0), 10)
        pause = min(PAUSE_MAX, PAUSE_MIN * 2**doublings) * random.uniform(0.5, 1)
        until = self.clock.now() + round(pause * 1e9)
        opened = self._words.cas(self._open_until, was, until)
        if opened:
            self._words.store(self._probe_until, 0)
        return opened
