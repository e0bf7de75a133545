"""Each rule of the outbox taken out once: its tests must notice."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.core.builds import CORE, HERE, run, sources

RULES = {
    "lowest-is-lowered-first": (
        "if (atomic_load(&o->lowest) > e->clock)\n",
        "if (0)\n",
    ),
    "tail-is-moved-last": (
        'SHMC_STEP("outbox.lowered");\n',
        "atomic_store(&o->tail, tail + size_of(e->len));\n",
    ),
    "names-spell-no-beginning": ("#define BYTES 7u ", "#define BYTES 8u "),
    "sent-is-a-swap": (
        "atomic_compare_exchange_strong(word_at(t, number - 1), &unsent,\n",
        "(void)unsent; store_at(t, number - 1,\n",
    ),
    "who-unlocks-looks-again": (
        'SHMC_STEP("outbox.unlocked");\n    tidy(t);\n',
        'SHMC_STEP("outbox.unlocked");\n',
    ),
    "each-loss-changes-the-mark": ("n = (seen + 1) & most;", "n = most;"),
    "mark-keeps-the-first-clock": (
        "seen && seen >> LOST_BITS < clock ? seen >> LOST_BITS\n            : clock,",
        "clock,",
    ),
    "reader-looks-at-the-head-last": ("if (head > at) {", "if (0) {"),
    "room-of-sent-ones-alone-is-used": (
        "(n = shmc_entry_at(t, at, to, &e)) && e.sent)",
        "(n = shmc_entry_at(t, at, to, &e)))",
    ),
    "lowest-is-raised-to-the-first-unsent": (
        "uint64_t lowest = at < to ? e.clock : UINT64_MAX;",
        "uint64_t lowest = UINT64_MAX;",
    ),
}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What the program is made of beside the outbox, compiled."""
    folder = tmp_path_factory.mktemp("objects")
    files = [source for source in sources() if source.name != "outbox.c"]
    for source in (*files, HERE / "test_outbox.c", HERE / "failpoint.c"):
        compile_("-c", source, "-o", folder / f"{source.stem}.o")
    return list(folder.iterdir())


def compile_(*arguments: str | Path) -> None:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    assert compiler, "the C core's tests need a C compiler on PATH"
    flags = ["-std=gnu11", "-O0", "-DSHMC_STEPS", f"-I{CORE}", f"-I{HERE}", "-pthread"]
    run(compiler, *flags, *arguments)


def ran(outbox: Path, others: list[Path], folder: Path) -> int:
    """How the program ends that is built with that file for the outbox."""
    program = folder / "test_outbox"
    compile_(outbox, *others, "-o", program)
    return subprocess.run([program], capture_output=True, timeout=60).returncode


def test_program_with_all_rules_finds_nothing(
    others: list[Path], tmp_path: Path
) -> None:
    assert ran(CORE / "outbox.c", others, tmp_path) == 0


@pytest.mark.parametrize(
    ("rule", "broken"), RULES.values(), ids=[rule for rule in RULES]
)
def test_rule_taken_out_is_noticed(
    rule: str, broken: str, others: list[Path], tmp_path: Path
) -> None:
    text = (CORE / "outbox.c").read_text()
    assert text.count(rule) == 1
    outbox = tmp_path / "outbox.c"
    outbox.write_text(text.replace(rule, broken))
    assert ran(outbox, others, tmp_path) != 0
