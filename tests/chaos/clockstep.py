"""Steps of a redis-server's wall clock, by a library loaded before libc.

The C file beside this one takes the place of `clock_gettime`, `gettimeofday` and
`time`, and adds to the wall clock the nanoseconds that stand in a file, which it maps.
The monotonic clocks are left alone.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_name("clockstep.c")


class ClockStep:
    """The shared offset, and the library that obeys it."""

    def __init__(self, library: Path, offset: Path) -> None:
        self._library = library
        self._offset = offset
        offset.write_bytes(bytes(8))

    @classmethod
    def build(cls, folder: Path) -> ClockStep:
        """Compile the library into a folder; the core's tests need a compiler too."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise AssertionError("tests need a C compiler (cc or gcc) in PATH")
        library = folder / "clockstep.so"
        subprocess.run(
            [
                *(compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"),
                *("-shared", "-fPIC", str(SOURCE), "-o", str(library), "-ldl"),
            ],
            check=True,
        )
        return cls(library, folder / "clockstep.offset")

    def set(self, seconds: float) -> None:
        """Step the wall clock to so many seconds off the true time."""
        with self._offset.open("r+b") as file:
            file.write(struct.pack("<q", round(seconds * 1e9)))

    @contextmanager
    def preloaded(self) -> Iterator[None]:
        """Processes that are started meanwhile obey."""
        ours = {"LD_PRELOAD": str(self._library), "CLOCKSTEP": str(self._offset)}
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
