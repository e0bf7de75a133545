"""Many processes on one segment, killed and stopped at random."""

from __future__ import annotations

import ast
import mmap
import subprocess
import sys
from pathlib import Path

SECONDS = 4


def test_killed_processes_leave_no_wrong_value(
    segment_file: Path, segment: mmap.mmap
) -> None:
    script = Path(__file__).with_name("stress.py")
    ran = subprocess.run(
        [sys.executable, script, segment_file, str(SECONDS)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    counts = ast.literal_eval(ran.stdout)
    assert counts["kills"] > 20
    assert counts["hits"] > 10_000 and counts["evicted"] > 1000
    assert counts["shards_wiped"] == 0
