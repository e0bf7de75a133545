"""Generator: locust as processes, and what it says of each second."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shmcache_server.embedded import die_with_parent
from tests.helpers import ROOT, end, free_port, python

from .death import Ask

PROCESSES = 2
_START = 60
"""Seconds for the processes to be there."""
_STOP = 20
"""Seconds for requests under way at the end."""


@dataclass(frozen=True)
class Counted:
    """What the clients have seen so far."""

    clients: int = 0
    requests: int = 0
    failures: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    times: Counter[float] = field(default_factory=Counter)
    """Answers by their milliseconds."""
    errors: dict[str, int] = field(default_factory=dict)
    cpu: float = 0.0
    """Percent of a core: the generator's busiest process, just now."""
    asks: list[Ask] = field(default_factory=list)
    """All of them, once the load is over."""
    first: float | None = None
    """When the first wave is due, seconds of the epoch; None: not known yet."""

    @classmethod
    def of(cls, line: str) -> Counted:
        told: dict[str, Any] = json.loads(line)
        times = {float(ms): count for ms, count in told.pop("times").items()}
        return cls(
            times=Counter(times),
            fates=Counter(told.pop("fates")),
            asks=[Ask(*ask) for ask in told.pop("asks")],
            **told,
        )


def quantile(times: Counter[float], share: float) -> float | None:
    """The least time that `share` of the answers do not exceed."""
    left = math.ceil(share * times.total())
    for ms in sorted(times):
        left -= times[ms]
        if left <= 0 and times[ms]:
            return ms
    return None


class Generator:
    """A running locust."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def lines(self) -> Iterator[Counted]:
        """One each second, and one at the end."""
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if line.startswith("{"):
                    yield Counted.of(line)


@contextmanager
def generating(
    scenario: str, bases: Sequence[str], *, short: bool, page: int = 0
) -> Iterator[Generator]:
    """Locust's clients on the hosts at `bases`, ended at the end; `page`: a port of the
    loopback for its own page, which begins and ends the load."""
    port = str(free_port())
    seen = ["--web-host", "127.0.0.1", "--web-port", str(page)]
    process = python(
        *("-W", "ignore", "-m", "locust", "-f", str(ROOT / "loadtest/locustfile.py")),
        *("--processes", str(PROCESSES), "--stop-timeout", str(_STOP)),
        *("--expect-workers-max-wait", str(_START)),
        *("--master-bind-host", "127.0.0.1", "--master-bind-port", port),
        *("--master-port", port, "--scenario", scenario, "--bases", ",".join(bases)),
        *(seen if page else ("--headless", "--only-summary", "--loglevel", "ERROR")),
        *(["--short"] if short else []),
        stdout=subprocess.DEVNULL if page else subprocess.PIPE,
        text=True,
        preexec_fn=partial(die_with_parent, os.getpid()),
    )
    try:
        yield Generator(process)
    finally:
        end(process)
        # one that was forked just now does not know of its parent yet, nor it of him
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
