"""One run of chaos: a fleet under a schedule, then the checker over its history."""

from __future__ import annotations

import heapq
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.fleet import Fleet, fleet
from tests.chaos.history import Verdict, Violation, check
from tests.chaos.journal import History, now
from tests.chaos.schedule import Event


class Run(NamedTuple):
    """What was done and what was seen."""

    history: History
    verdict: Verdict
    seconds: float


def run(
    events: list[Event],
    seconds: float,
    *,
    folder: Path | None = None,
    seed: int = 0,
    **settings: Any,
) -> Run:
    """A fleet for so long under these events. `folder` keeps journals and logs."""
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="shmchaos-") as own,
        fleet(folder or Path(own), seed=seed, **settings) as running,
    ):
        drive(running, events, seconds)
        running.stop()
        history, missing = running.history, running.missing()
    verdict = check(history)
    for worker in missing:
        verdict.violations.append(Violation("hung", 0, f"{worker} did not stop"))
    return Run(history, verdict, time.monotonic() - began)


def drive(running: Fleet, events: list[Event], seconds: float) -> None:
    """Let each event befall the fleet at its time."""
    start = time.monotonic()
    steps: list[tuple[float, int, Event, int]] = []
    for i, event in enumerate(events):
        heapq.heappush(steps, (event.at, 2 * i, event, 0))
    while steps:
        at, order, event, began = heapq.heappop(steps)
        time.sleep(max(0.0, start + at - time.monotonic()))  # as the schedule says
        if began:
            running.end(event, began)
        else:
            began = now()
            running.begin(event)
            heapq.heappush(steps, (event.end, order + 1, event, began))
    time.sleep(max(0.0, start + seconds - time.monotonic()))
