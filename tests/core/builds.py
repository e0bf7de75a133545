"""The core as the tests build it: C programs, and a binding with failpoints in it.

Both are built once, where a source has changed, whoever asks first.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CORE = ROOT / "shmcache" / "_core"
BUILD = ROOT / "build"
CHECK = BUILD / "check"
FAILPOINTS = BUILD / "failpoints"
BINDING = "binding" + str(sysconfig.get_config_var("EXT_SUFFIX"))


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """While other test runs on the same tree wait."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(*command: str | Path) -> None:
    """A build step, in the root; told what it said where it fails."""
    # not as part of the make that runs the tests
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr


def build_programs() -> Path:
    """The directory of the C programs, a folder for each kind of build."""
    with alone(CHECK):
        run("make", "--silent", f"-j{os.cpu_count()}", "c-programs")
    return CHECK


def sources() -> list[Path]:
    return [p for p in sorted(CORE.glob("*.c")) if p.stem != "binding"]


def build_failpoints() -> Path:
    """A directory to import shmcache from: this tree's, but for its binding."""
    core = FAILPOINTS / "shmcache" / "_core"
    with alone(FAILPOINTS):
        _link(ROOT / "shmcache", core.parent, leave={"_core", "__pycache__"})
        _link(CORE, core, leave={BINDING, "__pycache__"})
        made, inputs = core / BINDING, [
            *CORE.glob("*.[ch]"), *CORE.glob("*.p[yx][xd]"), *HERE.glob("failpoint.*")
        ]  # fmt: skip
        newest = max(p.stat().st_mtime for p in inputs if p.stem != "binding")
        newest = max(newest, (CORE / "binding.pyx").stat().st_mtime)
        if not made.exists() or made.stat().st_mtime < newest:
            _compile(made)
    return FAILPOINTS


def _link(from_: Path, to: Path, leave: set[str]) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for old in to.iterdir():
        if old.is_symlink():
            old.unlink()
    for source in from_.iterdir():
        if source.name not in leave:
            (to / source.name).symlink_to(source)


def _compile(made: Path) -> None:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    assert compiler, "the C core's tests need a C compiler on PATH"
    binding = FAILPOINTS / "binding.c"
    run(sys.executable, "-m", "cython", "-I", ".", CORE / "binding.pyx", "-o", binding)
    run(
        compiler, "-std=gnu11", "-O0", "-shared", "-fPIC", "-DSHMC_STEPS",
        f"-I{CORE}", f"-I{sysconfig.get_path('include')}", binding, *sources(),
        HERE / "failpoint.c", "-o", made, "-pthread",
    )  # fmt: skip
