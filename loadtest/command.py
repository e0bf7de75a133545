"""A benchmark as a command: what it is told, and how it ends when it is stopped."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

INTERRUPTED = 130
"""Exit code, as a shell has it."""
A_LOOK = "a look, in half a minute"


def run(name: str, main: Callable[[], int]) -> int:
    """`main`; Ctrl-C and SIGTERM unwind it, so that what it made is removed."""
    signal.signal(signal.SIGTERM, _unwind)
    try:
        return main()
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return INTERRUPTED


def _unwind(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def options(name: str, doc: str | None, *, quick: str = "") -> argparse.ArgumentParser:
    """Those that benchmarks share: --json, and --quick if there is something to say
    of it. `doc` is of the module."""
    summary = (doc or "").splitlines()[0]
    parser = argparse.ArgumentParser(f"loadtest.{name}", description=summary)
    if quick:
        parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--json", metavar="FILE", type=writable, help="write all there too"
    )
    return parser


def note(text: str) -> None:
    """Tell who waits what is being measured."""
    print(text, file=sys.stderr, flush=True)


def writable(text: str) -> Path:
    """A file to be written at the end, refused before minutes are spent."""
    path = Path(text)
    at = path if path.exists() else path.absolute().parent
    if path.is_dir() or not os.access(at, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def positive(text: str) -> int:
    """A number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return int(text)
