"""The C programs beside this file, each under the sanitizers that suit it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.core.builds import HERE, build_programs

PROGRAMS = [
    f"{kind}/{source.stem}"
    for source in sorted(HERE.glob("test_*.c"))
    for kind in ("address", "thread")
    if kind == "address" or "pthread_create" in source.read_text()
]


@pytest.fixture(scope="module")
def programs() -> Path:
    return build_programs()


def fixed_layout() -> list[str]:
    """The thread sanitizer refuses some random address layouts."""
    setarch = shutil.which("setarch")
    command = [setarch, "-R"] if setarch else []
    allowed = command and not subprocess.run([*command, "true"]).returncode
    return command if allowed else []


@pytest.mark.parametrize("program", PROGRAMS)
def test_core_program_finds_nothing(program: str, programs: Path) -> None:
    ran = subprocess.run(
        [*fixed_layout(), programs / program],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "WARNING" not in ran.stderr
