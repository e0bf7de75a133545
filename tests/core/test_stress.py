"""Many processes on one segment, killed and stopped, that check every byte of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.core.builds import build_programs

NOTHING_WRONG = dict.fromkeys(
    ("torn", "foreign", "late", "out_of_bounds", "crashes", "hangs", "wiped",
     "disabled"), 0,
)  # fmt: skip


@pytest.fixture(scope="module")
def programs() -> Path:
    return build_programs()


def stressed(program: Path, reads: int) -> tuple[int, dict[str, Any]]:
    """(exit code, what it told), of a run that a minute would end."""
    ran = subprocess.run(
        [program, str(reads), "60"], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    assert told["reads"] >= reads, ran.stderr
    return ran.returncode, told


def test_killed_and_stopped_processes_leave_no_wrong_value(programs: Path) -> None:
    code, told = stressed(programs / "fast" / "stress", 10**7)
    assert told | NOTHING_WRONG == told and code == 0
    assert told["kills"] > 100 and told["stops"] > 50 and told["points"] > 20
    assert told["recovered"] > 50
    assert told["hits"] > 10**6 and told["chains"] > 10**3
    assert told["evicted"] > 10**5  # what was read was reused, many times over


def test_stress_under_the_sanitizers_finds_nothing(programs: Path) -> None:
    code, told = stressed(programs / "address" / "stress", 4 * 10**5)
    assert told | NOTHING_WRONG == told and code == 0
    assert told["kills"] > 10


def test_stress_sees_reads_without_the_last_look(programs: Path) -> None:
    """A build whose readers do not look at the generation again."""
    code, told = stressed(programs / "fast" / "stress-broken", 5 * 10**6)
    assert code == 1
    assert told["torn"] + told["foreign"] + told["late"] > 0
