"""Death: the moments in which a process dies, and the requests it may take along."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Ask(NamedTuple):
    """One request of a client; seconds of the epoch."""

    began: float
    ended: float
    failed: bool = False


@dataclass(frozen=True)
class Death:
    """Seconds of the epoch: just before it, and when all sockets are closed."""

    began: float
    ended: float

    def under_way(self, asks: Iterable[Ask]) -> list[Ask]:
        """All that the dead can have had: a request that began later finds its
        connection closed, and is made on another (RFC 9112 §9.3.1)."""
        return [a for a in asks if a.began <= self.ended and a.ended >= self.began]


def kill(pid: int) -> Death:
    """SIGKILL, until it is no more."""
    process = os.pidfd_open(pid)
    try:
        began = time.time()
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], (), ())
        return Death(began, time.time())
    finally:
        os.close(process)
