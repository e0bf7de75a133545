"""The report of a run of chaos, and its command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from loadtest.chaos import summary, text
from tests.chaos.history import check
from tests.chaos.journal import HARD, Fault, Fetch, History, Read, Void
from tests.chaos.run import Run
from tests.chaos.schedule import WORKERS
from tests.helpers import ROOT

MS = 1_000_000


def run_of(history: History) -> Run:
    return Run(history, check(history), 1.0)


def history(*reads: Read) -> History:
    """A value `v` of a key, fetched at 0 ms, and a kill at 100 ms."""
    told = History()
    told.fetches.append(Fetch("a", "a0", 0, "e", "v", 1 * MS, True))
    told.faults.append(Fault("kill", "host 0", 100 * MS, 200 * MS, False))
    told.reads += reads
    return told


def peek(at_ms: int, us: int, worker: str = "a0") -> Read:
    begin = at_ms * MS
    return Read("a", worker, begin, begin + us * 1000, "peek", "e", "v", "e")


def test_report_tells_hits_under_faults_from_quiet_ones() -> None:
    found = summary(run_of(history(peek(10, 5), peek(20, 7), peek(150, 90))))
    assert found["hits"]["quiet"] == {
        "count": 2, "p50": 7, "p99": 7, "p999": 7, "most": 7,
    }  # fmt: skip
    assert found["hits"]["under faults"]["most"] == 90
    assert found["violations"] == []
    assert "no violation" in text(found)


def test_report_leaves_out_hits_of_a_stopped_worker() -> None:
    told = history(peek(10, 5), peek(300, 80_000), peek(300, 6, "a1"))
    told.faults.append(Fault("stop", "a0", 310 * MS, 370 * MS, False))
    found = summary(run_of(told))
    assert found["hits"]["quiet"]["most"] == 6
    assert found["hits"]["under faults"] == {}


def test_report_names_violations() -> None:
    told = history(peek(50, 5))
    told.voids.append(
        Void("a", "a1", 20 * MS, "delete", ("e",), HARD, None, 30 * MS, 1)
    )
    found = summary(run_of(told))
    assert [v["kind"] for v in found["violations"]] == ["old on its host"]
    assert "1 VIOLATIONS: old on its host 1" in text(found)
    assert json.loads(json.dumps(found))["injected"] == {
        "kill": {"count": 1, "seconds": 0.1, "touched": 0}
    }


def command(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadtest.chaos", *args],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_command_runs_so_long_and_writes_its_report(tmp_path: Path) -> None:
    report = tmp_path / "chaos.json"
    fleet = ("--hosts", "1", "--workers", "2", "--seed", "1")
    done = command("--seconds", "5", *fleet, "--json", str(report),
                   "--without", *WORKERS)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["violations"] == [] and found["injected"] == {}
    assert (found["seed"], found["seconds"]) == (1, 5)
    assert found["operations"] > 500 and 5 <= found["took"] < 30
    assert "no violation" in done.stdout


def test_command_refuses_what_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (("--seconds", "1"), ("--without", "rain"), ("--hosts", "0"),
                  ("--keep", str(tmp_path))):  # fmt: skip
        done = command(*wrong)
        assert done.returncode == 2 and "error" in done.stderr, wrong
