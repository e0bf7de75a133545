"""The C programs beside this file, under the sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CORE = HERE.parent.parent / "shmcache" / "_core"
SOURCES = sorted(CORE / f"{name}.c" for name in (
    "claim", "extent", "invalidation", "segment", "table",
))  # fmt: skip


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        (
            "test_table.c",
            [
                "-DSHMC_STEPS",
                "-fsanitize=address,undefined",
                "-fno-sanitize-recover=all",
            ],
        ),
        ("test_threads.c", ["-fsanitize=thread"]),
    ],
    ids=["table-asan-ubsan", "threads-tsan"],
)
def test_core_program_finds_nothing(
    program: str, flags: list[str], tmp_path: Path
) -> None:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    assert compiler, "the C core's tests need a C compiler on PATH"
    binary = tmp_path / "program"
    subprocess.run(
        [compiler, "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", *flags,
         f"-I{CORE}", "-o", binary, HERE / program, *SOURCES, "-pthread"],
        check=True, timeout=120,
    )  # fmt: skip
    ran = subprocess.run([binary], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "WARNING" not in ran.stderr
