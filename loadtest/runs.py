"""Runs: what scenarios of load found, as JSON for the report and for comparison."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .report import Target


@dataclass
class Second:
    """One second of a scenario; latencies in ms, None where nothing was answered."""

    at: float
    """Seconds since the scenario's load began."""
    clients: int = 0
    requests: int = 0
    failures: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    hits: int = 0
    stale: int = 0
    misses: int = 0
    coalesced: int = 0
    calls: int = 0
    """What all vendors were asked."""


@dataclass
class Outcome:
    """What one scenario found."""

    name: str
    title: str
    seconds: list[Second] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)
    """`requests`, `failures`, `requests_per_second`, `p50`, `p95`, `p99`, `max` (ms),
    `hits`, `stale`, `misses`, `coalesced`, `calls`, and what else a scenario counts."""
    calls: dict[str, int] = field(default_factory=dict)
    """What the vendors were asked, by key."""
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> dict[str, dict[str, float]]:
        """Of the totals those of the form `row: figure`, by row and figure."""
        rows: dict[str, dict[str, float]] = {}
        for name, figure in self.totals.items():
            row, colon, what = name.partition(": ")
            if colon:
                rows.setdefault(row, {})[what] = figure
        return rows

    @property
    def met(self) -> bool:
        """All targets; a figure that is missing is missed."""
        return all(target.met for target in self.targets)


@dataclass
class Run:
    """One run of some scenarios, on one machine and one tree."""

    began: str
    """UTC, ISO 8601."""
    tree: str
    """The commit, with a `+` where files were changed since."""
    machine: str
    outcomes: list[Outcome] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def begun() -> Run:
    """One that begins now, on this machine and tree."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        tree = told.stdout.strip()
    except FileNotFoundError:  # no git here
        tree = ""
    cores = len(os.sched_getaffinity(0))
    return Run(
        began=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        tree=tree or "unknown",
        machine=f"{cores} cores, {platform.machine()}, Linux {platform.release()}",
    )


def read(path: Path) -> Run:
    """`ValueError`: the file is not one of ours; it names what is wrong."""
    try:
        told = json.loads(path.read_text())
        outcomes = [_outcome(one) for one in told.pop("outcomes")]
        return Run(outcomes=outcomes, **told)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as e:
        raise ValueError(f"{path}: expected a run as `make load` writes it: {e}") from e


def _outcome(told: dict[str, Any]) -> Outcome:
    seconds: Sequence[Any] = told.pop("seconds")
    targets: Sequence[Any] = told.pop("targets")
    return Outcome(
        seconds=[Second(**one) for one in seconds],
        targets=[Target(**one) for one in targets],
        **told,
    )
