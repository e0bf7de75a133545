"""Failpoints: every step of the core is known by name, and does what it is told."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.core.builds import HERE, build_programs, sources


@pytest.fixture(scope="module")
def program() -> Path:
    return build_programs() / "address" / "test_table"


def steps() -> Counter[str]:
    step = re.compile(r'SHMC_(?:STEP|FAILS)\("([^"]+)"\)')
    return Counter(at for p in sources() for at in step.findall(p.read_text()))


def table() -> dict[str, bool]:
    """Each point, and whether it may fail."""
    entry = re.compile(r'\{"([^"]+)", IN_[A-Z]+, ([01])\},')
    found = entry.findall((HERE / "failpoint.c").read_text())
    assert len(found) == len(dict(found))
    return {name: fails == "1" for name, fails in found}


def test_table_names_every_step_of_the_core() -> None:
    assert set(steps()) == set(table())


def test_steps_of_one_name_are_one() -> None:
    assert [name for name, n in steps().items() if n > 1] == []


def test_table_says_which_steps_may_fail() -> None:
    fails = re.compile(r'SHMC_FAILS\("([^"]+)"\)')
    may = {at for p in sources() for at in fails.findall(p.read_text())}
    assert may == {name for name, fails in table().items() if fails}


def ran_with(program: Path, failpoints: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, "test_record_that_is_replaced_is_no_miss"],
        env=os.environ | {"SHMC_FP": failpoints},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("failpoints", "why"),
    [
        ("store.byte:kill:1", "no point 'store.byte'"),
        ("store.bytes:kill:1,nowhere:stop:2", "no point 'nowhere'"),
        ("store.bytes:err:1", "'store.bytes' cannot fail"),
        ("store.bytes:halt:1", "'halt' is none of"),
        ("store.bytes:killed:1", "'killed' is none of"),
        ("store.bytes:sleep5x:1", "'sleep5x' is none of"),
        ("store.bytes:kill", "not of the form"),
        ("store.bytes:kill:x", "not of the form"),
        ("store.bytes", "not of the form"),
        ("store.bytes:kill:0", "count from 1"),
    ],
)
def test_failpoints_that_mean_nothing_are_refused(
    program: Path, failpoints: str, why: str
) -> None:
    ran = ran_with(program, failpoints)
    assert ran.returncode == 2
    assert why in ran.stderr


def test_process_dies_at_the_pass_it_was_told(program: Path) -> None:
    assert ran_with(program, "store.bytes:kill:1").returncode == -signal.SIGKILL
    assert ran_with(program, "store.bytes:kill:2").returncode == -signal.SIGKILL
    assert ran_with(program, "store.bytes:kill:100000").returncode == 0
    assert ran_with(program, "look.slot:sleep1:1,wipe.mark:kill:1").returncode == 0
